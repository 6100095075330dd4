# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan demo`: the whole system on handwritten digits; from Python `fqgan_hf.demo.run.run`."""

import argparse
from pathlib import Path

from fqgan_hf.commands.options import Command, seed_int
from fqgan_hf.pipelines.inference import quiet_libraries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"), help="default: %(default)s")
    parser.add_argument(
        "--seed", type=seed_int, default=0, help="the same seed gives the same report; default: %(default)s"
    )
    parser.add_argument(
        "--condition",
        choices=("class", "text", "map"),
        default="class",
        help='what digits are generated for: classes, captions such as "a bold seven, slanted left", or maps of '
        "background, stroke and hole; default: %(default)s",
    )
    parser.add_argument("--quick", action="store_true", help="a few training steps only: shows that all parts work")


def run(arguments: argparse.Namespace) -> None:
    from fqgan_hf.demo.run import run as run_demo

    quiet_libraries(arguments.debug)
    run_demo(arguments.output_dir, seed=arguments.seed, quick=arguments.quick, condition=arguments.condition)


COMMAND = Command(
    name="demo",
    summary="train and evaluate everything on handwritten digits, in minutes",
    description=(
        "Train a tokenizer and a generator on scikit-learn's bundled handwritten digits, generate digits by class,\n"
        "caption or map, and write models, pictures and a report. Needs no download and no GPU; takes less than\n"
        "5 minutes on 2 cores, by caption or map less than 6."
    ),
    examples=(
        "  fqgan demo --output_dir outputs/demo --seed 0\n  fqgan demo --output_dir outputs/demo-text --condition text"
    ),
    add_arguments=add_arguments,
    run=run,
)
