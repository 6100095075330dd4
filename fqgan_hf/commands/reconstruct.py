# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.commands.options import add_device_argument, positive_int
from fqgan_hf.evaluation.pictures import check_image_format, check_image_path, save_image
from fqgan_hf.failures import first_line
from fqgan_hf.hub.facts import codebook_names, folder_kind
from fqgan_hf.pipelines.inference import (
    DEMO_PIPELINE,
    choose_device,
    load_tokenizer_pipeline,
    quiet_libraries,
    resolve_folder,
)
from fqgan_hf.pipelines.reconstruction import (
    blank_picture,
    block_progress,
    check_reconstruct_size,
    describe_usage,
    reconstruct,
    reconstruction_captions,
)


if TYPE_CHECKING:
    pass


def add_reconstruct_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files; a row of the grid each")
    parser.add_argument(
        "--model", default=DEMO_PIPELINE, help="tokenizer or pipeline: a folder or a Hub id; default: %(default)s"
    )
    parser.add_argument("--out", type=Path, default=Path("reconstruction.png"), help="the grid; default: %(default)s")
    parser.add_argument(
        "--size", type=positive_int, help="scale and crop to this many pixels a side; default: the model's own size"
    )
    add_device_argument(parser)


def run_reconstruct(arguments: argparse.Namespace) -> None:
    check_image_path(arguments.out)
    missing = [str(path) for path in arguments.images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no file {missing[0]}")
    if arguments.out.exists() and any(arguments.out.samefile(path) for path in arguments.images):
        raise ValueError(f"--out {arguments.out} is one of the images: it would be overwritten")
    folder = resolve_folder(arguments.model)
    if folder_kind(folder) == "FARForImageGeneration":
        raise ValueError(
            f"--model {arguments.model} is a generator and reads no images: give a tokenizer or a pipeline"
        )
    quiet_libraries(arguments)
    from tqdm import tqdm

    from fqgan_hf.evaluation.codebooks import CodebookUsage
    from fqgan_hf.evaluation.pictures import image_grid
    from fqgan_hf.modeling.image_processing_fqgan import load_image

    pipe = load_tokenizer_pipeline(folder).to(choose_device(arguments.device))
    config, processor = pipe.vqmodel.config, pipe.image_processor
    check_reconstruct_size(pipe, arguments.size)
    names, captions = codebook_names(config.num_codebooks), reconstruction_captions(config.num_codebooks)
    row_captions = [path.name for path in arguments.images] if len(arguments.images) > 1 else None
    blanks = [[blank_picture(path, processor, arguments.size)] * len(captions) for path in arguments.images]
    check_image_format(arguments.out, image_grid(blanks, captions, row_captions))

    total = CodebookUsage(config.num_codebooks, config.codebook_size)
    rows, lines, bad = [], [], []
    with block_progress(pipe.vqmodel, len(arguments.images), num_decodings=len(captions) - 1):
        for path in arguments.images:
            try:
                result = reconstruct(pipe, load_image(path, max_pixels=processor.max_pixels), arguments.size)
            except (ValueError, OSError) as error:
                if len(arguments.images) == 1:
                    raise
                bad.append(path.name)
                tqdm.write(f"{path} is left out: {first_line(error)}", file=sys.stderr)
                continue
            usage = CodebookUsage(config.num_codebooks, config.codebook_size).update(result.codes)
            total.merge(usage)
            rows.append((path, result))
            lines.append(f"{path}: PSNR {result.psnr:.2f} dB, {describe_usage(usage, names)}")
    if not rows:
        raise ValueError(f"none of {len(bad)} images could be read, nothing was written")
    row_captions = [path.name for path, _ in rows] if row_captions else None
    save_image(image_grid([result.pictures for _, result in rows], captions, row_captions), arguments.out)
    if len(rows) > 1:
        lines.append(f"together: {describe_usage(total, names)}")
    print("\n".join([*lines, f"wrote {arguments.out}"]), flush=True)
    if bad:
        raise ValueError(f"{len(bad)} of {len(arguments.images)} images were left out: {', '.join(bad)}")
