# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.commands.options import (
    add_device_argument,
    add_sampling_arguments,
    positive_int,
    seed_int,
    single_or_list,
)
from fqgan_hf.evaluation.pictures import check_image_format, check_image_path, is_image_path, save_image
from fqgan_hf.files import check_writable
from fqgan_hf.pipelines.inference import (
    DEMO_PIPELINE,
    choose_device,
    generate_images,
    load_generating_pipeline,
    quiet_libraries,
    read_labels,
    resolve_generating_pipeline,
)


if TYPE_CHECKING:
    pass


MAX_GENERATED = 10_000  # images of `fqgan generate`, which holds all of them at once


def add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=DEMO_PIPELINE, help="FARPipeline: a folder or a Hub id; default: %(default)s"
    )
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


def run_generate(arguments: argparse.Namespace) -> None:
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
    folder = resolve_generating_pipeline(arguments.model)
    labels, names = read_labels(folder, arguments.class_labels)
    quiet_libraries(arguments)
    import secrets

    from PIL import Image

    from fqgan_hf import optimize
    from fqgan_hf.evaluation.pictures import image_grid

    pipe = load_generating_pipeline(folder).to(choose_device(arguments.device))
    if as_grid:
        size = pipe.vqmodel.config.sample_size
        blanks = [[Image.new("RGB", (size, size))] * num_each] * len(labels)
        check_image_format(arguments.out, image_grid(blanks, row_captions=names))
    optimize(pipe, compile=False)  # the same images; to compile takes longer than a few of them
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    images = generate_images(
        pipe,
        [label for label in labels for _ in range(num_each)],
        seed=seed,
        batch_size=arguments.batch_size,
        guidance_scale=single_or_list(arguments.guidance_scale),
        temperature=single_or_list(arguments.temperature),
        top_k=single_or_list(arguments.top_k),
        top_p=single_or_list(arguments.top_p),
        guidance_schedule=arguments.guidance_schedule,
        do_sample=not arguments.greedy,
    )
    rows = [images[i : i + num_each] for i in range(0, len(images), num_each)]
    if as_grid:
        save_image(image_grid(rows, row_captions=names), arguments.out)
        print(f"wrote {arguments.out} (seed {seed})")
        return
    digits = len(str(len(images) - 1))
    numbers = iter(range(len(images)))
    for row, name in zip(rows, names, strict=True):
        slug = re.sub(r"\W+", "_", name.split(",")[0]).strip("_").lower()[:80]
        for image in row:
            save_image(image, arguments.out / f"{next(numbers):0{digits}d}_{slug}.png")
    print(f"wrote {len(images)} images to {arguments.out}{os.sep} (seed {seed})")
