# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a generator training is and what it costs, as a block of text at its start: counted, not measured."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.costs import (
    AVERAGED_BYTES,
    FROZEN_BYTES,
    TRAINED_BYTES,
    as_block,
    cost_lines,
    count_parameters,
    forward_flops,
    readable,
)
from fqgan_hf.training.common.loop import TrainingPlan
from fqgan_hf.training.far.trainable import TrainableGenerator


if TYPE_CHECKING:
    from fqgan_hf.training.far.arguments import GeneratorArguments


class _Encoding(nn.Module):
    def __init__(self, tokenizer: FQGANModel):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        # Not `encode`: it looks at the values, and there are none.
        return self.tokenizer.quantizer(self.tokenizer.encode_features(pixel_values)).codes


def flops_per_image(model: PreTrainedModel, encoder: FQGANModel | None = None, resolution: int = 256) -> float:
    """
    Floating-point operations of training on one image.

    A training step is taken as three forward passes, one forward and two backward. Optimizers, operations other than
    matrix products, and what --gradient_checkpointing computes a second time are left out.

    Args:
        model (`PreTrainedModel`): The generator; see `TrainableGenerator`.
        encoder (`FQGANModel`, *optional*): Encodes images on the fly.
        resolution (`int`): Of those images, in pixels.
    """
    config = model.config
    labels = torch.zeros(1, dtype=torch.long)
    codes = torch.zeros(1, config.num_positions, config.num_codebooks, dtype=torch.long)
    flops = 3 * forward_flops(model, class_labels=labels, codes=codes)
    if encoder is not None:
        flops += forward_flops(_Encoding(encoder), torch.empty(1, 3, resolution, resolution))
    return flops


def describe_run(
    args: "GeneratorArguments",
    plan: TrainingPlan,
    generator: TrainableGenerator,
    flops: float,
    encoder: FQGANModel | None = None,
) -> str:
    """
    Purpose, size, length and cost of a run, before any network is moved or wrapped.

    Args:
        args (`GeneratorArguments`), plan (`TrainingPlan`): The run's.
        generator (`TrainableGenerator`): What is trained.
        flops (`float`): By `flops_per_image`.
        encoder (`FQGANModel`, *optional*): Encodes images on the fly.
    """
    config = generator.model.config
    frozen, parameters = count_parameters(encoder), count_parameters(generator.model)
    images = plan.max_train_steps * plan.samples_per_step
    memory = TRAINED_BYTES * parameters + FROZEN_BYTES * frozen + AVERAGED_BYTES * parameters * args.use_ema
    lines = cost_lines(args, plan, f"{readable(flops, 'FLOP')} per image", images * flops, memory)
    lines["length"] += f" = {readable(images * config.num_positions)} positions"
    return as_block(
        {
            "run": args.config or "no preset",
            "generator": f"{generator.description}; {config.num_classes} classes -> {config.num_positions} positions "
            f"x {config.num_codebooks} codes of {config.codebook_size}",
            "trained": f"{readable(parameters)} parameters",
            "frozen": f"{readable(frozen)} parameters of the tokenizer, which encodes on the fly"
            if frozen
            else "nothing",
            **lines,
        }
    )
