# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a training costs, as a block of text at its start: counted, not measured. What the trainings share."""

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fqgan_hf.training.common.arguments import TrainingArguments
from fqgan_hf.training.common.loop import TrainingPlan


# fp32 weight, gradient and Adam's two moments.
TRAINED_BYTES, FROZEN_BYTES, AVERAGED_BYTES = 16, 4, 4


def count_parameters(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def forward_flops(module: nn.Module, *inputs: torch.Tensor, device: str = "cpu", **options: Any) -> int:
    """
    Floating-point operations of a forward pass; a multiplication and an addition count as two.

    Shapes alone pass through the module: nothing is computed and nothing of it is copied.

    Args:
        module (`nn.Module`): Its matrix products, convolutions and attention count, other operations do not.
        inputs (`torch.Tensor`): Only their shapes and dtypes matter.
        device (`str`): Where the tensors claim to be; "meta" for a module that looks at the values of those on a CPU.
        options: Its keyword arguments; of tensors, too, only shapes and dtypes matter.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        state = {name: torch.empty_like(tensor, device=device) for name, tensor in tensors}
        inputs = tuple(_without_values(tensor, device) for tensor in inputs)
        options = {name: _without_values(value, device) for name, value in options.items()}
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the only kernel that counts on every device
            torch.func.functional_call(module, state, inputs, options)
    return counter.get_total_flops()


def _without_values(value: Any, device: str) -> Any:
    return torch.empty_like(value, device=device) if isinstance(value, torch.Tensor) else value


def readable(number: float, unit: str = "") -> str:
    """`1.23e9` -> `1.23 G`."""
    prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"]
    while number >= 999.5 and len(prefixes) > 1:
        number, prefixes = number / 1000, prefixes[1:]
    return f"{number:.3g} {prefixes[0]}{unit}".rstrip()


def cost_lines(
    args: TrainingArguments, plan: TrainingPlan, per_image: str, total: float, weight_bytes: float
) -> dict[str, str]:
    """
    What the block at the start of every training says of its length and cost.

    Args:
        args (`TrainingArguments`), plan (`TrainingPlan`): The run's.
        per_image (`str`): Operations of training on one image, in words.
        total (`float`): Floating-point operations of the whole run.
        weight_bytes (`float`): Of weights, gradients and moments in one process.
    """
    images = plan.max_train_steps * plan.samples_per_step
    recomputed = ", and a third more by --gradient_checkpointing" if args.gradient_checkpointing else ""
    return {
        "data": f"{plan.num_samples:,} images, {plan.samples_per_step} per step, {plan.steps_per_epoch:,} steps per "
        "epoch",
        "length": f"{plan.max_train_steps:,} steps = {plan.max_train_steps / plan.steps_per_epoch:.3g} epochs = "
        f"{readable(images)} images",
        "compute": f"about {per_image}; {readable(total, 'FLOP')} in all{recomputed}",
        "memory": f"{readable(weight_bytes, 'B')} per process for fp32 weights, gradients and moments; activations "
        "come on top",
    }


def as_block(lines: dict[str, str]) -> str:
    """Named lines, indented and aligned."""
    return "\n".join(f"  {name:<10} {text}" for name, text in lines.items())
