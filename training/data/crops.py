# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""
What training sees of a picture beyond its plain crop: random crops, and the views that codes are taken of.

A label map (mode "P") is cut as the picture that it belongs to: by the same boxes, and scaled by nearest neighbour.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from fqgan_hf.codes.crops import center_crop, resize_short_side, to_pixel_values
from fqgan_hf.evaluation.label_images import LABEL_MODE, labels_of
from fqgan_hf.training.common.arguments import CropName


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


def shift(image: Image.Image, size: int) -> list[Image.Image]:
    """
    The plain crop, and the same shifted by a twentieth of its side in eight directions, with its border repeated.

    For drawings, few of which there are: the codes of a drawing that is shifted by a part of a cell are others.
    """
    crop, offset = center_crop(image, size), max(1, size // 20)
    pixels = np.asarray(crop)
    padded = np.pad(pixels, [(offset, offset)] * 2 + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    # To move the picture down is to look at it from further up.
    corners = [(offset - down * offset, offset - right * offset) for down, right in _SHIFTS.values()]
    views = [padded[top : top + size, left : left + size] for top, left in corners]
    return [Image.frombytes(crop.mode, crop.size, view.tobytes()) for view in views]


def shift_flip(image: Image.Image, size: int) -> list[Image.Image]:
    views = shift(image, size)
    return views + [ImageOps.mirror(view) for view in views]


MIRRORED = "-flip"  # at the end of the name of a view that is another one's mirror image
_TEN = ["top-left", "top-right", "bottom-left", "bottom-right", "center"]
# Where the picture moves, in steps down and to the right.
_SHIFTS = {"center": (0, 0)} | {
    f"{vertical}{horizontal}".strip("-"): (down, right)
    for vertical, down in (("up", -1), ("", 0), ("down", 1))
    for horizontal, right in (("-left", -1), ("", 0), ("-right", 1))
    if (down, right) != (0, 0)
}


def _with_mirrored(names: Sequence[str]) -> list[str]:
    return [*names, *(f"{name}{MIRRORED}" for name in names)]


CROPS: dict[CropName, tuple[list[str], Callable[[Image.Image, int], list[Image.Image]]]] = {
    "plain": (["center"], plain),
    "flip": (_with_mirrored(["center"]), flip),
    "ten-crop": (_with_mirrored(_TEN), ten_crop),
    "shift": (list(_SHIFTS), shift),
    "shift-flip": (_with_mirrored(list(_SHIFTS)), shift_flip),
}

_TELLS_SIDES = re.compile(r"\b(left|right)(wards?)?\b", re.IGNORECASE)


def make_views(image: Image.Image, crop: str, size: int, captions: Sequence[str] = ()) -> list[torch.Tensor]:
    """
    All views of an image, or of its map.

    A mirrored view of an image whose caption tells left from right ("left arrow", "leftwards hand") would be described
    wrongly by it: in its place stands the view that it is the mirror image of. The views keep their number and their
    names, so that nothing else needs to know of it.

    Args:
        image (`PIL.Image.Image`): Upright, mode RGB; or a label map, mode "P".
        crop (`str`): One of `CROPS`.
        size (`int`): Side of the views, in pixels.
        captions (`Sequence[str]`): Those of the image; one that names a side is enough.

    Returns:
        `list[torch.Tensor]`: Of each view the pixels, see `to_tensor`.
    """
    names, cut = CROPS[crop]
    views = [to_tensor(view) for view in cut(image, size)]
    if any(map(_TELLS_SIDES.search, captions)):
        views = [views[names.index(name.removesuffix(MIRRORED))] for name in names]
    return views


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB picture -> float32 `(3, H, W)` in [-1, 1]; label map (mode "P") -> labels `(H, W)`, int64."""
    return torch.from_numpy(labels_of(image)) if image.mode == LABEL_MODE else to_pixel_values(image)


def draw_caption(seed: int, epoch: int, index: int, num_captions: int) -> int:
    """Which caption of a sample an epoch shows; a draw of its own beside that of the view."""
    return int(np.random.default_rng([seed, epoch, index, 1]).integers(num_captions))


def draw_view(seed: int, epoch: int, *index: int, num_views: int) -> int:
    """Which view of a sample an epoch shows."""
    return int(np.random.default_rng([seed, epoch, *index]).integers(num_views))
