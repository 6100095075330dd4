# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Tokenizer training with teachers, perceptual distance, LeCam and revival: that they train, resume and refuse."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from accelerate.utils import load as load_pickle
from safetensors.torch import load_file

import fqgan_hf.training.fqgan.loop
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.arguments import PRESETS, load_model_config
from fqgan_hf.training.common.costs import count_parameters, forward_flops, readable
from fqgan_hf.training.train_fqgan import main as train_fqgan


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def everything(tokenizer_options, tiny_clip, tiny_dinov2):
    """Command line of a training with every option of this file switched on."""

    def make(output_dir, **changes):
        options = {
            "perceptual_model": tiny_dinov2,
            "perceptual_weight": 0.5,
            "disc_start": 1,
            "disc_type": "stylegan",
            "lecam_weight": 0.1,
            "usage_window": 2,
            "revive_dead_codes": True,
            "use_ema": True,
            **changes,
        }
        return [*tokenizer_options(output_dir, **options), "--teachers", "none", f"clip:{tiny_clip}"]

    return make


def test_every_term_is_logged(everything, read_metrics, tmp_path, capsys):
    train_fqgan(everything(tmp_path, max_train_steps=4))
    records = read_metrics(tmp_path)
    assert len(records) == 4
    terms = {
        *(f"loss/{name}/{k}" for name in ("codebook", "commitment", "entropy") for k in (0, 1)),
        *(f"loss/{name}" for name in ("reconstruction", "perceptual", "disentanglement", "total")),
        "loss/representation/1",
    }
    assert all(terms <= set(record) and "loss/representation/0" not in record for record in records)
    assert {"loss/generator", "loss/discriminator", "loss/lecam"} <= set(records[1])
    window = {f"{name}/{k}" for name in ("usage", "perplexity") for k in (0, 1)} | {"overlap/0-1"}
    assert [window <= set(record) for record in records] == [False, True, False, True]
    assert ["revived/0" in record for record in records] == [False, True, False, False]
    assert all(torch.isfinite(torch.tensor(list(record.values()), dtype=torch.float64)).all() for record in records)
    model = FQGANModel.from_pretrained(str(tmp_path))
    assert list(model.config.feature_dims) == [None, 16]
    printed = capsys.readouterr().out
    assert "2 codebooks of 32 x 4, f = 4: 16x16 pixels -> 2 x 4x4 codes" in printed
    assert "24 images, 4 per step, 6 steps per epoch" in printed


def test_batch_of_one(everything, read_metrics, tmp_path):
    train_fqgan(everything(tmp_path, max_train_steps=2, train_batch_size=1))
    for record in read_metrics(tmp_path):
        assert 0 < record["loss/representation/1"] < 2, "one minus a cosine"


@pytest.mark.parametrize("disc_type", ["patch", "stylegan"])
def test_resume_is_exact_with_everything_on(disc_type, everything, read_metrics, tmp_path):
    """Stopped within a window of the monitor: weights, averages, moments, LeCam and counts go on as they were."""
    options = {"usage_window": 3, "checkpointing_steps": 2, "max_train_steps": 6, "disc_type": disc_type}
    train_fqgan(everything(tmp_path / "whole", **options))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    train_fqgan(everything(tmp_path / "resumed", resume_from_checkpoint="latest", **options))

    whole, resumed = (tmp_path / name / "checkpoint-6" for name in ("whole", "resumed"))
    names = {path.name for path in whole.glob("*.safetensors")}
    assert names == {"ema.safetensors", "model.safetensors", *(f"model_{i}.safetensors" for i in (1, 2, 3))}
    for name in names:
        one, other = load_file(whole / name), load_file(resumed / name)
        assert all(torch.equal(one[key], other[key]) for key in one), name
    for name in ("optimizer.bin", "optimizer_1.bin"):
        one, other = (load_pickle(str(folder / name), weights_only=True)["state"] for folder in (whole, resumed))
        for key, moments in one.items():
            assert all(torch.equal(value, other[key][moment]) for moment, value in moments.items()), name
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "resumed" / WEIGHTS).read_bytes()
    ignored = {"images_per_second"}
    logged = {record["step"]: record for record in read_metrics(tmp_path / "resumed")}
    for record in read_metrics(tmp_path / "whole")[2:]:
        other = logged[record["step"]]
        assert {k: v for k, v in record.items() if k not in ignored} == {
            k: v for k, v in other.items() if k not in ignored
        }


def test_checkpoints_hold_no_frozen_network(everything, tmp_path):
    train_fqgan(everything(tmp_path, max_train_steps=2, checkpointing_steps=2))
    for path in (tmp_path / "checkpoint-2").glob("*.safetensors"):
        assert not [name for name in load_file(path) if "teacher" in name or "vision" in name or "layernorm" in name]


def test_a_pretrained_tokenizer_needs_the_heads_of_its_teachers(everything, tokenizer_options, tmp_path):
    pretrained = {"model_config_name_or_path": None, "max_train_steps": 1}
    train_fqgan(everything(tmp_path / "taught", max_train_steps=1))
    train_fqgan(tokenizer_options(tmp_path / "untaught", max_train_steps=1))
    train_fqgan(everything(tmp_path / "on", pretrained_model_name_or_path=tmp_path / "taught", **pretrained))
    with pytest.raises(ValueError, match=r"widths of the teachers' features, \[None, 16\], got \[None, None\]"):
        train_fqgan(everything(tmp_path / "no", pretrained_model_name_or_path=tmp_path / "untaught", **pretrained))


