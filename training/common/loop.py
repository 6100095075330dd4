# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the training loops share: the plan of steps, seeding and guarded updates."""

import contextlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.logging import get_logger
from accelerate.scheduler import AcceleratedScheduler
from diffusers.configuration_utils import ConfigMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedConfig

from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.training.common.arguments import TrainingArguments
from fqgan_hf.training.common.checkpointing import whole
from fqgan_hf.training.common.resuming import recorded_options
from fqgan_hf.training.data.datasets import EpochSampler
from fqgan_hf.training.data.streaming import StreamLoader


logger = get_logger(__name__)


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
        streams (`list[int]`, *optional*): With --streaming: processes, workers and batch size, which set the order.
    """

    seed: int
    num_samples: int
    samples_per_step: int
    batches_per_step: int
    max_train_steps: int
    streams: list[int] | None = None

    @classmethod
    def from_arguments(cls, args: TrainingArguments, num_samples: int, num_processes: int) -> "TrainingPlan":
        """The plan of the options; raises `ValueError` if there are fewer samples than one step takes."""
        samples_per_step = args.train_batch_size * args.gradient_accumulation_steps * num_processes
        if num_samples < samples_per_step:
            raise ValueError(
                f"train_batch_size {args.train_batch_size} x gradient_accumulation_steps "
                f"{args.gradient_accumulation_steps} x {num_processes} processes = {samples_per_step} must be at most "
                f"the {num_samples} training samples"
            )
        steps = args.max_train_steps or args.num_train_epochs * (num_samples // samples_per_step)
        streams = [num_processes, args.dataloader_num_workers, args.train_batch_size] if args.streaming else None
        return cls(args.seed, num_samples, samples_per_step, args.gradient_accumulation_steps, steps, streams)

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.samples_per_step

    @property
    def position(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resumption."""
        position = {"seed": self.seed, "num_samples": self.num_samples, "samples_per_step": self.samples_per_step}
        return position if self.streams is None else {**position, "streams": self.streams}


def state_of_run(
    accelerator: Accelerator, args: TrainingArguments, plan: TrainingPlan, data: Any, model: nn.Module
) -> dict[str, Any]:
    """
    What checkpoints say of a run; see `check_resumable`.

    Args:
        accelerator (`Accelerator`), args (`TrainingArguments`), plan (`TrainingPlan`): The run's.
        data: With attributes `source` and `fingerprint`.
        model (`nn.Module`): As built, not wrapped.
    """
    config = {name: getattr(model.config, name) for name in own_config_fields(model)}
    return {
        "data": {"source": data.source, "fingerprint": data.fingerprint},
        "options": recorded_options(args),
        **plan.position,
        "precision": accelerator.mixed_precision,
        "model": json.loads(json.dumps(config)),  # tuples as they are read again
    }


def own_config_fields(model: nn.Module) -> list[str]:
    """Names of the fields that a model's configuration has of its own, those of the library's base class aside."""
    if isinstance(model, ConfigMixin):  # diffusers: the arguments of the constructor
        return list(inspect.signature(type(model).__init__).parameters)[1:]
    own = [kind for kind in type(model.config).__mro__ if kind not in PreTrainedConfig.__mro__]
    return [name for kind in reversed(own) for name in inspect.get_annotations(kind)]


def build_dataloader(
    dataset: Dataset, plan: TrainingPlan, args: TrainingArguments, num_workers: int
) -> DataLoader | StreamLoader:
    """Training batches in the order of `EpochSampler`, not yet prepared, or those of a stream."""
    if args.streaming:
        return StreamLoader(dataset, args, num_workers)
    return DataLoader(
        dataset,
        batch_size=args.train_batch_size,
        sampler=EpochSampler(plan.num_samples, plan.samples_per_step, plan.seed),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )


def training_batches(
    dataloader: DataLoader | StreamLoader, plan: TrainingPlan, first_step: int
) -> Iterator[tuple[int, int, Any]]:
    """Yields (step, number of the batch within the step, batch) from `first_step` to the end of the plan."""
    if isinstance(dataloader, StreamLoader):
        numbers = range(first_step * plan.batches_per_step, plan.max_train_steps * plan.batches_per_step)
        for number, batch in zip(numbers, dataloader.batches(numbers.start), strict=False):
            raise_if_interrupted()
            yield *divmod(number, plan.batches_per_step), batch
        return
    epoch, done = divmod(first_step, plan.steps_per_epoch)
    step = first_step
    while step < plan.max_train_steps:
        dataloader.set_epoch(epoch)
        batches = skip_first_batches(dataloader, done * plan.batches_per_step) if done else dataloader
        for number, batch in enumerate(batches):
            raise_if_interrupted()
            yield step, number % plan.batches_per_step, batch
            step += (number + 1) % plan.batches_per_step == 0
            if step == plan.max_train_steps:
                return
        epoch, done = epoch + 1, 0


def seed_step(plan: TrainingPlan, step: int, batch_number: int, process_index: int) -> None:
    """Dropout and other draws of a forward pass depend on its place in the run, not on what was drawn before."""
    sequence = np.random.SeedSequence([plan.seed, step, batch_number, process_index])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def build_optimizer(model: nn.Module, args: TrainingArguments, learning_rate: float) -> Optimizer:
    """AdamW over the trainable parameters; only matrices (two dimensions or more) decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": args.adam_weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (args.adam_beta1, args.adam_beta2)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=args.adam_epsilon, fused=True)


def build_scheduler(optimizer: Optimizer, args: TrainingArguments, plan: TrainingPlan) -> LRScheduler:
    """The learning rate schedule of the options, over the steps of the plan."""
    return get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps,
        num_training_steps=plan.max_train_steps,
    )


class GuardedUpdate:
    """
    Clips the gradient and takes the optimizer step, unless the gradient is not finite.

    Gradients have been summed over the processes by then, so all of them decide alike without communication. A skipped
    step counts as a step: the data move on. `skipped_steps` in the log is the share of such steps.

    Args:
        accelerator (`Accelerator`): Of the run.
        args (`TrainingArguments`): Gives the clipping norm and the number of skipped steps to tolerate.
    """

    def __init__(self, accelerator: Accelerator, args: TrainingArguments):
        self.accelerator = accelerator
        self.args = args
        self.num_skipped = 0

    def __call__(
        self, model: nn.Module, optimizer: Optimizer, scheduler: AcceleratedScheduler, samples: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`samples` are the indices of the batch, which the error names should this be one step too many."""
        scalars = {}
        if self.accelerator.sync_gradients:
            norm = whole(self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm).detach())
            skip = not torch.isfinite(norm)
            if skip:
                self._skip(optimizer, samples)
            else:
                scalars["gradient_norm"] = norm
            scalars["skipped_steps"] = torch.full_like(norm, float(skip))
        optimizer.step()  # without gradients nothing moves, and between synchronisations accelerate waits
        optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            scheduler.step()
        return scalars

    def _skip(self, optimizer: Optimizer, samples: torch.Tensor) -> None:
        scaler = self.accelerator.scaler
        if scaler is None:
            optimizer.zero_grad()
        elif scaler.get_scale() > 1:
            return  # in fp16 such steps are routine: the scaler leaves them out itself, and scales less after each
        self.num_skipped += 1
        logger.warning(f"Step skipped: loss or gradient is not finite ({self.num_skipped} so far)")
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


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Within this the model is in evaluation mode; afterwards it is in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(training)
