# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a tokenizer's codes and reconstructions are like: codebook usage and overlap, PSNR, pictures in a grid.

Shapes: B batch, K codebooks, V codebook size, C channels, H W pixels. Code grids are (B, K, h, w), the tokenizer's
order.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from PIL import Image, ImageDraw, ImageFont


def _check_codes(codes, num_codebooks: int | None = None, codebook_size: int | None = None) -> torch.Tensor:
    """Integer codes (B, K, ...) -> int64 (K, N) on the CPU."""
    if not isinstance(codes, torch.Tensor):
        raise ValueError(f"codes must be a torch tensor, got {type(codes).__name__}")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes must be of an integer type, got {codes.dtype}")
    if codes.ndim < 2 or (num_codebooks is not None and codes.shape[1] != num_codebooks):
        expected = "K" if num_codebooks is None else num_codebooks
        raise ValueError(f"codes must have shape (B, {expected}, ...), got {tuple(codes.shape)}")
    codes = codes.detach().to("cpu", torch.int64).transpose(0, 1).flatten(1)
    if codes.numel():
        low, high = codes.aminmax()
        if low < 0 or (codebook_size is not None and high >= codebook_size):
            upper = "non-negative" if codebook_size is None else f"in [0, {codebook_size - 1}]"
            raise ValueError(f"codes must be {upper}, got values in [{low}, {high}]")
    return codes


