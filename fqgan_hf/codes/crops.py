# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From a picture to the pixels that a tokenizer encodes: the plain crop. Training adds random crops and more views."""

import numpy as np
import torch
from PIL import Image


def resize_short_side(image: Image.Image, size: int) -> Image.Image:
    """Scale so that the shorter side has `size` pixels; antialiased Lanczos, as `FQGANImageProcessor` does."""
    width, height = image.size
    short = min(width, height)
    if short == size:
        return image
    return image.resize((round(width * size / short), round(height * size / short)), Image.Resampling.LANCZOS)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size`, then the square in the middle."""
    image = resize_short_side(image, size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def native_crop(image: Image.Image, multiple_of: int) -> Image.Image:
    """
    The image in its own size, without what exceeds a multiple of `multiple_of`, half of it on either side.

    Raises:
        ValueError: A side is shorter than `multiple_of`.
    """
    if min(image.size) < multiple_of:
        raise ValueError(f"it must be at least {multiple_of} pixels on each side, got {image.width} x {image.height}")
    width, height = (side - side % multiple_of for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def to_pixel_values(image: Image.Image) -> torch.Tensor:
    """RGB picture -> float32 `(3, H, W)` in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
    return pixels.float().div_(127.5).sub_(1.0)
