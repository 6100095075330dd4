# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Names of the pictures that codes become, from the ids of their rows: none of them leaves its folder."""

import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import PurePosixPath

from fqgan_hf.evaluation.data_folder import IMAGE_SUFFIXES


# Not allowed on some system, or our own mark. A leading dot would hide the picture, or lead out of the folder.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f"*:<>?\\|%]|^\.')
_MAX_BYTES = 200  # of a part of a path; file systems take 255


def picture_names(ids: Sequence[str], views: Sequence[str]) -> list[str]:
    """
    Paths of PNG files below a folder, for every view of every row.

    A picture is called like the image that its codes were made of, with the ending of a PNG; where that gives two of
    them one name, all keep their old ending before the new one.

    Args:
        ids (`Sequence[str]`): Of the rows; whatever they are.
        views (`Sequence[str]`): Names of the views; several become part of the names.

    Returns:
        `list[str]`: Row by row, all different.

    Raises:
        ValueError: Two rows have one id.
    """
    endings = [f"-{safe_part(view)}.png" for view in views] if len(views) > 1 else [".png"]
    whole = ["/".join(map(safe_part, filter(None, name.split("/")))) or "image" for name in ids]
    stems = [_without_ending(name) for name in whole]
    if len({stem.casefold() for stem in stems}) < len(stems):  # some file systems do not tell A from a
        stems = whole
    names = [stem + ending for stem in stems for ending in endings]
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name, path in zip(ids, whole, strict=True) if path in seen or seen.add(path))
        raise ValueError(f"codes: the id {twice!r} belongs to several rows, whose pictures would have one name")
    return names


def safe_part(part: str) -> str:
    """One part of a path, as it is if it can be a name everywhere."""
    part = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", part)
    if len(part.encode(errors="replace")) <= _MAX_BYTES:
        return part
    return f"{part[: _MAX_BYTES // 4 - 20]}-{sha256(part.encode(errors='replace')).hexdigest()[:16]}"


def _without_ending(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in IMAGE_SUFFIXES else name
