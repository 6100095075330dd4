# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Processes that share the work of one run, and the folder that this run alone writes to."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from fqgan_hf.files import locked_folder, remove
from fqgan_hf.pipelines.inference import choose_device


# What `atomic_path` leaves of a run that was killed.
LEFTOVER = re.compile(r"\..{1,40}\.\w{8}\.tmp")


@contextmanager
def joined_processes(device: str) -> Iterator[tuple[PartialState, str]]:
    """
    The processes of an `accelerate launch`, or this one alone.

    Args:
        device (`str`): See [`~fqgan_hf.pipelines.inference.choose_device`].

    Yields:
        Their state, and the device of this process.

    Raises:
        ValueError: The device cannot be used, or not by several processes.
    """
    device = choose_device(device)
    owns_group = not torch.distributed.is_initialized()
    # A process may wait very long for the others to finish their shares.
    state = PartialState(cpu=device in ("cpu", "mps"), timeout=timedelta(days=30))
    if state.num_processes > 1:
        if device == "mps" or ":" in device:
            raise ValueError(f"device must be cpu or cuda for {state.num_processes} processes, got {device}")
        device = str(state.device)  # a GPU of its own
    yield state, device
    if owns_group:
        state.destroy_process_group()


@contextmanager
def own_folder(
    state: PartialState,
    folder: Path,
    purpose: str,
    prepare: Callable[[], None] = lambda: None,
    leftover: re.Pattern = LEFTOVER,
) -> Iterator[None]:
    """
    Within this no other run uses the folder. Every process calls it, and all fail if one of the checks does.

    Args:
        state (`PartialState` or `Accelerator`): Of this process.
        folder (`Path`): Created if missing. What a killed run left half-written in it is removed.
        purpose (`str`): What is done there, for the message: "encodes".
        prepare (`Callable`): What the main process does before the others go on; it may raise.
        leftover (`re.Pattern`): Names of what a killed run leaves.

    Raises:
        ValueError, OSError: Another run uses the folder, it cannot be written to, or `prepare` says so.
    """
    with ExitStack() as stack:
        failure: list[Exception | None] = [None]
        if state.is_main_process:
            try:
                stack.enter_context(locked_folder(folder, purpose))
                for path in folder.rglob("*.tmp"):
                    if leftover.fullmatch(path.name):
                        remove(path)
                prepare()
            except (ValueError, OSError) as error:
                failure = [error]
        broadcast_object_list(failure)  # the other processes wait here
        if failure[0] is not None:
            raise failure[0]
        yield
