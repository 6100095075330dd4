# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Tokenizers that train on label maps: they learn, resume, and refuse what makes sense for pictures only."""

import io
import shutil

import datasets
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file

from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.arguments import PRESETS, load_model_config, parse_arguments
from fqgan_hf.training.fqgan.label_maps import label_colors, validate_label_maps
from fqgan_hf.training.train_fqgan import TrainFQGANArguments
from fqgan_hf.training.train_fqgan import main as train_fqgan

from ..label_map_data import NUM_LABELS, cell, draw_labels, palette_picture, write_dataset


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("maps") / "data")


@pytest.fixture(scope="module")
def options(data, tokenizer_options):
    """Command line of a short training on label maps; keywords change options."""

    def make(output_dir, **changes):
        defaults = {
            "train_data_dir": data, "label_map_column": "map", "num_labels": NUM_LABELS, "perceptual_weight": None,
            "disc_start": None, "disc_num_layers": None, "disc_channels": None, "learning_rate": 5e-3,
        }  # fmt: skip
        return tokenizer_options(output_dir, **{**defaults, **changes})

    return make


def test_it_learns(options, read_metrics, tmp_path, capsys):
    train_fqgan(options(tmp_path, num_codebooks=1, max_train_steps=24, validation_fraction=0.25))
    records = read_metrics(tmp_path)
    losses = [record["loss/reconstruction"] for record in records if "loss/reconstruction" in record]
    assert losses[0] == pytest.approx(np.log(NUM_LABELS), rel=0.5) and np.mean(losses[-5:]) < 0.5 * losses[0]
    assert {"loss/commitment/0", "loss/entropy/0"} <= set(records[0])
    last = records[-1]
    assert last["validation/pixel_accuracy"] > 0.7 and 0 < last["validation/miou"] <= 1
    assert {"validation/usage/0", "validation/perplexity/0"} <= set(last) and "validation/psnr" not in last
    with Image.open(tmp_path / "validation" / "step-00000024.png") as picture:
        assert len(picture.getcolors(10**6)) > NUM_LABELS // 2
    printed = capsys.readouterr().out
    assert "16x16 pixels of 5 labels -> 1 x 4x4 codes" in printed and "frozen     nothing" in printed

    assert not (tmp_path / "preprocessor_config.json").exists(), "it takes no pictures"
    model = FQGANModel.from_pretrained(str(tmp_path)).eval()
    maps = torch.from_numpy(np.stack([draw_labels(i) for i in range(8)])).long()
    with torch.no_grad():
        found = model.decode_labels(model.encode_labels(maps).codes)
    assert (found == maps).float().mean() > 0.7


RESUMED = {"use_ema": True, "usage_window": 2, "checkpointing_steps": 2, "max_train_steps": 4}


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    """A run with checkpoints at 2 and 4 of 4 steps."""
    folder = tmp_path_factory.mktemp("finished")
    train_fqgan([*options(folder, **RESUMED), "--revive_dead_codes"])
    return folder


def test_resume_is_exact(finished, options, tmp_path):
    shutil.copytree(finished / "checkpoint-2", tmp_path / "checkpoint-2")
    changes = {**RESUMED, "resume_from_checkpoint": "latest"}
    train_fqgan([*options(tmp_path, **changes), "--revive_dead_codes"])
    assert (finished / WEIGHTS).read_bytes() == (tmp_path / WEIGHTS).read_bytes()
    for name in ("model.safetensors", "ema.safetensors"):
        one, other = (load_file(folder / "checkpoint-4" / name) for folder in (finished, tmp_path))
        assert all(torch.equal(one[key], other[key]) for key in one)
    for name, value in (("label_map_column", "grey"), ("num_labels", 6)):
        with pytest.raises(ValueError, match=f"cannot resume from .*: {name} was .* and is now {value!r}"):
            train_fqgan(options(tmp_path, **{**changes, name: value}))


