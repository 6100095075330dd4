# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Setup of a run: its processes, its folder, its seeds and trackers."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import ProjectConfiguration, set_seed
from tqdm.auto import tqdm

from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.pipelines import sharing
from fqgan_hf.training.common.arguments import TrainingArguments
from fqgan_hf.training.common.resuming import find_checkpoint, read_checkpoint, tell_changes


logger = get_logger(__name__)

# What a process that was killed leaves while it writes: a checkpoint, a shard of codes, the trained model.
LEFTOVER = re.compile(r"checkpoint-\d+\.tmp|\.(export|shard-\d+\.parquet)\..+\.tmp")


def run_training(args: TrainingArguments, train: Callable[[Accelerator, Any, Path | None], None]) -> None:
    """
    Train in a folder that no other run writes to.

    Args:
        args (`TrainingArguments`): The run's.
        train (`Callable`): Called with the accelerator, `args`, and the checkpoint to go on from, if there is one.
    """
    raise_if_interrupted()  # some library may have swallowed it while it was imported
    accelerator = _build_accelerator(args)
    with own_folder(accelerator, args.output_dir, "trains"):
        resume = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
        if args.resume_from_checkpoint and resume is None:
            logger.warning(f"No complete checkpoint in {args.output_dir} yet: starting from the beginning")
        for change in tell_changes(read_checkpoint(resume), args) if resume else ():
            logger.warning(f"Going on from {resume}: {change}")
        _start_trackers(accelerator, args)
        set_seed(args.seed)
        train(accelerator, args, resume)
        accelerator.end_training()


def _build_accelerator(args: TrainingArguments) -> Accelerator:
    """The accelerator of a run."""
    accelerator = Accelerator(
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        mixed_precision=args.mixed_precision,
        log_with=args.report_to,
        project_config=ProjectConfiguration(
            project_dir=args.output_dir, logging_dir=str(Path(args.output_dir) / "logs")
        ),
        # One scheduler step per optimizer step, whatever the number of processes.
        step_scheduler_with_optimizer=False,
    )
    check_launch(accelerator)
    return accelerator


def check_launch(accelerator: Accelerator) -> None:
    """Raise `ValueError` if several processes were started that do not know of each other."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size != accelerator.num_processes:
        raise ValueError(
            f"the launcher started {world_size} processes, but each would work alone: "
            "without GPUs set ACCELERATE_USE_CPU=true"
        )


@contextlib.contextmanager
def own_folder(accelerator: Accelerator, folder: str | Path, purpose: str) -> Iterator[None]:
    """
    [`~fqgan_hf.pipelines.sharing.own_folder`] of a training script: its leftovers, and its bars end before an error is
    shown.
    """
    with sharing.own_folder(accelerator, Path(folder), purpose, leftover=LEFTOVER):
        try:
            yield
        except BaseException:
            for bar in list(tqdm._instances):  # so that what went wrong is the last line
                bar.close()
            raise


def _start_trackers(accelerator: Accelerator, args: TrainingArguments) -> None:
    """Start what `--report_to` names, if it does."""
    if args.report_to is not None:
        config = {name: value for name, value in asdict(args).items() if isinstance(value, (int, float, str, bool))}
        config.pop("hub_token", None)  # trackers may be public
        accelerator.init_trackers("fqgan-hf", config=config)
