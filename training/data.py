# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Images and the order in which training sees them.

Everything random about a sample is a function of (seed, epoch, index), never of a generator's state: a worker process,
a second machine or a resumed run draws the same crop for the same sample.

Shapes: C channels, H W pixels.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor, load_image
from fqgan_hf.training.arguments import ImageDataArguments


class LabelledImages:
    """
    Upright RGB pictures by index, whatever they are stored in.

    Args:
        dataset (`datasets.Dataset`): With an image column, not decoded here.
        image_column (`str`): Its name.
        label_column (`str`, *optional*): A column of class ids; without it every label is 0.
        source (`str`): What the data are called; images without a file of their own are named by it and their index.
        root (`Path`, *optional*): Image files are named by their path below this folder.

    Attributes:
        label_names (`list[str]`): Name of each class.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        image_column: str,
        label_column: str | None,
        source: str,
        root: Path | None = None,
    ):
        self.rows = dataset.cast_column(image_column, datasets.Image(decode=False))
        self.image_column = image_column
        self.label_column = label_column
        self.source = source
        self.root = root
        self.label_names = ["unlabelled"] if label_column is None else dataset.features[label_column].names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[index]
        stored = row[self.image_column]
        try:
            image = load_image(io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
        except (ValueError, OSError) as error:
            raise ValueError(f"image {self.name(index)!r} cannot be read: {error}") from error
        return image, 0 if self.label_column is None else row[self.label_column]

    def name(self, index: int) -> str:
        """What identifies the image: its file below the data folder, or its place in the split."""
        stored = self.rows[index][self.image_column]
        if stored["bytes"] is None:
            path = Path(stored["path"])
            return path.relative_to(self.root).as_posix() if self.root in path.parents else path.as_posix()
        return f"{self.source}/{index:08d}"


def load_images(args: ImageDataArguments, split: str | None = None) -> LabelledImages:
    """
    The images that the arguments name.

    Args:
        args (`ImageDataArguments`): See there.
        split (`str`, *optional*): Another split of `--dataset_name` than `--split`.

    Raises:
        ValueError: No images, no such split or column, or a choice of columns that has to be made.
    """
    root = None
    if args.train_data_dir is not None:
        root = Path(args.train_data_dir).resolve()
        source = root.name
        kind, pattern = ("parquet", "*.parquet") if any(root.rglob("*.parquet")) else ("imagefolder", "*")
        if not any(path.is_file() for path in root.rglob("*")):
            raise ValueError(f"train_data_dir must hold images or parquet files, got the empty folder {root}")
        files = {"train": str(root / "**" / pattern)}
        dataset = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=args.cache_dir)
    else:
        splits = datasets.load_dataset(args.dataset_name, args.dataset_config_name, cache_dir=args.cache_dir)
        name = split or args.split
        if name not in splits:
            raise ValueError(f"split must be one of {sorted(splits)} in {args.dataset_name}, got {name!r}")
        dataset = splits[name]
        source = f"{Path(args.dataset_name).name}/{name}"
    image_column = _image_column(dataset, args.image_column)
    dataset, label_column = _label_column(dataset, args.label_column)
    if args.max_train_samples is not None and split is None:
        dataset = dataset.select(range(min(args.max_train_samples, len(dataset))))
    if len(dataset) == 0:
        raise ValueError(f"the data must hold at least one image, got none in {source}")
    return LabelledImages(dataset, image_column, label_column, source, root)


def _image_column(dataset: datasets.Dataset, name: str | None) -> str:
    columns = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if name in columns or (name is None and len(columns) == 1):
        return name or columns[0]
    raise ValueError(f"image_column must be one of the image columns {columns}, got {name!r}")


def _label_column(dataset: datasets.Dataset, name: str | None) -> tuple[datasets.Dataset, str | None]:
    features = dataset.features
    if name is not None and name not in features:
        raise ValueError(f"label_column must be one of {list(features)}, got {name!r}")
    if name is None:
        classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        name = "label" if "label" in features else classes[0] if len(classes) == 1 else None
    if name is not None and not isinstance(features[name], datasets.ClassLabel):
        dataset = dataset.class_encode_column(name)
    return dataset, name


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


def resize_short_side(image: Image.Image, size: int) -> Image.Image:
    """Scale so that the shorter side has `size` pixels; antialiased Lanczos, as `FQGANImageProcessor` does."""
    width, height = image.size
    short = min(width, height)
    if short == size:
        return image
    return image.resize((round(width * size / short), round(height * size / short)), Image.Resampling.LANCZOS)


def random_crop(image: Image.Image, size: int, max_ratio: float, rng: np.random.Generator) -> Image.Image:
    """Short side to a random size in [size, max_ratio * size], then a random square (published ratio: 1.25)."""
    image = resize_short_side(image, int(rng.integers(size, int(max_ratio * size), endpoint=True)))
    left = int(rng.integers(0, image.width - size, endpoint=True))
    top = int(rng.integers(0, image.height - size, endpoint=True))
    return image.crop((left, top, left + size, top + size))


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size`, then the square in the middle."""
    image = resize_short_side(image, size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_pixel_values(image: Image.Image) -> torch.Tensor:
    """RGB picture -> float32 `(3, H, W)` in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
    return pixels.float().div_(127.5).sub_(1.0)


class AugmentedImages(Dataset):
    """
    Training crops, keyed by the (epoch, index) pairs of `EpochSampler`.

    Args:
        images (`LabelledImages`): All the pictures.
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
        index = self.indices[position]
        rng = np.random.default_rng([self.seed, epoch, index])
        image, label = self.images[index]
        if self.use_center_crop:
            image = center_crop(image, self.resolution)
        else:
            image = random_crop(image, self.resolution, self.max_resize_ratio, rng)
        if self.random_flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return {"pixel_values": to_pixel_values(image), "label": label, "index": index}


class ProcessedImages(Dataset):
    """Images as they are prepared at inference, by `FQGANImageProcessor`: for validation."""

    def __init__(self, images: LabelledImages, indices: Sequence[int], processor: FQGANImageProcessor):
        self.images = images
        self.indices = indices
        self.processor = processor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int]:
        index = self.indices[position]
        image, label = self.images[index]
        return {"pixel_values": self.processor(image)["pixel_values"][0], "label": label, "index": index}
