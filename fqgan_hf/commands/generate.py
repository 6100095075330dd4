# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan generate`: images of given classes; from Python `fqgan_hf.generate_images`."""

import argparse
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.commands.options import (
    Command,
    add_device_argument,
    add_generator_argument,
    add_sampling_arguments,
    positive_int,
    sampling_settings,
    seed_int,
)
from fqgan_hf.files import check_writable
from fqgan_hf.pipelines.inference import generate_images, load_pipeline, quiet_libraries, resolve_pipeline
from fqgan_hf.pipelines.labels import read_labels


if TYPE_CHECKING:
    from PIL import Image


MAX_GENERATED = 10_000  # images of one command, which holds all of them at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_generator_argument(parser)
    parser.add_argument("--class_labels", nargs="+", required=True, metavar="LABEL", help="class ids or names")
    parser.add_argument("--num_images_per_label", type=positive_int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="a picture: a grid with a row per label; any other name: a folder of single images; default: %(default)s",
    )
    parser.add_argument("--seed", type=seed_int, help="default: a random one, which is printed")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="images at a time; default: %(default)s")
    add_sampling_arguments(parser)
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    from fqgan_hf.evaluation.pictures import check_image_path, image_grid, is_image_path, save_image

    as_grid = is_image_path(arguments.out) and not arguments.out.is_dir()
    if as_grid:
        check_image_path(arguments.out)
    elif arguments.out.exists() and not arguments.out.is_dir():
        raise ValueError(f"--out must be a picture (.png, .jpg, ...) or a folder, got the file {arguments.out}")
    else:
        check_writable(arguments.out / "0.png")
    num_each = arguments.num_images_per_label
    if len(arguments.class_labels) * num_each > MAX_GENERATED:
        raise ValueError(
            f"--num_images_per_label must give at most {MAX_GENERATED:,} images, got {len(arguments.class_labels)} x "
            f"{num_each} (`fqgan sample` writes any number)"
        )
    folder = resolve_pipeline(arguments.model, "--model")
    labels, names = read_labels(folder, arguments.class_labels)
    quiet_libraries(arguments.debug)
    from fqgan_hf import optimize

    settings = sampling_settings(arguments)
    pipe = load_pipeline(folder, arguments.device)
    if as_grid:
        _check_grid(arguments.out, pipe.vqmodel.config.sample_size, num_each, names)
    optimize(pipe, compile=False)  # the same images; compiling takes longer than a few of them
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    labels = [label for label in labels for _ in range(num_each)]
    images = generate_images(pipe, labels, seed=seed, batch_size=arguments.batch_size, settings=settings)
    rows = [images[i : i + num_each] for i in range(0, len(images), num_each)]
    if as_grid:
        save_image(image_grid(rows, row_captions=names), arguments.out)
        print(f"wrote {arguments.out} (seed {seed})")
    else:
        _save_folder(rows, names, arguments.out)
        print(f"wrote {len(images)} images to {arguments.out}{os.sep} (seed {seed})")


def _check_grid(path: Path, size: int, num_columns: int, names: list[str]) -> None:
    """Raise `ValueError` if the picture's format has no room for the grid, before the first image is made."""
    from PIL import Image

    from fqgan_hf.evaluation.pictures import check_image_format, image_grid

    blanks = [[Image.new("RGB", (size, size))] * num_columns] * len(names)
    check_image_format(path, image_grid(blanks, row_captions=names))


def _save_folder(rows: list[list["Image.Image"]], names: list[str], folder: Path) -> None:
    """Write single images, numbered over all rows: 00_tench.png, 01_tench.png, 02_goldfish.png, ..."""
    from fqgan_hf.evaluation.pictures import save_image

    digits = len(str(sum(map(len, rows)) - 1))
    number = 0
    for row, name in zip(rows, names, strict=True):
        slug = re.sub(r"\W+", "_", name.split(",")[0]).strip("_").lower()[:80]
        for image in row:
            save_image(image, folder / f"{number:0{digits}d}_{slug}.png")
            number += 1


COMMAND = Command(
    name="generate",
    summary="images of given classes",
    description=(
        "Generate images of classes given by id or by name. The same seed gives the same images, whatever the batch\n"
        "size."
    ),
    examples=(
        "  fqgan generate --model outputs/demo/pipeline --class_labels 3 seven --num_images_per_label 4 --seed 0\n"
        '  fqgan generate --model user/far-base --class_labels 3 "golden retriever" --guidance_scale 2 1.5 --out out/'
    ),
    add_arguments=add_arguments,
    run=run,
)
