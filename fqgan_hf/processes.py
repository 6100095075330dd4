# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Our own training scripts as processes: their environment, threads and logs. The demo and the ablations run by it.

scripts = ScriptRunner(num_threads=2)
scripts.run("train_fqgan", ["--config", "digits-fqgan", ...], Path("outputs/train.log"))
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


# Each library that computes on a CPU reads a variable of its own.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ScriptRunner:
    """
    Runs training scripts, each in a process of its own, and ends those that still run when something goes wrong.

    Any number of threads may call `run` at the same time.

    Args:
        num_threads (`int`): CPU threads of each process, at least 1.
        environment (`Mapping[str, str]`, *optional*): Variables that a process gets besides those of this one.
        show (`bool`, defaults to `False`): Copy the output to our stderr as it comes, progress bars and all.

    Attributes:
        stopped (`bool`): Whether `stop` was called; from then on `run` starts nothing.
    """

    def __init__(self, num_threads: int, environment: Mapping[str, str] | None = None, show: bool = False):
        self.environment = _environment(num_threads) | dict(environment or {})
        self.show = show
        self.stopped = False
        self._running: set[subprocess.Popen] = set()
        self._starting = threading.Lock()

    def run(self, script: str, words: Sequence[str], log: Path) -> None:
        """
        Wait for `python -m fqgan_hf.training.SCRIPT WORDS`.

        Args:
            script (`str`): Name of the script, such as `"train_fqgan"`.
            words (`Sequence[str]`): Its command line.
            log (`Path`): File that the output is added to; of a progress bar only the last state is kept.

        Raises:
            ChildProcessError: It failed, not because of `stop`. The message has the last line of its output.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", f"fqgan_hf.training.{script}", *words]
        with self._starting:  # either `stop` finds the process, or it is not started
            if self.stopped:
                return
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment)
            self._running.add(process)
        try:
            with open(log, "ab") as file:
                last_line = _keep_output(process, file, self.show)
            status = process.wait()
        finally:  # also an interrupt: no script may go on behind our back
            if process.poll() is None:
                process.terminate()
                process.wait()
            process.stdout.close()
            self._running.discard(process)
        if status and not self.stopped:
            raise ChildProcessError(f"{script} failed with exit status {status}, its log is {log}: {last_line}")

    def stop(self) -> None:
        """End all that is running, and start nothing more."""
        with self._starting:
            self.stopped = True
            for process in list(self._running):
                process.terminate()


def _environment(num_threads: int) -> dict[str, str]:
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(num_threads)), "PYTHONUNBUFFERED": "1"}
    # On a busy machine threads that wait in a loop for a core are many times slower than threads that sleep.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.stderr.isatty():
        environment.setdefault("TQDM_NCOLS", str(min(shutil.get_terminal_size().columns, 110)))
    else:
        environment.setdefault("TQDM_MININTERVAL", "10")
    return environment


def _keep_output(process: subprocess.Popen, file, show: bool) -> str:
    """Read what a process writes until it ends, into a file and if asked to our stderr; returns the last line."""
    pending, last_line = b"", b""
    # Chunks, not lines: a progress bar ends no line, and is to be seen while it moves.
    while chunk := os.read(process.stdout.fileno(), 65536):
        if show:
            _write_to_stderr(chunk)
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            line = _last_state(line)
            file.write(line + b"\n")
            last_line = line.strip() or last_line
        file.flush()
    if pending := _last_state(pending):
        file.write(pending + b"\n")
    return (pending.strip() or last_line).decode(errors="replace")


def _last_state(line: bytes) -> bytes:
    """A line without what was written over by carriage returns, as a progress bar does."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _write_to_stderr(chunk: bytes) -> None:
    screen = getattr(sys.stderr, "buffer", None)  # what replaces stderr in a notebook takes text only
    if screen is None:
        sys.stderr.write(chunk.decode(errors="replace"))
    else:
        screen.write(chunk)
    sys.stderr.flush()


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Let torch compute with this many threads: sums depend on how they are divided among them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
