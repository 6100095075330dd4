# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan compare`: results of one protocol side by side. It needs no torch."""

import argparse
from pathlib import Path

from fqgan_hf.commands.options import Command
from fqgan_hf.evaluation_results import check_comparable, format_table, load_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="files of `fqgan evaluate`")


def run(arguments: argparse.Namespace) -> None:
    results = [load_result(path) for path in arguments.results]
    names = [path.stem for path in arguments.results]
    check_comparable(results, names)
    print(format_table(results, names))


COMMAND = Command(
    name="compare",
    summary="results of `fqgan evaluate` side by side, if they may stand there",
    description=(
        "Show results as a Markdown table. Results of different protocols (network, reference images, numbers of\n"
        "images) are refused, with the fields that differ."
    ),
    examples="  fqgan compare dual.json triple.json",
    add_arguments=add_arguments,
    run=run,
)
