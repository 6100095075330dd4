# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From images to a store of codes, as `fqgan_hf.training.extract_codes` runs it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import Accelerator, PartialState

from fqgan_hf.codes.encode import check_storable
from fqgan_hf.codes.manifest import MapCodes, check_can_draw
from fqgan_hf.codes.shards import fill_store
from fqgan_hf.evaluation.conditions import ImageConditions
from fqgan_hf.evaluation.images import load_images
from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pretrained import load_pretrained
from fqgan_hf.training.common.launch import check_launch, own_folder
from fqgan_hf.training.data.codes import check_encodes_pictures, describe_codes
from fqgan_hf.training.data.crops import make_views


if TYPE_CHECKING:
    from fqgan_hf.training.extract_codes import ExtractCodesArguments


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
    model = _load_tokenizer(accelerator, args.tokenizer, "tokenizer")
    check_encodes_pictures(model, args.tokenizer)
    if args.stochastic:
        check_can_draw(model.config)
    map_model = None
    if args.map_tokenizer is not None:
        map_model = _load_tokenizer(accelerator, args.map_tokenizer, "map_tokenizer")
    resolution = args.resolution or model.config.sample_size
    for encoder in filter(None, (model, map_model)):
        encoder.grid_size(resolution, resolution)  # raises for a resolution that the tokenizer cannot encode
    if accelerator.is_main_process:
        (folder / "bad_images.txt").unlink(missing_ok=True)  # of a run that was stopped: shards know their own
    with accelerator.main_process_first():
        images = load_images(args)
    manifest = describe_codes(model, args.tokenizer, images, args.crop, resolution, args.shard_size, args.seed)
    conditions = None
    if args.caption_column or args.map_column:
        num_labels = None if map_model is None else map_model.config.num_labels
        conditions = ImageConditions(images, args.caption_column or (), args.map_column, num_labels)
        conditions.check()
        map_codes = None if map_model is None else MapCodes.describe(map_model, args.map_tokenizer, resolution)
        manifest = manifest.with_conditions(bool(args.caption_column), map_codes, conditions.columns)
    fill_store(
        PartialState(),
        model,
        images,
        partial(make_views, crop=args.crop, size=resolution),
        folder,
        manifest,
        batch_size=args.batch_size,
        num_workers=args.dataloader_num_workers,
        bad=images.bad,
        conditions=conditions,
        map_model=map_model,
    )


def _load_tokenizer(accelerator: Accelerator, name: str, option: str) -> FQGANModel:
    """A tokenizer on the device of this process, whose codes can be stored."""
    model = load_pretrained(FQGANModel, name, option).to(accelerator.device).eval()
    check_storable(model.config.codebook_size)
    return model
