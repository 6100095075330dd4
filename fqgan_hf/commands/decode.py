# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan decode`: codes in files to pictures; from Python `fqgan_hf.decode_to_folder`."""

import argparse
from pathlib import Path

from fqgan_hf.commands.options import Command, add_device_argument, number, positive_int
from fqgan_hf.hub.resolve import DEMO_PIPELINE
from fqgan_hf.pipelines.inference import quiet_libraries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "codes", nargs="+", type=Path, metavar="CODES", help="files and folders of `fqgan encode` or extract_codes"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures, PNG files")
    parser.add_argument(
        "--model",
        default=DEMO_PIPELINE,
        help="the tokenizer that made the codes or a pipeline that has it: a folder or a Hub id; default: %(default)s",
    )
    parser.add_argument(
        "--codebooks", nargs="+", type=number(int, 0), metavar="K", help="decode from these only, 0 is the first"
    )
    parser.add_argument(
        "--batch_size", type=positive_int, default=16, help="pictures at a time in each process; default: %(default)s"
    )
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    from fqgan_hf.codes.decode import check_decoding, decode_to_folder

    check_decoding(arguments.codes, arguments.out, arguments.model, arguments.codebooks)
    quiet_libraries(arguments.debug)
    done = decode_to_folder(
        arguments.codes,
        arguments.out,
        model=arguments.model,
        codebooks=arguments.codebooks,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    from accelerate import PartialState

    if PartialState().is_main_process:
        kept = f", {done.num_kept} of them from before" if done.num_kept else ""
        print(f"{arguments.out} holds {done.num_pictures} pictures{kept}")


COMMAND = Command(
    name="decode",
    summary="codes in files to pictures",
    description=(
        "Decode files of `fqgan encode` and write a PNG for each row, called after its id. Codes of another\n"
        "tokenizer are refused. Stopped anywhere, the same command goes on with the pictures that are missing.\n"
        "Several processes share the work: accelerate launch -m fqgan_hf.cli decode ..."
    ),
    examples=(
        "  fqgan decode codes.npz --model user/fqgan-dual-f16 --out pictures/\n"
        "  fqgan decode codes/ --model user/fqgan-dual-f16 --codebooks 0 --out first_codebook/"
    ),
    add_arguments=add_arguments,
    run=run,
)
