# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks share: functions timed in turns, the machine in words, its read bandwidth, peak memory, JSON.

A machine's speed drifts with its clock and its other work, so figures are compared within one run only: a round calls
every function once, in changing order, and a ratio is the median over rounds of two times of the same round.
"""

import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fqgan_hf.files import write_json


# Measures a statement in a process of its own. Linux keeps the peak of the resident set, and forgets it on request.
PEAK_MEMORY = """
import re
from pathlib import Path
def resident(name):
    return 1024 * int(re.search(name + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
{setup}
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
{statement}
print(resident("VmHWM") - before)
"""


@dataclass
class Timing:
    """Seconds of one function, an entry a round, on both clocks.

    Args:
        wall (`list[float]`): Elapsed seconds.
        cpu (`list[float]`):
            Seconds of processor time of the whole process, all its threads together. On a busy machine this clock
            measures the function, and the wall clock the neighbours.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def median(self, clock: str = "wall") -> float:
        return statistics.median(getattr(self, clock))

    def spread(self, clock: str = "wall") -> tuple[float, float]:
        """Fastest and slowest round."""
        return min(getattr(self, clock)), max(getattr(self, clock))

    def speedup_over(self, reference: "Timing", clock: str = "wall") -> float:
        """How many times faster than `reference`: the median over rounds of both functions' times in one round."""
        pairs = zip(getattr(reference, clock), getattr(self, clock), strict=True)
        return statistics.median(theirs / mine for theirs, mine in pairs)

    def summary(self, reference: "Timing | None" = None) -> dict[str, Any]:
        """Median, fastest and slowest round on both clocks, and the speedups, for a JSON report."""
        report: dict[str, Any] = {}
        for clock in ("wall", "cpu"):
            report[f"{clock}_seconds"] = self.median(clock)
            report[f"{clock}_spread"] = self.spread(clock)
            if reference is not None:
                report[f"{clock}_speedup"] = self.speedup_over(reference, clock)
        return report


def interleaved(functions: dict[str, Callable[[], Any]], rounds: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """
    Time functions in turns.

    Args:
        functions (`dict[str, Callable]`): Called without arguments; what they return is thrown away.
        rounds (`int`): Rounds that count. Each begins with another function.
        warmup (`int`): Rounds before them, which fill caches and compile.

    Returns:
        `dict[str, Timing]` with the same keys, `rounds` entries on each clock.
    """
    timings = {name: Timing() for name in functions}
    names = list(functions)
    for round_number in range(-warmup, rounds):
        shift = round_number % len(names)
        for name in names[shift:] + names[:shift]:
            wall, cpu = time.perf_counter(), time.process_time()
            functions[name]()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if round_number >= 0:
                timings[name].wall.append(time.perf_counter() - wall)
                timings[name].cpu.append(time.process_time() - cpu)
    return timings


def machine() -> dict[str, Any]:
    """The machine and the libraries, for a report: nothing that names a host or a user."""
    description = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        description["accelerator"] = torch.cuda.get_device_name()
    return description


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def read_bandwidth(tensors: list[torch.Tensor], rounds: int = 5) -> float:
    """
    Bytes a second at which the processor reads these tensors where they lie: the fastest pass of the fastest reader.

    Regions of one machine's memory differ, where several controllers serve it: so the tensors are those that the
    program in question reads. Together they must not fit into a cache.

    Args:
        tensors (`list[torch.Tensor]`): Contiguous, of a multiple of 8 bytes each.
        rounds (`int`): Passes that count, after one that does not.
    """
    numbers = [tensor.detach().view(-1).view(torch.int64) for tensor in tensors]
    threads = torch.get_num_threads()
    readers = {
        "sum": lambda: [part.sum() for part in numbers],
        "largest": lambda: [part.view(torch.int32).amax() for part in numbers],
    }
    if tensors[0].is_cpu and threads > 1:

        def sums_side_by_side():
            """A tensor a thread, in place of all threads on each tensor."""
            torch.set_num_threads(1)
            list(pool.map(torch.sum, numbers))
            torch.set_num_threads(threads)

        readers["sums side by side"] = sums_side_by_side
    with ThreadPoolExecutor(threads) as pool:
        seconds = min(min(timing.wall) for timing in interleaved(readers, rounds).values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / seconds


def peak_extra_memory(setup: str, statement: str, threads: int = 1) -> int | None:
    """
    Bytes by which a statement's peak exceeds what the process held before it, measured in a fresh process.

    Args:
        setup (`str`): Python code that imports and builds; it may import the benchmarks.
        statement (`str`): Python code to measure.
        threads (`int`): OpenMP threads of the process.

    Returns:
        Bytes, or None where the system does not keep this figure (anything but Linux).
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-c", PEAK_MEMORY.format(setup=setup, statement=statement)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return int(done.stdout.split()[-1])


def write_results(path: str | Path, results: dict[str, Any]) -> None:
    """Write JSON so that `path` is the old content or the new, never a part. Folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results)


def bar_chart(path: str | Path, panels: dict[str, dict[str, float]], title: str, unit: str, limits=None) -> None:
    """
    Draw named bars, a panel beside another, and write a PNG.

    Args:
        path (`str` or `Path`): Of the picture.
        panels (`dict[str, dict[str, float]]`): Panel title -> bar name -> length.
        title, unit (`str`): Of the whole, and of the bars.
        limits (`dict[str, dict[str, float]]`, *optional*): Panel title -> bar name -> where its limit is marked.
    """
    from matplotlib.figure import Figure

    bars = max(len(panel) for panel in panels.values())
    figure = Figure(figsize=(3.2 * len(panels) + 1, 0.32 * bars + 1.4), layout="constrained")
    figure.suptitle(title)
    for i, (name, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1, title=name, xlabel=unit)
        drawn = axes.barh(list(panel), list(panel.values()), color="#4477aa")
        axes.bar_label(drawn, fmt="%.3g", padding=2, fontsize="small")
        axes.invert_yaxis()
        axes.margins(x=0.2)
        if i:
            axes.set_yticklabels([])
        marks = (limits or {}).get(name, {})
        axes.plot(list(marks.values()), list(marks), "|", color="#ee6677", markersize=16, markeredgewidth=2)
    figure.savefig(path, format="png", dpi=110)
