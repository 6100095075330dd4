# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The generator's script: on the fly as from a store, samples, averages, heads, compiled, and what it refuses."""

import json
import re

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import default_collate

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.arguments import parse_arguments
from fqgan_hf.training.common.loop import TrainingPlan, seed_step
from fqgan_hf.training.data.datasets import EpochSampler
from fqgan_hf.training.extract_codes import main as extract_codes
from fqgan_hf.training.far.generator_data import stored_codes
from fqgan_hf.training.far.model import trainable_far
from fqgan_hf.training.far.sampling import check_classes
from fqgan_hf.training.far.validation import validate
from fqgan_hf.training.train_far import TrainFARArguments
from fqgan_hf.training.train_far import main as train_far

from ..conftest import TOKENIZER
from ..test_scripts import equal_up_to_rounding, launch


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    FQGANModel(**TOKENIZER, num_codebooks=2).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def codes_dir(tokenizer, image_folder, cache_dir, to_command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("codes")
    options = {"train_data_dir": image_folder, "cache_dir": cache_dir, "tokenizer": tokenizer, "output_dir": folder}
    extract_codes(to_command({**options, "crop": "ten-crop"}))
    AcceleratorState._reset_state(reset_partial_state=True)  # of no precision in particular
    return folder


@pytest.fixture(scope="module")
def options(generator_config, cache_dir):
    return {
        "cache_dir": cache_dir,
        "model_config_name_or_path": generator_config,
        "train_batch_size": 5,
        "max_train_steps": 5,
        "logging_steps": 1,
        "validation_fraction": 0.2,
        "learning_rate": 1e-3,
    }


def test_the_steps_of_a_class_conditional_run(options, codes_dir, to_command, tmp_path):
    """Written out: seeded draws, classes and codes in, their cross-entropy, clipped gradients, AdamW."""
    options = {**options, "codes_dir": codes_dir, "output_dir": tmp_path, "validation_fraction": 0}
    train_far(to_command({**options, "max_train_steps": 4}))
    args = parse_arguments(TrainFARArguments, to_command(options))
    data = stored_codes(args, None)
    set_seed(0)
    manifest, config = data.manifest, json.loads(options["model_config_name_or_path"].read_text())
    config |= {"num_codebooks": 2, "codebook_size": 32, "num_classes": 3, "grid_height": 4, "grid_width": 4}
    model = FARForImageGeneration(FARConfig(**config)).train()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True,
    )  # fmt: skip
    plan = TrainingPlan.from_arguments(args, manifest.num_rows, 1)
    for step, keys in zip(range(4), batched(EpochSampler(24, 5, 0), 5), strict=False):
        batch = default_collate(data.training.__getitems__(keys))
        seed_step(plan, step, 0, 0)
        model(class_labels=batch["class_labels"], codes=batch["codes"], labels=batch["codes"]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(trained[name], value) for name, value in model.state_dict().items())


def batched(keys, size):
    keys = list(keys)
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def test_on_the_fly_equals_the_store(options, codes_dir, tokenizer, image_folder, to_command, read_metrics, tmp_path):
    """The same views of the same images in the same order: the same weights, to the bit, whatever the precision."""
    options = {**options, "mixed_precision": "bf16"}
    train_far(to_command({**options, "codes_dir": codes_dir, "output_dir": tmp_path / "store"}))
    changes = {"train_data_dir": image_folder, "tokenizer": tokenizer, "crop": "ten-crop"}
    fly = to_command({**options, **changes, "output_dir": tmp_path / "fly", "dataloader_num_workers": 2})
    train_far([*fly, "--on_the_fly"])
    store, fly = (
        [{k: v for k, v in record.items() if k != "images_per_second"} for record in read_metrics(tmp_path / name)]
        for name in ("store", "fly")
    )
    assert store == fly
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("store", "fly")]
    assert weights[0] == weights[1]
    config = json.loads((tmp_path / "fly" / "config.json").read_text())
    assert config["tokenizer_fingerprint"] == CodesManifest.load(codes_dir).tokenizer_fingerprint


