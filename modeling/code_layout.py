# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The two layouts of codes: grids, as a tokenizer gives them, and sequences, as a generator reads them.

Shapes: B batch, K codebooks (visual first, then semantic), h w grid, T = h * w positions in raster order.
A grid is `(B, K, h, w)`, a sequence `(B, T, K)`.
"""

import torch


def grid_to_sequence(codes: torch.Tensor) -> torch.Tensor:
    """
    Code grids -> sequences, row after row.

    Args:
        codes (`torch.Tensor` of shape `(batch, num_codebooks, height, width)`): Any dtype.

    Returns:
        `torch.Tensor` of shape `(batch, height * width, num_codebooks)`, contiguous.

    Raises:
        ValueError: If `codes` has another number of axes.
    """
    if codes.ndim != 4:
        raise ValueError(f"codes must have shape (batch, num_codebooks, height, width), got {tuple(codes.shape)}")
    return codes.flatten(2).transpose(1, 2).contiguous()


def sequence_to_grid(codes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """
    Code sequences -> grids; the inverse of `grid_to_sequence`.

    Args:
        codes (`torch.Tensor` of shape `(batch, height * width, num_codebooks)`): Any dtype.
        height, width (`int`): Sides of the grid.

    Returns:
        `torch.Tensor` of shape `(batch, num_codebooks, height, width)`, contiguous.

    Raises:
        ValueError: If `codes` does not fill the grid.
    """
    if codes.ndim != 3 or codes.shape[1] != height * width:
        raise ValueError(
            f"codes must have shape (batch, {height * width}, num_codebooks) for a {height}x{width} grid, "
            f"got {tuple(codes.shape)}"
        )
    return codes.transpose(1, 2).unflatten(2, (height, width)).contiguous()
