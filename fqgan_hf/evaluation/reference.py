# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Held-out images as a network sees them, and the judge of other images beside them.

Shapes: B batch, H W pixels.
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from fqgan_hf.evaluation.features import ImageNetwork
from fqgan_hf.evaluation.image_batches import image_batches
from fqgan_hf.evaluation.images import LabelledImages
from fqgan_hf.evaluation.judging import SetStatistics, compare_sets
from fqgan_hf.evaluation.metrics import FeatureStatistics
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor


@dataclass
class Clock:
    """Seconds that went into each part of the work, on this process."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + perf_counter() - started


@dataclass
class Judge:
    """
    A network and what it says of a set of images, batch after batch.

    Args:
        network ([`ImageNetwork`]): Any.
        statistics ([`SetStatistics`]): Of the images so far.
        clock ([`Clock`]): Gets the times of `network` and `statistics`.
    """

    network: ImageNetwork
    statistics: SetStatistics
    clock: Clock = field(default_factory=Clock)

    def update(self, images: Sequence[Image.Image], indices: Sequence[int], labels: torch.Tensor) -> None:
        """Pictures, their numbers in the set, and class ids `(B,)`, -1 for none."""
        with self.clock("network"):
            features = self.network(images)
        with self.clock("statistics"):
            self.statistics.update(features, indices, labels)

    def compare(self, reference: "Reference") -> dict[str, Any]:
        """Figures of the whole set, of all processes: see `compare_sets`. Every process calls it, once."""
        with self.clock("statistics"):
            return compare_sets(self.statistics.gather(), reference.statistics)


@dataclass
class Reference:
    """
    Held-out images as a network sees them.

    Args:
        images (`LabelledImages`, *optional*): All of them; None where there are statistics only.
        resolution (`int`, *optional*): Side in pixels at which they are judged; None: as they are.
        num_images (`int`, *optional*): Only the first ones count; None where statistics do not say.
        statistics ([`SetStatistics`]): Of their features.
    """

    images: LabelledImages | None
    resolution: int | None
    num_images: int | None
    statistics: SetStatistics

    @classmethod
    def measure(
        cls,
        images: LabelledImages,
        network: ImageNetwork,
        *,
        resolution: int | None,
        num_images: int | None = None,
        batch_size: int = 100,
        clock: Clock | None = None,
        show_progress: bool = False,
    ) -> "Reference":
        """
        Pass the first `num_images` pictures, by default all, through the network.

        Args:
            images (`LabelledImages`): See [`~fqgan_hf.evaluation.image_sets.open_image_set`].
            network ([`ImageNetwork`]): The judge.
            resolution (`int`, *optional*): Side in pixels to which they are resized and cropped.
            num_images (`int`, *optional*): At most so many as there are.
            batch_size (`int`): Images at a time.
            clock ([`Clock`], *optional*): Gets the times of `reading`, `network` and `statistics`.
            show_progress (`bool`): A bar over the images.
        """
        num_images = len(images) if num_images is None else min(num_images, len(images))
        statistics = SetStatistics(num_images, common_classes(images, network))
        judge, processor = Judge(network, statistics, clock or Clock()), FQGANImageProcessor()
        reference = cls(images, resolution, num_images, statistics)
        for indices, pixel_values, labels in reference.batches(batch_size, judge.clock, "reference", show_progress):
            judge.update(processor.postprocess(pixel_values), indices, labels)
        statistics.gather()
        return reference

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """
        Statistics of an .npz file: `mu`, `sigma` and, of spatial features, `mu_s`, `sigma_s`.

        Raises:
            ValueError: It is no such file.
        """
        statistics = SetStatistics(0)
        statistics.pooled = FeatureStatistics.load(path)
        statistics.spatial = (
            FeatureStatistics.load(path, "_s") if has_arrays(path, "mu_s", "sigma_s") else FeatureStatistics()
        )
        return cls(None, None, statistics.pooled.count, statistics)

    def save(self, path: str | Path, **more: Any) -> None:
        """
        Write the statistics to an .npz file as `load` reads it; see `FeatureStatistics.save`.

        Args:
            path (`str` or `Path`): The file.
            **more: Further arrays.
        """
        spatial = self.statistics.spatial
        if spatial.num_features is not None:
            more = {"mu_s": spatial.mu, "sigma_s": spatial.sigma, **more}
        self.statistics.pooled.save(path, **more)

    @property
    def accuracy(self) -> float | None:
        """The network's accuracy on the images; None if it does not know their classes."""
        return self.statistics.accuracy

    def judge(self, network: ImageNetwork, num_images: int, clock: Clock | None = None) -> Judge:
        """For so many other images; by their classes where the network reads those of the reference."""
        names = None if self.accuracy is None else network.label_names
        return Judge(network, SetStatistics(num_images, names), clock or Clock())

    def batches(
        self, batch_size: int, clock: Clock, description: str, show_progress: bool = False, multiple_of: int = 1
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """`shared_batches` of the images."""
        return shared_batches(
            self.images, self.resolution, self.num_images, batch_size, clock, description, show_progress, multiple_of
        )


def shared_batches(
    images: LabelledImages,
    resolution: int | None,
    num_images: int,
    batch_size: int,
    clock: Clock,
    description: str,
    show_progress: bool = False,
    multiple_of: int = 1,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """
    The batches of this process, of the first `num_images` images, with a bar over all of them.

    Args:
        images (`LabelledImages`), resolution, num_images, batch_size, multiple_of: See `image_batches`.
        clock ([`Clock`]): Gets the time of `reading`.
        description (`str`): Of the bar.
        show_progress (`bool`): Whether there is one.

    Yields:
        Numbers of the images, pixels `(B, 3, H, W)` in [-1, 1] and labels `(B,)`.
    """
    state = PartialState()
    batches = image_batches(
        images, resolution=resolution, num_images=num_images, batch_size=batch_size, multiple_of=multiple_of,
        share=(state.process_index, state.num_processes),
    )  # fmt: skip
    is_shown = show_progress and state.is_main_process
    with tqdm(total=num_images, desc=description, unit="image", disable=not is_shown) as bar:
        while True:
            with clock("reading"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
            bar.update(min(len(batch[0]) * state.num_processes, num_images - bar.n))


def common_classes(images: LabelledImages, network: ImageNetwork) -> list[str] | None:
    """
    The network's classes if labels of the images are ids of them, which are compared and so must mean the same: by
    their names, or for an .npz file, which has no names, by their numbers. None: there is nothing to compare.

    Raises:
        ValueError: An .npz file has a label that is none of the network's classes.
    """
    names = network.label_names
    if names is None or images.label_names == ["unlabelled"]:
        return None
    if getattr(images, "knows_names", True):
        return names if images.label_names == names else None
    if len(images.label_names) > len(names):
        raise ValueError(
            f"labels of {images.source} must be classes of the network, in [0, {len(names) - 1}], "
            f"got {len(images.label_names) - 1}"
        )
    return names


def has_arrays(path: str | Path, *names: str) -> bool:
    """Whether an .npz file has arrays of these names; `ValueError` for another file."""
    try:
        with zipfile.ZipFile(path) as file:
            return {f"{name}.npy" for name in names} <= set(file.namelist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no .npz file: {error}") from error
