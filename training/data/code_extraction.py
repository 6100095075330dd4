# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From images to a store of codes, as `fqgan_hf.training.extract_codes` runs it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator, PartialState
from PIL import Image

from fqgan_hf.codes.crops import to_pixel_values
from fqgan_hf.codes.encode import check_storable
from fqgan_hf.codes.manifest import check_can_draw
from fqgan_hf.codes.shards import fill_store
from fqgan_hf.evaluation.images import load_images
from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pretrained import load_pretrained
from fqgan_hf.training.common.launch import check_launch, own_folder
from fqgan_hf.training.data.codes import describe_codes
from fqgan_hf.training.data.crops import CROPS


if TYPE_CHECKING:
    from fqgan_hf.training.extract_codes import ExtractCodesArguments


def view_pixels(image: Image.Image, crop: str, resolution: int) -> list[torch.Tensor]:
    """Pixels `(3, H, W)` in [-1, 1] of each view that a way to crop has of an image."""
    return [to_pixel_values(view) for view in CROPS[crop][1](image, resolution)]


def extract(args: "ExtractCodesArguments") -> None:
    """Encode all images, in a folder that no other extraction writes to."""
    raise_if_interrupted()  # some library may have swallowed it while it was imported
    accelerator = Accelerator()
    check_launch(accelerator)
    with own_folder(accelerator, args.output_dir, "extracts codes"):
        _write_codes(accelerator, args)
    accelerator.end_training()


def _write_codes(accelerator: Accelerator, args: "ExtractCodesArguments") -> None:
    """Build and fill the store."""
    folder = Path(args.output_dir)
    model = load_pretrained(FQGANModel, args.tokenizer, "tokenizer").to(accelerator.device).eval()
    resolution = args.resolution or model.config.sample_size
    model.grid_size(resolution, resolution)  # raises for a resolution that the tokenizer cannot encode
    if args.stochastic:
        check_can_draw(model.config)
    check_storable(model.config.codebook_size)
    if accelerator.is_main_process:
        (folder / "bad_images.txt").unlink(missing_ok=True)  # of a run that was stopped: shards know their own
    with accelerator.main_process_first():
        images = load_images(args)
    fill_store(
        PartialState(),
        model,
        images,
        partial(view_pixels, crop=args.crop, resolution=resolution),
        folder,
        describe_codes(model, args.tokenizer, images, args.crop, resolution, args.shard_size, args.seed),
        batch_size=args.batch_size,
        num_workers=args.dataloader_num_workers,
        bad=images.bad,
    )
