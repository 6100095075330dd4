# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan pull`: a model or a pipeline from the Hub into a folder; from Python `fqgan_hf.pull_folder`."""

import argparse
from pathlib import Path

from fqgan_hf.commands.options import Command
from fqgan_hf.hub.pull import pull_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo_id", metavar="repo", help="user/name on the Hub")
    parser.add_argument("directory", type=Path, help="new, empty, or filled by an earlier pull of the same repository")
    parser.add_argument("--revision", help="branch, tag or commit; default: main")
    parser.add_argument(
        "--variant", metavar="NAME", help="the weights to bring, such as bf16; default: without a variant"
    )
    parser.add_argument("--token", help="default: that of `hf auth login`, or HF_TOKEN")


def run(arguments: argparse.Namespace) -> None:
    pulled = pull_folder(
        arguments.repo_id,
        arguments.directory,
        revision=arguments.revision,
        variant=arguments.variant,
        token=arguments.token,
    )
    size = sum((arguments.directory / name).stat().st_size for name in pulled.files)
    amount = f"{len(pulled.files)} files, {size / 1e6:.1f} MB"
    print(f"{arguments.directory} holds {pulled.repo_id} at {pulled.revision[:12]}: {amount}")


COMMAND = Command(
    name="pull",
    summary="bring a model or a pipeline from the Hub into a folder, or up to date",
    description="Download a repository of one of our models or pipelines into a folder, complete or not at all.",
    examples=(
        "  fqgan pull user/digits models/digits\n  fqgan pull user/digits models/digits --revision v2 --variant bf16"
    ),
    add_arguments=add_arguments,
    run=run,
)
