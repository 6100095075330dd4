# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import argparse
import json
from typing import TYPE_CHECKING

from fqgan_hf.hub.facts import collect_facts, folder_kind, format_facts
from fqgan_hf.pipelines.inference import quiet_libraries, resolve_folder


if TYPE_CHECKING:
    pass


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="tokenizer, generator or pipeline: a folder or a Hub id")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_info(arguments: argparse.Namespace) -> None:
    folder = resolve_folder(arguments.model)
    folder_kind(folder)
    quiet_libraries(arguments)
    facts = collect_facts(folder)
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(format_facts(facts)))
