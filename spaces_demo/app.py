# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Gradio Space: images from a generator, the codes of pictures of one's own, and what can be done with them.

    python spaces_demo/app.py
    python spaces_demo/app.py --pipeline outputs/demo/pipeline

On the Hub the model comes from the Space's variable FQGAN_PIPELINE; without one it is the small one in the folder
pipeline/. See README.md in this folder. The page is in page.py, its tabs in tab_*.py, what protects its visitors from
each other in guard.py; here is the command, which loads these and their libraries, seconds of work, only once its
arguments are found to be good.
"""

import argparse
import contextlib
import gc
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from fqgan_hf.failures import OneLineParser, run_command
from fqgan_hf.hub.facts import folder_kind
from fqgan_hf.hub.resolve import EMBEDDED_PIPELINE
from fqgan_hf.pipelines.inference import load_pipeline, load_tokenizer, quiet_libraries, resolve_tokenizer


EMBEDDED = str(Path(__file__).resolve().parent / EMBEDDED_PIPELINE)


def port(text: str) -> int:
    """Argument type: a TCP port."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number between 1 and 65535, got {text!r}")
    return int(text)


def device(text: str) -> str:
    """Argument type: the name of a device. Whether this machine has it, torch will say."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f'must be "auto", "cpu", "cuda", "cuda:1", ... or "mps", got {text!r}')
    return text


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="app.py", description="The Gradio Space of fqgan-hf.")
    parser.add_argument(
        "--pipeline",
        default=os.environ.get("FQGAN_PIPELINE") or EMBEDDED,
        help="a pipeline with a generator, or a tokenizer: a folder or a Hub id; default: the environment variable "
        "FQGAN_PIPELINE, and without it the pipeline that comes with the Space",
    )
    parser.add_argument("--host", help="address to listen on; default: this machine only, all on the Hub")
    parser.add_argument("--port", type=port, help="default: the first free one from 7860")
    parser.add_argument(
        "--device", type=device, default="auto", help='"cpu", "cuda", "cuda:1", "mps"; default: a GPU if there is one'
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def check_address(host: str | None, port: int | None) -> None:
    """Raise `OSError` if nothing can listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host or "127.0.0.1", port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        where = " and ".join(f"--{name} {value}" for name, value in (("host", host), ("port", port)) if value)
        raise OSError(f"cannot listen on {where or '127.0.0.1'}: {error.strerror or error}") from error


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Nothing of what is imported is garbage, and looking for some takes a quarter of the start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def serve(options: argparse.Namespace) -> None:
    """Load the model and show the page until Ctrl-C."""
    check_address(options.host, options.port)
    folder = resolve_tokenizer(options.pipeline, "--pipeline")
    with no_collection():
        from page import LAUNCH_OPTIONS, build_app

        from fqgan_hf import optimize

        quiet_libraries(options.debug)
        load = load_pipeline if folder_kind(folder).generates else load_tokenizer
        pipeline = optimize(load(folder, options.device), compile=False)  # ZeroGPU knows no torch.compile
        app = build_app(pipeline, folder)
    app.launch(server_name=options.host, server_port=options.port, **LAUNCH_OPTIONS)


def main(arguments: list[str] | None = None) -> int:
    """
    Run the command.

    Args:
        arguments (`list[str]`, *optional*): By default those of the process.

    Returns:
        `int`: The exit status.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    return run_command(parser.prog, lambda: serve(options), options.debug)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Gradio leaves threads behind, and Python aborts when it ends while one of them is, say, importing a library.
    os._exit(status)
