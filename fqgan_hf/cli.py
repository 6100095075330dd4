# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The `fqgan` command.

A subcommand is one `Command` in `COMMANDS`, at the end of this file: two functions, one that adds its arguments and
one that runs it. Heavy libraries are imported where they are used, so that `fqgan --help` answers at once.

Exit status: 0 done, 1 failed (one line on stderr says why), 2 wrong usage, 130 interrupted.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fqgan_hf.commands.convert import add_convert_arguments, run_convert
from fqgan_hf.commands.demo import add_demo_arguments, run_demo
from fqgan_hf.commands.generate import add_generate_arguments, run_generate
from fqgan_hf.commands.info import add_info_arguments, run_info
from fqgan_hf.commands.reconstruct import add_reconstruct_arguments, run_reconstruct
from fqgan_hf.commands.sample import add_sample_arguments, run_sample
from fqgan_hf.failures import OneLineParser, leave, run_command


if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Command:
    """One subcommand: `add_arguments` fills its parser, `run` does it; an error there becomes one line on stderr."""

    name: str
    summary: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


# A new subcommand is one more entry here.
COMMANDS = (
    Command(
        "demo",
        "train and evaluate everything on handwritten digits, in minutes",
        "Train a tokenizer and a generator on scikit-learn's bundled handwritten digits, generate every class, and\n"
        "write models, pictures and a report. Needs no download and no GPU; takes less than 5 minutes on 2 cores.",
        "  fqgan demo --output_dir outputs/demo --seed 0",
        add_demo_arguments,
        run_demo,
    ),
    Command(
        "reconstruct",
        "images through a tokenizer: pictures, PSNR and codes used",
        "Reconstruct images from all of their codes and from each codebook alone; write the pictures as a grid and\n"
        "print PSNR and codes used.",
        "  fqgan reconstruct photo.jpg --model outputs/demo/pipeline --out grid.png\n"
        "  fqgan reconstruct *.jpg --model user/fqgan-dual-f16 --size 512 --out grid.png",
        add_reconstruct_arguments,
        run_reconstruct,
    ),
    Command(
        "generate",
        "images of given classes",
        "Generate images of classes given by id or by name. The same seed gives the same images, whatever the batch\n"
        "size.",
        "  fqgan generate --model outputs/demo/pipeline --class_labels 3 seven --num_images_per_label 4 --seed 0\n"
        '  fqgan generate --model user/far-base --class_labels 3 "golden retriever" --guidance_scale 2 1.5 --out out/',
        add_generate_arguments,
        run_generate,
    ),
    Command(
        "sample",
        "many images in shards, by several processes, stopped and continued at will",
        "Generate images of all classes, or of given ones, in turn, and write them in shards of PNG, npz or parquet\n"
        "files. Stopped anywhere, the same command goes on with what is missing. Several processes write the same\n"
        "files: accelerate launch -m fqgan_hf.cli sample ...",
        "  fqgan sample --model outputs/demo/pipeline --num 1000 --output_dir outputs/samples\n"
        "  fqgan sample --model user/far-base --num 50000 --batch_size 128 --dtype bfloat16 --format npz "
        "--output_dir out/",
        add_sample_arguments,
        run_sample,
    ),
    Command(
        "convert",
        "published checkpoints to from_pretrained folders, and back",
        "Convert a published tokenizer or generator checkpoint, recognised by its keys and shapes, to a folder for\n"
        "from_pretrained, or back. Nothing in the checkpoint is executed.",
        "  fqgan convert checkpoint.pt out/\n"
        "  fqgan convert far.pt out/ --set num_attention_heads=4 grid_height=4 grid_width=4\n"
        "  fqgan convert --to-original out/ checkpoint.pt",
        add_convert_arguments,
        run_convert,
    ),
    Command(
        "info",
        "what a model or pipeline is: codebooks, grid, parameters, fingerprint",
        "Tell what a folder or Hub repository holds, without loading the model.",
        "  fqgan info outputs/demo/pipeline\n  fqgan info user/fqgan-dual-f16 --json",
        add_info_arguments,
        run_info,
    ),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `fqgan` with all its subcommands."""
    from fqgan_hf import __version__

    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks and warnings")
    parser = OneLineParser(
        prog="fqgan",
        description="Factorized image tokenizers (FQGAN) and autoregressive image generation (FAR).",
        epilog="`fqgan COMMAND --help` has the options and examples of a command. Start with: fqgan demo",
        parents=[debug],
    )
    parser.add_argument("--version", action="version", version=f"fqgan-hf {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[debug],
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv (`list[str]`, *optional*): Arguments; by default those of the process.

    Returns:
        `int`: The exit status.
    """
    arguments = build_parser().parse_args(argv)
    debug = getattr(arguments, "debug", False)
    return run_command(f"fqgan {arguments.command}", lambda: arguments.run(arguments), debug)


def program() -> None:
    """`fqgan` as the shell starts it."""
    leave(main())


if __name__ == "__main__":
    program()
