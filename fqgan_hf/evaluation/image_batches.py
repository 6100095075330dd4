# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Batches of images as models see them at inference, from any of the readers.

Shapes: B batch, H W pixels.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from fqgan_hf.evaluation.images import LabelledImages
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor


class ProcessedImages(Dataset):
    """Images as `FQGANImageProcessor` prepares them at inference: for validation and evaluation."""

    def __init__(self, images: LabelledImages, indices: Sequence[int], processor: FQGANImageProcessor):
        self.images = images
        self.indices = indices
        self.processor = processor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int]:
        image, label = self.images.read(self.indices, position)
        pixel_values = self.processor(image)["pixel_values"][0]
        return {"pixel_values": pixel_values, "label": label, "index": self.indices[position]}


def image_batches(
    images: LabelledImages,
    *,
    resolution: int | None,
    num_images: int | None = None,
    batch_size: int = 100,
    multiple_of: int = 1,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """
    The first `num_images` pictures, by default all, prepared as at inference and one batch at a time.

    Args:
        images (`LabelledImages`): Where they come from.
        resolution (`int`, *optional*): Side in pixels to which they are resized and cropped. Without it they stay as
            they are, and must all have the same size.
        num_images (`int`, *optional*): At most so many as there are.
        batch_size (`int`): Images at a time.
        multiple_of (`int`): The tokenizer's downsampling factor, which must divide the resolution.
        share (`tuple[int, int]`): Of the batches every n-th, beginning with the i-th: (i, n).

    Yields:
        Numbers of the images, pixels `(B, 3, H, W)` in [-1, 1] and labels `(B,)`.

    Raises:
        ValueError: Without a resolution, images of different sizes.
    """
    processor = FQGANImageProcessor(size=resolution, multiple_of=multiple_of)
    indices = range(len(images) if num_images is None else num_images)
    batches = [indices[start : start + batch_size] for start in indices[::batch_size]][share[0] :: share[1]]
    loader = DataLoader(ProcessedImages(images, indices, processor), batch_sampler=batches, collate_fn=_collate)
    size = None
    for batch in loader:
        found = batch["pixel_values"].shape[2:]
        if size not in (None, found):
            raise _different_sizes(size, found)
        size = found
        yield batch["index"].tolist(), batch["pixel_values"], batch["label"]


def _collate(items: list[dict]) -> dict[str, torch.Tensor]:
    sizes = {item["pixel_values"].shape[1:] for item in items}
    if len(sizes) > 1:
        raise _different_sizes(*sorted(sizes)[:2])
    return default_collate(items)


def _different_sizes(one: Sequence[int], other: Sequence[int]) -> ValueError:
    first, second = (f"{width} x {height}" for height, width in (one, other))
    return ValueError(f"images must all have one size, got {first} and {second}: a resolution crops them to it")
