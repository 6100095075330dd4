# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Training runs in processes of their own that start at once and can be killed for real.

A server process imports the scripts, which takes seconds, and forks a child for each run, which takes none. As a
program this file is that server: it reads a JSON object a line and answers each with a number.
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path


SCRIPTS = ("train_fqgan", "train_far", "extract_codes")


@dataclass
class Run:
    """One process of a run."""

    server: "RunServer"
    pid: int
    log: Path

    def kill(self) -> int:
        """SIGKILL, as a machine that loses power; the exit status, which tells whether the run was faster."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Exit status; negative for a signal."""
        return self.server.ask({"wait": self.pid})

    def output(self) -> str:
        return self.log.read_text(errors="replace")


class RunServer:
    """
    Starts runs.

        with RunServer(tmp_path) as server:
            (run,) = server.start("train_fqgan", words)
            status = run.kill()
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.num_runs = 0

    def __enter__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, request: dict) -> int:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the server ended with status {self.process.wait()} at {request}")
        return int(answer)

    def start(self, script: str, words: list[str], num_processes: int = 1, max_file_size: int | None = None):
        """Runs of a script that know of each other, one per process; `max_file_size` in bytes lets writing fail."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        runs = []
        for rank in range(num_processes):
            self.num_runs += 1
            log = self.folder / f"run-{self.num_runs}.log"
            environment = {}
            if num_processes > 1:
                environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes}
                environment |= {"LOCAL_WORLD_SIZE": num_processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            request = {"script": script, "words": [str(word) for word in words], "log": str(log)}
            request |= {"environment": {k: str(v) for k, v in environment.items()}, "max_file_size": max_file_size}
            runs.append(Run(self, self.ask(request), log))
        return runs


def serve() -> None:
    modules = {name: importlib.import_module(f"fqgan_hf.training.{name}") for name in SCRIPTS}
    for name in (
        "common.launch",
        "fqgan.loop",
        "far.loop",
        "far.model",
        "data.code_extraction",
    ):  # what they import late
        importlib.import_module(f"fqgan_hf.training.{name}")
    importlib.import_module("torch").set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                run(modules[request["script"]].main, request)
        print(answer, flush=True)


def run(main, request: dict) -> None:
    """In the child: never returns."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["environment"])
    if request["max_file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["max_file_size"],) * 2)
    try:
        main(request["words"])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    serve()
