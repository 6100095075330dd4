# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What training sees of a picture beyond its plain crop: random crops, and the views that codes are taken of."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from fqgan_hf.codes.crops import center_crop, resize_short_side


def random_crop(image: Image.Image, size: int, max_ratio: float, rng: np.random.Generator) -> Image.Image:
    """Short side to a random size in [size, max_ratio * size], then a random square (published ratio: 1.25)."""
    image = resize_short_side(image, int(rng.integers(size, int(max_ratio * size), endpoint=True)))
    left = int(rng.integers(0, image.width - size, endpoint=True))
    top = int(rng.integers(0, image.height - size, endpoint=True))
    return image.crop((left, top, left + size, top + size))


def plain(image: Image.Image, size: int) -> list[Image.Image]:
    return [center_crop(image, size)]


def flip(image: Image.Image, size: int) -> list[Image.Image]:
    crop = center_crop(image, size)
    return [crop, ImageOps.mirror(crop)]


def ten_crop(image: Image.Image, size: int) -> list[Image.Image]:
    """Short side 1.1 times the crop; four corners, the middle, and their mirror images (published: 281 and 256)."""
    image = resize_short_side(image, int(1.1 * size))
    right, bottom = image.width - size, image.height - size
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)]
    crops = [image.crop((left, top, left + size, top + size)) for left, top in corners]
    return crops + [ImageOps.mirror(crop) for crop in crops]


_TEN = ["top-left", "top-right", "bottom-left", "bottom-right", "center"]

CROPS: dict[str, tuple[list[str], Callable[[Image.Image, int], list[Image.Image]]]] = {
    "plain": (["center"], plain),
    "flip": (["center", "center-flip"], flip),
    "ten-crop": (_TEN + [f"{name}-flip" for name in _TEN], ten_crop),
}


def draw_view(seed: int, epoch: int, *index: int, num_views: int) -> int:
    """Which view of a sample an epoch shows."""
    return int(np.random.default_rng([seed, epoch, *index]).integers(num_views))