def test_on_the_fly_from_a_stream(options, tokenizer, image_folder, to_command, read_metrics, tmp_path):
    changes = {"train_data_dir": image_folder, "tokenizer": tokenizer, "streaming_samples": 24}
    words = to_command({**options, **changes, "output_dir": tmp_path, "validation_fraction": 0, "max_train_steps": 2})
    train_far([*words, "--on_the_fly", "--streaming"])
    assert len(read_metrics(tmp_path)) == 2
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {
        "0": "circle",
        "1": "square",
        "2": "stripes",
    }


def test_samples_and_average(options, codes_dir, tokenizer, to_command, read_metrics, tmp_path):
    """Pictures at their steps, without any effect on training; what is validated, shown and saved is the average."""
    options = {**options, "codes_dir": codes_dir, "checkpointing_steps": 5, "ema_decay": 0.5, "validation_steps": 5}
    words = to_command({**options, "tokenizer": tokenizer, "sample_steps": 2, "output_dir": tmp_path / "shown"})
    train_far([*words, "--sample_classes", "2", "0", "--use_ema"])
    train_far([*to_command({**options, "output_dir": tmp_path / "plain"}), "--use_ema"])
    pictures = sorted((tmp_path / "shown" / "samples").iterdir())
    assert [path.name for path in pictures] == [f"step-{step:08d}.png" for step in (2, 4, 5)]
    assert len({Image.open(path).size for path in pictures}) == 1
    assert pictures[0].read_bytes() != pictures[2].read_bytes()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("shown", "plain")]
    assert weights[0] == weights[1]

    averaged = load_file(tmp_path / "plain" / "checkpoint-5" / "ema.safetensors")
    model = FARForImageGeneration.from_pretrained(tmp_path / "plain")
    for i, parameter in enumerate(model.parameters()):
        assert torch.equal(parameter, averaged[str(i)])
    trained = load_file(tmp_path / "plain" / "checkpoint-5" / "model.safetensors")
    assert any(not torch.equal(trained[name], value) for name, value in model.state_dict().items())
    logged = read_metrics(tmp_path / "plain")[-1]["validation/loss"]
    assert logged == pytest.approx(held_out_loss(model, options, to_command, tmp_path), rel=1e-5)


def held_out_loss(model, options, to_command, tmp_path):
    """As the script computes it, for any model."""
    args = parse_arguments(TrainFARArguments, to_command({**options, "output_dir": tmp_path}))
    data = stored_codes(args, None)
    loader = torch.utils.data.DataLoader(data.held_out, 2)
    return validate(Accelerator(cpu=True), trainable_far(model), loader, data)["validation/loss"]


@pytest.mark.parametrize(
    "changes",
    [{"head": "linear"}, {"head": "mlp", "mixed_precision": "bf16"}, {"gradient_checkpointing": True}],
    ids=["linear", "mlp-bf16", "checkpointing"],
)
def test_options_train(changes, options, codes_dir, to_command, read_metrics, tmp_path):
    train_far(to_command({**options, "max_train_steps": 2, "codes_dir": codes_dir, "output_dir": tmp_path, **changes}))
    losses = [record["loss/total"] for record in read_metrics(tmp_path) if "loss/total" in record]
    assert losses[0] == pytest.approx(torch.log(torch.tensor(32.0)).item(), rel=0.05), (
        "every code about equally likely"
    )
    assert losses[1] < losses[0]
    assert FARForImageGeneration.from_pretrained(tmp_path).config.head_type == changes.get("head", "ar")


def test_recomputing_changes_nothing(options, codes_dir, to_command, tmp_path):
    for name in ("plain", "recomputed"):
        words = to_command({**options, "codes_dir": codes_dir, "output_dir": tmp_path / name})
        train_far(words + ["--gradient_checkpointing"] * (name == "recomputed"))
    plain, recomputed = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "recomputed"))
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, rtol=0, atol=1e-6)


@pytest.fixture
def without_dropout(options, tmp_path):
    """Its draws differ between processes and between kernels."""
    config = json.loads(options["model_config_name_or_path"].read_text())
    config.update(dict.fromkeys(("token_dropout", "residual_dropout", "ffn_dropout", "class_dropout"), 0.0))
    (tmp_path / "config.json").write_text(json.dumps(config))
    return {**options, "model_config_name_or_path": tmp_path / "config.json"}


