# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Readers of images and their labels: folders, parquet files, webdatasets, and datasets on the Hub.

    images = load_images(ImageDataArguments(train_data_dir="photos"))
    picture, label = images[0]

They give upright RGB pictures, whatever these are stored in, or label maps. `fqgan_hf.evaluation.conditions` reads the
captions and maps of images. How training crops and orders them is the business of `fqgan_hf.training.data`.

Shapes: B batch, H W pixels.
"""

import contextlib
import glob
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import datasets
from datasets.data_files import DataFilesDict, DataFilesList, get_data_patterns
from datasets.utils.file_utils import xopen
from PIL import Image

from fqgan_hf.evaluation.data_folder import fingerprint, list_data_folder
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.evaluation.label_images import load_label_map
from fqgan_hf.failures import first_line
from fqgan_hf.modeling.image_processing_fqgan import load_image


logger = logging.getLogger(__name__)


_MAX_BAD_SHARE = 0.01

ReadPicture = Callable[[BinaryIO], Image.Image]


class UnreadableImageError(ValueError):
    """An image that is damaged or missing, or whose format is not accepted."""


class BadImages:
    """
    Counts unreadable images by name: a few of them are tolerated, many are not.

    The names go to a file: neither training processes nor the workers that decode for them share memory. What is used
    in place of a bad image depends on the data alone, never on this count.

    Args:
        num_images (`int`): Images in all; one in a hundred may be unreadable.
        path (`Path`, *optional*): File of names, one per line. Without it each process counts for itself.
    """

    def __init__(self, num_images: int, path: Path | None = None):
        self.num_images = num_images
        self.path = path
        self.names: set[str] = set()

    def add(self, name: str, error: Exception) -> None:
        """
        Count one image; the same name counts once.

        Raises:
            ValueError: It is one too many.
        """
        if name in self.names:
            return
        if self.path is not None:
            if self.path.is_file():
                self.names.update(self.path.read_text(encoding="utf-8").splitlines())
            if name not in self.names:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(name.replace("\n", " ") + "\n")  # one short write: those of processes do not mix
        self.names.add(name)
        logger.warning(f"Skipped: {error} ({len(self.names)} of {self.num_images} images so far)")
        check_bad_share(self.names, self.num_images)


def check_bad_share(names: set[str], num_images: int) -> None:
    """Raise `ValueError` where the unreadable images `names` are more than one in a hundred of `num_images`."""
    if len(names) > _MAX_BAD_SHARE * num_images:
        some = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(
            f"skip_bad_images tolerates {_MAX_BAD_SHARE:.0%} of unreadable images, "
            f"got {len(names)} of {num_images}: {some}"
        )


def check_sample(images: "LabelledImages", read: Callable[[int], Any], most: int = 1000) -> None:
    """
    Read some images before any work, to find what does not fit: all of them, or of many those of an even spread.

    Args:
        images ([`LabelledImages`]): All of them.
        read (`Callable`): Reads an image by its number, and whatever belongs to it.
        most (`int`): How many to read.

    Raises:
        UnreadableImageError: One cannot be read; or where that is tolerated, `ValueError`: too many cannot.
    """
    number, failed = min(len(images), most), set()
    for index in (i * len(images) // number for i in range(number)):
        try:
            read(index)
        except UnreadableImageError:
            if images.bad is None:
                raise
            failed.add(images.name(index))  # not counted in `bad` before they are met in earnest
            check_bad_share(failed, len(images))


class LabelledImages:
    """
    Upright RGB pictures by index, whatever they are stored in.

    Args:
        dataset (`datasets.Dataset`): With an image column, not decoded here.
        image_column (`str`): Its name.
        label_column (`str`, *optional*): A column of class ids; without it every label is 0.
        source (`str`): What the data are called; images without a file of their own are named by it and their index.
        root (`Path`, *optional*): Image files are named by their path below this folder.
        bad (`BadImages`, *optional*): Counts unreadable images. Without it the first one raises.
        fingerprint (`str`): What other data do not have.
        read (`Callable`): From a file to a picture: `load_image`, or `load_label_map` for label maps of mode "P".

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
        bad: BadImages | None = None,
        fingerprint: str = "",
        read: ReadPicture = load_image,
    ):
        self.dataset = dataset
        columns = [image_column, *([] if label_column is None else [label_column])]
        self.rows = dataset.select_columns(columns).cast_column(image_column, datasets.Image(decode=False))
        self._read = read
        self.image_column = image_column
        self.label_column = label_column
        self.source = source
        self.root = root
        self.bad = bad
        self.fingerprint = fingerprint
        self.label_names = ["unlabelled"] if label_column is None else dataset.features[label_column].names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[index]
        stored = row[self.image_column]
        image = _decode_image(stored, self.name(index), self._read)
        return image, _label(row, self.label_column)

    def read(self, indices: Sequence[int], position: int) -> tuple[Image.Image, int]:
        """Picture and label of `indices[position]`, or if it is unreadable and may be, of the next of `indices`."""
        while True:
            index = indices[position % len(indices)]
            try:
                return self[index]
            except UnreadableImageError as error:
                if self.bad is None:
                    raise
                self.bad.add(self.name(index), error)  # raises before all of them are unreadable
            position += 1

    def name(self, index: int) -> str:
        """What identifies the image: its file below the data folder, or its place in the split."""
        stored = self.rows[index][self.image_column]
        if stored["bytes"] is None:
            path = Path(stored["path"])
            return path.relative_to(self.root).as_posix() if self.root in path.parents else path.as_posix()
        return f"{self.source}/{index:08d}"


