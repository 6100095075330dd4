# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the training loops share: the accelerator, the plan of steps, seeding, guarded updates and the log."""

import contextlib
import importlib.util
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.logging import get_logger
from accelerate.utils import ProjectConfiguration, set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from fqgan_hf.training.arguments import TrainingArguments
from fqgan_hf.training.data import EpochSampler


logger = get_logger(__name__)


def build_accelerator(args: TrainingArguments) -> Accelerator:
    """The accelerator of a run, with seeds set and its trackers started."""
    if args.report_to not in (None, "all") and importlib.util.find_spec(args.report_to) is None:
        raise ValueError(f"report_to={args.report_to!r} needs the package {args.report_to}, which is not installed")
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
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    if args.report_to is not None:
        config = {name: value for name, value in asdict(args).items() if isinstance(value, (int, float, str, bool))}
        accelerator.init_trackers("fqgan-hf", config=config)
    set_seed(args.seed)
    return accelerator


def check_launch(accelerator: Accelerator) -> None:
    """Raise `ValueError` where several processes were started but do not know of each other."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size != accelerator.num_processes:
        raise ValueError(
            f"the launcher started {world_size} processes, but each would work alone: "
            "without GPUs set ACCELERATE_USE_CPU=true"
        )


@dataclass(frozen=True)
class TrainingPlan:
    """
    How samples become steps. The data of step n follow from these numbers and the seed alone.

    Args:
        seed (`int`): The run's.
        num_samples (`int`): Samples to train on.
        samples_per_step (`int`): Batch x accumulation x processes.
        batches_per_step (`int`): Accumulated batches of one process.
        max_train_steps (`int`): Optimizer steps in all.
    """

    seed: int
    num_samples: int
    samples_per_step: int
    batches_per_step: int
    max_train_steps: int

    @classmethod
    def from_arguments(cls, args: TrainingArguments, num_samples: int, num_processes: int) -> "TrainingPlan":
        samples_per_step = args.train_batch_size * args.gradient_accumulation_steps * num_processes
        if num_samples < samples_per_step:
            raise ValueError(
                f"train_batch_size {args.train_batch_size} x gradient_accumulation_steps "
                f"{args.gradient_accumulation_steps} x {num_processes} processes = {samples_per_step} must be at most "
                f"the {num_samples} training samples"
            )
        steps = args.max_train_steps or args.num_train_epochs * (num_samples // samples_per_step)
        return cls(args.seed, num_samples, samples_per_step, args.gradient_accumulation_steps, steps)

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.samples_per_step

    @property
    def position(self) -> dict[str, int]:
        """What must not change between a checkpoint and its resumption."""
        return {"seed": self.seed, "num_samples": self.num_samples, "samples_per_step": self.samples_per_step}


def build_dataloader(dataset: Dataset, plan: TrainingPlan, args: TrainingArguments, num_workers: int) -> DataLoader:
    """Training batches in the order of `EpochSampler`, not yet prepared."""
    return DataLoader(
        dataset,
        batch_size=args.train_batch_size,
        sampler=EpochSampler(plan.num_samples, plan.samples_per_step, plan.seed),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )


def training_batches(dataloader: DataLoader, plan: TrainingPlan, first_step: int) -> Iterator[tuple[int, int, Any]]:
    """Yields (step, number of the batch within the step, batch) from `first_step` to the end of the plan."""
    epoch, done = divmod(first_step, plan.steps_per_epoch)
    step = first_step
    while step < plan.max_train_steps:
        dataloader.set_epoch(epoch)
        batches = skip_first_batches(dataloader, done * plan.batches_per_step) if done else dataloader
        for number, batch in enumerate(batches):
            yield step, number % plan.batches_per_step, batch
            step += (number + 1) % plan.batches_per_step == 0
            if step == plan.max_train_steps:
                return
        epoch, done = epoch + 1, 0


def seed_step(plan: TrainingPlan, step: int, batch_number: int, process_index: int) -> None:
    """Dropout and other draws of a forward pass depend on its place in the run, not on what was drawn before."""
    sequence = np.random.SeedSequence([plan.seed, step, batch_number, process_index])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def build_optimizer(model: nn.Module, args: TrainingArguments, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; only matrices (two dimensions or more) decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": args.adam_weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (args.adam_beta1, args.adam_beta2)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=args.adam_epsilon)


def build_scheduler(optimizer: torch.optim.Optimizer, args: TrainingArguments, plan: TrainingPlan):
    return get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps,
        num_training_steps=plan.max_train_steps,
    )


class GuardedUpdate:
    """
    Clips the gradient and takes the optimizer step, unless the gradient is not finite.

    Gradients are summed over the processes before, so all of them come to the same decision without a message. A
    skipped step counts as a step: the data go on.

    Args:
        accelerator (`Accelerator`): Of the run.
        args (`TrainingArguments`): Gives the clipping norm and the number of skipped steps to bear.
    """

    def __init__(self, accelerator: Accelerator, args: TrainingArguments):
        self.accelerator = accelerator
        self.args = args
        self.num_skipped = 0

    def __call__(self, model, optimizer, scheduler, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        """`samples` are the indices of the batch, to name should this be one step too many."""
        scalars = {}
        if self.accelerator.sync_gradients:
            norm = self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
            # In fp16 infinite gradients are routine: the gradient scaler skips the step itself.
            if self.accelerator.scaler is None and not torch.isfinite(norm):
                optimizer.zero_grad()
                self._skip(samples)
            else:
                scalars["gradient_norm"] = norm.detach()
        optimizer.step()  # without gradients nothing moves, and between synchronisations accelerate waits
        optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            scheduler.step()
        return scalars

    def _skip(self, samples: torch.Tensor) -> None:
        self.num_skipped += 1
        if self.num_skipped > self.args.max_nonfinite_steps:
            raise FloatingPointError(
                f"loss or gradient was not finite in {self.num_skipped} steps, more than max_nonfinite_steps = "
                f"{self.args.max_nonfinite_steps}; samples of the last batch: {samples.tolist()}"
            )


@contextlib.contextmanager
def ema_weights(ema: EMAModel | None, model: nn.Module) -> Iterator[None]:
    """Within this the model carries the averaged weights, if there are any."""
    if ema is None:
        yield
        return
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    try:
        yield
    finally:
        ema.restore(model.parameters())


class MetricLog:
    """
    Means of named scalars: to `metrics.jsonl`, one JSON object a line, to the trackers, and to a progress bar.

    Args:
        accelerator (`Accelerator`): Of the run.
        output_dir (`str` or `Path`): Where `metrics.jsonl` goes. Records beyond `first_step`, left by a run that was
            killed, are dropped.
        plan (`TrainingPlan`): The run's.
        first_step (`int`): Steps done before.
        unit (`str`): What a sample is called in the bar.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output_dir: str | Path,
        plan: TrainingPlan,
        first_step: int,
        unit: str = "images",
    ):
        self.accelerator = accelerator
        self.path = Path(output_dir) / "metrics.jsonl"
        self.plan = plan
        self.unit = unit
        self.bar = tqdm(
            initial=first_step, total=plan.max_train_steps, unit="step", disable=not accelerator.is_local_main_process
        )
        self._reset(first_step)
        if accelerator.is_main_process:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= first_step]
            self.path.write_text("".join(kept) if first_step else "", encoding="utf-8")

    def _reset(self, step: int) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}
        self.since, self.started = step, time.perf_counter()

    def add(self, scalars: dict[str, torch.Tensor]) -> None:
        """Count the scalars of one batch; nothing is copied from the device."""
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def write_means(self, step: int, **more: float) -> None:
        """Write the means over batches and processes since the last call; `step` steps are done."""
        seconds = time.perf_counter() - self.started
        speed = (step - self.since) * self.plan.samples_per_step / seconds
        names = sorted(self.sums)
        means = torch.stack([self.sums[name] / self.counts[name] for name in names]).float()
        means = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        self.bar.set_postfix({"loss": f"{means['loss/total']:.4f}", f"{self.unit}/s": f"{speed:.1f}"})
        self.write(step, {**means, **more, f"{self.unit}_per_second": round(speed, 2)})
        self._reset(step)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write one record as it is."""
        record = {"step": step, "epoch": round(step / self.plan.steps_per_epoch, 4), **scalars}
        if self.accelerator.is_main_process:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self.accelerator.log(scalars, step=step)

    def advance(self) -> None:
        self.bar.update()

    def close(self) -> None:
        self.bar.close()
