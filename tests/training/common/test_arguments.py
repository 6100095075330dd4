# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Options: file and command line, names that nothing knows, and that every option is read by something."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

import fqgan_hf.evaluation
import fqgan_hf.training
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.modeling.configuration_code_diffusion import CodeDiffusionConfig
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.training.common.arguments import (
    PRESETS,
    TrainingArguments,
    load_model_config,
    parse_arguments,
    preset_names,
)
from fqgan_hf.training.common.loop import TrainingPlan
from fqgan_hf.training.extract_codes import ExtractCodesArguments
from fqgan_hf.training.far.costs import describe_run, flops_per_image
from fqgan_hf.training.far.model import trainable_far
from fqgan_hf.training.fqgan.loss_terms import NEAREST, default_weights, loss_weights
from fqgan_hf.training.train_code_diffusion import TrainCodeDiffusionArguments
from fqgan_hf.training.train_far import TrainFARArguments
from fqgan_hf.training.train_far import main as train_far
from fqgan_hf.training.train_fqgan import TrainFQGANArguments
from fqgan_hf.training.train_fqgan import main as train_fqgan


READERS = [Path(package.__path__[0]) for package in (fqgan_hf.training, fqgan_hf.evaluation)]
SCRIPTS = (TrainFQGANArguments, ExtractCodesArguments, TrainFARArguments, TrainCodeDiffusionArguments)
GENERATORS = {"far": TrainFARArguments, "code_diffusion": TrainCodeDiffusionArguments}


