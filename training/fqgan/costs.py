# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a tokenizer training is and what it costs, as a block of text at its start: counted, not measured."""

from collections.abc import Sequence
from dataclasses import dataclass
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


if TYPE_CHECKING:
    from fqgan_hf.training.train_fqgan import TrainFQGANArguments


# Of shape (positions, codes), in fp32, for each codebook: the entropy term's probabilities and their logarithms; the
# distribution that tokens are drawn from.
MATRICES_KEPT = {"nearest": 2, "sampled": 1}


@dataclass(frozen=True)
class TokenizerNetworks:
    """
    All networks of a tokenizer training.

    Args:
        model (`FQGANModel`): The tokenizer; it learns.
        discriminator (`nn.Module`, *optional*): It learns, too.
        perceptual (`nn.Module`, *optional*): Frozen; `(images, reconstructions) -> distance`.
        teachers (`Sequence`): Frozen; one network or None per codebook, or nothing at all.
    """

    model: FQGANModel
    discriminator: nn.Module | None = None
    perceptual: nn.Module | None = None
    teachers: Sequence[nn.Module | None] = ()


def flops_per_image(networks: TokenizerNetworks, resolution: int) -> tuple[float, float]:
    """
    Floating-point operations of training on one image, before and after the discriminator has joined.

    A training step is taken as three forward passes (one forward, two backward) of what learns; of frozen networks as
    what their gradients need. Optimizers, operations other than matrix products and convolutions, and what
    --gradient_checkpointing computes a second time are left out.
    """
    image = torch.empty(1, networks.model.config.in_channels, resolution, resolution)
    before = 3 * forward_flops(networks.model, image, return_losses=True)
    if networks.perceptual is not None:
        # The distance is two passes, and the gradient to the reconstruction is about as much as one of them.
        before += 1.5 * forward_flops(networks.perceptual, image, image)
    before += sum(forward_flops(teacher, image) for teacher in networks.teachers if teacher is not None)
    if networks.discriminator is None:
        return before, before
    # A pass and its input gradient for the tokenizer; two passes with all gradients for the discriminator.
    return before, before + 8 * forward_flops(networks.discriminator, image)


def describe_run(
    args: "TrainFQGANArguments",
    plan: TrainingPlan,
    networks: TokenizerNetworks,
    resolution: int,
    flops: tuple[float, float],
) -> str:
    """
    Purpose, size, length and cost of a run, before any network is moved or wrapped.

    Args:
        args (`TrainFQGANArguments`), plan (`TrainingPlan`): The run's.
        networks (`TokenizerNetworks`): All of them.
        resolution (`int`): Side of the training crops, in pixels.
        flops (`tuple[float, float]`): By `flops_per_image`.
    """
    model, config = networks.model, networks.model.config
    height, width = model.grid_size(resolution, resolution)
    heads = count_parameters(model.feature_heads)
    trained = {"tokenizer": count_parameters(model) - heads, "feature heads": heads}
    trained["discriminator"] = count_parameters(networks.discriminator)
    frozen = {
        "perceptual": count_parameters(networks.perceptual),
        "teachers": sum(map(count_parameters, networks.teachers)),
    }

    before, after = flops
    steps_of_game = max(0, plan.max_train_steps - args.disc_start)
    total = plan.samples_per_step * (plan.max_train_steps * before + steps_of_game * (after - before))
    weights = TRAINED_BYTES * sum(trained.values()) + FROZEN_BYTES * sum(frozen.values())
    weights += AVERAGED_BYTES * (count_parameters(model) if args.use_ema else 0)

    positions = args.train_batch_size * height * width
    matrices = MATRICES_KEPT["nearest" if config.quantizer_type == "nearest" else "sampled"]
    kept = 4 * matrices * config.num_codebooks * positions * config.codebook_size

    what = "pixels" if config.num_labels is None else f"pixels of {config.num_labels} labels"
    codebooks = "1 codebook" if config.num_codebooks == 1 else f"{config.num_codebooks} codebooks"
    per_image = f"{readable(before, 'FLOP')} per image"
    if after > before:
        per_image += f", {readable(after, 'FLOP')} from step {args.disc_start:,} on"
    return as_block(
        {
            "run": args.config or "no preset",
            "tokenizer": f"{codebooks} of {config.codebook_size} x {config.codebook_dim}, "
            f"f = {model.downsample_factor}: {resolution}x{resolution} {what} -> "
            f"{config.num_codebooks} x {height}x{width} codes",
            "trained": f"{_listed(trained)} parameters",
            "frozen": f"{_listed(frozen)} parameters" if any(frozen.values()) else "nothing",
            "quantizer": f"{config.quantizer_type}; {readable(kept, 'B')} per process of distributions over codes, "
            "kept for the backward pass",
            **cost_lines(args, plan, per_image, total, weights),
        }
    )


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {readable(number)}" for name, number in numbers.items() if number)
