# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan push-space`: the Gradio Space to the Hub; from Python `fqgan_hf.push_space`."""

import argparse

from fqgan_hf.commands.options import Command
from fqgan_hf.commands.push import format_plan
from fqgan_hf.hub.push import PushPlan
from fqgan_hf.hub.space import VARIABLE, push_space


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo_id", metavar="space", help="user/name of the Space; created if missing")
    parser.add_argument(
        "--model", metavar="REPO",
        help="user/name of the pipeline or tokenizer that it shows; default: what comes with this package",
    )  # fmt: skip
    parser.add_argument("--private", action="store_true", default=None, help="where the Space is created")
    parser.add_argument("--message", help='of the commit; default: "Upload the Space"')
    parser.add_argument("--token", help="default: that of `hf auth login`, or HF_TOKEN")
    parser.add_argument("--dry_run", action="store_true", help="send nothing: list the files and show the README")


def run(arguments: argparse.Namespace) -> None:
    result = push_space(
        arguments.repo_id,
        arguments.model,
        private=arguments.private,
        token=arguments.token,
        commit_message=arguments.message,
        dry_run=arguments.dry_run,
    )
    shown = f"{VARIABLE}={arguments.model}" if arguments.model else f"no {VARIABLE}"
    if isinstance(result, PushPlan):
        print("\n".join([*format_plan(result), "", f"variable: {shown}"]))
    else:
        print(f"pushed the Space with {shown}: {result.commit_url}")


COMMAND = Command(
    name="push-space",
    summary="publish the Gradio Space of a model on the Hub",
    description=(
        "Publish the Space (app, requirements, source of this package) in one commit, and say by its variable\n"
        f"{VARIABLE} which model it shows. A private model needs a secret HF_TOKEN in the Space's settings.\n"
        "Without a model it shows the small pipeline that comes with this package, which goes along."
    ),
    examples=(
        "  fqgan push-space user/emoji-demo\n"
        "  fqgan push-space user/digits-demo --model user/digits\n"
        "  fqgan push-space user/digits-demo --model user/digits --dry_run"
    ),
    add_arguments=add_arguments,
    run=run,
)
