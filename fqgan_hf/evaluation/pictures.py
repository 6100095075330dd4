# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures in a labelled grid, and whether a file can hold one. PIL is all it needs.

save_image(image_grid(rows, row_captions=["original", "reconstruction"]), "grid.png")
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fqgan_hf.failures import first_line
from fqgan_hf.files import atomic_path, check_writable


def _font(size: int):
    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError):  # Pillow without FreeType has one small bitmap font
        return ImageFont.load_default()


def _wrap(draw: ImageDraw.ImageDraw, text: str, font, width: float) -> str:
    """Break a caption into lines of at most `width` pixels, between words only."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            candidate = f"{line} {word}".strip()
            if line and draw.textlength(candidate, font=font) > width:
                lines.append(line)
                candidate = word
            line = candidate
        lines.append(line)
    return "\n".join(lines)


def image_grid(
    rows: Sequence[Sequence[Image.Image | None]],
    column_captions: Sequence[str] | None = None,
    row_captions: Sequence[str] | None = None,
    title: str | None = None,
    min_cell_size: int = 96,
    padding: int = 8,
    font_size: int = 14,
) -> Image.Image:
    """Compose pictures into one labelled grid on white.

    Small pictures are enlarged by a whole factor without smoothing, until their longer side has `min_cell_size`
    pixels, so that their pixels stay what they are; larger ones are left alone.

    Args:
        rows: pictures row by row, any sizes and modes; `None` leaves a cell empty, and rows may differ in length.
        column_captions (*optional*): one caption above each column.
        row_captions (*optional*): one caption left of each row.
        title (`str`, *optional*): a line above everything.
        min_cell_size (`int`, defaults to 96): in pixels; 1 never enlarges.
        padding (`int`, defaults to 8): pixels between cells and around the grid.
        font_size (`int`, defaults to 14): of the captions, in pixels; the title is a quarter larger.

    Returns:
        `PIL.Image.Image`: the grid, mode RGB.

    Raises:
        ValueError: no picture at all, something that is no PIL image, a number of captions that doesn't fit, sizes
            below their minimum.
    """
    for name, value, minimum in (
        ("min_cell_size", min_cell_size, 1),
        ("padding", padding, 0),
        ("font_size", font_size, 1),
    ):
        if not isinstance(value, int) or value < minimum:
            raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    cells = [[_cell(image, min_cell_size) for image in row] for row in rows]
    if not any(cell is not None for row in cells for cell in row):
        raise ValueError("rows must hold at least one image, got none")
    num_columns = max(len(row) for row in cells)
    for name, captions, number in (
        ("column_captions", column_captions, num_columns),
        ("row_captions", row_captions, len(cells)),
    ):
        if captions is not None and (isinstance(captions, str) or len(captions) != number):
            raise ValueError(f"{name} must be a list of {number} captions, got {captions!r}")

    font, title_font = _font(font_size), _font(round(font_size * 1.25))
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))  # measures text

    def text_size(text: str, font) -> tuple[int, int]:
        left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
        # At least one line high whatever the letters, so that captions of a row share a baseline.
        return math.ceil(right), max(math.ceil(bottom), round(font_size * 1.2)) if text else 0

    columns = [[row[column] for row in cells if column < len(row)] for column in range(num_columns)]
    widths = [max((cell.width for cell in column if cell), default=0) for column in columns]
    heights = [max((cell.height for cell in row if cell), default=0) for row in cells]

    header_height = 0
    if column_captions is not None:
        column_captions = [
            _wrap(draw, caption, font, width) for caption, width in zip(column_captions, widths, strict=True)
        ]
        sizes = [text_size(caption, font) for caption in column_captions]
        # Words are not broken: one that is wider than its column widens it.
        widths = [max(width, size[0]) for width, size in zip(widths, sizes, strict=True)]
        header_height = max(size[1] for size in sizes) + padding
    side_width = 0
    if row_captions is not None:
        row_captions = [_wrap(draw, caption, font, 12 * font_size) for caption in row_captions]
        sizes = [text_size(caption, font) for caption in row_captions]
        side_width = max(size[0] for size in sizes) + padding
        heights = [max(height, size[1]) for height, size in zip(heights, sizes, strict=True)]
    body_width = side_width + sum(widths) + padding * (num_columns - 1)
    title_height = 0
    if title:
        title = _wrap(draw, title, title_font, max(body_width, 24 * font_size))
        title_width, title_height = text_size(title, title_font)
        title_height += padding
        body_width = max(body_width, title_width)

    total_height = title_height + header_height + sum(heights) + padding * (len(cells) - 1)
    grid = Image.new("RGB", (body_width + 2 * padding, total_height + 2 * padding), "white")
    draw = ImageDraw.Draw(grid)
    ink, edge = "#222222", "#cccccc"
    if title:
        draw.multiline_text((padding, padding), title, fill=ink, font=title_font)
    lefts = [padding + side_width + sum(widths[:column]) + padding * column for column in range(num_columns)]
    tops = [padding + title_height + header_height + sum(heights[:row]) + padding * row for row in range(len(cells))]
    for left, width, caption in zip(lefts, widths, column_captions or [], strict=column_captions is not None):
        bottom = padding + title_height + header_height - padding // 2
        size = text_size(caption, font)
        draw.multiline_text(
            (left + (width - size[0]) // 2, bottom - size[1]), caption, fill=ink, font=font, align="center"
        )
    for top, height, caption in zip(tops, heights, row_captions or [], strict=row_captions is not None):
        size = text_size(caption, font)
        place = (side_width - size[0], top + (height - size[1]) // 2)
        draw.multiline_text(place, caption, fill=ink, font=font, align="right")
    for top, height, row in zip(tops, heights, cells, strict=True):
        for left, width, cell in zip(lefts, widths, row, strict=False):
            if cell is None:
                continue
            x, y = left + (width - cell.width) // 2, top + (height - cell.height) // 2
            grid.paste(cell, (x, y))
            if padding >= 2:  # a hairline outside the picture shows where a white one ends
                draw.rectangle((x - 1, y - 1, x + cell.width, y + cell.height), outline=edge)
    return grid


def _cell(image: Image.Image | None, min_cell_size: int) -> Image.Image | None:
    if image is None:
        return None
    if not isinstance(image, Image.Image) or 0 in image.size:
        got = f"an image of size {image.size}" if isinstance(image, Image.Image) else type(image).__name__
        raise ValueError(f"rows must hold PIL images with at least one pixel, or None, got {got}")
    factor = max(1, math.ceil(min_cell_size / max(image.size)))
    return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


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
