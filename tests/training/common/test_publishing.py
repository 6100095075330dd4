# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a run leaves behind: the loss plot, a tracker's files, and a repository on a Hub that runs on this machine."""

import importlib.util
import json
import re
import subprocess
import sys

import huggingface_hub.constants
import pytest
from fakehub import FakeHub
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fqgan_hf.hub.card_info import CONVERTED_LICENSE, CardInfo
from fqgan_hf.training.common.plots import plot_losses
from fqgan_hf.training.train_fqgan import main as train_fqgan


SCRIPT = """
import json, sys
from fqgan_hf.training import extract_codes, train_code_diffusion, train_far, train_fqgan
for module, words in json.loads(sys.argv[1]):
    globals()[module].main(words)
from fqgan_hf import CodeDiffusionScheduler, CodeDiffusionTransformer, FARForImageGeneration, FQGANModel
FQGANModel.from_pretrained("org/tokenizer")
CodeDiffusionTransformer.from_pretrained("org/diffusion")
assert CodeDiffusionScheduler.from_pretrained("org/diffusion", subfolder="scheduler").config.transition == "absorbing"
print(FARForImageGeneration.from_pretrained("tester/generator").config.tokenizer_fingerprint)
"""


@pytest.fixture(scope="module")
def fake_hub():
    with FakeHub() as hub:
        yield hub


def test_the_trainers_push(
    fake_hub, tokenizer_options, image_folder, generator_config, cache_dir, to_command, tmp_path, monkeypatch
):
    """After training the repository is there with the model; both load from it, and the card tells the training."""
    tokenizer, codes, generator = (tmp_path / name for name in ("tokenizer", "codes", "generator"))
    extraction = {"train_data_dir": image_folder, "cache_dir": cache_dir, "tokenizer": tokenizer, "output_dir": codes}
    generation = {
        "codes_dir": codes,
        "cache_dir": cache_dir,
        "model_config_name_or_path": generator_config,
        "output_dir": generator,
        "train_batch_size": 6,
        "max_train_steps": 2,
        "validation_fraction": 0.25,
        "hub_model_id": "generator",
        "hub_token": "hf_secret",
    }
    diffusion = {"output_dir": tmp_path / "diffusion", "hub_model_id": "org/diffusion", "transition": "absorbing"}
    push = ["--push_to_hub", "--hub_private_repo"]
    runs = [
        ("train_fqgan", tokenizer_options(tokenizer, max_train_steps=2, hub_model_id="org/tokenizer") + push),
        ("extract_codes", to_command(extraction)),
        ("train_far", to_command(generation) + push),
        ("train_code_diffusion", to_command({**generation, **diffusion}) + push),
    ]
    for name, value in fake_hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", SCRIPT, json.dumps(runs)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    assert fake_hub.unknown == []
    assert fake_hub.repositories["org/tokenizer"].private and fake_hub.repositories["tester/generator"].private
    assert [(commit.repo_id, commit.summary) for commit in fake_hub.commits] == [
        ("org/tokenizer", "Trained for 2 steps"),
        ("tester/generator", "Trained for 2 steps"),
        ("org/diffusion", "Trained for 2 steps"),
    ]
    files = fake_hub.files("org/tokenizer")
    assert {"README.md", "config.json", "preprocessor_config.json", "modeling_fqgan.py"} <= set(files)
    local = (tokenizer / "diffusion_pytorch_model.safetensors").read_bytes()
    assert files["diffusion_pytorch_model.safetensors"] == local
    card = fake_hub.files("tester/generator")["README.md"].decode()
    assert "| steps | 2 of 6 samples (0.6667 epochs) |" in card
    assert "| validation/loss/1 | 3." in card and re.search(r"Cost: 2 steps in \S+ hours on the CPU\.", card)
    assert json.loads((generator / "card.json").read_text())["training"] in card, "for `fqgan push`"
    everything = b"".join(fake_hub.files("tester/generator").values()) + b"".join(files.values())
    assert b"hf_secret" not in everything and str(tmp_path).encode() not in everything
    fingerprint = json.loads((generator / "config.json").read_text())["tokenizer_fingerprint"]
    assert result.stdout.splitlines()[-1] == fingerprint


