# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan reconstruct`: images through a tokenizer; from Python `FQGANPipeline.reconstruct`."""

import argparse
import sys
from pathlib import Path

from fqgan_hf.commands.options import Command, add_device_argument, add_tokenizer_argument, positive_int
from fqgan_hf.pipelines.inference import load_tokenizer, quiet_libraries, resolve_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files; a row of the grid each")
    add_tokenizer_argument(parser)
    parser.add_argument("--out", type=Path, default=Path("reconstruction.png"), help="the grid; default: %(default)s")
    parser.add_argument(
        "--size", type=positive_int, help="scale and crop to this many pixels a side; default: the model's own size"
    )
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    from fqgan_hf.evaluation.pictures import check_image_path

    check_image_path(arguments.out)
    missing = [str(path) for path in arguments.images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no file {missing[0]}")
    if arguments.out.exists() and any(arguments.out.samefile(path) for path in arguments.images):
        raise ValueError(f"--out {arguments.out} is one of the images: it would be overwritten")
    folder = resolve_tokenizer(arguments.model, "--model")
    quiet_libraries(arguments.debug)
    from fqgan_hf.pipelines.reconstruction import describe_usage, reconstruct_files

    pipe = load_tokenizer(folder, arguments.device)
    result = reconstruct_files(pipe, arguments.images, arguments.out, arguments.size)
    for path, reason in result.left_out:
        print(f"{path} is left out: {reason}", file=sys.stderr)
    for path, image in result.done:
        print(f"{path}: PSNR {image.psnr:.2f} dB, {describe_usage(image.usage, result.names)}")
    if len(result.done) > 1:
        print(f"together: {describe_usage(result.usage, result.names)}")
    print(f"wrote {arguments.out}", flush=True)
    if result.left_out:
        names = ", ".join(path.name for path, _ in result.left_out)
        raise ValueError(f"{len(result.left_out)} of {len(arguments.images)} images were left out: {names}")


COMMAND = Command(
    name="reconstruct",
    summary="images through a tokenizer: pictures, PSNR and codes used",
    description=(
        "Reconstruct images from all of their codes and from each codebook alone; write the pictures as a grid and\n"
        "print PSNR and codes used."
    ),
    examples=(
        "  fqgan reconstruct photo.jpg --model outputs/demo/pipeline --out grid.png\n"
        "  fqgan reconstruct *.jpg --model user/fqgan-dual-f16 --size 512 --out grid.png"
    ),
    add_arguments=add_arguments,
    run=run,
)
