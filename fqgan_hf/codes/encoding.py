# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The work of `encode`, when all that could be checked without it is checked.

Whatever the form, codes are first a store: shards in a folder, each of which appears complete or not at all. Any
number of processes fills it, and when they are stopped the next ones go on. A single file is joined from a store
beside it, in `.<name>.parts`, which is then removed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image

from fqgan_hf.codes.code_files import join_store, open_codes
from fqgan_hf.codes.crops import center_crop, native_crop, to_pixel_values
from fqgan_hf.codes.encode import NATIVE, EncodedImages, is_single_file
from fqgan_hf.codes.inputs import open_inputs
from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.round_trip import check_round_trip
from fqgan_hf.codes.shards import fill_store
from fqgan_hf.evaluation.images import BadImages
from fqgan_hf.files import remove
from fqgan_hf.pipelines.inference import load_tokenizer
from fqgan_hf.pipelines.sharing import joined_processes, own_folder


def encode_sources(
    sources: Sequence[str | Path],
    out: Path,
    folder: Path,
    resolution: int | None,
    *,
    model_name: str,
    batch_size: int,
    shard_size: int,
    device: str,
    check: bool,
    skip_bad_images: bool,
    num_workers: int,
    **image_options: Any,
) -> EncodedImages:
    """
    See [`~fqgan_hf.codes.encode.encode_images`].

    Args:
        sources, out, batch_size, shard_size, device, check, skip_bad_images, num_workers, **image_options: See there.
        folder (`Path`): Of the tokenizer, or of a pipeline that has one.
        resolution (`int`, *optional*): Side of the crops in pixels. Without it images keep their own size.
        model_name (`str`): What the user calls the tokenizer.
    """
    with joined_processes(device) as (state, device):
        model = load_tokenizer(folder, device).vqmodel
        with state.main_process_first():
            images = open_inputs(sources, **image_options)
        if resolution is None:
            model.enable_slicing()  # the memory for one photograph, rather than for a batch of them
        manifest = CodesManifest.describe(
            model,
            images,
            tokenizer=model_name,
            crop="plain" if resolution else NATIVE,
            views=["center"],
            resolution=resolution,
            shard_size=shard_size,
            images_fingerprint=images.fingerprint,
        )
        make_views = partial(view_pixels, resolution=resolution, factor=model.downsample_factor)
        with missing_store(state, out, manifest) as store:
            if store is not None:
                fill_store(
                    state,
                    model,
                    images,
                    make_views,
                    store,
                    manifest,
                    batch_size=batch_size,
                    num_workers=num_workers,
                    bad=BadImages(len(images)) if skip_bad_images else None,
                )
        codes = open_codes(out)
        measured = check_round_trip(state, model, images, make_views, codes, batch_size) if check else None
    return EncodedImages(
        out=out,
        num_images=codes.num_rows,
        skipped=codes.manifest.skipped,
        grid=manifest.grid,
        num_codebooks=manifest.num_codebooks,
        codebook_size=manifest.codebook_size,
        check=measured,
    )


def view_pixels(image: Image.Image, resolution: int | None, factor: int) -> list[torch.Tensor]:
    """Pixels `(3, H, W)` in [-1, 1] of the middle of an image: the plain crop, or nearly all of it."""
    return [to_pixel_values(native_crop(image, factor) if resolution is None else center_crop(image, resolution))]


@contextmanager
def missing_store(state: PartialState, out: Path, manifest: CodesManifest) -> Iterator[Path | None]:
    """
    The folder to fill with shards, or None if `out` is a file with these codes already. What was filled becomes `out`.

    Raises:
        ValueError: `out` holds other codes.
        OSError: Another run writes to it.
    """
    if not is_single_file(out):
        with own_folder(state, out, "encodes"):
            yield out
        return
    parts = out.with_name(f".{out.name}.parts")
    if out.is_file():  # which no process can change before all of them have seen it
        _check_same(out, manifest)
        yield None
    else:
        with own_folder(state, parts, "encodes"):
            yield parts
            if state.is_main_process:
                join_store(parts, manifest, out)
    state.wait_for_everyone()
    if state.is_main_process:
        remove(parts)


def _check_same(path: Path, manifest: CodesManifest) -> None:
    if open_codes(path).manifest.identity() != manifest.identity():
        raise ValueError(
            f"out {path} holds other codes (of another tokenizer, other images or another size): remove it, or choose "
            "another name"
        )
