# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan statistics`: mean and covariance of images' features; from Python `write_statistics`."""

import argparse
from pathlib import Path

from fqgan_hf.commands.evaluate import add_reference_arguments, check_reference_arguments
from fqgan_hf.commands.options import Command, add_device_argument
from fqgan_hf.files import check_writable
from fqgan_hf.pipelines.inference import quiet_libraries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference_arguments(parser, "images")
    parser.add_argument("--out", type=Path, default=Path("statistics.npz"), help="default: %(default)s")
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.out.suffix != ".npz":
        raise ValueError(f"--out must end in .npz, got {arguments.out}")
    check_writable(arguments.out)
    check_reference_arguments(arguments.images, arguments, "images")
    quiet_libraries(arguments.debug)
    from accelerate import PartialState

    from fqgan_hf.evaluation.run import write_statistics

    reference = write_statistics(
        arguments.images,
        arguments.out,
        arguments.features,
        arguments.inception_weights,
        arguments.device,
        split=arguments.split,
        resolution=arguments.resolution,
        num_images=arguments.num_images,
        batch_size=arguments.batch_size,
        show_progress=True,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
    )
    if PartialState().is_main_process:
        print(f"wrote {arguments.out}: {reference.num_images} images", flush=True)


COMMAND = Command(
    name="statistics",
    summary="mean and covariance of images' features, as reference for later",
    description=(
        "Pass images through a network once and write what a Frechet distance needs of them: mu and sigma, with\n"
        "Inception mu_s and sigma_s, too, and which network and images they are of."
    ),
    examples=(
        "  fqgan statistics imagenet/train --resolution 256 --out imagenet-256.npz\n"
        "  fqgan statistics cifar10 --split test --features path/to/network --out cifar10-test.npz"
    ),
    add_arguments=add_arguments,
    run=run,
)
