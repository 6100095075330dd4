# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The photographs of an analysis: reconstructions, token maps, and the patches nearest to codes, as labelled grids.

Shapes: K codebooks, V codebook size, h w grid, H W pixels, f pixels along a side of one grid position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from fqgan_hf.evaluation.analysis_survey import ShownImage
from fqgan_hf.evaluation.pictures import image_grid


CELL_SIZES = (96, 192)  # pixels along the longer side of a picture in a grid, at least and at most
PATCH_CELL_SIZE = 88
MAP_OPACITY = 0.65
OUTLINE = "#ff2d95"  # seldom in photographs


@dataclass(frozen=True)
class CodePatches:
    """
    A frequent code, and where images come nearest to it.

    Args:
        code (`int`): In [0, V).
        share (`float`): Of all positions.
        places (`list[tuple[int, int, int]]`): Number of the image, row and column in its grid; the nearest first.
        closeness (`list[float]`): Of each.
    """

    code: int
    share: float
    places: list[tuple[int, int, int]]
    closeness: list[float]


def reconstruction_grid(shown: Sequence[ShownImage], captions: Sequence[str]) -> Image.Image:
    """A row per image: the original and each reconstruction, under `captions`."""
    return _grid([[image.original, *image.reconstructions] for image in shown], captions)


def token_map_grid(shown: Sequence[ShownImage], colors: Sequence[np.ndarray], names: Sequence[str]) -> Image.Image:
    """
    A row per image: the image, and it beneath the colours of its codes, for each codebook.

    Args:
        shown (`Sequence[ShownImage]`): The images.
        colors (`Sequence[np.ndarray]`): Of each codebook, uint8 `(V, 3)`.
        names (`Sequence[str]`): Of the codebooks.
    """
    rows = [
        [image.original, *(_overlay(image.original, color[image.codes[k]]) for k, color in enumerate(colors))]
        for image in shown
    ]
    return _grid(rows, ["original", *names])


def _overlay(image: Image.Image, colors: np.ndarray) -> Image.Image:
    """An image beneath colours `(h, w, 3)`, one per position."""
    tokens = Image.fromarray(colors).resize(image.size, Image.Resampling.NEAREST)
    return Image.blend(image, tokens, MAP_OPACITY)


def patch_grid(codes: Sequence[CodePatches], images: dict[int, Image.Image], factor: int) -> Image.Image:
    """
    A row per code: its nearest patches, outlined in their surroundings of one position on each side.

    Args:
        codes (`Sequence[CodePatches]`): The most frequent ones.
        images (`dict[int, PIL.Image.Image]`): The images of their places, by number.
        factor (`int`): f.
    """
    rows = [[_patch(images[index], row, column, factor) for index, row, column in code.places] for code in codes]
    captions = [f"code {code.code}\n{code.share:.2%}" for code in codes]
    return image_grid(rows, row_captions=captions, min_cell_size=1, padding=6, font_size=20)


def _patch(image: Image.Image, row: int, column: int, factor: int) -> Image.Image:
    """A position of an image, outlined, in the middle of 3 x 3 positions; at an edge shifted to stay inside."""
    width, height = (min(3 * factor, side) for side in image.size)
    left = min(max(0, (column - 1) * factor), image.width - width)
    top = min(max(0, (row - 1) * factor), image.height - height)
    scale = PATCH_CELL_SIZE / max(width, height)
    size = (round(width * scale), round(height * scale))
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    patch = image.crop((left, top, left + width, top + height)).resize(size, resampling)
    x, y = (column * factor - left) * scale, (row * factor - top) * scale
    end = factor * scale - 1
    ImageDraw.Draw(patch).rectangle((round(x), round(y), round(x + end), round(y + end)), outline=OUTLINE, width=2)
    return patch


def _grid(rows: list[list[Image.Image]], captions: Sequence[str]) -> Image.Image:
    """Pictures of one size under captions, in letters that stay readable where the grid is as wide as a phone."""
    least, most = CELL_SIZES
    rows = [[_at_most(image, most) for image in row] for row in rows]
    cell = max(max(rows[0][0].size), least)
    font_size = round(min(cell, most) * 0.09 * max(1, len(rows[0]) / 4)) + 5
    return image_grid(rows, column_captions=captions, min_cell_size=least, font_size=font_size)


def _at_most(image: Image.Image, size: int) -> Image.Image:
    """A picture, made smaller if its longer side has more pixels."""
    image = image.copy()
    image.thumbnail((size, size), Image.Resampling.LANCZOS)  # does nothing to a smaller one
    return image
