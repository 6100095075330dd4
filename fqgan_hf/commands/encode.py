# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan encode`: images to codes in files; from Python `fqgan_hf.encode_images`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.commands.options import Command, add_device_argument, add_tokenizer_argument, number, positive_int
from fqgan_hf.pipelines.inference import quiet_libraries


if TYPE_CHECKING:
    from fqgan_hf.codes.encode import EncodedImages


def size(text: str) -> int | str:
    """Argument type: a number of pixels, or "native"."""
    return text if text == "native" else positive_int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="picture files and folders of pictures; or one folder of images (a subfolder per class), parquet or "
        "webdataset files, a folder of `fqgan sample`, an .npz file, a dataset with --split",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a .parquet, .npz or .safetensors file, or a folder, as train_far reads",
    )
    add_tokenizer_argument(parser)
    parser.add_argument(
        "--size",
        type=size,
        help='scale and crop to this many pixels a side; "native": each image keeps its size; default: the '
        "tokenizer's own",
    )
    parser.add_argument("--check", action="store_true", help="also decode, and measure what the codes have kept")
    parser.add_argument(
        "--batch_size", type=positive_int, default=16, help="images at a time in each process; default: %(default)s"
    )
    parser.add_argument(
        "--shard_size",
        type=positive_int,
        default=1000,
        help="images that a process takes at a time, and loses when it is stopped; default: %(default)s",
    )
    parser.add_argument("--num_workers", type=number(int, 0), default=0, help="processes that read images; default: 0")
    parser.add_argument("--skip_bad_images", action="store_true", help="leave out up to 1%% that cannot be read")
    parser.add_argument("--split", help="of a local dataset or one on the Hub")
    parser.add_argument("--image_column", help="where it has several")
    parser.add_argument("--label_column", help="where it is not called label")
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    from fqgan_hf.codes.encode import check_encoding, encode_images

    check_encoding(arguments.images, arguments.out, arguments.model, arguments.size, arguments.split)
    quiet_libraries(arguments.debug)
    if not arguments.debug:
        import datasets

        datasets.disable_progress_bars()  # of the list of files, which is read in no time
    done = encode_images(
        arguments.images,
        arguments.out,
        model=arguments.model,
        size=arguments.size,
        batch_size=arguments.batch_size,
        shard_size=arguments.shard_size,
        device=arguments.device,
        check=arguments.check,
        skip_bad_images=arguments.skip_bad_images,
        num_workers=arguments.num_workers,
        split=arguments.split,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
    )
    from accelerate import PartialState

    if PartialState().is_main_process:
        print("\n".join(_lines(done)))


def _lines(done: "EncodedImages") -> list[str]:
    """What was done, in words."""
    grids = "grids of their own sizes" if done.grid is None else f"grids of {done.grid[0]}x{done.grid[1]}"
    codebooks = "1 codebook" if done.num_codebooks == 1 else f"{done.num_codebooks} codebooks"
    lines = [f"{done.out} holds the codes of {done.num_images} images: {codebooks} of {done.codebook_size}, {grids}"]
    if done.skipped:
        some = ", ".join(done.skipped[:3]) + (", ..." if len(done.skipped) > 3 else "")
        lines.append(f"left out, since they cannot be read: {len(done.skipped)} images, {some}")
    if done.check is not None:
        kept = ", ".join(f"{share:.1%}" for share in done.check.codes_kept)
        lines.append(
            f"decoded again: PSNR {done.check.mean_psnr:.2f} dB in the mean, {done.check.min_psnr:.2f} dB at least "
            f"({done.check.min_id}); codes that encoding then gives again, by codebook: {kept}"
        )
    return lines


COMMAND = Command(
    name="encode",
    summary="images to codes in a file, for decoding and training",
    description=(
        "Encode images and write their codes as plain integer grids, with the fingerprint of the tokenizer. Stopped\n"
        "anywhere, the same command goes on. Several processes share the work:\n"
        "accelerate launch -m fqgan_hf.cli encode ..."
    ),
    examples=(
        "  fqgan encode *.jpg --model user/fqgan-dual-f16 --size native --out codes.npz --check\n"
        "  fqgan encode imagenet/train --model user/fqgan-dual-f16 --out codes/\n"
        "  fqgan encode uoft-cs/cifar10 --split test --size 32 --out codes.parquet"
    ),
    add_arguments=add_arguments,
    run=run,
)