def test_without_weight_no_network_is_loaded(tokenizer_options, read_metrics, tmp_path):
    words = tokenizer_options(tmp_path, max_train_steps=1, representation_weight=0, perceptual_model="no/where")
    train_fqgan([*words, "--teachers", "none", "no/where"])
    (record,) = read_metrics(tmp_path)
    assert not [name for name in record if "representation" in name or "perceptual" in name]


def test_networks_out_of_reach_end_the_run_first(tokenizer_options, tmp_path, monkeypatch):
    def expensive(*args):
        raise AssertionError("something was built before")

    monkeypatch.setattr(fqgan_hf.training.fqgan.loop, "build_model", expensive)
    monkeypatch.setattr(fqgan_hf.training.fqgan.loop, "load_images", expensive)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="perceptual_model 'lpips' needs the packages lpips and torchvision"):
        train_fqgan(tokenizer_options(tmp_path / "a", perceptual_weight=None))
    with pytest.raises(OSError, match="perceptual_model: 'no/where' cannot be loaded"):
        train_fqgan(tokenizer_options(tmp_path / "b", perceptual_weight=1, perceptual_model="no/where"))
    with pytest.raises(OSError, match="teachers: 'no/where' cannot be loaded"):
        train_fqgan([*tokenizer_options(tmp_path / "c"), "--teachers", "none", "no/where"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perceptual_weight": -1}, "perceptual_weight must be at least 0, got -1"),
        ({"representation_weight": -1}, "representation_weight must be at least 0, got -1"),
        ({"lecam_weight": -1}, "lecam_weight must be at least 0, got -1"),
        ({"usage_window": 0}, "usage_window must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(changes, message, tokenizer_options, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_fqgan(tokenizer_options(tmp_path, **changes))


PUBLISHED = {
    "fqgan-dual-f16": (2, 16, 111.3),
    "fqgan-triple-f16": (3, 16, 131.7),
    "fqgan-dual-f8": (2, 8, None),
    "fqgan-triple-f8": (3, 8, None),
    "vqgan-f16": (1, 16, None),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_presets(preset):
    num_codebooks, factor, millions = PUBLISHED[preset]
    with torch.device("meta"):
        model = FQGANModel.from_config(load_model_config(str(PRESETS / f"{preset}.json")))
    assert (model.config.num_codebooks, model.downsample_factor) == (num_codebooks, factor)
    assert millions is None or count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.05)


def test_flops_by_hand():
    convolution = torch.nn.Conv2d(3, 5, 3, padding=1)
    assert forward_flops(convolution, torch.empty(2, 3, 4, 4)) == 2 * (2 * 5 * 4 * 4) * (3 * 9)
    assert (readable(0), readable(999.7), readable(1.234e9, "B")) == ("0", "1 k", "1.23 GB")


@pytest.mark.slow
def test_compiled(everything, read_metrics, tmp_path):
    """The losses of the run that is not compiled, with the adaptive weight, which goes back through the graph."""
    options = {"disc_start": 1, "max_train_steps": 3, "learning_rate": 1e-6, "revive_dead_codes": None}
    for name in ("plain", "compiled"):
        words = [word for word in everything(tmp_path / name, **options) if word != "--revive_dead_codes"]
        train_fqgan([*words, "--disc_adaptive_weight"] + ["--compile"] * (name == "compiled"))
    plain, compiled = (read_metrics(tmp_path / name) for name in ("plain", "compiled"))
    assert "disc_weight" in plain[-1]
    for one, other in zip(plain, compiled, strict=True):
        assert set(one) == set(other)
        for name in one:
            if name.startswith(("loss/", "disc_weight", "gradient_norm")):
                assert other[name] == pytest.approx(one[name], rel=1e-2, abs=1e-4), name
    FQGANModel.from_pretrained(str(tmp_path / "compiled"))


@pytest.mark.slow
def test_two_processes_equal_one_with_everything_on(everything, read_metrics, tmp_path):
    """Negatives, LeCam, counts and revival are those of the whole batch; a resume on two processes is exact."""
    options = {
        "entropy_weight": 0, "learning_rate": 1e-4, "disc_type": "patch", "disc_norm": "group",
        "checkpointing_steps": 1, "usage_window": 2, "max_train_steps": 3,
    }  # fmt: skip

    def launch(output_dir, **changes):
        words = everything(output_dir, train_batch_size=4, **options, **changes)
        command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--multi_gpu"]
        command += ["--mixed_precision", "no", "-m", "fqgan_hf.training.train_fqgan", *words]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]

    train_fqgan(everything(tmp_path / "one", train_batch_size=8, **options))
    launch(tmp_path / "two")
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert len(one) == len(two) == 3
    for first, second in zip(one, two, strict=True):
        assert set(first) == set(second)
        for name, value in first.items():
            if name != "images_per_second" and not name.startswith("loss/entropy"):
                assert second[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (name, json.dumps(second))
    for name, value in load_file(tmp_path / "one" / WEIGHTS).items():
        torch.testing.assert_close(load_file(tmp_path / "two" / WEIGHTS)[name], value, rtol=0, atol=5e-4)

    shutil.copytree(tmp_path / "two" / "checkpoint-1", tmp_path / "resumed" / "checkpoint-1")
    launch(tmp_path / "resumed", resume_from_checkpoint="latest")
    assert (tmp_path / "resumed" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()