def test_a_stream_continues_a_pretrained_one(finished, options, read_metrics, tmp_path, monkeypatch):
    """In bf16, on grey maps."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05, raising=False)
    changes = {"streaming": True, "streaming_samples": 24, "max_train_steps": 1, "mixed_precision": "bf16"}
    changes |= {"model_config_name_or_path": None, "pretrained_model_name_or_path": finished}
    train_fqgan(options(tmp_path, label_map_column="grey", **changes))
    assert all(np.isfinite(record["loss/total"]) for record in read_metrics(tmp_path))
    assert FQGANModel.from_pretrained(str(tmp_path)).config.num_labels == NUM_LABELS


def iou_by_loops(labels: np.ndarray, predictions: np.ndarray, num_labels: int) -> float:
    ratios = []
    for label in range(num_labels):
        both = either = 0
        for one, other in zip(labels.ravel(), predictions.ravel(), strict=True):
            both += one == label and other == label
            either += one == label or other == label
        if either:
            ratios.append(both / either)
    return sum(ratios) / len(ratios)


class OneProcess:
    """As much of an accelerator as validation needs."""

    device, is_main_process = torch.device("cpu"), True

    @staticmethod
    def gather_for_metrics(tensors):
        return tensors


def test_figures_against_loops(tmp_path):
    """Over batches of different sizes, with a label that occurs nowhere."""
    model = tiny.tokenizer(num_labels=NUM_LABELS + 1)
    maps = torch.from_numpy(np.stack([draw_labels(i) for i in range(5)])).long()
    figures = validate_label_maps(
        OneProcess, model, [{"pixel_values": part} for part in maps.split(3)], tmp_path, step=7
    )
    with torch.no_grad():
        found = model.decode_labels(model.encode_labels(maps).codes)
    assert figures["validation/miou"] == pytest.approx(iou_by_loops(maps.numpy(), found.numpy(), NUM_LABELS + 1))
    assert figures["validation/pixel_accuracy"] == pytest.approx((found == maps).float().mean().item())
    assert (tmp_path / "step-00000007.png").is_file()


def test_every_label_has_a_colour_of_its_own():
    for num_labels in (2, 13, 150, 256):
        assert len({tuple(color) for color in label_colors(num_labels).tolist()}) == num_labels


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("perceptual_weight", "1.0"), ("perceptual_model", "vgg19"), ("perceptual_layers", "relu1_2"),
        ("contrastive_weight", "0.5"), ("pcl_weight", "0.1"), ("teachers", "none"), ("representation_weight", "1"),
        ("disc_weight", "0.5"), ("disc_start", "100"), ("disc_adaptive_weight", "true"), ("disc_type", "stylegan"),
        ("disc_loss", "vanilla"), ("disc_learning_rate", "1e-3"), ("disc_channels", "32"), ("disc_num_layers", "2"),
        ("disc_norm", "group"), ("lecam_weight", "0.1"), ("reconstruction_loss", "l2"), ("image_column", "image"),
    ],
)  # fmt: skip
def test_what_is_for_pictures_is_refused_by_name(option, value, tmp_path):
    """Even where the value is what pictures have by default."""
    words = ["--train_data_dir", str(tmp_path), "--output_dir", "o", "--label_map_column", "map", "--num_labels", "5"]
    args = parse_arguments(TrainFQGANArguments, words)
    assert (args.perceptual_weight, args.disc_weight, args.reconstruction_loss) == (0, 0, "cross-entropy")
    with pytest.raises(ValueError, match=f"{option} must not be set with --label_map_column, got .*: .*"):
        parse_arguments(TrainFQGANArguments, [*words, f"--{option}", value])


def test_pictures_have_their_losses():
    args = TrainFQGANArguments(dataset_name="x", output_dir="o")
    assert (args.perceptual_weight, args.disc_weight, args.reconstruction_loss) == (1.0, 0.5, "l2")
    with pytest.raises(ValueError, match="'cross-entropy' needs --label_map_column"):
        TrainFQGANArguments(dataset_name="x", output_dir="o", reconstruction_loss="cross-entropy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": None}, "label_map_column and num_labels belong together, got .*'map' and num_labels=None"),
        ({"label_map_column": None}, "belong together, got label_map_column=None and num_labels=5"),
        ({"num_labels": 1}, r"num_labels must be in \[2, 256\], got 1"),
        ({"num_labels": 3}, r"'data/0000000\d' cannot be read: labels must be in \[0, 2\], got [34]"),
        ({"label_map_column": "nowhere"}, r"label_map_column must be one of the image columns \[.*\], got 'nowhere'"),
        ({"label_map_column": "image"}, "a label map must have one channel of 8 bits or a palette, got mode RGB"),
    ],
)
def test_bad_input_is_named(changes, message, options, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_fqgan(options(tmp_path / "out", **changes))


def test_the_number_of_labels_is_the_models(finished, options, tokenizer_options, tmp_path):
    pretrained = {"model_config_name_or_path": None, "pretrained_model_name_or_path": finished}
    with pytest.raises(ValueError, match="num_labels must be that of the model, which is one of 5 labels, got 6"):
        train_fqgan(options(tmp_path / "a", num_labels=6, **pretrained))
    with pytest.raises(ValueError, match="of label maps: give --label_map_column and --num_labels 5"):
        train_fqgan(tokenizer_options(tmp_path / "b", **pretrained))
    with pytest.raises(ValueError, match="which is one of 5 labels, got 4"):
        train_fqgan(options(tmp_path / "c", num_labels=4, model_config_name_or_path=finished / "config.json"))


def test_jpeg_maps_are_refused(options, tmp_path):
    file = io.BytesIO()
    Image.fromarray(draw_labels(0)).save(file, format="JPEG")
    maps = [cell(palette_picture(draw_labels(i))) for i in range(23)]
    write_dataset(tmp_path / "data", 24, map=[*maps, {"bytes": file.getvalue(), "path": None}])
    with pytest.raises(ValueError, match="'data/00000023' cannot be read: it must be a label map in a PNG"):
        train_fqgan(options(tmp_path / "out", train_data_dir=tmp_path / "data"))


@pytest.mark.parametrize(("preset", "num_labels", "grid"), [("digits-map-fqgan", 3, 4), ("emoji-map-fqgan", 13, 8)])
def test_presets(preset, num_labels, grid, tmp_path):
    words = ["--config", preset, "--train_data_dir", str(tmp_path), "--output_dir", "o"]
    args = parse_arguments(TrainFQGANArguments, words)
    assert args.num_labels == num_labels
    with torch.device("meta"):
        model = FQGANModel.from_config(
            {**load_model_config(str(PRESETS / f"{preset}.json")), "num_labels": num_labels}
        )
    assert model.grid_size(args.resolution, args.resolution) == (grid, grid)
    assert args.resolution == model.config.sample_size