class StreamedImages:
    """
    Upright RGB pictures that come one after another; `fqgan_hf.training.data.streaming` makes samples of them.

    Args:
        stream (`datasets.IterableDataset`): With an image column, not decoded here.
        image_column (`str`): Its name.
        label_column (`str`, *optional*): A class column; without one every label is 0.
        source (`str`): What the data are called.
        num_images (`int`): In one pass; the length of an epoch.
        bad (`BadImages`, *optional*): Counts unreadable images. Without it the first one raises.
        fingerprint (`str`): What other data do not have.
        read (`Callable`): See `LabelledImages`.

    Attributes:
        label_names (`list[str]`): Name of each class.
    """

    def __init__(
        self,
        stream: datasets.IterableDataset,
        image_column: str,
        label_column: str | None,
        source: str,
        num_images: int,
        bad: BadImages | None = None,
        fingerprint: str = "",
        read: ReadPicture = load_image,
    ):
        self.stream = stream.cast_column(image_column, datasets.Image(decode=False))
        self.image_column = image_column
        is_class = label_column is not None and isinstance(stream.features[label_column], datasets.ClassLabel)
        self.label_column = label_column if is_class else None
        self.label_names = stream.features[label_column].names if is_class else ["unlabelled"]
        self.source = source
        self.num_images = num_images
        self.bad = bad
        self.fingerprint = fingerprint
        self._read = read

    def __len__(self) -> int:
        return self.num_images

    def name(self, row: dict, position: int) -> str:
        """What identifies the image of a row: its path or key, or its place in the stream."""
        return row[self.image_column]["path"] or row.get("__key__") or f"{self.source}/{position:08d}"

    def decode(self, row: dict, position: int) -> tuple[Image.Image, int]:
        image = _decode_image(row[self.image_column], self.name(row, position), self._read)
        return image, _label(row, self.label_column)


def _label(row: dict, column: str | None) -> int:
    """Class id; 0 where there are no classes, -1 where this image has none, as `datasets` itself says it."""
    if column is None:
        return 0
    return -1 if row[column] is None else row[column]


def check_label(label: int, label_names: Sequence[str], name: str) -> None:
    """Raise `ValueError` where an image that needs a class has none."""
    if not 0 <= label < len(label_names):
        raise ValueError(f"image {name!r} has label {label}: is this a split without labels?")


