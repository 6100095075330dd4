# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Label maps of digits, computed from their pixels: background, stroke, and the holes that strokes enclose.

Shapes: N images, H W pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from fqgan_hf.demo.digit_measures import Pictures, relative_ink
from fqgan_hf.evaluation.label_maps import confusion_counts, label_iou


MAP_LABELS = ("background", "stroke", "hole")
BACKGROUND, STROKE, HOLE = range(3)

# Of a stroke's brightness. At half of it a quarter of the zeros are open: their rings are thin in 8x8 pixels.
STROKE_LEVEL = 0.35


def digit_maps(images: Pictures) -> np.ndarray:
    """
    What is background (0), stroke (1) and enclosed hole (2) in pictures of digits.

    Stroke is what is brighter than a share of the strokes' brightness; background is what can be reached from outside
    the picture without crossing a stroke, going up, down, left or right; the rest is hole.

    Args:
        images: See `relative_ink`.

    Returns:
        `np.ndarray` uint8 `(N, H, W)`.

    Raises:
        ValueError: See `relative_ink`.
    """
    stroke = relative_ink(images) > STROKE_LEVEL
    outside = _reached_from_border(~stroke)
    return np.select([stroke, outside], [STROKE, BACKGROUND], HOLE).astype(np.uint8)


def _reached_from_border(free: np.ndarray) -> np.ndarray:
    """The free pixels `(N, H, W)` that a path of free neighbours joins to the outside of their picture."""
    free = np.pad(free, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    reached = np.zeros_like(free)
    reached[:, 0] = True  # a piece of the frame, all of which is outside
    before = 0
    while (number := np.count_nonzero(reached)) > before:
        before = number
        # `roll` joins opposite borders, which here are frame both: it reaches nothing that is not reached anyway.
        for axis in (1, 2):
            reached |= np.roll(reached, 1, axis) | np.roll(reached, -1, axis)
            reached &= free
    return reached[:, 1:-1, 1:-1]


def judge_maps(images: Pictures, maps: Sequence[Image.Image | np.ndarray] | np.ndarray) -> dict[str, Any]:
    """
    How well generated digits follow the maps that they were generated for.

    Each picture's own map is computed and compared with the one given. For a ceiling, give reconstructions of held-out
    digits and the maps of the originals: a generator cannot be better than its tokenizer.

    Args:
        images (`Sequence[PIL.Image.Image]` or `np.ndarray` uint8 `(N, H, W)`): Generated digits.
        maps (`Sequence` of label pictures or of arrays `(H, W)`, or `np.ndarray` `(N, H, W)`): One for each picture.

    Returns:
        `dict`: `mean_iou`, over all pixels of all pictures (see `fqgan_hf.evaluation.label_maps.mean_iou`), and `iou`
        of each label by name; None for a label that occurs nowhere.

    Raises:
        ValueError: The pictures cannot be read (see `relative_ink`), or maps have another number, size or labels.
    """
    found = digit_maps(images)
    sizes = {np.shape(label_map) for label_map in maps}
    if len(maps) != len(found) or sizes != {found.shape[1:]}:
        raise ValueError(
            f"maps must be {len(found)} maps of {found.shape[1]} x {found.shape[2]} labels, one for each image, "
            f"got {len(maps)} of shapes {sorted(sizes)}"
        )
    given = np.stack([np.asarray(label_map) for label_map in maps])
    iou = label_iou(confusion_counts(given, found, len(MAP_LABELS)))
    by_name = {
        name: None if math.isnan(value) else value for name, value in zip(MAP_LABELS, iou.tolist(), strict=True)
    }
    return {"mean_iou": iou.nanmean().item(), "iou": by_name}
