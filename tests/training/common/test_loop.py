# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Guarded updates where a gradient scaler takes part, and what a checkpoint says of a model's configuration."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from fqgan_hf.hub.config_fields import config_fields
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.loop import GuardedUpdate, own_config_fields

from ..conftest import TOKENIZER


def test_a_scaler_cannot_hide_a_loss_that_stays_nonfinite():
    """While it scales the loss, overflows are its own affair; at scale 1 they count."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model = torch.nn.Linear(3, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), fused=True))
    scheduler = accelerator.prepare(torch.optim.lr_scheduler.ConstantLR(optimizer))
    update = GuardedUpdate(accelerator, SimpleNamespace(max_grad_norm=1.0, max_nonfinite_steps=1))
    before = model.weight.detach().clone()

    def step(inputs):
        accelerator.backward(model(inputs).mean())
        update(model, optimizer, scheduler, torch.tensor([7]))
        return accelerator.scaler.get_scale(), update.num_skipped

    bad = torch.full((2, 3), torch.nan)
    assert [step(bad) for _ in range(3)] == [(2.0, 0), (1.0, 0), (0.5, 1)]
    assert torch.equal(model.weight, before)
    with pytest.raises(FloatingPointError, match=r"not finite in 2 steps.*\[7\]"):
        step(bad)
    optimizer.zero_grad()
    step(torch.ones(2, 3))
    assert not torch.equal(model.weight, before)


def test_the_fields_of_a_configuration_are_those_that_its_source_has():
    """Before torch is imported they are read from the source, afterwards from the object."""
    assert own_config_fields(FQGANModel(**TOKENIZER)) == list(config_fields("FQGANModel"))
    assert own_config_fields(SimpleNamespace(config=FARConfig())) == list(config_fields("FARForImageGeneration"))


def test_the_fields_of_a_configuration_are_inherited():
    class WithMore(FARConfig):
        model_type = "with-more"
        depth: int = 3

    assert own_config_fields(SimpleNamespace(config=WithMore())) == [*config_fields("FARForImageGeneration"), "depth"]
