# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What can be measured in pictures of digits: how thick their strokes are, and how far they lean.

Digits are bright on dark, as `enlarge` makes them. Generated ones come from a tokenizer's decoder, whose edges are
softer; the measures are made so that this changes little.

Shapes: N images, H W pixels.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image


Pictures = Sequence[Image.Image] | np.ndarray

NUM_BRIGHTEST = 10  # pixels whose mean is full brightness: one alone may be an outlier
MIN_BRIGHTNESS = 0.25  # of white; where the brightest pixels lie below, there is nothing but noise


def relative_ink(images: Pictures) -> np.ndarray:
    """
    Brightness of pictures relative to that of their strokes.

    Args:
        images (`Sequence[PIL.Image.Image]` or uint8 `np.ndarray` of shape `(N, H, W)`):
            Pictures of one size; colours become grey. A single picture, or `(H, W)`, counts as N = 1.

    Returns:
        `np.ndarray` float64 `(N, H, W)` in [0, 1]: 0 on the ground, 1 within a stroke; all 0 for a picture in which
        nothing is bright.

    Raises:
        ValueError: No pictures, pictures of several sizes, or an array of another type or shape.
    """
    pixels = _pixels(images) / 255
    flat = pixels.reshape(len(pixels), -1)
    peak = np.sort(flat, axis=1)[:, -NUM_BRIGHTEST:].mean(axis=1)
    scale = np.where(peak >= MIN_BRIGHTNESS, 1 / np.maximum(peak, MIN_BRIGHTNESS), 0)
    return np.minimum(pixels * scale[:, None, None], 1)


def stroke_thickness(images: Pictures) -> np.ndarray:
    """
    Thickness of the strokes in pixels: twice the squared ink over the total variation.

    A stroke of width w and length l has the area w l, and its edges the length 2 l, which the total variation is:
    twice the area over it is w (a little less where strokes end: the edge across an end counts as well). No threshold
    and no skeleton is needed, which jump with single pixels. The ink is squared because blur makes strokes of this
    size lose total variation: they lose about as much squared ink, and the ratio stays.

    Args:
        images: See `relative_ink`.

    Returns:
        `np.ndarray` float64 `(N,)`; NaN for a picture without ink.

    Raises:
        ValueError: See `relative_ink`.

    Source: the coarea formula (Fleming & Rishel 1960, *An integral formula for total gradient variation*): the total
    variation of an image is the length of the edge of what is brighter than a level, averaged over the levels.
    """
    ink = relative_ink(images)
    # Digits touch the border, and the edge there is one, too: two pixels outside, of which each difference sees one.
    down, right = np.gradient(np.pad(ink, ((0, 0), (2, 2), (2, 2))), axis=(1, 2))
    variation = np.hypot(down, right).sum(axis=(1, 2))
    return _ratio(2 * (ink**2).sum(axis=(1, 2)), variation)


def slant(images: Pictures) -> np.ndarray:
    """
    Angle in degrees by which digits lean to the right (negative: to the left), from the second moments of their ink.

    It is that of the shear which would make row and column of the ink uncorrelated. A seven or a six leans by its
    shape: angles tell something when digits of one class are compared.

    Args:
        images: See `relative_ink`.

    Returns:
        `np.ndarray` float64 `(N,)` in [-90, 90]; NaN for a picture without ink.

    Raises:
        ValueError: See `relative_ink`.
    """
    ink = relative_ink(images)
    rows, columns = (np.arange(size, dtype=float) for size in ink.shape[1:])
    mass = ink.sum(axis=(1, 2))
    dy = rows - _ratio((ink.sum(axis=2) * rows).sum(axis=1), mass)[:, None]
    dx = columns - _ratio((ink.sum(axis=1) * columns).sum(axis=1), mass)[:, None]
    covariance = np.einsum("nhw,nh,nw->n", ink, dy, dx)
    variance = np.einsum("nhw,nh->n", ink, dy**2)
    return np.degrees(np.arctan2(-covariance, variance))  # rows count downwards, angles upwards


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Their quotient; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def _pixels(images: Pictures) -> np.ndarray:
    """Grey levels `(N, H, W)` in [0, 255]."""
    if isinstance(images, Image.Image):
        images = [images]
    if not isinstance(images, np.ndarray):
        images = _stack(list(images))
    if images.dtype != np.uint8 or images.ndim not in (2, 3) or 0 in images.shape:
        raise ValueError(
            "images must be PIL pictures or an array of uint8 of shape (N, H, W) that is not empty, "
            f"got {images.dtype} of shape {images.shape}"
        )
    return (images if images.ndim == 3 else images[None]).astype(float)


def _stack(images: list[Image.Image]) -> np.ndarray:
    for image in images:
        if not isinstance(image, Image.Image):
            raise ValueError(f"images must hold PIL pictures, got {type(image).__name__}")
    sizes = {image.size for image in images}
    if len(sizes) != 1:
        raise ValueError(f"images must be at least one picture, all of one size, got the sizes {sorted(sizes)}")
    return np.stack([np.asarray(image.convert("L")) for image in images])