def _decode_image(stored: dict, name: str, read: ReadPicture) -> Image.Image:
    """The picture in a cell `{"bytes", "path"}` of an image column that is not decoded."""
    try:
        content = stored["bytes"]
        if content is None:
            with xopen(stored["path"], "rb") as file:  # a path, or where in an archive or on the Hub
                content = file.read()
        return read(io.BytesIO(content))
    except (ValueError, OSError, TypeError) as error:  # TypeError: neither content nor a path
        raise UnreadableImageError(f"image {name!r} cannot be read: {error}") from error


def load_images(args: ImageDataArguments, split: str | None = None) -> LabelledImages | StreamedImages:
    """
    The images that the arguments name; a stream if they say so and no other split is asked for.

    Args:
        args (`ImageDataArguments`): See there. With `label_map_column` and `num_labels` the images are label maps.
        split (`str`, *optional*): Another split of `--dataset_name` than `--split`.

    Raises:
        ValueError: No images, no such split or column, or a choice of columns that has to be made.
    """
    streaming = getattr(args, "streaming", False)
    source = _open_source(args, split, streaming)
    if streaming and split is None:
        return _stream_images(args, source)
    dataset = source.dataset
    if streaming:  # few enough validation images to hold in memory
        with _reading(args):
            rows = list(dataset.take(args.max_validation_samples))
            dataset = datasets.Dataset.from_list(rows, features=dataset.features)
    image_column, read = _images_and_reader(dataset, args)
    label_column = _find_label_column(dataset, args.label_column)
    if label_column is not None and not isinstance(dataset.features[label_column], datasets.ClassLabel):
        with _reading(args):
            dataset = dataset.class_encode_column(label_column)
    if args.max_train_samples is not None and split is None:
        dataset = dataset.select(range(min(args.max_train_samples, len(dataset))))
    if len(dataset) == 0:
        raise ValueError(f"the data must hold at least one image, got none in {source.name}")
    bad = _bad_images(args, len(dataset), split) if args.skip_bad_images else None
    return LabelledImages(dataset, image_column, label_column, source.name, source.root, bad, source.fingerprint, read)


def _stream_images(args: ImageDataArguments, source: "_Source") -> StreamedImages:
    stream = source.dataset
    if stream.features is None:
        with _reading(args):
            stream = stream._resolve_features()  # from its first rows, as `datasets` does where it needs them
    known_split = (stream.info.splits or {}).get(str(stream.split))
    num_images = args.streaming_samples or (known_split.num_examples if known_split is not None else None)
    if not num_images:
        raise ValueError(f"streaming_samples must be given: {source.name} does not say how many images it holds")
    image_column, read = _images_and_reader(stream, args)
    label_column = _find_label_column(stream, args.label_column)
    bad = _bad_images(args, num_images) if args.skip_bad_images else None
    return StreamedImages(stream, image_column, label_column, source.name, num_images, bad, source.fingerprint, read)


def _bad_images(args: ImageDataArguments, num_images: int, split: str | None = None) -> BadImages:
    """The count of unreadable images in a run's `output_dir`, if it has one."""
    folder = getattr(args, "output_dir", None)
    name = "bad_images.txt" if split is None else f"bad_images-{split}.txt"
    return BadImages(num_images, None if folder is None else Path(folder, name))


@dataclass
class _Source:
    """
    A split of a data set, open.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): Its rows.
        name (`str`): What it is called.
        root (`Path`, *optional*): Its folder, if it is one.
        fingerprint (`str`): What other data do not have: names and sizes of the files, or the Hub's revision.
    """

    dataset: datasets.Dataset | datasets.IterableDataset
    name: str
    root: Path | None
    fingerprint: str


@contextlib.contextmanager
def _reading(args: ImageDataArguments) -> Iterator[None]:
    """Errors of `datasets`, which are of many kinds, as a `ValueError` that says what was read."""
    try:
        yield
    except Exception as error:
        option = "dataset_name" if args.train_data_dir is None else "train_data_dir"
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"{option} {getattr(args, option)!r} cannot be read: {reason}") from error


