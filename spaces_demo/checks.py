# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What was sent to the page -> numbers, pictures and codes, or an error that says what is accepted.

Handlers see what was sent as it was sent: JSON of any kind, whoever wrote it. Files are those that `guard.read_upload`
gives.

Shapes: K codebooks, h w grid of codes, H W pixels.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from guard import read_upload, user_error
from PIL import Image, ImageOps


MAX_TEXT = 1000  # characters of a prompt

# Others that Pillow reads start programs (EPS), take gigabytes for a kilobyte (BMP) or are scarcely tested against
# hostile files. A JPEG may have any number of scans of a few bytes, each of which passes over the whole picture.
FILE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_SCANS = 100
MAX_PIXELS = 64_000_000  # 200 MB as RGB: more than the cameras of telephones usually make

NPY_MAGIC = b"\x93NUMPY"
MAX_NPY_HEADER = 4096
LABEL_MODES = ("1", "L", "P")  # pictures whose values may be labels
NEAREST, AVERAGE = Image.Resampling.NEAREST, Image.Resampling.BOX


# ---- Values ---------------------------------------------------------------------------------------------------------


def check_number(name: str, value: Any, minimum: float, maximum: float, whole: bool = False) -> Any:
    """A number from the page or from anybody who calls the address behind it; NaN is in no range."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not minimum <= value <= maximum or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise user_error(f"{name} must be {kind} between {minimum:,} and {maximum:,}, got {value!r:.40}")
    return int(value) if whole else float(value)


def check_flag(name: str, value: Any) -> bool:
    """True or false, and nothing that would pass for it."""
    if not isinstance(value, bool):
        raise user_error(f"{name} must be true or false, got {value!r:.40}")
    return value


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        raise user_error(f"{name} must be one of {', '.join(choices)}, got {value!r:.40}")
    return value


def check_choices(name: str, value: Any, choices: Sequence[str]) -> list[str]:
    """Some of a few words, in their order, each once."""
    is_list = isinstance(value, list) and all(isinstance(one, str) and one in choices for one in value)
    if not is_list:
        raise user_error(f"{name} must be a list of some of {', '.join(choices)}, got {value!r:.60}")
    return [choice for choice in choices if choice in value]


def check_text(name: str, value: Any, is_optional: bool = False) -> str | None:
    """A text of reasonable length; None for an empty one that need not be there."""
    if is_optional and (value is None or value == ""):
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        got = f"{len(value):,}" if isinstance(value, str) else repr(value)[:40]
        raise user_error(f"{name} must be a text of at most {MAX_TEXT:,} characters, got {got}")
    return value


# ---- Pictures -------------------------------------------------------------------------------------------------------


def read_picture(picture: Any, max_pixels: int, name: str = "The picture") -> Image.Image:
    """
    The picture of an upload as it is meant to be seen, of any mode.

    Args:
        picture (`dict`): The uploaded file, as `guard.check_file` leaves it.
        max_pixels (`int`): Checked before anything is decoded; `MAX_PIXELS` is the limit in any case.
        name (`str`): What errors call it.

    Raises:
        gr.Error: There is none, it is no picture in one of `FILE_FORMATS`, damaged or too large.
    """
    if picture is None:
        raise user_error(f"{name} is missing: upload one")
    content, most = read_upload(picture["path"], name), min(max_pixels, MAX_PIXELS)
    try:
        image = Image.open(io.BytesIO(content), formats=FILE_FORMATS)
    except Image.DecompressionBombError as error:
        raise user_error(f"{name} must have at most {most:,} pixels, got far more") from error
    except Exception as error:  # Pillow raises whatever a damaged header leads it to
        raise user_error(f"{name} must be a {', '.join(FILE_FORMATS)} file that can be read") from error
    with image:
        if image.width * image.height > most:
            got = f"{image.width} x {image.height} = {image.width * image.height:,}"
            raise user_error(f"{name} must have at most {most:,} pixels, got {got}")
        num_scans = content.count(b"\xff\xda")
        if image.format in ("JPEG", "MPO") and num_scans > MAX_SCANS:
            raise user_error(f"{name}, a JPEG, must have at most {MAX_SCANS} scans, got {num_scans:,}")
        try:
            image.load()
        except Exception as error:
            raise user_error(f"{name} must be a readable image, it cannot be decoded") from error
    return image


def read_label_map(picture: Any, size: tuple[int, int], palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """
    A map of labels, painted in the palette's colours or with labels as its values.

    Args:
        picture (`dict`): The uploaded file.
        size (`tuple[int, int]`): Width and height of the map; others are scaled and cut to it.
        palette (`Sequence` of N colours): One for each label.

    Returns:
        Of mode "L", whose values are labels.
    """
    image = read_picture(picture, MAX_PIXELS, "The map")
    if image.mode in LABEL_MODES and np.asarray(image).max() < len(palette):
        labels = Image.fromarray(np.asarray(image).astype(np.uint8))
        return ImageOps.fit(labels, size, NEAREST)
    pixels = np.asarray(ImageOps.fit(_on_white(image), size, NEAREST)).astype(int)
    distances = ((pixels[:, :, None] - np.array(palette)) ** 2).sum(-1)
    return Image.fromarray(distances.argmin(-1).astype(np.uint8))


def read_mask(mask: Any, size: tuple[int, int]) -> Image.Image:
    """
    A mask of an image of this width and height: of mode "L", white where it is to be generated.

    Raises:
        gr.Error: All of it would be generated, or nothing; or as `read_picture` does.
    """
    image = read_picture(mask, MAX_PIXELS, "The mask").convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("L")
    image = image.point([0] * 128 + [255] * 128)
    white = np.asarray(ImageOps.fit(image, size, AVERAGE)) > 0  # no thin line gets lost
    if white.all() or not white.any():
        found = "everything would be generated" if white.all() else "nothing would be generated"
        raise user_error(f"The mask must be white where the picture is painted anew and black elsewhere: {found}")
    return Image.fromarray(white.astype(np.uint8) * 255)


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


# ---- Codes ----------------------------------------------------------------------------------------------------------


def read_codes(file: Any, num_codebooks: int, codebook_size: int, max_side: int) -> np.ndarray:
    """
    The codes of an uploaded .npy file.

    The header is read and checked by itself: NumPy would take as much memory as it claims, and would unpickle.

    Args:
        file (`dict`): The uploaded file.
        num_codebooks, codebook_size (`int`): Of the tokenizer.
        max_side (`int`): Of the grid, in codes.

    Returns:
        `np.ndarray` int64 `(1, K, h, w)`.

    Raises:
        gr.Error: It is no such file, or its shape, type or values are others.
    """
    if file is None:
        raise user_error("The codes are missing: upload a .npy file, as this page gives it")
    content = read_upload(file["path"], "The codes")
    accepted = f"whole numbers of shape ({num_codebooks}, height, width), each side at most {max_side}"
    shape, dtype, offset = _npy_header(content, accepted)
    grid = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    is_whole = dtype.kind in "iu" and dtype.itemsize <= 8
    if not is_whole or len(grid) != 3 or grid[0] != num_codebooks or not all(1 <= n <= max_side for n in grid[1:]):
        raise user_error(f"The codes must be {accepted}, got {dtype} of shape {shape}")
    if len(content) - offset != math.prod(grid) * dtype.itemsize:
        raise user_error(f"The file of codes must hold {math.prod(grid)} numbers after its header: it is damaged")
    codes = np.frombuffer(content, dtype, offset=offset).reshape(grid)
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise user_error(f"The codes must be in [0, {codebook_size - 1}], got {codes.min()} to {codes.max()}")
    return codes.astype(np.int64)[None]


def _npy_header(content: bytes, accepted: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and where the numbers begin."""
    file = io.BytesIO(content)
    try:
        if not content.startswith(NPY_MAGIC):
            raise ValueError("another format")
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = read[np.lib.format.read_magic(file)[0]](file, max_header_size=MAX_NPY_HEADER)
        if is_fortran and len(shape) > 1:
            raise ValueError("another order")
    except Exception as error:  # NumPy's parser raises errors of many kinds
        raise user_error(f"The codes must be a .npy file of {accepted} in C order") from error
    return shape, dtype, file.tell()


def codes_file(codes: np.ndarray) -> bytes:
    """The content of a .npy file of codes `(1, K, h, w)`, as `read_codes` takes it: uint16 `(K, h, w)`."""
    file = io.BytesIO()
    np.save(file, codes[0].astype(np.uint16 if codes.max() < 65536 else np.int64), allow_pickle=False)
    return file.getvalue()
