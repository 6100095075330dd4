# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a generator training is and what it costs, as a block of text at its start: counted, not measured."""

import torch
from torch import nn

from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.costs import (
    AVERAGED_BYTES,
    FROZEN_BYTES,
    TRAINED_BYTES,
    count_parameters,
    forward_flops,
    readable,
)
from fqgan_hf.training.common.loop import TrainingPlan


class _Encoding(nn.Module):
    def __init__(self, tokenizer: FQGANModel):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        # Not `encode`: it looks at the values, and there are none.
        return self.tokenizer.quantizer(self.tokenizer.encode_features(pixel_values))[2]


def flops_per_image(model: FARForImageGeneration, encoder: FQGANModel | None = None, resolution: int = 256) -> float:
    """
    Floating-point operations of training on one image.

    A training step is taken as three forward passes, one forward and two backward. Optimizers, operations other than
    matrix products, and what --gradient_checkpointing computes a second time are left out.

    Args:
        model (`FARForImageGeneration`): As it is trained.
        encoder (`FQGANModel`, *optional*): Encodes images on the fly.
        resolution (`int`): Of those images, in pixels.
    """
    config = model.config
    labels = torch.zeros(1, dtype=torch.long)
    codes = torch.zeros(1, config.num_positions, config.num_codebooks, dtype=torch.long)
    flops = 3 * forward_flops(model, labels, codes)
    if encoder is not None:
        flops += forward_flops(_Encoding(encoder), torch.empty(1, 3, resolution, resolution))
    return flops


def describe_run(
    args, plan: TrainingPlan, model: FARForImageGeneration, flops: float, encoder: FQGANModel | None = None
) -> str:
    """
    Purpose, size, length and cost of a run, before any network is moved or wrapped.

    Args:
        args (`TrainFARArguments`), plan (`TrainingPlan`): The run's.
        model (`FARForImageGeneration`): As it is trained.
        flops (`float`): By `flops_per_image`.
        encoder (`FQGANModel`, *optional*): Encodes images on the fly.
    """
    config = model.config
    frozen = count_parameters(encoder)
    parameters = count_parameters(model)
    images = plan.max_train_steps * plan.samples_per_step
    memory = TRAINED_BYTES * parameters + FROZEN_BYTES * frozen + AVERAGED_BYTES * parameters * args.use_ema
    heads = {"ar": f"factorized head of {config.num_head_layers}", "linear": "linear heads", "mlp": "MLP heads"}
    lines = {
        "run": args.config or "no preset",
        "generator": f"{config.num_hidden_layers} layers of width {config.hidden_size}, {heads[config.head_type]}; "
        f"{config.num_classes} classes -> {config.num_positions} positions x {config.num_codebooks} codes of "
        f"{config.codebook_size}",
        "trained": f"{readable(parameters)} parameters",
        "frozen": f"{readable(frozen)} parameters of the tokenizer, which encodes on the fly" if frozen else "nothing",
        "data": f"{plan.num_samples:,} images, {plan.samples_per_step} a step, {plan.steps_per_epoch:,} steps a pass",
        "length": f"{plan.max_train_steps:,} steps = {plan.max_train_steps / plan.steps_per_epoch:.3g} epochs = "
        f"{readable(images)} images = {readable(images * config.num_positions)} positions",
        "compute": f"about {readable(flops, 'FLOP')} an image; {readable(images * flops, 'FLOP')} in all"
        + (", and a third more by --gradient_checkpointing" if args.gradient_checkpointing else ""),
        "memory": f"{readable(memory, 'B')} a process for fp32 weights, gradients, moments (FSDP divides them); "
        "activations come on top",
    }
    return "\n".join(f"  {name:<10} {text}" for name, text in lines.items())
