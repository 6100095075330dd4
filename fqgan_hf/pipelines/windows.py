# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Grids larger than the one that an autoregressive generator was trained on: a window of that size slides over them.

    grid   0 1 2 3 4 5 6 7      windows of 4 cells a side, half a window apart:
           0 0 0 0 . . . .      0: all of it is generated
           . . 1 1 1 1 . .      1: its left half is known, the right half is generated
           . . . . 2 2 2 2      2: as before; then the next row of windows, whose upper half is known, too

A map is cut along with the image. Source: Esser et al., *Taming Transformers* (arXiv 2012.09841, section 3.3), which
moves the window by single cells.

Shapes: h w the trained grid, H W the larger one, K codebooks.
"""

from math import gcd
from typing import NamedTuple

import torch


class Window(NamedTuple):
    """A part of a grid: its first row and column, its height and width."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, grid: torch.Tensor) -> torch.Tensor:
        """The cells `(..., height, width)` of a grid `(..., H, W)`."""
        return grid[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def scaled(self, trained: tuple[int, int]) -> "Window":
        """The same part of a map, given the size of the map that belongs to one window."""
        height, width = trained
        return Window(self.top * height // self.height, self.left * width // self.width, height, width)


def sliding_windows(
    grid: tuple[int, int], trained: tuple[int, int], map_trained: tuple[int, int] | None = None, factor: int = 1
) -> list[Window]:
    """
    The windows over a grid, row by row; a single one where it is the trained one.

    Args:
        grid (`tuple[int, int]`): Height and width, in cells.
        trained (`tuple[int, int]`): Those of a window.
        map_trained (`tuple[int, int]`, *optional*): Those of the map of one window, whose cells windows must not cut.
        factor (`int`): Pixels of a cell along each side, for errors.

    Raises:
        ValueError: The grid is smaller than a window, or its map has no whole number of cells.
    """
    offsets = []
    for axis, name in enumerate(("height", "width")):
        size, window = grid[axis], trained[axis]
        # A window may begin where a cell of the image and one of the map do.
        unit = 1 if map_trained is None else window // gcd(window, map_trained[axis])
        if size < window or size % unit:
            multiple = f" and a multiple of {unit * factor}, where cells of its map end" if unit > 1 else ""
            raise ValueError(
                f"{name} must be at least {window * factor} pixels, as trained{multiple}, got {size * factor}"
            )
        stride = max(window // 2 // unit, 1) * unit
        offsets.append([*range(0, size - window, stride), size - window])
    return [Window(top, left, *trained) for top in offsets[0] for left in offsets[1]]
