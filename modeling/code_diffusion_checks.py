# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What discrete diffusion asks of its arguments; each check raises `ValueError` that names the argument.

Shapes: B batch, `...` any shape of codes that begins with it.
"""

import torch


Generators = torch.Generator | list[torch.Generator] | None


def check_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless `tensor` has this shape."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")


def check_codes(name: str, codes: torch.Tensor, largest: int) -> None:
    """Raise unless `codes` are integers in [0, largest], and there are some."""
    if codes.dtype != torch.long or codes.ndim == 0 or codes.numel() == 0:
        raise ValueError(f"{name} must be int64 and not empty, got {codes.dtype} of shape {tuple(codes.shape)}")
    least, most = (value.item() for value in codes.aminmax())
    if least < 0 or most > largest:
        raise ValueError(f"{name} must be in [0, {largest}], got {least} to {most}")


def checked_times(
    name: str, times: int | torch.Tensor, first: int, last: int, codes: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """
    Times in [first, last], on a device and so that they broadcast to codes.

    Args:
        times (`int` or `torch.LongTensor` of shape `()` or `(B,)`): One for all codes, or one per image.
        codes (`torch.LongTensor` of shape `(B, ...)`).

    Returns:
        `torch.LongTensor` of shape `()` or `(B, 1, ...)`.
    """
    times = torch.as_tensor(times, device=device)
    if times.dtype != torch.long or tuple(times.shape) not in ((), (len(codes),)):
        raise ValueError(f"{name} must be int64 of shape ({len(codes)},), got {times.dtype} of {tuple(times.shape)}")
    least, most = times.min().item(), times.max().item()
    if least < first or most > last:
        raise ValueError(f"{name} must be in [{first}, {last}], got {least if least < first else most}")
    return times.view(-1, *[1] * (codes.ndim - 1)) if times.ndim else times
