# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.commands.options import seed_int
from fqgan_hf.pipelines.inference import quiet_libraries


if TYPE_CHECKING:
    pass


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"), help="default: %(default)s")
    parser.add_argument(
        "--seed", type=seed_int, default=0, help="the same seed gives the same report; default: %(default)s"
    )
    parser.add_argument("--quick", action="store_true", help="a few training steps only: shows that all parts work")


def run_demo(arguments: argparse.Namespace) -> None:
    from fqgan_hf.demo.run import run

    quiet_libraries(arguments)
    run(arguments.output_dir, seed=arguments.seed, quick=arguments.quick)
