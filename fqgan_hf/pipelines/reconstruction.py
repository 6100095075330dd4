# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What `FQGANPipeline.reconstruct` gives, and picture files reconstructed into one grid: `fqgan reconstruct`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from tqdm import tqdm

from fqgan_hf.evaluation.codebooks import CodebookUsage
from fqgan_hf.evaluation.pictures import check_image_format, image_grid, save_image
from fqgan_hf.failures import first_line
from fqgan_hf.hub.facts import codebook_names
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor, load_image
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


if TYPE_CHECKING:
    from fqgan_hf.pipelines.pipeline_fqgan import FQGANPipeline


EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Reconstruction:
    """
    One image through a tokenizer.

    Args:
        pictures (`list[PIL.Image.Image]`):
            The original as the tokenizer sees it, its reconstruction from all codebooks and, where there are several,
            from each codebook alone.
        captions (`list[str]`): What each picture is.
        psnr (`float`): Of the reconstruction from all codebooks, in dB.
        codes (`torch.LongTensor` of shape `(1, num_codebooks, height / f, width / f)`): On the CPU.
        usage ([`CodebookUsage`]): How many different codes the image has of each codebook.
    """

    pictures: list[Image.Image]
    captions: list[str]
    psnr: float
    codes: torch.Tensor
    usage: CodebookUsage


@dataclass(frozen=True)
class ReconstructedFiles:
    """
    What became of a list of picture files.

    Args:
        done (`list[tuple[Path, Reconstruction]]`): Rows of the grid.
        left_out (`list[tuple[Path, str]]`): Files that could not be read, each with the reason.
        names (`list[str]`): Of the codebooks.
        usage ([`CodebookUsage`]): Of all images together.
    """

    done: list[tuple[Path, Reconstruction]]
    left_out: list[tuple[Path, str]]
    names: list[str]
    usage: CodebookUsage


def reconstruct_files(
    pipe: "FQGANPipeline", paths: Sequence[Path], out: Path, size: int | None = None
) -> ReconstructedFiles:
    """
    Reconstruct picture files and write original and reconstructions as a grid, with a row per file.

    Of several files those that cannot be read are left out. A progress bar shows every block of the tokenizer.

    Args:
        pipe ([`FQGANPipeline`]): The tokenizer, on its device.
        paths (`Sequence[Path]`): Picture files of any size.
        out (`Path`): The grid.
        size (`int`, *optional*): Scale and crop to this many pixels a side, in place of the image processor's size.

    Raises:
        ValueError: The size does not suit the tokenizer, the grid does not fit the format of `out`, both before
            anything is computed; or no file can be read.
        OSError: As for the only file, or `out` cannot be written.
    """
    config, processor = pipe.vqmodel.config, pipe.image_processor
    _check_size(pipe, size)
    names = codebook_names(config.num_codebooks, config.feature_dims)
    captions = reconstruction_captions(names)
    blanks = [[_blank_picture(path, processor, size)] * len(captions) for path in paths]
    check_image_format(out, image_grid(blanks, captions, _row_captions(paths, len(paths))))

    result = ReconstructedFiles([], [], names, CodebookUsage(config.num_codebooks, config.codebook_size))
    with _block_progress(pipe.vqmodel, len(paths), num_decodings=len(captions) - 1):
        for path in paths:
            try:
                (image,) = pipe.reconstruct(load_image(path, max_pixels=processor.max_pixels), size)
            except (ValueError, OSError) as error:
                if len(paths) == 1:
                    raise
                result.left_out.append((path, first_line(error)))
            else:
                result.usage.merge(image.usage)
                result.done.append((path, image))
    if not result.done:
        path, reason = result.left_out[0]
        raise ValueError(f"none of {len(paths)} images could be read, nothing was written: {path}: {reason}")
    rows = [image.pictures for _, image in result.done]
    save_image(image_grid(rows, captions, _row_captions([path for path, _ in result.done], len(paths))), out)
    return result


def reconstruction_captions(names: list[str]) -> list[str]:
    """Captions of `Reconstruction.pictures`, for codebooks of these names."""
    if len(names) == 1:
        return ["original", "reconstruction"]
    both = "both codebooks" if len(names) == 2 else "all codebooks"
    return ["original", both, *(f"{name} only" for name in names)]


def describe_usage(usage: CodebookUsage, names: list[str]) -> str:
    """Codes used of each codebook, in words."""
    used = ", ".join(f"{name} {number}" for name, number in zip(names, usage.num_used.tolist(), strict=True))
    return f"codes used of {usage.codebook_size} at {usage.num_positions} positions: {used}"


def _row_captions(paths: Sequence[Path], num_asked_for: int) -> list[str] | None:
    """The files' names; none where a single picture was asked for, which needs no telling apart."""
    return [path.name for path in paths] if num_asked_for > 1 else None


def _check_size(pipe: "FQGANPipeline", size: int | None) -> None:
    """Raise `ValueError` for a size that the tokenizer cannot encode; say on stderr where it will take long."""
    if size is None:
        return
    model, factor = pipe.vqmodel, pipe.vqmodel.downsample_factor
    if size % factor:
        raise ValueError(f"--size must be divisible by the downsampling factor {factor}, got {size}")
    if size**2 > pipe.image_processor.max_pixels:
        raise ValueError(f"--size must give at most {pipe.image_processor.max_pixels:,} pixels, got {size} x {size}")
    trained = model.config.sample_size
    if size > trained and (size // factor) ** 2 >= 4096:
        print(
            f"at {size} pixels {(size // factor) ** 2:,} positions attend to each other: that part takes "
            f"{(size / trained) ** 4:,.0f} times as long as at {trained} pixels",
            file=sys.stderr,
        )


def _blank_picture(path: Path, processor: FQGANImageProcessor, size: int | None) -> Image.Image:
    """A picture of the size that the reconstruction of a file will have, from its header."""
    size = processor.size if size is None else size
    if size is not None:
        return Image.new("RGB", (size["width"], size["height"]) if isinstance(size, dict) else (size, size))
    try:
        with Image.open(path) as image:
            is_turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = image.size[::-1] if is_turned else image.size
    except Exception:  # it will be left out, with the reason
        width = height = 1
    return Image.new("RGB", (width, height) if width * height <= processor.max_pixels else (1, 1))


@contextmanager
def _block_progress(model: FQGANModel, num_images: int, num_decodings: int) -> Iterator[None]:
    """A bar that moves with every block of encoder and decoder: one image may take minutes. Shown after a second."""
    kinds = (ResnetBlock2D, Attention, BasicTransformerBlock)
    encoding, decoding = (
        [block for part in parts for block in part.modules() if isinstance(block, kinds)]
        for parts in ((model.encoder, model.branches), (model.decoder,))
    )
    total = num_images * (len(encoding) + num_decodings * len(decoding))
    with tqdm(total=total, desc="reconstructing", unit="block", delay=1) as bar:
        hooks = [block.register_forward_hook(lambda *_: bar.update() and None) for block in (*encoding, *decoding)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
