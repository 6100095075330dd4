# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan info`: what a folder or repository holds; from Python `fqgan_hf.collect_facts`. It needs no torch."""

import argparse
import json

from fqgan_hf.commands.options import Command
from fqgan_hf.hub.facts import collect_facts, format_facts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="tokenizer, generator or pipeline: a folder or a Hub id")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    facts = collect_facts(arguments.model)
    print(json.dumps(facts, indent=2) if arguments.json else "\n".join(format_facts(facts)))


COMMAND = Command(
    name="info",
    summary="what a model or pipeline is: codebooks, grid, parameters, fingerprint",
    description="Tell what a folder or Hub repository holds, without loading the model.",
    examples="  fqgan info outputs/demo/pipeline\n  fqgan info user/fqgan-dual-f16 --json",
    add_arguments=add_arguments,
    run=run,
)
