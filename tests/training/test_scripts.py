# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The three scripts in a row, for K = 1, 2, 3, and what training promises."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from fqgan_hf.modeling.code_layout import sequence_to_grid
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.extract_codes import main as extract_codes
from fqgan_hf.training.train_far import main as train_far
from fqgan_hf.training.train_fqgan import main as train_fqgan


@pytest.mark.parametrize("num_codebooks", [1, 2, 3])
def test_images_to_generator(
    num_codebooks, tokenizer_options, image_folder, generator_config, cache_dir, to_command, read_metrics, tmp_path
):
    tokenizer_dir, codes_dir, generator_dir = (tmp_path / name for name in ("tokenizer", "codes", "generator"))
    train_fqgan(tokenizer_options(tokenizer_dir, num_codebooks, validation_fraction=0.25, validation_steps=4))
    data = {"train_data_dir": image_folder, "cache_dir": cache_dir}
    extract_codes(to_command({**data, "tokenizer": tokenizer_dir, "output_dir": codes_dir}))
    options = {
        "codes_dir": codes_dir,
        "tokenizer": tokenizer_dir,
        "cache_dir": cache_dir,
        "model_config_name_or_path": generator_config,
        "output_dir": generator_dir,
        "train_batch_size": 6,
        "num_train_epochs": 2,
        "validation_fraction": 0.25,
        "logging_steps": 2,
        "head": "mlp" if num_codebooks == 3 else None,
    }
    train_far(to_command(options))

    tokenizer = FQGANModel.from_pretrained(str(tokenizer_dir)).eval()
    assert tokenizer.config.num_codebooks == num_codebooks
    assert FQGANImageProcessor.from_pretrained(str(tokenizer_dir)).size == 16
    generator = FARForImageGeneration.from_pretrained(generator_dir).eval()
    assert generator.config.tokenizer_fingerprint == tokenizer.fingerprint()
    assert generator.config.id2label == {0: "circle", 1: "square", 2: "stripes"}
    assert generator.config.num_classes == 3
    codes = generator.generate(class_labels=[0, 2], generator=torch.Generator().manual_seed(0))
    assert tokenizer.decode_codes(sequence_to_grid(codes, 4, 4)).sample.shape == (2, 3, 16, 16)

    records = read_metrics(tokenizer_dir)
    training = [record for record in records if "loss/total" in record]
    assert [record["step"] for record in training] == [1, 2, 3, 4, 5, 6]
    assert f"loss/entropy/{num_codebooks - 1}" in training[0]
    validation = [record for record in records if "validation/psnr" in record]
    assert [record["step"] for record in validation] == [4, 6]
    assert f"validation/usage/{num_codebooks - 1}" in validation[0]
    assert (tokenizer_dir / "validation" / "step-00000004.png").is_file()
    last = read_metrics(generator_dir)[-1]
    assert {f"validation/loss/{k}" for k in range(num_codebooks)} <= set(last)


