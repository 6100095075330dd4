# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Label maps in picture files: the value of a pixel is the number of its label, not a brightness.

They are read as palette pictures (mode "P"), which Pillow scales by nearest neighbour whatever it is asked for: labels
have no values in between. The palette itself means nothing here.
"""

import os
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from fqgan_hf.modeling.image_processing_fqgan import DEFAULT_MAX_PIXELS


LABEL_MODE = "P"
_STORED_MODES = ("1", "L", "P")
_LOSSLESS_FORMATS = ("PNG", "GIF", "BMP", "TIFF", "PPM")  # as JPEG stores a map, labels come out changed


def load_label_map(path_or_file: str | os.PathLike | BinaryIO, num_labels: int) -> Image.Image:
    """
    Read a label map.

    Args:
        path_or_file (`str`, `os.PathLike` or binary file object): A picture of one channel or with a palette.
        num_labels (`int`): Labels are in [0, num_labels).

    Returns:
        `PIL.Image.Image`: Of mode "P", whose values are the labels.

    Raises:
        ValueError: It is no such picture, or a label is out of range.
        OSError: The file cannot be opened.
    """
    Image.init()  # fills Image.OPEN with the formats of this build of Pillow
    if isinstance(path_or_file, (str, os.PathLike)):
        with open(path_or_file, "rb") as file:
            return load_label_map(file, num_labels)
    try:
        image = Image.open(path_or_file, formats=[name for name in _LOSSLESS_FORMATS if name in Image.OPEN])
    except Exception as error:  # another format, or a header damaged in any way
        raise ValueError(f"it must be a label map in a {', '.join(_LOSSLESS_FORMATS)} file: {error}") from error
    if image.mode not in _STORED_MODES:
        raise ValueError(f"a label map must have one channel of 8 bits or a palette, got mode {image.mode}")
    if image.width * image.height > DEFAULT_MAX_PIXELS:
        raise ValueError(f"it must have at most {DEFAULT_MAX_PIXELS:,} pixels, got {image.width} x {image.height}")
    try:
        labels = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint8)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise ValueError(f"it cannot be decoded: {error}") from error
    if labels.size and labels.max() >= num_labels:
        raise ValueError(f"labels must be in [0, {num_labels - 1}], got {labels.max()}")
    return label_picture(labels)


def label_picture(labels: np.ndarray) -> Image.Image:
    """Labels `(H, W)` in [0, 255] as a picture of mode "P", as `load_label_map` gives it."""
    height, width = labels.shape
    return Image.frombytes(LABEL_MODE, (width, height), labels.astype(np.uint8).tobytes())


def labels_of(image: Image.Image) -> np.ndarray:
    """The labels `(H, W)`, int64, of a picture as `load_label_map` gives it."""
    return np.asarray(image).astype(np.int64)