@pytest.mark.slow
def test_compiled(without_dropout, codes_dir, to_command, read_metrics, tmp_path):
    """The losses of the run that is not compiled."""
    options = {**without_dropout, "codes_dir": codes_dir}
    train_far(to_command({**options, "output_dir": tmp_path / "plain"}))
    train_far([*to_command({**options, "output_dir": tmp_path / "compiled"}), "--compile"])
    plain, compiled = (read_metrics(tmp_path / name) for name in ("plain", "compiled"))
    for one, other in zip(plain, compiled, strict=True):
        for name in {"loss/total", "validation/loss"} & set(one):
            assert other[name] == pytest.approx(one[name], rel=1e-4)
    FARForImageGeneration.from_pretrained(tmp_path / "compiled")


def test_prints_what_it_is_and_costs(options, codes_dir, to_command, tmp_path, capsys):
    words = to_command({**options, "codes_dir": codes_dir, "output_dir": tmp_path, "max_train_steps": 1})
    train_far(words)
    text = capsys.readouterr().out
    assert "generator  2 layers of width 32, factorized head of 1; 3 classes -> 16 positions x 2 codes of 32" in text
    parameters = sum(p.numel() for p in FARForImageGeneration.from_pretrained(tmp_path).parameters())
    assert f"trained    {parameters / 1000:.3g} k parameters" in text
    assert "1 steps = 0.333 epochs = 5 images = 80 positions" in text and "FLOP in all" in text


def test_share_of_the_peak(options, codes_dir, to_command, read_metrics, tmp_path, capsys):
    """--peak_flops: operations a second over what the device could do, by the figures that are printed and logged."""
    train_far(to_command({**options, "codes_dir": codes_dir, "output_dir": tmp_path, "peak_flops": 1e9}))
    (number,) = re.findall(r"about ([\d.]+) MFLOP per image", capsys.readouterr().out)
    records = [record for record in read_metrics(tmp_path) if "loss/total" in record]
    for record in records:
        assert record["mfu"] == pytest.approx(record["images_per_second"] * float(number) * 1e6 / 1e9, rel=0.02)
    assert len(records) == 5


@pytest.mark.slow
def test_two_processes_equal_one(without_dropout, codes_dir, to_command, read_metrics, tmp_path):
    """Losses, validation and weights of one process with the same global batch."""
    options = {**without_dropout, "codes_dir": codes_dir, "validation_steps": 2}
    train_far(to_command({**options, "train_batch_size": 6, "output_dir": tmp_path / "one"}))
    launch(to_command({**options, "train_batch_size": 3, "output_dir": tmp_path / "two"}), 2, "train_far")
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    for first, second in zip(one, two, strict=True):
        for name in set(first) - {"images_per_second"}:
            assert second[name] == pytest.approx(first[name], rel=1e-4), name
    equal_up_to_rounding(*(tmp_path / name / "model.safetensors" for name in ("one", "two")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "exactly one of --codes_dir and --on_the_fly"),
        ({"codes_dir": "c", "train_data_dir": "/tmp"}, "train_data_dir needs --on_the_fly"),
        ({"codes_dir": "c", "sample_steps": 1}, "on_the_fly and sample_steps need --tokenizer"),
        ({"on_the_fly": True, "tokenizer": "t"}, "exactly one of --train_data_dir and --dataset_name"),
        ({"codes_dir": "c", "validation_codes_dir": "d", "validation_fraction": 0.1}, "at most one of --validation_c"),
        ({"codes_dir": "c", "sample_steps": 0, "tokenizer": "t"}, "sample_steps must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_go_together(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        TrainFARArguments(output_dir=str(tmp_path), **changes)


def test_classes_to_show():
    assert check_classes(None, 1000) == [0, 125, 250, 375, 500, 625, 750, 875]
    assert check_classes(None, 3) == [0, 1, 2]
    assert check_classes([2, 2], 3) == [2, 2]
    with pytest.raises(ValueError, match=r"sample_classes must be in \[0, 2\], got 3"):
        check_classes([0, 3], 3)