def test_every_option_is_read():
    read = {"config"}  # the parser's own, tested below
    terms = {*NEAREST, *default_weights({"quantizer_type": "regularized"})}
    read |= {f"{term}_weight" for term in terms}  # by name, see test_losses
    read |= {f"{name}_temperature{end}" for name in ("gumbel", "softmax") for end in ("", "_end")}
    for path in (path for folder in READERS for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("args", "self.args"):
                read.add(node.attr)
    for options in (*SCRIPTS, ImageDataArguments, TrainingArguments):
        unread = {option.name for option in fields(options)} - read
        assert not unread, f"nothing reads {sorted(unread)} of {options.__name__}"


def test_every_option_explains_itself():
    for options in SCRIPTS:
        for option in fields(options):
            assert option.metadata.get("help", "").endswith((".", ";")), f"--{option.name} has no sentence of help"


def test_command_line_over_file_over_default(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    config = tmp_path / "run.yaml"
    config.write_text(
        "dataset_name: a\noutput_dir: b\nlearning_rate: 3e-4\nuse_ema: true\nrandom_flip: false\n"
        "max_train_steps: null\ntrain_batch_size: 3\nmodel_config_name_or_path: model.json\n"
    )
    args = parse_arguments(TrainFQGANArguments, ["--train_batch_size", "5", "--config", str(config), "--seed", "9"])
    assert (args.train_batch_size, args.seed, args.max_train_steps) == (5, 9, None)
    assert (args.learning_rate, args.use_ema, args.random_flip) == (3e-4, True, False)
    assert args.model_config_name_or_path == str(tmp_path / "model.json"), "found beside the file that names it"
    assert args.disc_start == 20000


def test_wrong_files(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("learning_rat: 1\n")
    with pytest.raises(ValueError, match=r"run\.yaml: unknown option 'learning_rat', did you mean 'learning_rate'\?"):
        parse_arguments(TrainFARArguments, ["--config", str(config)])
    config.write_text("- 1\n")
    with pytest.raises(ValueError, match="must hold a mapping of options to values, got list"):
        parse_arguments(TrainFARArguments, ["--config", str(config)])
    with pytest.raises(FileNotFoundError, match="one of the presets .*digits-far.*got 'no-such-preset'"):
        parse_arguments(TrainFARArguments, ["--config", "no-such-preset"])
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_model_config(str(tmp_path / "missing.json"))


@pytest.mark.parametrize("preset", preset_names())
def test_presets_parse(preset, tmp_path):
    content = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text(encoding="utf-8"))
    is_tokenizer = "resolution" in content
    options = TrainFQGANArguments
    if not is_tokenizer:
        options = GENERATORS[load_model_config(str(PRESETS / content["model_config_name_or_path"]))["model_type"]]
    words = ["--output_dir", "o", *(["--train_data_dir", str(tmp_path)] if is_tokenizer else ["--codes_dir", "c"])]
    args = parse_arguments(options, ["--config", preset, *words])
    config = load_model_config(args.model_config_name_or_path) if args.model_config_name_or_path else {}
    if is_tokenizer:
        assert loss_weights(args, config)["reconstruction"] == 1, "no term that the quantizer lacks has a weight"


def test_the_documentation_names_every_preset():
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    assert set(preset_names()) <= set(re.findall(r"`([\w-]+)`", text))


@pytest.mark.parametrize(("name", "parameters"), [("base", 417e6), ("large", 901e6)])
def test_published_generators(name, parameters):
    """The presets are the published sizes and recipe; weights are not allocated."""
    words = ["--config", f"far-{name}", "--codes_dir", "c", "--output_dir", "o"]
    args = parse_arguments(TrainFARArguments, words)
    config = FARConfig(**load_model_config(args.model_config_name_or_path))
    assert config.to_dict() == getattr(FARConfig, name)().to_dict()
    with torch.device("meta"):
        model = FARForImageGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=2e-3)
    assert (args.train_batch_size * 8, args.num_train_epochs, args.adam_weight_decay) == (256, 300, 0.05)
    plan = TrainingPlan.from_arguments(args, 1_281_167, num_processes=8)
    text = describe_run(args, plan, trainable_far(model), flops_per_image(trainable_far(model)))
    assert f"run        far-{name}" in text and f"trained    {parameters / 1e6:.0f} M parameters" in text
    assert "1,501,200 steps = 300 epochs" in text


@pytest.mark.parametrize(
    ("name", "millions"),
    [("vqdiffusion-s", (24.8, 12.0)), ("vqdiffusion-b", (434.2, 333.4)), ("vqdiffusion-imagenet", (152.4, 111.3))],
)
def test_sizes_of_vq_diffusion(name, millions):
    """The published layers and widths; parameters for two large codebooks, and for the published one."""
    args = parse_arguments(
        TrainCodeDiffusionArguments, ["--config", name, "--codes_dir", "c", "--output_dir", "o"]
    )  # fmt: skip
    config = load_model_config(args.model_config_name_or_path)
    published = {"-s": "small", "-b": "base"}.get(name[-2:], "imagenet")
    published = getattr(CodeDiffusionConfig, published)()
    for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_train_timesteps"):
        assert config.get(field, published.num_train_timesteps) == getattr(published, field)
    text = {"text_hidden_size": 512} if "text" in config.get("conditions", ()) else {}
    one_codebook = {"num_codebooks": 1, "codebook_size": 2887, "head_type": "linear"}
    for codes, expected in zip(({}, one_codebook), millions, strict=True):
        with torch.device("meta"):
            model = CodeDiffusionTransformer(CodeDiffusionConfig(**{**config, **text, **codes}))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(expected, abs=0.06)
    assert (args.adam_beta1, args.adam_beta2, args.adam_weight_decay, args.use_ema) == (0.9, 0.96, 0.045, True)
    assert args.ema_decay**25 == pytest.approx(0.99, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_batch_size": 0}, "train_batch_size must be at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate must be greater than 0, got 0"),
        ({"peak_flops": 0}, "peak_flops must be greater than 0, got 0"),
        ({"ema_decay": 1}, r"ema_decay must be in \[0, 1\), got 1"),
        ({"disc_weight": -1}, "disc_weight must be at least 0, got -1"),
        ({"max_resize_ratio": 0.5}, "max_resize_ratio must be at least 1, got 0.5"),
        ({"resolution": 18}, "divisible by the downsampling factor 4, got 18x18"),
        ({"disc_num_layers": 3}, "needs images of at least 24 pixels, got resolution 16"),
        ({"train_batch_size": 100}, "must be at most the 24 training samples"),
        ({"validation_split": "test"}, "validation_split needs --dataset_name"),
        ({"pretrained_model_name_or_path": "x"}, "at most one of --model_config_name_or_path and"),
        ({"resume_from_checkpoint": "nowhere"}, "must be `latest` or a complete checkpoint"),
    ],
)
def test_bad_input_is_named(changes, message, tokenizer_options, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_fqgan(tokenizer_options(tmp_path / "out", **changes))


def test_misspelt_model_configuration(tokenizer_options, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_codebook": 2}))
    with pytest.raises(ValueError, match="FQGANModel has no 'num_codebook', did you mean 'num_codebooks'"):
        train_fqgan(tokenizer_options(tmp_path / "out", model_config_name_or_path=path))


def test_generator_without_codes(to_command, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"codes_dir must be a folder written by extract_codes.*manifest\.json"
    ):
        train_far(to_command({"codes_dir": tmp_path, "output_dir": tmp_path / "out"}))


def test_launch_that_would_train_alone(tokenizer_options, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="the launcher started 2 processes, but each would work alone"):
        train_fqgan(tokenizer_options(tmp_path / "out"))


def test_help_reads_well():
    command = [sys.executable, "-m", "fqgan_hf.training.train_far", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Train a FAR generator on the codes" in text
    assert "--learning_rate" in text and "(default: 0.0001)" in text