def test_what_was_converted_keeps_its_terms(tokenizer_options, tmp_path):
    """Also after a second training."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    train_fqgan(tokenizer_options(first, max_train_steps=1))
    assert CardInfo.read(first).license == "apache-2.0"
    CardInfo(license=CONVERTED_LICENSE, converted_from="`a.pt`").write(first)
    for start, end in ((first, second), (second, third)):
        options = tokenizer_options(end, max_train_steps=1, pretrained_model_name_or_path=start)
        place = options.index("--model_config_name_or_path")
        train_fqgan(options[:place] + options[place + 2 :])
        found = CardInfo.read(end)
        assert (found.license, found.converted_from) == ("cc-by-nc-4.0", "`a.pt`, then trained further")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "push_to_hub needs --hub_model_id"),
        ({"hub_model_id": "a/b"}, "hub_token must be given: log in by `hf auth login`"),
        ({"hub_model_id": "a/b", "hub_token": "hf_x"}, "a/b is out of reach"),
        ({"hub_model_id": "a/b/c", "hub_token": "hf_x"}, "hub_model_id: Repo id must be"),
    ],
    ids=["no name", "no token", "no network", "bad name"],
)
def test_push_fails_before_training(options, message, tokenizer_options, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises((ValueError, OSError), match=message):
        train_fqgan([*tokenizer_options(tmp_path / "out", **options), "--push_to_hub"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("role", "name", "message"),
    [
        ("write", "org/name", ""),
        ("fineGrained", "name", ""),
        ("write", "elsewhere/name", "hub_model_id must be of tester or org, as the token is, got 'elsewhere/name'"),
        ("read", "org/name", "hub_token must have write access, got one that can only read"),
    ],
)
def test_the_hub_is_asked_before_training_and_nothing_is_created(role, name, message, fake_hub, tmp_path, monkeypatch):
    """A training that fails after it leaves no empty repository behind: here, for want of images."""
    (tmp_path / "images").mkdir()
    for variable, value in fake_hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(fake_hub, "token_role", role)
    before = dict(fake_hub.repositories)
    command = [sys.executable, "-m", "fqgan_hf.training.train_fqgan", "--train_data_dir", str(tmp_path / "images")]
    command += ["--output_dir", str(tmp_path / "out"), "--push_to_hub", "--hub_model_id", name]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert (message or "got the empty folder") in result.stderr
    assert fake_hub.repositories == before and fake_hub.unknown == []
    assert not (tmp_path / "out").exists()


def test_hub_options_without_push(tokenizer_options, tmp_path):
    with pytest.raises(ValueError, match="hub_model_id needs --push_to_hub"):
        train_fqgan(tokenizer_options(tmp_path, hub_model_id="a/b"))


def test_plot_of_a_run_and_its_tensorboard(tokenizer_options, tmp_path):
    """Curves on disk without a tracker; and the one tracker that needs no account, for real."""
    options = {"report_to": "tensorboard", "validation_fraction": 0.2, "hub_token": None}
    train_fqgan(tokenizer_options(tmp_path, **options, max_train_steps=2, logging_steps=1))
    width, height = Image.open(tmp_path / "losses.png").size
    assert width == 1200 and height > 500
    (events,) = {path.parent for path in tmp_path.rglob("events.out.tfevents.*") if "fqgan-hf" in path.parts[-2]}
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    assert {"loss/total", "learning_rate", "validation/psnr"} <= set(tags)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [record["loss/total"] for record in logged if "loss/total" in record]
    assert [event.value for event in accumulator.Scalars("loss/total")] == pytest.approx(logged, rel=1e-6)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_missing_tracker_is_named(tracker, tokenizer_options, tmp_path):
    if importlib.util.find_spec(tracker) is not None:
        pytest.skip(f"{tracker} is installed")
    with pytest.raises(ValueError, match=f"report_to='{tracker}' needs the package {tracker}"):
        train_fqgan(tokenizer_options(tmp_path, report_to=tracker))


def test_plot_skips_what_is_not_finite(tmp_path):
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "losses.png"
    metrics.write_text('{"step": 1, "lr": 1, "loss/a/0": NaN}\n')
    plot_losses(metrics, picture)
    assert not picture.exists(), "nothing to show"
    records = [{"step": i, "loss/a/0": 1 / i, "loss/a/1": float("nan"), "validation/loss": 2} for i in range(1, 6000)]
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    plot_losses(metrics, picture)
    assert Image.open(picture).size[0] == 1200
    assert list(tmp_path.glob("*.tmp")) == []