class CodebookUsage:
    """Counts how often each code of each codebook occurs, over any number of batches, devices and processes.

    Example:

        usage = CodebookUsage(model.config.num_codebooks, model.config.codebook_size)
        for pixel_values in batches:
            usage.update(model.encode(pixel_values).codes)
        usage.all_reduce()
        print(usage.usage, usage.perplexity)

    Args:
        num_codebooks (`int`): K.
        codebook_size (`int`): V.

    Raises:
        ValueError: an argument is no positive integer.
    """

    def __init__(self, num_codebooks: int, codebook_size: int):
        for name, value in (("num_codebooks", num_codebooks), ("codebook_size", codebook_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.reset()

    def reset(self) -> None:
        """Forget everything counted, here and (after `all_reduce`) elsewhere."""
        # Kept apart so that `all_reduce` sends each count once, however often it is called.
        self._unshared = torch.zeros(self.num_codebooks, self.codebook_size, dtype=torch.int64)
        self._shared = torch.zeros_like(self._unshared)

    def update(self, codes: torch.Tensor) -> "CodebookUsage":
        """Count a batch.

        Args:
            codes (`torch.Tensor` of shape **(B, K, ...)**): codes in [0, V - 1], any integer type and device; B may be
                0.

        Returns:
            `CodebookUsage`: itself.

        Raises:
            ValueError: another shape or type, or a code out of range. Nothing is counted then.
        """
        codes = _check_codes(codes, self.num_codebooks, self.codebook_size)
        offsets = torch.arange(self.num_codebooks)[:, None] * self.codebook_size
        counts = torch.bincount((codes + offsets).flatten(), minlength=self._unshared.numel())
        self._unshared += counts.view_as(self._unshared)
        return self

    def merge(self, other: "CodebookUsage") -> "CodebookUsage":
        """Add the counts of `other`. Returns itself; raises `ValueError` unless K and V are the same."""
        if (self.num_codebooks, self.codebook_size) != (other.num_codebooks, other.codebook_size):
            raise ValueError(
                f"other must count {self.num_codebooks} codebooks of {self.codebook_size} codes, "
                f"got {other.num_codebooks} of {other.codebook_size}"
            )
        self._unshared += other._unshared
        self._shared += other._shared
        return self

    def all_reduce(self) -> "CodebookUsage":
        """Make every process's counts the sum over all of them; without `torch.distributed` initialised, do nothing.

        Every process must call it. Calling it again, or going on with `update` after it, counts nothing twice.

        Returns:
            `CodebookUsage`: itself.
        """
        if dist.is_available() and dist.is_initialized():
            counts = self._unshared
            if dist.get_backend() == "nccl":  # the one common backend that takes no CPU tensors
                counts = counts.to(torch.device("cuda", torch.cuda.current_device()))
            counts = counts.clone()
            dist.all_reduce(counts)
            self._shared += counts.cpu()
            self._unshared.zero_()
        return self

    @property
    def counts(self) -> torch.Tensor:
        """Occurrences of each code, int64 **(K, V)**."""
        return self._shared + self._unshared

    @property
    def num_positions(self) -> int:
        """Number of positions counted: each gives one code per codebook."""
        return int(self.counts[0].sum())

    @property
    def num_used(self) -> torch.Tensor:
        """Codes that occurred at least once, int64 **(K,)**."""
        return (self.counts > 0).sum(dim=1)

    @property
    def usage(self) -> torch.Tensor:
        """Share of the codebook that occurred at least once, float64 **(K,)** in [0, 1]."""
        return self.num_used.double() / self.codebook_size

    @property
    def perplexity(self) -> torch.Tensor:
        """Exponential of the entropy of the codes' frequencies, float64 **(K,)** in [1, V]; 0 before the first code.

        V for uniformly used codes, 1 when a single code is ever used.
        """
        counts = self.counts.double()
        totals = counts.sum(dim=1)
        frequencies = counts / totals.clamp(min=1)[:, None]
        return torch.where(totals > 0, torch.special.entr(frequencies).sum(dim=1).exp(), 0.0)

    def __repr__(self) -> str:
        used = ", ".join(str(int(number)) for number in self.num_used)
        return f"CodebookUsage({self.num_positions} positions; codes used of {self.codebook_size}: {used})"


def codebook_overlap(codes: torch.Tensor, adjusted: bool = False, seed: int = 0) -> torch.Tensor:
    """Normalised mutual information between every two codebooks: how much one's code tells about the other's.

    ``NMI(a, b) = I(a; b) / ((H(a) + H(b)) / 2)``: 0 for independent codes, 1 when each determines the other. Codes
    occur in few of their V x V pairs, so only pairs that occur are counted.

    With few positions per code, independent codebooks share much information by chance (65,536 positions over two
    codebooks of 16,384 uniformly used codes: NMI 0.86). `adjusted=True` subtracts what is left when the positions of
    one codebook are shuffled, from both parts of the fraction: chance level becomes 0 (within noise, so slightly
    negative values occur) and 1 stays 1.

    Args:
        codes (`torch.Tensor` of shape **(B, K, ...)**): any integer type and device, not empty, each at least 0.
        adjusted (`bool`, defaults to `False`): correct for chance.
        seed (`int`, defaults to 0): of that shuffle.

    Returns:
        `torch.Tensor` float64 **(K, K)**, symmetric, diagonal 1. A codebook that uses one code only shares nothing: 0.

    Raises:
        ValueError: another shape or type, negative or no codes.

    Source: Vinh, Epps & Bailey 2010, *Information Theoretic Measures for Clusterings Comparison* (NMI and AMI with the
    mean of the entropies; the expectation is by permutation here).
    """
    codes = _check_codes(codes)
    num_codebooks, num_positions = codes.shape
    if num_positions == 0:
        raise ValueError("codes must hold at least one position, got none")
    # Ranks among the codes that occur keep pair numbers small, however large the codes are.
    codes = torch.stack([row.unique(return_inverse=True)[1] for row in codes]) if num_codebooks else codes
    entropies = [_entropy(row) for row in codes]
    shuffle = torch.randperm(num_positions, generator=torch.Generator().manual_seed(seed))
    overlap = torch.eye(num_codebooks, dtype=torch.float64)
    for a in range(num_codebooks):
        for b in range(a):
            pairs = codes[a] * num_positions + codes[b]  # ranks are below num_positions
            information = entropies[a] + entropies[b] - _entropy(pairs)
            ceiling = (entropies[a] + entropies[b]) / 2
            if adjusted:
                shuffled_pairs = codes[a] * num_positions + codes[b][shuffle]
                chance = entropies[a] + entropies[b] - _entropy(shuffled_pairs)
                information, ceiling = information - chance, ceiling - chance
            # Nothing to share (or nothing beyond chance): 0 / 0 up to round-off.
            overlap[a, b] = overlap[b, a] = information / ceiling if ceiling > 1e-9 else 0.0
    return overlap if adjusted else overlap.clamp(0, 1)


def _entropy(symbols: torch.Tensor) -> float:
    """In nats, of the frequencies of the values in a 1-D tensor."""
    counts = symbols.unique(return_counts=True)[1].double()
    return float(torch.special.entr(counts / counts.sum()).sum())


def psnr(original: torch.Tensor, reconstruction: torch.Tensor, quantize: bool = True) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image, ``10 log10(peak² / mean squared error)``, in dB.

    Args:
        original (`torch.Tensor` of shape **(B, C, H, W)**): pixels in [-1, 1].
        reconstruction (`torch.Tensor` of the same shape): values outside [-1, 1] are clamped, as they are when it is
            saved.
        quantize (`bool`, defaults to `True`): first round both to 8 bits, so that the figure is that of the saved
            pictures (peak 255). `False` compares the values as they are (peak 2, the range of [-1, 1]).

    Returns:
        `torch.Tensor` float64 **(B,)** on the CPU; infinite where the images are equal.

    Raises:
        ValueError: shapes that differ or are not 4-D, non-finite values, an `original` outside [-1, 1].
    """
    if original.ndim != 4 or original.shape != reconstruction.shape:
        raise ValueError(
            "original and reconstruction must have the same shape (B, C, H, W), "
            f"got {tuple(original.shape)} and {tuple(reconstruction.shape)}"
        )
    images = []
    for name, image in (("original", original), ("reconstruction", reconstruction)):
        if not image.is_floating_point():
            raise ValueError(f"{name} must hold floats in [-1, 1], got {image.dtype}")
        image = image.detach().to("cpu", torch.float64)
        if not image.isfinite().all():
            raise ValueError(f"{name} must hold finite values, got NaN or infinity")
        images.append(image)
    if original.numel() and images[0].abs().max() > 1 + 1e-3:
        low, high = images[0].aminmax()
        raise ValueError(f"original must lie in [-1, 1], got values in [{low:g}, {high:g}]")
    peak = 2.0
    images = [image.clamp(-1, 1) for image in images]
    if quantize:
        peak = 255.0
        images = [((image + 1) * 127.5).round() for image in images]
    error = (images[0] - images[1]).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(peak**2 / error)


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
