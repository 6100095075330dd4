# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The training datasets: crops and views of pictures, in an order that follows from the seed and the epoch alone.

What pictures there are is `fqgan_hf.evaluation.images`' to say.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from fqgan_hf.codes.crops import center_crop, to_pixel_values
from fqgan_hf.evaluation.images import LabelledImages, check_label
from fqgan_hf.training.data.crops import CROPS, draw_view, random_crop, to_tensor


def split_indices(num_samples: int, validation_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Training and held-out indices, each in order; the same for the same seed and number of samples."""
    num_held_out = round(num_samples * validation_fraction)
    permutation = np.random.default_rng([seed, num_samples]).permutation(num_samples)
    return sorted(permutation[num_held_out:].tolist()), sorted(permutation[:num_held_out].tolist())


class EpochSampler(Sampler[tuple[int, int]]):
    """
    Yields (epoch, index): a permutation of the samples that depends on seed and epoch only.

    The pair travels to the worker that loads the sample, so no worker has to be told the epoch. What does not fill a
    whole optimizer step is left to another epoch's permutation: each epoch has the same number of steps, and the data
    of step n follow from n alone.

    Args:
        num_samples (`int`): Samples in the data.
        samples_per_step (`int`): Of all processes and accumulated batches.
        seed (`int`): The run's.
    """

    def __init__(self, num_samples: int, samples_per_step: int, seed: int):
        self.num_samples = num_samples
        self.samples_per_epoch = num_samples // samples_per_step * samples_per_step
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        permutation = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
        for index in permutation[: self.samples_per_epoch].tolist():
            yield epoch, index


class AugmentedImages(Dataset):
    """
    Training crops, keyed by the (epoch, index) pairs of `EpochSampler`: `pixel_values` `(3, H, W)` in [-1, 1], or
    labels `(H, W)` of label maps.

    Args:
        images (`LabelledImages`): All the pictures, or label maps.
        indices (`Sequence[int]`): Those to train on.
        resolution (`int`): Side of the crops.
        seed (`int`): The run's.
        max_resize_ratio (`float`): Upper bound of the random size of the short side, over `resolution`.
        use_center_crop (`bool`): Take the middle instead of a random crop.
        random_flip (`bool`): Mirror half of the crops.
    """

    def __init__(
        self,
        images: LabelledImages,
        indices: Sequence[int],
        resolution: int,
        seed: int,
        max_resize_ratio: float = 1.25,
        use_center_crop: bool = False,
        random_flip: bool = True,
    ):
        self.images = images
        self.indices = indices
        self.resolution = resolution
        self.seed = seed
        self.max_resize_ratio = max_resize_ratio
        self.use_center_crop = use_center_crop
        self.random_flip = random_flip

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor | int]:
        epoch, position = key
        return self.prepare(*self.images.read(self.indices, position), epoch, self.indices[position])

    def prepare(self, image: Image.Image, label: int, epoch: int, *index: int) -> dict[str, torch.Tensor | int]:
        """The sample; what is random about it depends on the numbers."""
        rng = np.random.default_rng([self.seed, epoch, *index])
        if self.use_center_crop:
            image = center_crop(image, self.resolution)
        else:
            image = random_crop(image, self.resolution, self.max_resize_ratio, rng)
        if self.random_flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return {"pixel_values": to_tensor(image), "label": label, "index": index[-1]}


class CenterCrops(Dataset):
    """
    The middle of each image, keyed by position and of the form of `AugmentedImages`: label maps to validate on.

    Args:
        images (`LabelledImages`), indices (`Sequence[int]`), resolution (`int`): See `AugmentedImages`.
    """

    def __init__(self, images: LabelledImages, indices: Sequence[int], resolution: int):
        self.images = images
        self.indices = indices
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int]:
        image, label = self.images.read(self.indices, position)
        pixel_values = to_tensor(center_crop(image, self.resolution))
        return {"pixel_values": pixel_values, "label": label, "index": self.indices[position]}


class ImageViews(Dataset):
    """
    One view of each image, as `extract_codes` makes them: for generator training without a store of codes.

    Args:
        images (`LabelledImages`): All the pictures.
        indices (`Sequence[int]`): Those to use.
        crop (`str`): One of `CROPS`.
        resolution (`int`): Side of the crops.
        seed (`int`, *optional*):
            Items are keyed by the (epoch, position) pairs of `EpochSampler`, and this seed, the epoch and the index
            choose the view, the one that `CodeSequences` would read. Without a seed items are keyed by position and
            give the first view: for validation.
    """

    def __init__(
        self, images: LabelledImages, indices: Sequence[int], crop: str, resolution: int, seed: int | None = None
    ):
        self.images = images
        self.indices = indices
        self.views, self.make_views = CROPS[crop]
        self.resolution = resolution
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, torch.Tensor | int]:
        epoch, position = (0, key) if self.seed is None else key
        return self.prepare(*self.images.read(self.indices, position), epoch, self.indices[position])

    def prepare(self, image: Image.Image, label: int, epoch: int, *index: int) -> dict[str, torch.Tensor | int]:
        """The sample; which view it shows depends on the numbers."""
        check_label(label, self.images.label_names, f"{self.images.source}/{index[-1]:08d}")
        view = 0 if self.seed is None else draw_view(self.seed, epoch, *index, num_views=len(self.views))
        pixel_values = to_pixel_values(self.make_views(image, self.resolution)[view])
        return {"pixel_values": pixel_values, "class_labels": label, "index": index[-1]}
