# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.hub.facts import codebook_names


if TYPE_CHECKING:
    import torch
    from PIL import Image

    from fqgan_hf.modeling.modeling_fqgan import FQGANModel
    from fqgan_hf.pipelines.pipeline_fqgan import FQGANPipeline


@dataclass
class Reconstruction:
    """One image through a tokenizer: `pictures` are the original, all codebooks, then (K > 1) each codebook alone."""

    pictures: list["Image.Image"]
    psnr: float
    codes: "torch.Tensor"


def reconstruct(
    pipe: "FQGANPipeline", image: "Image.Image", size: int | dict[str, int] | None = None
) -> Reconstruction:
    """
    Reconstruct one image from all of its codes and from each codebook alone.

    Args:
        pipe ([`FQGANPipeline`]): The tokenizer.
        image (`PIL.Image.Image`): Any size.
        size (`int` or `dict`, *optional*): Size to work at, in place of the image processor's own.

    Returns:
        [`Reconstruction`], whose `codes` have shape `(1, num_codebooks, height / f, width / f)`.
    """
    import torch

    from fqgan_hf.evaluation.metrics import psnr

    model, processor = pipe.vqmodel, pipe.image_processor
    with torch.no_grad():
        pixel_values = processor(image, size=size)["pixel_values"]
        codes = model.encode(pixel_values.to(model.device, model.dtype)).codes
        samples = [model.decode_codes(codes).sample]
        if codes.shape[1] > 1:
            samples += [model.decode_codes(codes, codebooks=[k]).sample for k in range(codes.shape[1])]
    pictures = processor.postprocess(torch.cat([pixel_values, *(sample.float().cpu() for sample in samples)]))
    quality = psnr(pixel_values, samples[0].float().cpu()).item()
    return Reconstruction(pictures, quality, codes.cpu())


def reconstruction_captions(num_codebooks: int) -> list[str]:
    """Captions of `Reconstruction.pictures`."""
    if num_codebooks == 1:
        return ["original", "reconstruction"]
    both = "both codebooks" if num_codebooks == 2 else "all codebooks"
    return ["original", both, *(f"{name} only" for name in codebook_names(num_codebooks))]


def check_reconstruct_size(pipe: "FQGANPipeline", size: int | None) -> None:
    """Raise `ValueError` for a size that the tokenizer cannot encode; a word where it will take long."""
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


def blank_picture(path: Path, processor, size: int | None) -> "Image.Image":
    """A picture of the size that the reconstruction of a file will have, from its header."""
    from PIL import Image

    size = processor.size if size is None else size
    if size is not None:
        return Image.new("RGB", (size["width"], size["height"]) if isinstance(size, dict) else (size, size))
    try:
        with Image.open(path) as image:
            is_turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientation
            width, height = image.size[::-1] if is_turned else image.size
    except Exception:  # it will be left out, with the reason
        width = height = 1
    return Image.new("RGB", (width, height) if width * height <= processor.max_pixels else (1, 1))


@contextmanager
def block_progress(model: "FQGANModel", num_images: int, num_decodings: int) -> Iterator[None]:
    """A bar that moves with every block of encoder and decoder: one image may take minutes. Shown after a second."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from tqdm import tqdm

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


def describe_usage(usage, names: list[str]) -> str:
    """Codes used of each codebook, in words."""
    used = ", ".join(f"{name} {number}" for name, number in zip(names, usage.num_used.tolist(), strict=True))
    return f"codes used of {usage.codebook_size} at {usage.num_positions} positions: {used}"
