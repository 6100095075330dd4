# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Training with a regularized quantizer: options, refusals, schedules, and runs that are stopped and go on."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.fqgan.loss_terms import remedies
from fqgan_hf.training.fqgan.regularization import read_prior, temperatures
from fqgan_hf.training.train_fqgan import main as train_fqgan

from ..test_scripts import EXACT, equal_up_to_rounding, launch


WEIGHTS = "diffusion_pytorch_model.safetensors"
LINEAR = {"quantizer_type": "regularized"}
COSINE = {**LINEAR, "token_logits": "cosine", "mask_shared": False}


@pytest.fixture
def options(tokenizer_options, tokenizer_config, shared_dir, tmp_path):
    """Command line of a training with all terms of Reg-VQ on a perceptual network, in which temperatures change."""

    def make(output_dir: Path, config: dict, **changes) -> list[str]:
        path = tmp_path / "model.json"
        path.write_text(json.dumps({**json.loads(tokenizer_config(2).read_text()), **config}))
        network = str(shared_dir / "data" / "cifar10-net")
        terms = {"perceptual_weight": 0.2, "contrastive_weight": 0.1, "pcl_weight": 0.1, "perceptual_model": network}
        schedule = {"temperature_schedule": "cosine", "gumbel_temperature_end": 0.2, "softmax_temperature_end": 2.0}
        words = {"model_config_name_or_path": path, "prior_weight": 0.1, **terms, **schedule, **changes}
        return [*tokenizer_options(output_dir, **words), "--perceptual_layers", "embedder"]

    return make


# ---- Schedules and priors ----


@pytest.mark.parametrize(
    ("schedule", "middle"), [("constant", (2.0, 1.0)), ("linear", (1.25, 1.0)), ("cosine", (1.25, 1.0))]
)
def test_temperatures_follow_from_the_step(schedule, middle):
    args = SimpleNamespace(
        gumbel_temperature=2.0, gumbel_temperature_end=0.5, softmax_temperature=1.0, softmax_temperature_end=None,
        temperature_schedule=schedule,
    )  # fmt: skip
    assert temperatures(args, 0, 101) == (2.0, 1.0)
    assert temperatures(args, 50, 101) == pytest.approx(middle)
    assert temperatures(args, 100, 101) == pytest.approx((2.0 if schedule == "constant" else 0.5, 1.0))
    assert temperatures(args, 300, 101) == temperatures(args, 100, 101)
    quarter = {"constant": 0.0, "linear": 0.25, "cosine": (1 - math.cos(math.pi / 4)) / 2}[schedule]
    assert temperatures(args, 25, 101)[0] == pytest.approx(2.0 - 1.5 * quarter)
    assert temperatures(args, 0, 1) == (2.0, 1.0)