def test_discriminator_starts_at_its_step(tokenizer_options, read_metrics, tmp_path):
    """Before disc_start the run is the one without a discriminator, and the discriminator does not move."""
    train_fqgan(tokenizer_options(tmp_path / "with", disc_start=4, checkpointing_steps=2))
    train_fqgan(tokenizer_options(tmp_path / "without", disc_weight=0, checkpointing_steps=2))
    for record in read_metrics(tmp_path / "with"):
        assert ("loss/generator" in record) == ("loss/discriminator" in record) == (record["step"] > 4)

    def weights(run, step, name="model"):
        return load_file(tmp_path / run / f"checkpoint-{step}" / f"{name}.safetensors")

    for step, same in ((2, True), (4, True), (6, False)):
        one, other = weights("with", step), weights("without", step)
        assert all(torch.equal(one[name], other[name]) for name in one) == same
    first, second, third = (weights("with", step, "model_1") for step in (2, 4, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize(
    "changes",
    [
        {"disc_loss": "vanilla", "disc_adaptive_weight": True, "reconstruction_loss": "l1"},
        {"disc_loss": "non-saturating", "disc_learning_rate": 1e-4, "gradient_checkpointing": True, "use_ema": True},
        {"mixed_precision": "bf16", "gradient_accumulation_steps": 2, "disc_norm": "group"},
    ],
    ids=["vanilla-adaptive-l1", "non-saturating-ema", "bf16-accumulate"],
)
def test_options_train(changes, tokenizer_options, read_metrics, tmp_path):
    train_fqgan(tokenizer_options(tmp_path, disc_start=0, max_train_steps=2, **changes))
    for record in read_metrics(tmp_path):
        assert all(torch.isfinite(torch.tensor(float(value))) for value in record.values())
    FQGANModel.from_pretrained(str(tmp_path))


def test_pretrained_tokenizer_is_continued(tokenizer_options, tmp_path):
    train_fqgan(tokenizer_options(tmp_path / "first", max_train_steps=1))
    changes = {"model_config_name_or_path": None, "pretrained_model_name_or_path": tmp_path / "first"}
    train_fqgan(tokenizer_options(tmp_path / "second", max_train_steps=1, learning_rate=1e-9, **changes))
    first, second = (FQGANModel.from_pretrained(str(tmp_path / name)) for name in ("first", "second"))
    assert first.fingerprint() == second.fingerprint()


def equal_up_to_rounding(first, second):
    for name, value in load_file(first).items():
        torch.testing.assert_close(value, load_file(second)[name], rtol=0, atol=1e-4)


# The entropy term is no mean over samples, so that it alone depends on how a batch is divided.
EXACT = {"entropy_weight": 0, "disc_norm": "group", "disc_start": 1, "max_train_steps": 3, "learning_rate": 1e-4}


def test_accumulation_equals_the_large_batch(tokenizer_options, read_metrics, tmp_path):
    train_fqgan(tokenizer_options(tmp_path / "large", train_batch_size=8, **EXACT))
    train_fqgan(tokenizer_options(tmp_path / "small", train_batch_size=4, gradient_accumulation_steps=2, **EXACT))
    for large, small in zip(read_metrics(tmp_path / "large"), read_metrics(tmp_path / "small"), strict=True):
        for name in ("loss/total", "gradient_norm", "loss/discriminator", "discriminator/gradient_norm"):
            if name in large:
                assert small[name] == pytest.approx(large[name], rel=1e-4), name
    name = "diffusion_pytorch_model.safetensors"
    equal_up_to_rounding(tmp_path / "large" / name, tmp_path / "small" / name)


def test_codes_of_another_tokenizer_are_refused(tokenizer_options, image_folder, cache_dir, to_command, tmp_path):
    for seed in (0, 1):
        train_fqgan(tokenizer_options(tmp_path / f"tokenizer-{seed}", max_train_steps=1, seed=seed))
    data = {"train_data_dir": image_folder, "cache_dir": cache_dir}
    extract_codes(to_command({**data, "tokenizer": tmp_path / "tokenizer-0", "output_dir": tmp_path / "codes"}))
    options = {"codes_dir": tmp_path / "codes", "cache_dir": cache_dir, "output_dir": tmp_path / "out"}
    with pytest.raises(ValueError, match="holds codes of another tokenizer"):
        train_far(to_command({**options, "tokenizer": tmp_path / "tokenizer-1"}))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"num_classes": 1000}))
    with pytest.raises(ValueError, match="num_classes of the model must be that of the codes, 3, got 1000"):
        train_far(to_command({**options, "model_config_name_or_path": config}))


def test_nonfinite_steps_are_skipped_and_counted(tokenizer_options, tmp_path):
    """An exploding learning rate: the step is skipped until there were too many, with the samples named."""
    options = tokenizer_options(tmp_path, learning_rate=1e30, max_nonfinite_steps=2, max_train_steps=20)
    with pytest.raises(FloatingPointError, match=r"not finite in 3 steps.*samples of the last batch: \["):
        train_fqgan(options)


def launch(words, num_processes, script="train_fqgan"):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment.pop("WORLD_SIZE", None)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(num_processes)]
    command += ["--multi_gpu"] if num_processes > 1 else []
    command += ["--mixed_precision", "no", "-m", f"fqgan_hf.training.{script}", *words]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.slow
def test_two_processes_equal_one(tokenizer_options, image_folder, cache_dir, to_command, read_metrics, tmp_path):
    """DDP over gloo: the same losses as one process with the same global batch, the same codes, an exact resume."""
    options = {**EXACT, "validation_fraction": 0.25, "use_ema": True, "checkpointing_steps": 2}
    train_fqgan(tokenizer_options(tmp_path / "one", train_batch_size=8, **options))
    launch(tokenizer_options(tmp_path / "two", train_batch_size=4, **options), 2)
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert len(one) == len(two) == 4
    for first, second in zip(one, two, strict=True):
        for name, value in first.items():
            if name != "images_per_second" and not name.startswith("loss/entropy"):
                assert second[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    name = "diffusion_pytorch_model.safetensors"
    equal_up_to_rounding(tmp_path / "one" / name, tmp_path / "two" / name)

    shutil.copytree(tmp_path / "two" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    words = tokenizer_options(tmp_path / "resumed", train_batch_size=4, resume_from_checkpoint="latest", **options)
    launch(words, 2)
    assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    extraction = {
        "train_data_dir": image_folder,
        "cache_dir": cache_dir,
        "tokenizer": tmp_path / "two",
        "shard_size": 5,
    }
    extract_codes(to_command({**extraction, "output_dir": tmp_path / "codes-1"}))
    launch(to_command({**extraction, "output_dir": tmp_path / "codes-2"}), 2, "extract_codes")
    manifests = [(tmp_path / f"codes-{n}" / "manifest.json").read_text() for n in (1, 2)]
    assert manifests[0] == manifests[1]
