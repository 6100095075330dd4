# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Sets of images, by one name each: a folder, a dataset, an .npz file, the shards of `fqgan sample`.

    images = open_image_set("outputs/samples")
    picture, label = images[0]

All of them are read picture by picture, so that memory does not grow with their number, and look alike: `len`, an
item `(picture, label)`, `label_names`, `source` and `fingerprint`, as [`~fqgan_hf.evaluation.images.LabelledImages`].

Shapes: N images, H W pixels.
"""

import csv
import hashlib
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fqgan_hf.evaluation.image_source import ImageDataArguments, check_source
from fqgan_hf.evaluation.images import LabelledImages, load_images
from fqgan_hf.failures import first_line
from fqgan_hf.files import MANIFEST, read_json, sha256
from fqgan_hf.modeling.image_processing_fqgan import load_image


class ReadableSet:
    """What every set here can do besides its length and its items: stand in for a `LabelledImages`."""

    label_names: list[str]
    source: str
    fingerprint: str
    knows_names = True  # of its classes; otherwise label_names are their numbers

    def read(self, indices: Sequence[int], position: int) -> tuple[Image.Image, int]:
        """Picture and label of `indices[position]`."""
        return self[indices[position]]

    def name(self, index: int) -> str:
        """What identifies an image."""
        return f"{self.source}/{index:08d}"


class NpzImages(ReadableSet):
    """
    The images of an .npz file as ADM's evaluations use it: `arr_0`, uint8 `(N, H, W, 3)`, and if there are labels
    `arr_1`, integers `(N,)`. Only the rows that are asked for are read; in a compressed file, all before them, too.

    Args:
        path (`str` or `Path`): The file.

    Raises:
        ValueError: It is another kind of file.
    """

    knows_names = False

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            shape, dtype = self._open_rows()
        except FileNotFoundError:
            raise
        except Exception as error:  # no zip, no npz, no such array, a pickled one
            raise ValueError(
                f"{path} must be an .npz file with images in arr_0, uint8 (N, H, W, 3): {first_line(error)}"
            ) from error
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(f"{path}: arr_0 must hold uint8 images (N, H, W, 3), got {dtype} {shape}")
        self.shape = shape
        with np.load(self.path, allow_pickle=False) as arrays:
            self.labels = arrays["arr_1"].astype(np.int64) if "arr_1" in arrays else np.full(len(self), -1)
        if self.labels.shape != (len(self),):
            raise ValueError(f"{path}: arr_1 must hold {len(self)} labels, got {self.labels.shape}")
        self.label_names = [str(i) for i in range(self.labels.max() + 1)] or ["unlabelled"]
        self.source = self.path.name

    def _open_rows(self) -> tuple[tuple[int, ...], np.dtype]:
        """Open the member with the images, behind its header. Returns their shape and type."""
        self._file = zipfile.ZipFile(self.path).open("arr_0.npy")  # noqa: SIM115 - read from as long as this lives
        version = np.lib.format.read_magic(self._file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(self._file)
        if is_fortran:
            raise ValueError("its rows are not stored one after another")
        self._start = self._file.tell()
        return shape, dtype

    def __getstate__(self) -> dict[str, Any]:  # a worker opens the file for itself
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_rows()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        size = int(np.prod(self.shape[1:]))
        self._file.seek(self._start + index * size)
        row = np.frombuffer(self._file.read(size), dtype=np.uint8).reshape(self.shape[1:])
        return Image.fromarray(row), int(self.labels[index])


class PngShard(ReadableSet):
    """A folder of pictures with a metadata.csv, as `fqgan sample` writes it."""

    def __init__(self, path: Path):
        self.path = path
        with open(path / "metadata.csv", newline="", encoding="utf-8") as file:
            self._rows = [(row["file_name"], int(row["label"])) for row in csv.DictReader(file)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        name, label = self._rows[index]
        return load_image(self.path / name), label


def _parquet_shard(path: Path) -> LabelledImages:
    import datasets

    rows = datasets.Dataset.from_parquet(str(path))
    return LabelledImages(rows, "image", "label", path.name)


# How a shard is opened, by its ending.
_SHARDS: dict[str, Callable[[Path], Any]] = {"": PngShard, ".npz": NpzImages, ".parquet": _parquet_shard}


class SampledImages(ReadableSet):
    """
    The images that `fqgan sample` has written to a folder, in their order.

    Args:
        folder (`Path`): With the manifest of a run that has come to its end.

    Raises:
        ValueError: The run has not ended, or a shard is missing.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_json(self.folder / MANIFEST)
        self.label_names = self.manifest["label_names"]
        self.source = self.folder.name
        paths = [self.folder / shard["file"] for shard in self.manifest["shards"]]
        if missing := [path.name for path in paths if not path.exists()]:
            raise ValueError(f"{folder} is damaged: {missing[0]} is missing")
        self._shards = [_SHARDS[path.suffix](path) for path in paths]
        self._ends = list(accumulate(shard["rows"] for shard in self.manifest["shards"]))

    @property
    def fingerprint(self) -> str:
        """Of the contents of all shards, by the manifest."""
        return hashlib.sha256("".join(shard["sha256"] for shard in self.manifest["shards"]).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        number = bisect_right(self._ends, index)
        return self._shards[number][index - (self._ends[number - 1] if number else 0)]


def is_sample_folder(path: Path) -> bool:
    """Whether `fqgan sample` wrote, or is writing, to a folder."""
    return path.is_dir() and any(
        (path / name).is_file() and "weights_sha256" in read_json(path / name) for name in (MANIFEST, "settings.json")
    )


def open_image_set(source: str | Path, split: str | None = None, **options: Any) -> LabelledImages | ReadableSet:
    """
    The images of a name.

    Args:
        source (`str` or `Path`):
            A folder of images, parquet or webdataset files; a folder of `fqgan sample`; an .npz file; with a split, a
            local dataset that has it or one on the Hub.
        split (`str`, *optional*): Of a dataset.
        **options: Of [`~fqgan_hf.evaluation.image_source.ImageDataArguments`], such as `image_column`.

    Raises:
        ValueError: It holds no images, or cannot be read.
        FileNotFoundError: There is no such file or folder.
    """
    path = Path(source)
    if split is not None:
        return load_images(ImageDataArguments(dataset_name=str(source), split=split, **options))
    if path.suffix == ".npz" and path.is_file():
        return NpzImages(path)
    if is_sample_folder(path):
        if not (path / MANIFEST).is_file():
            raise ValueError(f"{source} is not complete: run the `fqgan sample` that fills it to its end")
        return SampledImages(path)
    check_source(source)
    return load_images(ImageDataArguments(train_data_dir=str(source), **options))
