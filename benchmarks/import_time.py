# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What importing this package costs over the libraries it stands on, in fresh processes that take turns.

    python benchmarks/import_time.py --runs 9 --json outputs/import_time.json

The libraries are torch, transformers' `PreTrainedModel` and diffusers' `VQModel`. A round runs every statement once,
in changing order. A ratio is the median over rounds of a statement's time over that of the libraries in the same
round. Exits with 1 if any statement costs more than 15 % over them, in processor time: importing is work for one
thread, so on an idle machine both clocks agree; on a busy one the wall clock measures the others. `import fqgan_hf`
by itself loads none of the libraries: its names do, when they are first used.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


LIMIT = 1.15
LIBRARIES = "import torch; from transformers import PreTrainedModel; from diffusers import VQModel"
STATEMENTS = {
    "the libraries": LIBRARIES,
    "import fqgan_hf": "import fqgan_hf",
    "the libraries, then import fqgan_hf": f"{LIBRARIES}; import fqgan_hf",
    "both models": "from fqgan_hf import FARForImageGeneration, FQGANModel",
    "every public name": "from fqgan_hf import *",
}
TIMER = """
import time
wall, cpu = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def time_in_fresh_process(statement: str, cwd: str) -> tuple[float, float]:
    """Wall and processor seconds that `statement` takes, without the start of the interpreter."""
    command = [sys.executable, "-c", TIMER.format(statement)]
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    wall, cpu = map(float, done.stdout.split()[-2:])
    return wall, cpu


def measure(runs: int) -> dict[str, dict[str, float]]:
    """Median seconds of every statement, and ratios to the libraries, on both clocks."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    names = list(STATEMENTS)
    with tempfile.TemporaryDirectory() as cwd:
        for round_number in range(runs + 1):
            shift = round_number % len(names)
            for name in names[shift:] + names[:shift]:
                taken = time_in_fresh_process(STATEMENTS[name], cwd)
                if round_number:  # the first round fills the disk cache and writes bytecode
                    times[name].append(taken)
    results: dict[str, dict[str, float]] = {}
    for name, taken in times.items():
        results[name] = {}
        for clock, key in enumerate(("wall", "cpu")):
            mine = [pair[clock] for pair in taken]
            libraries = [pair[clock] for pair in times["the libraries"]]
            results[name][f"{key}_seconds"] = statistics.median(mine)
            results[name][f"{key}_ratio"] = statistics.median(a / b for a, b in zip(mine, libraries, strict=True))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=9, help="rounds that count (default: 9)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures to this file")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs must be at least 1, got {arguments.runs}")

    results = measure(arguments.runs)
    print(f"{'':38}{'wall s':>9}{'ratio':>8}{'cpu s':>9}{'ratio':>8}")
    for name, found in results.items():
        wall = f"{found['wall_seconds']:9.2f}{found['wall_ratio']:8.3f}"
        print(f"{name:38}{wall}{found['cpu_seconds']:9.2f}{found['cpu_ratio']:8.3f}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"python": platform.python_version(), "runs": arguments.runs, "limit": LIMIT, "results": results}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    worst = max(found["cpu_ratio"] for found in results.values())
    print(f"at most {worst:.3f} of the libraries; accepted: {LIMIT}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