def test_a_prior_for_all_codebooks_or_for_each(tmp_path):
    path = tmp_path / "prior.json"
    path.write_text("[0.5, 0.25, 0.25]")
    assert read_prior(path, 2, 3) == [[0.5, 0.25, 0.25]] * 2
    path.write_text("[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]")
    assert read_prior(path, 2, 3) == [[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]


BAD_PRIORS = {
    "[0.5, 0.5]": "must have 32 probabilities for a codebook, got 2",
    json.dumps([1.0] + [0.0] * 31): "must be positive everywhere, got 0.0",
    json.dumps([-0.5] + [1.5 / 31] * 31): "must be positive everywhere, got -0.5",
    json.dumps([0.1] * 32): "must sum to 1, got 3.2",
    json.dumps(["a"] * 32): "must hold numbers only",
    json.dumps([[1 / 32] * 32] * 3): "must hold a list of 32 probabilities, or 2 lists",
    "{}": "must hold a list of 32 probabilities, or 2 lists",
    "[]": "must hold a list of 32 probabilities, or 2 lists",
    "[[0.5, 0.5], 3]": "must hold numbers only|must have 32",
    "no json": "must be a JSON file",
}


@pytest.mark.parametrize("content", BAD_PRIORS)
def test_a_bad_prior_is_refused_before_anything_is_read(content, options, tmp_path, monkeypatch):
    monkeypatch.setattr("fqgan_hf.training.fqgan.loop.load_images", None)
    path = tmp_path / "prior.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"prior .*prior\.json ({BAD_PRIORS[content]})"):
        train_fqgan(options(tmp_path / "run", LINEAR, prior=path))
    with pytest.raises(OSError, match=r"prior .*absent\.json cannot be read"):
        train_fqgan(options(tmp_path / "run", LINEAR, prior=tmp_path / "absent.json"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (LINEAR, {"gumbel_temperature": 0}, "gumbel_temperature must be greater than 0, got 0"),
        (LINEAR, {"softmax_temperature_end": -1}, "softmax_temperature_end must be greater than 0, got -1"),
        (LINEAR, {"pcl_temperature": 0}, "pcl_temperature must be greater than 0"),
        (LINEAR, {"pcl_num_patches": 0}, "pcl_num_patches must be at least 1, got 0"),
        (LINEAR, {"prior_weight": -1}, "prior_weight must be at least 0"),
        (LINEAR, {"temperature_schedule": "constant"}, "gumbel_temperature_end needs --temperature_schedule"),
        (LINEAR, {"entropy_weight": 0.1}, "entropy_weight must not be set .*the prior term is already the entropy"),
        (LINEAR, {"commitment_weight": 0.25}, "commitment_weight must not be set .*no vector"),
        (LINEAR, {"revive_dead_codes": True}, "revive_dead_codes must not be set"),
        ({}, {}, "prior_weight must not be set for a quantizer of type 'nearest', got 0.1"),
        ({}, {"prior_weight": 0}, "pcl_weight must not be set for a quantizer of type 'nearest'"),
        ({**LINEAR, "mask_ratio": 1.5}, {}, r"mask_ratio must be a number in \[0.0, 1.0\], got 1.5"),
        ({"quantizer_type": "vq"}, {}, "quantizer_type must be one of"),
    ],
)
def test_refused_by_name_before_data_is_read(config, changes, message, options, tmp_path, monkeypatch):
    monkeypatch.setattr("fqgan_hf.training.fqgan.loop.load_images", None)
    with pytest.raises(ValueError, match=message):
        train_fqgan(options(tmp_path / "run", config, **changes))


def test_an_unknown_layer_is_refused_before_data_is_read(options, tmp_path, monkeypatch):
    monkeypatch.setattr("fqgan_hf.training.fqgan.loop.load_images", None)
    words = [*options(tmp_path / "run", LINEAR)[:-1], "encoder.stage"]
    with pytest.raises(ValueError, match=r"perceptual_layers: .* has no layer 'encoder.stage'; it has encoder.stages"):
        train_fqgan(words)


# ---- Runs ----


@pytest.mark.parametrize("config", [LINEAR, COSINE, {"quantizer_type": "gumbel"}], ids=["linear", "cosine", "gumbel"])
def test_it_trains_and_resumes_exactly(config, options, read_metrics, tmp_path, capsys):
    """Stopped in the middle of the schedule: the last bits are those of a run that was not."""
    settings = {"max_train_steps": 6, "checkpointing_steps": 2, "usage_window": 3}
    train_fqgan(options(tmp_path / "whole", config, **settings))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    train_fqgan(options(tmp_path / "resumed", config, resume_from_checkpoint="latest", **settings))
    whole, resumed = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    records = read_metrics(tmp_path / "whole")
    terms = {"loss/prior/0", "loss/prior/1", "loss/pcl", "loss/contrastive", "loss/perceptual", "loss/disentanglement"}
    assert len(records) == 6 and all(terms <= record.keys() for record in records)
    assert ("loss/commitment/0" in records[0]) == (config is COSINE)
    assert all(math.isfinite(value) for record in records for value in record.values())
    assert all(record["loss/pcl"] > 0 for record in records)
    kind = config["quantizer_type"]
    # 4 images of 4x4 positions, 2 codebooks of 32 codes, 4 bytes each
    assert f"quantizer  {kind}; {4 * 16 * 2 * 32 * 4 / 1000:.3g} kB per process" in capsys.readouterr().out
    model = FQGANModel.from_pretrained(str(tmp_path / "whole"))
    assert model.config.quantizer_type == kind
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(model.encode(images).codes, model.encode(images).codes), "evaluation takes no chance"


def test_the_schedule_matters(options, tmp_path):
    """Otherwise the resumed runs above would prove nothing of it."""
    found = []
    for end in (0.2, 1.0):
        folder = tmp_path / str(end)
        train_fqgan(options(folder, LINEAR, max_train_steps=3, gumbel_temperature_end=end))
        found.append(load_file(folder / WEIGHTS)["quantizer.logit_weight"])
    assert not torch.equal(*found)


def test_a_given_prior_is_what_codes_go_to(tokenizer_options, tokenizer_config, tmp_path):
    """All weight on the first eight codes of 32: they are the ones in use in the end, offline and without LPIPS."""
    path, prior = tmp_path / "model.json", tmp_path / "prior.json"
    config = {**json.loads(tokenizer_config(1).read_text()), **LINEAR, "adapter_num_layers": 0}
    path.write_text(json.dumps(config))
    prior.write_text(json.dumps([0.97 / 8] * 8 + [0.03 / 24] * 24))
    words = {"model_config_name_or_path": path, "prior": prior, "prior_weight": 5, "disc_weight": 0}
    words |= {"max_train_steps": 60, "learning_rate": 0.01, "usage_window": 10, "logging_steps": 60}
    train_fqgan(tokenizer_options(tmp_path / "run", 1, **words))
    model = FQGANModel.from_pretrained(str(tmp_path / "run"))
    codes = model.encode(torch.rand(16, 3, 16, 16) * 2 - 1).codes
    assert (codes < 8).float().mean() > 0.8


@pytest.mark.slow
def test_two_processes(options, read_metrics, tmp_path):
    """Without chance as one process with the joined batch, prior and all; with chance they resume exactly."""
    settings, without_chance = {**EXACT, "checkpointing_steps": 2}, {**LINEAR, "mask_ratio": 0.0}
    train_fqgan(options(tmp_path / "one", without_chance, train_batch_size=8, **settings))
    launch(options(tmp_path / "two", without_chance, train_batch_size=4, **settings), 2)
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert len(one) == len(two) == 3
    for first, second in zip(one, two, strict=True):
        assert first["loss/prior/0"] > 0.01 and first["loss/pcl"] == 0, "no code is sampled"
        for name, value in first.items():
            if name != "images_per_second":
                assert second[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    equal_up_to_rounding(tmp_path / "one" / WEIGHTS, tmp_path / "two" / WEIGHTS)

    launch(options(tmp_path / "whole", COSINE, **settings), 2)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    launch(options(tmp_path / "resumed", COSINE, resume_from_checkpoint="latest", **settings), 2)
    assert (tmp_path / "resumed" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert all(record["loss/pcl"] > 0 for record in read_metrics(tmp_path / "resumed"))


# ---- The monitor ----


def test_the_monitor_names_the_remedies_that_there_are():
    of = {
        "nearest": remedies({}),
        "linear": remedies(LINEAR),
        "cosine": remedies(COSINE),
    }
    named = {name: {word for word in ("prior", "entropy", "revive") if word in text} for name, text in of.items()}
    assert named == {"nearest": {"entropy", "revive"}, "linear": {"prior"}, "cosine": {"prior", "revive"}}
    assert all("--learning_rate" in text for text in of.values())
