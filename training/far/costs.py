# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a generator training is and what it costs, as a block of text at its start: counted, not measured."""

from typing import TYPE_CHECKING

import torch
from torch import nn

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
from fqgan_hf.training.far.conditions import describe_conditions
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


def flops_per_image(
    generator: TrainableGenerator, encoder: FQGANModel | None = None, resolution: int | None = None
) -> float:
    """
    Floating-point operations of training on one image.

    A training step is taken as three forward passes, one forward and two backward. Optimizers, operations other than
    matrix products, and what --gradient_checkpointing computes a second time are left out.

    Args:
        generator (`TrainableGenerator`): What is trained.
        encoder (`FQGANModel`, *optional*): Encodes images on the fly.
        resolution (`int`, *optional*): Of those images, in pixels.
    """
    flops = 3 * forward_flops(generator.model, device="meta", **generator.forward_inputs)
    text_encoder = generator.conditions.text_encoder
    if text_encoder is not None:
        ids = torch.zeros(1, generator.conditions.num_text_tokens, dtype=torch.long)
        flops += forward_flops(text_encoder, device="meta", input_ids=ids, attention_mask=torch.ones_like(ids))
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
    text_encoder = generator.conditions.text_encoder
    kept = {"the tokenizer, which encodes on the fly": encoder, "the text encoder": text_encoder}
    kept = {name: count_parameters(network) for name, network in kept.items() if network is not None}
    frozen, parameters = sum(kept.values()), count_parameters(generator.model)
    images = plan.max_train_steps * plan.samples_per_step
    memory = TRAINED_BYTES * parameters + FROZEN_BYTES * frozen + AVERAGED_BYTES * parameters * args.use_ema
    lines = cost_lines(args, plan, f"{readable(flops, 'FLOP')} per image", images * flops, memory)
    lines["length"] += f" = {readable(images * config.num_positions)} positions"
    return as_block(
        {
            "run": args.config or "no preset",
            "generator": f"{generator.description}; {describe_conditions(config)} -> {config.num_positions} positions "
            f"x {config.num_codebooks} codes of {config.codebook_size}",
            "trained": f"{readable(parameters)} parameters",
            "frozen": "; ".join(f"{readable(number)} parameters of {name}" for name, number in kept.items())
            or "nothing",
            **lines,
        }
    )
