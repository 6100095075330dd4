# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints: complete or absent, found, pruned, checked, and a resumed run that equals an uninterrupted one."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.checkpointing import export
from fqgan_hf.training.common.resuming import MANIFEST, find_checkpoint, list_checkpoints
from fqgan_hf.training.extract_codes import main as extract_codes
from fqgan_hf.training.train_far import main as train_far
from fqgan_hf.training.train_fqgan import main as train_fqgan


def checkpoint_hashes(path) -> dict[str, str]:
    """SHA-256 of weights, EMA, optimizers, schedulers and random states."""
    files = json.loads((path / MANIFEST).read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items()}


@pytest.fixture(scope="module")
def finished(tokenizer_options, tmp_path_factory):
    """A run with everything on, not interrupted: checkpoints at 2, 4 and 6 of 6 steps, over three epochs."""
    folder = tmp_path_factory.mktemp("finished")
    train_fqgan(tokenizer_options(folder, **OPTIONS))
    return folder


OPTIONS = {
    "use_ema": True,
    "checkpointing_steps": 2,
    "gradient_accumulation_steps": 2,
    "lr_scheduler": "cosine",
    "validation_fraction": 0.2,
    "validation_steps": 3,
}


@pytest.mark.parametrize(("step", "num_workers"), [(2, 0), (4, 2)])
def test_resume_is_bit_exact(step, num_workers, finished, tokenizer_options, tmp_path):
    """Before and after the discriminator starts, in and at the end of an epoch, with and without workers."""
    shutil.copytree(finished / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    (tmp_path / f"checkpoint-{step + 1}.tmp").mkdir()  # what a killed run leaves
    lines = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    train_fqgan(
        tokenizer_options(tmp_path, **OPTIONS, resume_from_checkpoint="latest", dataloader_num_workers=num_workers)
    )
    assert checkpoint_hashes(tmp_path / "checkpoint-6") == checkpoint_hashes(finished / "checkpoint-6")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()

    def log(folder):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in record.items() if k != "images_per_second"} for record in records]

    assert log(tmp_path) == log(finished), "each step is logged once"


def test_generator_resume_is_bit_exact(finished, image_folder, generator_config, cache_dir, to_command, tmp_path):
    codes = {
        "tokenizer": finished,
        "train_data_dir": image_folder,
        "cache_dir": cache_dir,
        "output_dir": tmp_path / "codes",
    }
    extract_codes(to_command(codes))
    options = {
        "codes_dir": tmp_path / "codes",
        "cache_dir": cache_dir,
        "model_config_name_or_path": generator_config,
        "train_batch_size": 5,
        "max_train_steps": 7,
        "checkpointing_steps": 3,
        "use_ema": True,
        "lr_warmup_steps": 3,
        "lr_scheduler": "cosine",
        "learning_rate": 1e-3,
    }
    train_far(to_command({**options, "output_dir": tmp_path / "whole"}))
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    resume = {"output_dir": tmp_path / "resumed", "resume_from_checkpoint": tmp_path / "resumed" / "checkpoint-3"}
    train_far(to_command({**options, **resume, "dataloader_num_workers": 2}))
    whole, resumed = (tmp_path / name for name in ("whole", "resumed"))
    assert checkpoint_hashes(whole / "checkpoint-6") == checkpoint_hashes(resumed / "checkpoint-6")
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    FARForImageGeneration.from_pretrained(resumed)


def test_export_is_the_average(finished):
    """With --use_ema the saved model is the averaged one, and readable by others."""
    exported = FQGANModel.from_pretrained(str(finished))
    averaged = load_file(finished / "checkpoint-6" / "ema.safetensors")
    for i, parameter in enumerate(exported.parameters()):
        assert torch.equal(parameter, averaged[str(i)])
    trained = load_file(finished / "checkpoint-6" / "model.safetensors")
    assert any(not torch.equal(trained[name], value) for name, value in exported.state_dict().items())
    assert (finished / "diffusion_pytorch_model.safetensors").stat().st_mode & 0o044
    assert not (finished / "export.tmp").exists()


def test_flipped_byte_is_noticed(finished, tokenizer_options, tmp_path):
    shutil.copytree(finished / "checkpoint-4", tmp_path / "checkpoint-4")
    path = tmp_path / "checkpoint-4" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint-4 is damaged: model\.safetensors"):
        train_fqgan(tokenizer_options(tmp_path, **OPTIONS, resume_from_checkpoint="latest"))


def test_each_damaged_file_is_named(finished, tokenizer_options, tmp_path):
    """Truncated, or gone."""
    shutil.copytree(finished / "checkpoint-2", tmp_path / "checkpoint-2")
    files = list(checkpoint_hashes(tmp_path / "checkpoint-2"))
    assert len(files) >= 8
    for i, name in enumerate(files):
        path = tmp_path / "checkpoint-2" / name
        content = path.read_bytes()
        path.unlink() if i % 2 else path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"checkpoint-2 is damaged: {re.escape(name)} does not have the content"):
            train_fqgan(tokenizer_options(tmp_path, **OPTIONS, resume_from_checkpoint="latest"))
        path.write_bytes(content)


def test_resume_with_other_settings_is_refused(finished, tokenizer_options, tmp_path):
    options = {**OPTIONS, "resume_from_checkpoint": finished / "checkpoint-4"}
    with pytest.raises(ValueError, match="samples_per_step was 8 and is now 4"):
        train_fqgan(tokenizer_options(tmp_path, **{**options, "gradient_accumulation_steps": 1}))


def test_resume_without_ema_is_refused(finished, tokenizer_options, tmp_path):
    options = {**OPTIONS, "resume_from_checkpoint": finished / "checkpoint-4", "use_ema": False}
    with pytest.raises(ValueError, match="use_ema was True and is now False"):
        train_fqgan(tokenizer_options(tmp_path, **options))


def test_fresh_start_does_not_mix_with_old_checkpoints(finished, tokenizer_options):
    with pytest.raises(ValueError, match="already holds checkpoint-6: pass --resume_from_checkpoint latest"):
        train_fqgan(tokenizer_options(finished, **OPTIONS))


def test_latest_of_nothing_starts_and_pruning_keeps_the_newest(tokenizer_options, tmp_path):
    train_fqgan(
        tokenizer_options(tmp_path, checkpointing_steps=1, checkpoints_total_limit=2, resume_from_checkpoint="latest")
    )
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-6"]


def test_incomplete_checkpoints_are_not_found(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11.tmp", "checkpoint-12", "checkpoint-x"):
        (tmp_path / name).mkdir()
        if name != "checkpoint-12":
            (tmp_path / name / MANIFEST).write_text("{}")
    assert find_checkpoint(tmp_path, "latest").name == "checkpoint-10", "by number, not by name"
    with pytest.raises(ValueError, match="must be `latest` or a complete checkpoint"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-12"))
    assert find_checkpoint(tmp_path / "nothing", "latest") is None
    assert find_checkpoint(tmp_path / "nothing", None) is None


def test_failed_export_leaves_the_old_model(tmp_path):
    class Full:
        def save_pretrained(self, folder):
            raise OSError("No space left on device")

    (tmp_path / "model.safetensors").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        export([Full()], tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"old"
