# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The images that `fqgan encode` is given: picture files, folders of pictures, or one set of labelled images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fqgan_hf.codes.shards import UNLABELLED
from fqgan_hf.evaluation.data_folder import fingerprint, list_data_folder
from fqgan_hf.evaluation.image_sets import ReadableSet, open_image_set
from fqgan_hf.evaluation.images import LabelledImages, UnreadableImageError
from fqgan_hf.modeling.image_processing_fqgan import load_image


class PictureFiles(ReadableSet):
    """
    Picture files from anywhere, without labels, named by their paths below the folder that holds them all.

    Args:
        paths (`Sequence[Path]`): In this order. One that is named twice counts once.
    """

    label_names = UNLABELLED

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))
        self.root = Path(os.path.commonpath([path.parent for path in self.paths]))
        self.source = self.root.name
        self.fingerprint = fingerprint((self.name(i), path.stat().st_size) for i, path in enumerate(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        try:
            return load_image(self.paths[index]), 0
        except (ValueError, OSError) as error:
            raise UnreadableImageError(f"image {self.name(index)!r} cannot be read: {error}") from error

    def name(self, index: int) -> str:
        return self.paths[index].relative_to(self.root).as_posix()


def open_inputs(sources: Sequence[str | Path], split: str | None, **options: Any) -> LabelledImages | ReadableSet:
    """
    The images of some names.

    Args:
        sources (`Sequence[str]` or `Sequence[Path]`): Picture files and folders of pictures; or one name that
            [`~fqgan_hf.evaluation.image_sets.open_image_set`] takes, which gives labels, too.
        split, **options: See there.

    Raises:
        ValueError: There are no images, or a folder among several names holds data of another kind.
    """
    is_set = len(sources) == 1 and (
        split is not None or Path(sources[0]).is_dir() or Path(sources[0]).suffix == ".npz"
    )
    if is_set:
        return open_image_set(sources[0], split, **options)
    for name, value in {"split": split, **options}.items():
        if value is not None:
            raise ValueError(f"{name} belongs to a dataset, and these are picture files: {value!r}")
    return PictureFiles([path for source in sources for path in _pictures(Path(source))])


def _pictures(path: Path) -> list[Path]:
    """A picture file, or those in a folder and its subfolders."""
    if not path.is_dir():
        return [path]
    found = list_data_folder(path)
    pictures = [Path(file) for file in found.files if not file.endswith((".csv", ".jsonl", ".parquet"))]
    if found.kind != "imagefolder" or any(file.suffix.lower() == ".zip" for file in pictures):
        raise ValueError(f"images: {path} holds other files than pictures: encode it by itself")
    return pictures
