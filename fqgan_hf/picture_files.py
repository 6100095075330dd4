# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures on disk: complete or absent, and known to be possible before the work for them is done."""

import io
import os
from pathlib import Path

from PIL import Image

from fqgan_hf.failures import first_line
from fqgan_hf.files import atomic_path, check_writable


def is_image_path(path: Path) -> bool:
    """Whether Pillow writes a picture of that name."""
    Image.init()
    return Image.EXTENSION.get(path.suffix.lower()) in Image.SAVE


def check_image_path(path: Path) -> None:
    """Raise `ValueError` or `OSError`, before the long work rather than after it, if no picture can go there."""
    if path.is_dir():
        raise ValueError(f"--out must be the name of a picture, got the folder {path}")
    if not is_image_path(path):
        raise ValueError(f"--out must end in a picture format such as .png or .jpg, got {path}")
    check_writable(path)


def check_image_format(path: Path, image: Image.Image) -> None:
    """
    Raise `ValueError` unless the format that the name of `path` stands for holds a picture of that size and mode.

    JPEG ends at 65,500 pixels a side, WebP at 16,383; icons are scaled down in silence; some formats take no colours.
    """
    name, buffer = Image.EXTENSION[path.suffix.lower()], io.BytesIO()
    size = f"{image.width} x {image.height} pixels"
    try:
        image.save(buffer, format=name)
        if name in Image.OPEN:
            with Image.open(buffer) as written:
                if written.size != image.size:
                    raise ValueError(f"it would become {written.width} x {written.height}")
    except Exception as error:  # each of Pillow's writers has errors of its own
        raise ValueError(f"--out {path}: {name} cannot hold a picture of {size}: {first_line(error)}") from error


def save_image(image: Image.Image, path: str | os.PathLike) -> None:
    """Write a picture so that a reader never sees half of it."""
    with atomic_path(path) as temporary:
        image.save(temporary)
