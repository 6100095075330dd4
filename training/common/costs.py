# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a tokenizer training is and what it costs, as a block of text at its start: counted, not measured."""

from collections.abc import Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.loop import TrainingPlan


# fp32 weight, gradient and Adam's two moments.
TRAINED_BYTES, FROZEN_BYTES, AVERAGED_BYTES = 16, 4, 4


def count_parameters(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def forward_flops(module: nn.Module, *inputs: torch.Tensor, **kwargs) -> int:
    """
    Floating-point operations of a forward pass, a multiplication and an addition counting two.

    Shapes alone pass through the module: nothing is computed and nothing of it is copied.

    Args:
        module (`nn.Module`): Its matrix products, convolutions and attention count, other operations do not.
        inputs (`torch.Tensor`): Only their shapes and dtypes matter.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        state = {name: torch.empty_like(tensor, device="cpu") for name, tensor in tensors}
        inputs = tuple(torch.empty_like(tensor, device="cpu") for tensor in inputs)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the only kernel that counts on every device
            torch.func.functional_call(module, state, inputs, kwargs)
    return counter.get_total_flops()


def readable(number: float, unit: str = "") -> str:
    """`1.23e9` -> `1.23 G`."""
    prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"]
    while number >= 999.5 and len(prefixes) > 1:
        number, prefixes = number / 1000, prefixes[1:]
    return f"{number:.3g} {prefixes[0]}{unit}".rstrip()


def flops_per_image(
    model: FQGANModel,
    resolution: int,
    discriminator: nn.Module | None = None,
    perceptual: nn.Module | None = None,
    teachers: Sequence[nn.Module | None] = (),
) -> tuple[float, float]:
    """
    Floating-point operations of training on one image, before and after the discriminator has joined.

    A training step is taken as three forward passes (one forward, two backward) of what learns; of frozen networks as
    what their gradients need. Optimizers, operations other than matrix products and convolutions, and what
    --gradient_checkpointing computes a second time are left out.
    """
    image = torch.empty(1, 3, resolution, resolution)
    before = 3 * forward_flops(model, image, return_losses=True)
    if perceptual is not None:
        # The distance is two passes, and the gradient to the reconstruction is about as much as one of them.
        before += 1.5 * forward_flops(perceptual, image, image)
    before += sum(forward_flops(teacher, image) for teacher in teachers if teacher is not None)
    if discriminator is None:
        return before, before
    # A pass and its input gradient for the tokenizer; two passes with all gradients for the discriminator.
    return before, before + 8 * forward_flops(discriminator, image)


def describe_run(
    args,
    plan: TrainingPlan,
    model: FQGANModel,
    resolution: int,
    flops: tuple[float, float],
    discriminator: nn.Module | None = None,
    perceptual: nn.Module | None = None,
    teachers: Sequence[nn.Module | None] = (),
) -> str:
    """
    Purpose, size, length and cost of a run, before any network is moved or wrapped; `flops` by `flops_per_image`.
    """
    config = model.config
    height, width = model.grid_size(resolution, resolution)
    teachers = [teacher for teacher in teachers if teacher is not None]
    heads = count_parameters(model.feature_heads)
    trained = {"tokenizer": count_parameters(model) - heads, "feature heads": heads}
    trained["discriminator"] = count_parameters(discriminator)
    frozen = {"perceptual": count_parameters(perceptual), "teachers": sum(map(count_parameters, teachers))}

    before, after = flops
    images = plan.max_train_steps * plan.samples_per_step
    with_game = max(0, plan.max_train_steps - args.disc_start) * plan.samples_per_step
    total = images * before + with_game * (after - before)

    weights = TRAINED_BYTES * sum(trained.values()) + FROZEN_BYTES * sum(frozen.values())
    weights += AVERAGED_BYTES * (count_parameters(model) if args.use_ema else 0)

    def listed(numbers: dict[str, int]) -> str:
        return ", ".join(f"{name} {readable(number)}" for name, number in numbers.items() if number)

    books = "1 codebook" if config.num_codebooks == 1 else f"{config.num_codebooks} codebooks"
    lines = {
        "run": args.config or "no preset",
        "tokenizer": f"{books} of {config.codebook_size} x {config.codebook_dim}, f = {model.downsample_factor}: "
        f"{resolution}x{resolution} pixels -> {config.num_codebooks} x {height}x{width} codes",
        "trained": listed(trained) + " parameters",
        "frozen": listed(frozen) + " parameters" if any(frozen.values()) else "nothing",
        "data": f"{plan.num_samples:,} images, {plan.samples_per_step} a step, "
        f"{plan.steps_per_epoch:,} steps an epoch",
        "length": f"{plan.max_train_steps:,} steps = {plan.max_train_steps / plan.steps_per_epoch:.3g} epochs = "
        f"{readable(images)} images",
        "compute": f"about {readable(before, 'FLOP')} an image"
        + (f", {readable(after, 'FLOP')} from step {args.disc_start:,} on" if after > before else "")
        + f"; {readable(total, 'FLOP')} in all"
        + (", and a third more by --gradient_checkpointing" if args.gradient_checkpointing else ""),
        "memory": f"{readable(weights, 'B')} a process for fp32 weights, gradients, moments; activations come on top",
    }
    return "\n".join(f"  {name:<10} {text}" for name, text in lines.items())
