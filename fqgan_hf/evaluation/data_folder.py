# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The files of a data folder: which there are, of which kind, and what identifies them. None of them is opened.

They are listed here, rather than described by a pattern to `datasets`, for which the name of a folder like
`photos [2024]` is a pattern, too, and matches other folders.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


logger = logging.getLogger(__name__)

# Pictures that `datasets` takes from a folder.
IMAGE_SUFFIXES = frozenset([
    ".apng", ".blp", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".flc", ".fli", ".ftc", ".ftu", ".gbr", ".gif",
    ".icb", ".icns", ".ico", ".iim", ".im", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg",
    ".jpx", ".msp", ".pbm", ".pcd", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".pxr", ".ras", ".rgb", ".rgba",
    ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp", ".xbm", ".xpm",
])  # fmt: skip
# What describes the pictures of a folder: captions and classes, by the names that `datasets` knows.
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Files that people and systems leave among their data.
_HARMLESS_SUFFIXES = frozenset([
    "", ".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".py", ".sh", ".tsv", ".txt", ".yaml",
    ".yml",
])  # fmt: skip
_KINDS = {"imagefolder": "images", "parquet": "parquet files", "webdataset": "tar files"}


@dataclass(frozen=True)
class DataFolder:
    """
    Data files of one kind.

    Args:
        root (`Path`): The folder, without links in its path.
        kind (`str`): The builder of `datasets` that reads them: `"imagefolder"`, `"parquet"` or `"webdataset"`.
        files (`list[str]`): Absolute paths, in the order of their names.
    """

    root: Path
    kind: str
    files: list[str]

    def fingerprint(self) -> str:
        """What another set of data does not have: see `fingerprint`."""
        return fingerprint((os.path.relpath(file, self.root), os.stat(file).st_size) for file in self.files)


def fingerprint(files: Iterable[tuple[str, int | None]]) -> str:
    """Hex digest of the names and sizes of files. It costs no reading, and does not change when a folder moves."""
    digest = hashlib.sha256()
    for name, size in files:
        digest.update(json.dumps([name, size]).encode())
    return digest.hexdigest()


def list_data_folder(folder: str | Path) -> DataFolder:
    """
    The data files in a folder and its subfolders; hidden ones, and those in folders like `__MACOSX`, do not count.

    Raises:
        ValueError: There are none, or such of several kinds.
        OSError: A folder cannot be read, or a link among the data leads nowhere.
    """
    root = Path(folder).resolve()
    found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    metadata, others = [], []
    for file in _files_below(str(root)):
        name = os.path.basename(file)
        kind = _kind(name)
        (metadata if name in METADATA_NAMES else others if kind is None else found[kind]).append(file)
    if not found["imagefolder"]:  # then these describe nothing
        found["parquet"] += [file for file in metadata if file.endswith(".parquet")]
    kinds = [kind for kind, files in found.items() if files]
    if not kinds:
        seen = [*metadata, *others]
        what = f"{len(seen)} other files such as {_below(seen[0], root)} in" if seen else "the empty folder"
        raise ValueError(f"train_data_dir must hold images, parquet or tar files, got {what} {root}")
    if len(kinds) > 1:
        examples = [f"{_KINDS[kind]} such as {_below(found[kind][0], root)}" for kind in kinds]
        raise ValueError(
            f"train_data_dir must hold files of one kind, got {' and '.join(examples)} in {root}: move one kind away"
        )
    files = sorted(found[kinds[0]] + (metadata if kinds[0] == "imagefolder" else []))
    for file in files:
        _check_name(file)
    _tell_unread(others, root)
    return DataFolder(root, kinds[0], files)


def _kind(name: str) -> str | None:
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES or suffix == ".zip":  # archives of images
        return "imagefolder"
    return {".parquet": "parquet", ".tar": "webdataset"}.get(suffix)


def _files_below(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Files of a folder tree, through links, too, but not through one that leads back up."""
    place = os.path.realpath(folder)
    if place in above:
        return
    with os.scandir(folder) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.name.startswith("__"):
                yield from _files_below(entry.path, (*above, place))
        elif entry.is_file():
            yield entry.path
        elif entry.is_symlink() and _kind(entry.name) is not None:
            raise FileNotFoundError(f"train_data_dir: {entry.path} is a link to a file that is not there")


def _check_name(file: str) -> None:
    """Raise `ValueError` for a path that `datasets` would take for another one, or could not store."""
    if "::" in file or ("$" in file and os.path.expandvars(file) != file):
        raise ValueError(f"train_data_dir: {file} cannot be read, '::' and names of variables in paths have a meaning")
    try:
        file.encode()
    except UnicodeEncodeError:
        raise ValueError(f"train_data_dir: the name {os.fsencode(file)!r} is not in UTF-8") from None


def _tell_unread(files: list[str], root: Path) -> None:
    unusual = [file for file in files if os.path.splitext(file)[1].lower() not in _HARMLESS_SUFFIXES]
    if unusual:
        logger.warning(f"Not read: {len(unusual)} files in {root} such as {_below(unusual[0], root)}")


def _below(file: str, root: Path) -> str:
    return os.path.relpath(file, root)
