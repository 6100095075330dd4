# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The `fqgan` command: its parser, its exit status and the list of its subcommands, which are in `commands/`.

Heavy libraries are imported where they are used, so that `fqgan --help` answers at once.

Exit status: 0 done, 1 failed (one line on stderr says why), 2 wrong usage, 130 interrupted.
"""

import argparse

from fqgan_hf.commands import (
    analyze,
    compare,
    convert,
    decode,
    demo,
    encode,
    evaluate,
    generate,
    info,
    mix,
    pull,
    push,
    push_space,
    reconstruct,
    sample,
    statistics,
)
from fqgan_hf.failures import OneLineParser, leave, run_command


# A new subcommand is one more file in `commands/` and one more entry here, in the order of `fqgan --help`.
COMMANDS = (
    demo.COMMAND,
    reconstruct.COMMAND,
    mix.COMMAND,
    encode.COMMAND,
    decode.COMMAND,
    generate.COMMAND,
    sample.COMMAND,
    evaluate.COMMAND,
    analyze.COMMAND,
    statistics.COMMAND,
    compare.COMMAND,
    convert.COMMAND,
    info.COMMAND,
    push.COMMAND,
    pull.COMMAND,
    push_space.COMMAND,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `fqgan` with all its subcommands."""
    from fqgan_hf import __version__

    # Before or after the subcommand's name; SUPPRESS: the one must not undo the other.
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
    arguments = build_parser().parse_args(argv, argparse.Namespace(debug=False))
    return run_command(f"fqgan {arguments.command}", lambda: arguments.run(arguments), arguments.debug)


def program() -> None:
    """`fqgan` as the shell starts it."""
    leave(main())


if __name__ == "__main__":
    program()