def _open_source(args: ImageDataArguments, split: str | None = None, streaming: bool = False) -> _Source:
    """The split that the arguments name."""
    if args.train_data_dir is not None:
        return _open_folder(args, streaming)
    return _open_dataset(args, split or args.split, streaming)


def _open_folder(args: ImageDataArguments, streaming: bool) -> _Source:
    folder = list_data_folder(args.train_data_dir)
    # A finished list, which `datasets` takes as it is. What is cached is known by the times of the files.
    files = DataFilesList(folder.files, [(str(os.stat(file).st_mtime_ns),) for file in folder.files])
    with _reading(args):
        dataset = datasets.load_dataset(
            folder.kind, data_files={"train": files}, split="train", cache_dir=args.cache_dir, streaming=streaming
        )
    return _Source(dataset, folder.root.name, folder.root, folder.fingerprint())


def _open_dataset(args: ImageDataArguments, split: str, streaming: bool) -> _Source:
    name, data_files, is_local = args.dataset_name, None, Path(args.dataset_name).is_dir()
    if is_local:
        name = str(Path(name).resolve())  # `datasets` has formats of its own under names such as "parquet"
        data_files = _files_of_dataset(name) if glob.has_magic(name) else None
    with _reading(args):
        builder = datasets.load_dataset_builder(
            name, args.dataset_config_name, cache_dir=args.cache_dir, data_files=data_files
        )
        if streaming:
            splits = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare()
            splits = builder.as_dataset()
    if split not in splits:
        raise ValueError(f"split must be one of {sorted(splits)} in {args.dataset_name}, got {split!r}")
    if is_local:
        files = (builder.config.data_files or {}).get(split, ())
        sizes = (os.stat(file).st_size if os.path.isfile(file) else None for file in files)
        found = fingerprint(zip((os.path.relpath(file, name) for file in files), sizes, strict=True))
    else:
        found = fingerprint([(f"{name}@{builder.hash}", None), (split, None)])
    return _Source(splits[split], f"{Path(args.dataset_name).name}/{split}", None, found)


def _files_of_dataset(folder: str) -> DataFilesDict:
    """The files by split of a local dataset, for a path that `datasets` would take for a pattern."""
    card = Path(folder, "README.md")
    if card.is_file() and re.search("^configs:", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
        raise ValueError(
            f"dataset_name: the path of a dataset with configurations must not hold *, ? or [: {folder!r}"
        )
    base = glob.escape(folder)
    try:
        return DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    except FileNotFoundError as error:
        raise ValueError(f"dataset_name {folder!r} holds no data files") from error


def _images_and_reader(
    dataset: datasets.Dataset | datasets.IterableDataset, args: ImageDataArguments
) -> tuple[str, ReadPicture]:
    """The column of the images that the arguments name, and how one is read from its file."""
    label_map_column = getattr(args, "label_map_column", None)
    if label_map_column is None:
        return find_image_column(dataset, args.image_column), load_image
    column = find_image_column(dataset, label_map_column, "label_map_column")
    return column, partial(load_label_map, num_labels=args.num_labels)


def find_image_column(
    dataset: datasets.Dataset | datasets.IterableDataset, name: str | None, option: str = "image_column"
) -> str:
    """The column `name`, or without a name the only image column; raises `ValueError` if there is no such column."""
    columns = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if name in columns or (name is None and len(columns) == 1):
        return name or columns[0]
    raise ValueError(f"{option} must be one of the image columns {columns}, got {name!r}")


def _find_label_column(dataset: datasets.Dataset | datasets.IterableDataset, name: str | None) -> str | None:
    features = dataset.features
    if name is not None and name not in features:
        raise ValueError(f"label_column must be one of {list(features)}, got {name!r}")
    if name is not None:
        return name
    for usual in ("label", "cls"):  # `cls` is webdataset's
        if usual in features:
            return usual
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    return classes[0] if len(classes) == 1 else None
