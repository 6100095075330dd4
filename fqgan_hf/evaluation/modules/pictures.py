# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the modules that compare pictures share: pictures -> pixels, and figures of images -> a result."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image


def pixel_pairs(
    predictions: Iterable[Image.Image], references: Iterable[Image.Image]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Original and reconstruction `(1, 3, H, W)` in [-1, 1] of each image; they may differ in size."""
    for reconstruction, original in zip(predictions, references, strict=True):
        yield _pixels(original), _pixels(reconstruction)


def _pixels(picture: Image.Image) -> torch.Tensor:
    levels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    return torch.from_numpy(levels / 127.5 - 1.0).permute(2, 0, 1)[None]


def summary(name: str, values: Iterable[torch.Tensor], per_image: bool) -> dict[str, Any]:
    """The mean under the name of the figure; with `per_image` the values in the images' order, too."""
    values = torch.cat(list(values))
    result: dict[str, Any] = {name: float(values.mean())}
    if per_image:
        result["per_image"] = values.tolist()
    return result
