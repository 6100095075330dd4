# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan push`: a model or a pipeline to the Hub; from Python `fqgan_hf.push_folder`."""

import argparse
from pathlib import Path

from fqgan_hf.commands.options import Command
from fqgan_hf.hub.publish import find_publication, push_folder
from fqgan_hf.hub.push import PushPlan, check_names
from fqgan_hf.hub.self_contained import check_self_contained
from fqgan_hf.hub.variants import VARIANTS, check_variant
from fqgan_hf.pipelines.inference import quiet_libraries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="tokenizer, generator or pipeline, or the folder of a demo, whose pipeline is pushed"
    )
    parser.add_argument("repo_id", metavar="repo", help="user/name on the Hub; created if missing")
    content = parser.add_argument_group("what is sent")
    content.add_argument(
        "--variant", choices=list(VARIANTS), help="weights of this type, beside those without a variant"
    )
    content.add_argument("--dtype", choices=list(VARIANTS.values()), help="type of the weights; default: as they are")
    content.add_argument(
        "--evaluation",
        nargs="+",
        type=Path,
        default=[],
        metavar="JSON",
        help="results of `fqgan evaluate`, for the card",
    )
    content.add_argument("--images", nargs="+", type=Path, default=[], metavar="PNG", help="pictures, for the card")
    content.add_argument("--license", help="of the weights, as the Hub spells it; default: apache-2.0, or as recorded")
    content.add_argument(
        "--self_contained", action="store_true", help="a pipeline that loads where this package is not installed"
    )
    content.add_argument("--max_shard_size", metavar="SIZE", help='split weights into files of "2GB", for example')
    target = parser.add_argument_group("where to")
    target.add_argument("--private", action="store_true", default=None, help="where the repository is created")
    target.add_argument("--revision", metavar="BRANCH", help="created if missing; default: main")
    target.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    target.add_argument("--message", help='of the commit; default: "Upload <class>"')
    target.add_argument("--token", help="default: that of `hf auth login`, or HF_TOKEN")
    parser.add_argument("--dry_run", action="store_true", help="send nothing: list the files and show the card")


def run(arguments: argparse.Namespace) -> None:
    check_names(arguments.repo_id, arguments.revision)
    check_variant(arguments.variant, arguments.dtype)
    publication = find_publication(arguments.folder, arguments.evaluation, arguments.images, arguments.license)
    check_self_contained(publication.kind, arguments.self_contained)
    quiet_libraries(arguments.debug)
    from huggingface_hub.utils import enable_progress_bars

    enable_progress_bars()  # gigabytes may have to go up
    result = push_folder(
        arguments.folder,
        arguments.repo_id,
        variant=arguments.variant,
        dtype=arguments.dtype,
        evaluations=arguments.evaluation,
        images=arguments.images,
        license=arguments.license,
        private=arguments.private,
        token=arguments.token,
        commit_message=arguments.message,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        max_shard_size=arguments.max_shard_size,
        self_contained=arguments.self_contained,
        dry_run=arguments.dry_run,
    )
    if isinstance(result, PushPlan):
        print("\n".join(format_plan(result)))
    else:
        print(f"pushed {publication.folder} ({publication.kind}): {result.pr_url or result.commit_url}")


def format_plan(plan: PushPlan) -> list[str]:
    """The files of a push with their sizes, and the card, as lines."""
    width = len(f"{max(plan.files.values()):,}")
    lines = [f"{size:>{width},}  {name}" for name, size in plan.files.items()]
    total = (
        f"{len(plan.files)} files, {sum(plan.files.values()) / 1e6:.1f} MB, would go to {plan.repo_id} in one commit"
    )
    return [*lines, "", total, *(["", "README.md:", "", plan.card.rstrip()] if plan.card else [])]


COMMAND = Command(
    name="push",
    summary="publish a model or a pipeline on the Hub, with its card",
    description=(
        "Publish a folder in one commit: weights, configurations, code files, model card, results and pictures.\n"
        "Nothing is sent unless everything is ready; a push that fails leaves nothing behind."
    ),
    examples=(
        "  fqgan push outputs/demo user/digits --dry_run\n"
        "  fqgan push outputs/fqgan user/tokenizer --evaluation evaluation.json --images samples.png\n"
        "  fqgan push outputs/fqgan user/tokenizer --variant bf16 --private\n"
        "  fqgan push outputs/demo user/digits --self_contained"
    ),
    add_arguments=add_arguments,
    run=run,
)
