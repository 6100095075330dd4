# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The log of a run: `metrics.jsonl`, trackers, a progress bar and `losses.png`."""

import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from fqgan_hf.files import atomic_path, named_errors, read_metrics
from fqgan_hf.training.common.loop import TrainingPlan
from fqgan_hf.training.common.plots import plot_losses


class MetricLog:
    """
    Means of named scalars: to `metrics.jsonl`, one JSON object per line, to the trackers, and to a progress bar.

    `losses.png` shows them as curves; it is drawn after each validation and at the end.

    Args:
        accelerator (`Accelerator`): Of the run.
        output_dir (`str` or `Path`): Where `metrics.jsonl` goes. Records beyond `first_step`, left by a run that was
            killed, are dropped.
        plan (`TrainingPlan`): The run's.
        first_step (`int`): Steps done before.
        peak_flops (`float`, *optional*): Floating-point operations per second that one device can do. With it the
            records have `mfu`, the share of them that the run uses, pauses for validation and checkpoints included.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output_dir: str | Path,
        plan: TrainingPlan,
        first_step: int,
        peak_flops: float | None = None,
    ):
        self.accelerator = accelerator
        self.path = Path(output_dir) / "metrics.jsonl"
        self.plan = plan
        self.peak_flops = peak_flops
        self.bar = tqdm(
            initial=first_step, total=plan.max_train_steps, unit="step", disable=not accelerator.is_local_main_process
        )
        self._reset(first_step)
        if accelerator.is_main_process:
            kept = [record for record in read_metrics(self.path) if record["step"] <= first_step] if first_step else []
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            if first_step == 0:
                for path in self.path.parent.glob("bad_images*.txt"):
                    path.unlink()
        accelerator.wait_for_everyone()

    def _reset(self, step: int) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}
        self.since, self.started, self.flops = step, time.perf_counter(), 0.0

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
        shown = {"loss": f"{means['loss/total']:.4f}", "images/s": f"{speed:.1f}"}
        more["images_per_second"] = round(speed, 2)
        if self.peak_flops is not None:
            peak = self.peak_flops * self.accelerator.num_processes
            more["mfu"] = round(self.flops * self.plan.samples_per_step / seconds / peak, 4)
            shown["mfu"] = f"{more['mfu']:.1%}"
        self.bar.set_postfix(shown)
        self.write(step, {**means, **more})
        self._reset(step)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write one record as it is."""
        record = {"step": step, "epoch": round(step / self.plan.steps_per_epoch, 4), **scalars}
        if self.accelerator.is_main_process:
            with named_errors(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self.accelerator.log(scalars, step=step)
        if any(name.startswith("validation/") for name in scalars):
            self._plot()

    def _plot(self) -> None:
        if self.accelerator.is_main_process:
            plot_losses(self.path, self.path.with_name("losses.png"))

    def advance(self, flops_per_image: float) -> None:
        """Count one step, with its operations per image, for `mfu`."""
        self.flops += flops_per_image
        self.bar.update()

    def close(self) -> None:
        self.bar.close()
        self._plot()
