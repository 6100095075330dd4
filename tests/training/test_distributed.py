# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Two processes over gloo: one prior term, steps skipped together, FSDP2 as the generator's configuration says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.transformer_blocks import TransformerLayer
from fqgan_hf.training.common.arguments import PRESETS
from fqgan_hf.training.common.loop import build_optimizer

from .distributed_checks import (
    ARGS,
    batch,
    build,
    build_diffusion,
    build_quantizer,
    held_out_bound,
    prior_loss,
)


def run_together(check: str, folder: Path) -> None:
    script = Path(__file__).with_name("distributed_checks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(
        [*command, str(script), check, str(folder)], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-4000:]


def test_the_prior_term_is_that_of_the_joined_batch(tmp_path):
    """Two processes with half of it each: value and gradients of one process with all of it."""
    run_together("prior", tmp_path)
    quantizer, latents = build_quantizer()
    loss = prior_loss(quantizer, latents)
    loss.backward()
    found = load_file(tmp_path / "prior.safetensors")
    torch.testing.assert_close(found.pop("loss"), loss.detach())
    assert found.keys() == dict(quantizer.named_parameters()).keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, quantizer.get_parameter(name).grad, rtol=1e-4, atol=1e-7)
    quantizer.zero_grad()
    halves = [prior_loss(quantizer, latents[i::2]) for i in (0, 1)]
    assert (sum(halves) / 2 - loss).abs() > 0.01, "the mean of two priors would be another one"


@pytest.mark.slow
def test_nonfinite_steps_are_skipped_together(tmp_path):
    run_together("nonfinite", tmp_path)


@pytest.mark.slow
def test_fsdp_equals_one_process(tmp_path):
    """Losses and weights of one process with the whole batch; what two ranks saved loads on one, moments and all."""
    run_together("fsdp", tmp_path)
    model = build()
    optimizer = build_optimizer(model, ARGS, ARGS.learning_rate)
    ema = EMAModel(model.parameters(), decay=0.5)

    def train(model, optimizer, step):
        labels, codes = batch(step)
        loss = model(class_labels=labels, codes=codes, labels=codes).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), ARGS.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), norm.item()

    losses = []
    for step in range(3):
        losses.append(train(model, optimizer, step))
        ema.step(model.parameters())
    assert torch.tensor(losses).allclose(torch.tensor(json.loads((tmp_path / "losses.json").read_text())), rtol=1e-4)
    sharded = FARForImageGeneration.from_pretrained(tmp_path / "whole")
    averaged = load_file(tmp_path / "ema.safetensors")
    for i, (name, parameter) in enumerate(model.named_parameters()):
        torch.testing.assert_close(sharded.get_parameter(name), parameter, rtol=0, atol=1e-4)
        torch.testing.assert_close(averaged[str(i)], ema.shadow_params[i], rtol=0, atol=1e-4)
    FARForImageGeneration.from_pretrained(tmp_path / "averaged")

    loaded = build()
    loaded_optimizer = build_optimizer(loaded, ARGS, ARGS.learning_rate)
    model_state, optimizer_state = get_state_dict(loaded, loaded_optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=tmp_path / "shards", no_dist=True)
    set_state_dict(loaded, loaded_optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, sharded.get_parameter(name)), name
    loaded.train()
    assert train(loaded, loaded_optimizer, 3) == pytest.approx(train(model, optimizer, 3), rel=1e-3)
    for name, parameter in loaded.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=0, atol=2e-4)


@pytest.mark.slow
def test_the_bound_of_divided_weights(tmp_path):
    """Validation of a diffusion generator, which calls parts of it, is that of whole weights on every rank."""
    run_together("bound", tmp_path)
    expected = held_out_bound(build_diffusion(), 1)
    for rank in (0, 1):
        found = load_file(tmp_path / f"bound-{rank}.safetensors")
        torch.testing.assert_close(found["bound"], expected, rtol=1e-3, atol=1e-4)
        assert found["counts"].sum() == 8, "the images of both"


def test_fsdp_configuration_is_accelerates():
    """Every key is one that `accelerate launch` knows, and the layer class that it names exists."""
    config = yaml.safe_load((PRESETS / "fsdp2.yaml").read_text(encoding="utf-8"))
    fsdp = config["fsdp_config"]
    known = {action.dest for action in launch_command_parser()._actions}
    assert {key for key in fsdp if key != "fsdp_version"} <= known
    assert fsdp["fsdp_version"] == 2
    assert fsdp["fsdp_transformer_layer_cls_to_wrap"] == TransformerLayer.__name__
    assert TransformerLayer.__name__ in FARForImageGeneration._no_split_modules
    assert config["distributed_type"] == "FSDP"
    assert load_config_from_file(str(PRESETS / "fsdp2.yaml")).fsdp_config == fsdp  # raises for what it does not know
