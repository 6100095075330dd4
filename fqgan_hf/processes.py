# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Running our own scripts as processes: their environment, threads and logs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    pass


NUM_THREADS = 2


def training_environment() -> dict[str, str]:
    """The environment of the training processes: CPU, two threads, no network."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(NUM_THREADS),
        "MKL_NUM_THREADS": str(NUM_THREADS),
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_MIXED_PRECISION": "no",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # On a busy machine threads that wait in a loop for a core are many times slower than threads that sleep.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.stderr.isatty():
        environment.setdefault("TQDM_NCOLS", str(min(shutil.get_terminal_size().columns, 110)))
    else:
        environment.setdefault("TQDM_MININTERVAL", "10")
    return environment


def run_logged(command: list[str], log: Path, environment: dict[str, str]) -> tuple[int, str]:
    """
    Run a command with its output on our stderr, progress bars and all, and in a log file that keeps their last state.

    Returns:
        `tuple[int, str]`: The exit status, and the last line that the command wrote.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    screen = getattr(sys.stderr, "buffer", None)
    pending, last_line = b"", b""
    try:
        with open(log, "wb") as file:
            while chunk := os.read(process.stdout.fileno(), 65536):
                if screen is None:
                    sys.stderr.write(chunk.decode(errors="replace"))
                else:
                    screen.write(chunk)
                sys.stderr.flush()
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    line = line.rstrip(b"\r").rpartition(b"\r")[2]  # a bar writes its states over each other
                    file.write(line + b"\n")
                    last_line = line.strip() or last_line
            file.write(pending.rpartition(b"\r")[2])
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        process.stdout.close()
    return status, (pending.strip() or last_line).decode(errors="replace")


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Let torch compute with so many threads: sums depend on how they are divided."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
