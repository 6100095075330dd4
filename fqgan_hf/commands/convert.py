# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan convert`: from Python `convert_checkpoint` and `convert_to_original` of `fqgan_hf.conversion`."""

import argparse
import json
from pathlib import Path
from typing import Any

from fqgan_hf.commands.options import Command
from fqgan_hf.files import check_writable
from fqgan_hf.pipelines.inference import quiet_libraries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="published checkpoint; with --to-original a model folder")
    parser.add_argument("target", type=Path, help="model folder to write; with --to-original a .pt file")
    parser.add_argument("--to-original", action="store_true", help="write the published layout")
    parser.add_argument(
        "--force", action="store_true", help="replace files of the target, but only those that a conversion writes"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="settings that the checkpoint does not tell, such as num_attention_heads=4 grid_height=8 grid_width=8",
    )


def run(arguments: argparse.Namespace) -> None:
    if not arguments.source.exists():
        raise FileNotFoundError(f"there is no {arguments.source}")
    overrides = _parse_overrides(arguments.overrides)
    if arguments.to_original:
        _run_to_original(arguments.source, arguments.target, overrides, arguments)
    else:
        _run_from_original(arguments.source, arguments.target, overrides, arguments)


def _run_from_original(source: Path, target: Path, overrides: dict[str, Any], arguments: argparse.Namespace) -> None:
    if source.is_dir():
        raise ValueError(
            f"the source must be a checkpoint file, got the folder {source} (did you mean --to-original?)"
        )
    if target.exists() and not target.is_dir():
        raise ValueError(f"the target must be a folder, got the file {target}")
    if target.is_dir() and any(target.iterdir()) and not arguments.force:
        raise FileExistsError(f"{target} is there already; --force replaces the files that a conversion writes")
    check_writable(target / "config.json")
    quiet_libraries(arguments.debug)
    from fqgan_hf.conversion import convert_checkpoint

    model = convert_checkpoint(source, target, arguments.force, **overrides)
    print(f"wrote {target}: {type(model).__name__}, {model.num_parameters() / 1e6:.1f} M parameters")


def _run_to_original(source: Path, target: Path, overrides: dict[str, Any], arguments: argparse.Namespace) -> None:
    if overrides:
        raise ValueError("--set changes a configuration, which the published layout does not have (--to-original)")
    if source.is_file():
        raise ValueError(f"with --to-original the source must be a model folder, got the file {source}")
    if target.is_dir():
        raise ValueError(f"with --to-original the target must be a file, got the folder {target}")
    if target.exists() and not arguments.force:
        raise FileExistsError(f"{target} is there already; --force overwrites it")
    quiet_libraries(arguments.debug)
    from fqgan_hf.conversion import convert_to_original

    convert_to_original(source, target)
    print(f"wrote {target} in the published layout")


def _parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`["num_attention_heads=4"]` -> `{"num_attention_heads": 4}`; values are JSON, or text where they are not."""
    overrides = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"--set must be given as NAME=VALUE, got {pair!r}")
        if name in overrides:
            raise ValueError(f"--set gives {name} twice")
        try:
            overrides[name] = json.loads(value)
        except (ValueError, RecursionError):
            overrides[name] = value
    return overrides


COMMAND = Command(
    name="convert",
    summary="published checkpoints to from_pretrained folders, and back",
    description=(
        "Convert a published tokenizer or generator checkpoint, recognised by its keys and shapes, to a folder for\n"
        "from_pretrained, or back. Nothing in the checkpoint is executed."
    ),
    examples=(
        "  fqgan convert checkpoint.pt out/\n"
        "  fqgan convert far.pt out/ --set num_attention_heads=4 grid_height=4 grid_width=4\n"
        "  fqgan convert --to-original out/ checkpoint.pt"
    ),
    add_arguments=add_arguments,
    run=run,
)
