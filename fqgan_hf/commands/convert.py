# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.files import check_writable
from fqgan_hf.pipelines.inference import quiet_libraries


if TYPE_CHECKING:
    pass


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
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
        help="configuration that a checkpoint does not tell, such as num_attention_heads=4 grid_height=8 grid_width=8",
    )


def run_convert(arguments: argparse.Namespace) -> None:
    source, target = arguments.source, arguments.target
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}")
    overrides = parse_overrides(arguments.overrides)
    if arguments.to_original:
        if overrides:
            raise ValueError("--set changes a configuration, which the published layout does not have (--to-original)")
        if source.is_file():
            raise ValueError(f"with --to-original the source must be a model folder, got the file {source}")
        if target.is_dir():
            raise ValueError(f"with --to-original the target must be a file, got the folder {target}")
        if target.exists() and not arguments.force:
            raise FileExistsError(f"{target} is there already; --force overwrites it")
        quiet_libraries(arguments)
        from fqgan_hf.conversion import convert_to_original

        convert_to_original(source, target)
        print(f"wrote {target} in the published layout")
        return
    if source.is_dir():
        raise ValueError(
            f"the source must be a checkpoint file, got the folder {source} (did you mean --to-original?)"
        )
    if target.exists() and not target.is_dir():
        raise ValueError(f"the target must be a folder, got the file {target}")
    if target.is_dir() and any(target.iterdir()) and not arguments.force:
        raise FileExistsError(f"{target} is there already; --force replaces the files that a conversion writes")
    check_writable(target / "config.json")
    quiet_libraries(arguments)
    from fqgan_hf.conversion import convert_checkpoint

    model = convert_checkpoint(source, target, arguments.force, **overrides)
    print(f"wrote {target}: {type(model).__name__}, {model.num_parameters() / 1e6:.1f} M parameters")


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
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
