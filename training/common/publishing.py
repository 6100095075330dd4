# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The end of a run: the model in `output_dir`, and with --push_to_hub on the Hub, with a card that describes it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers.training_utils import EMAModel
from huggingface_hub import hf_hub_download
from torch import nn

from fqgan_hf.files import read_metrics
from fqgan_hf.hub.card_info import CARD_FILE, CardInfo
from fqgan_hf.hub.push import push_to_hub
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.training.common.arguments import TrainingArguments
from fqgan_hf.training.common.checkpointing import export, unsharded
from fqgan_hf.training.common.loop import TrainingPlan, ema_weights
from fqgan_hf.training.common.metric_log import MetricLog


logger = get_logger(__name__)

TRAINED_FURTHER = ", then trained further"  # what `converted_from` says of weights that are no longer as converted


def save_model(
    accelerator: Accelerator,
    args: TrainingArguments,
    plan: TrainingPlan,
    log: MetricLog,
    model: nn.Module,
    ema: EMAModel | None = None,
    processor: FQGANImageProcessor | None = None,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """
    Write the trained model to `output_dir`, averaged if there is an average, and publish it; every process calls this.

    Args:
        accelerator (`Accelerator`): Of the run.
        args (`TrainingArguments`), plan (`TrainingPlan`), log (`MetricLog`): The run's, for the card.
        model (`nn.Module`): As `accelerator.prepare` gave it.
        ema (`EMAModel`, *optional*): Average of its weights.
        processor (`FQGANImageProcessor`, *optional*): Saved beside a tokenizer.
        parts (`Mapping[str, Any]`, *optional*): Saved beside a generator, each in a subfolder of that name.
    """
    accelerator.wait_for_everyone()
    model = accelerator.unwrap_model(model)
    with ema_weights(ema, model):
        whole = unsharded(model)
        if accelerator.is_main_process:
            export([whole] if processor is None else [whole, processor], args.output_dir, parts)
            card = CardInfo(
                datasets=_datasets_of(args),
                training=_training_summary(accelerator, args, plan, log),
                cost=_training_cost(accelerator, plan, log),
                **_terms_of_start(args.pretrained_model_name_or_path),
            )
            card.write(Path(args.output_dir))  # for `fqgan push`
            if args.push_to_hub:
                logger.info(f"Publishing {args.output_dir} as {args.hub_model_id}")
                push_to_hub(
                    whole,
                    args.hub_model_id,
                    private=args.hub_private_repo or None,
                    token=args.hub_token,
                    commit_message=f"Trained for {plan.max_train_steps} steps",
                    card=card,
                    image_processor=processor,
                    parts=parts,
                )
    accelerator.wait_for_everyone()


def _terms_of_start(name: str | None) -> dict[str, str]:
    """Licence and origin of the weights that a training began with: they hold for what came of them, too."""
    if name is None:
        return {}
    folder = Path(name)
    try:
        if not folder.is_dir():
            folder = Path(hf_hub_download(name, CARD_FILE)).parent
        start = CardInfo.read(folder)
    except (OSError, ValueError):  # no card.json, or none of ours
        return {}
    if start.converted_from is None:
        return {"license": start.license}
    origin = start.converted_from.removesuffix(TRAINED_FURTHER)
    return {"license": start.license, "converted_from": origin + TRAINED_FURTHER}


def _datasets_of(args: TrainingArguments) -> list[str]:
    """Hub ids of the training data; folders of this machine mean nothing to others."""
    name = getattr(args, "dataset_name", None)
    return [name] if name and not Path(name).exists() else []


def _training_summary(accelerator: Accelerator, args: TrainingArguments, plan: TrainingPlan, log: MetricLog) -> str:
    """How a model was trained and what was logged last, in Markdown."""
    epochs = plan.max_train_steps / plan.steps_per_epoch
    schedule = args.lr_scheduler + (f", {args.lr_warmup_steps} steps of warm-up" if args.lr_warmup_steps else "")
    rows = {
        "samples": f"{plan.num_samples:,}",
        "steps": f"{plan.max_train_steps:,} of {plan.samples_per_step} samples ({epochs:.4g} epochs)",
        "optimizer": f"AdamW, learning rate {args.learning_rate:g} ({schedule}), betas {args.adam_beta1:g} and "
        f"{args.adam_beta2:g}, weight decay {args.adam_weight_decay:g}, gradients clipped to {args.max_grad_norm:g}",
        "averaged weights": f"yes, decay {args.ema_decay:g}" if args.use_ema else "no",
        "precision": accelerator.mixed_precision,
        "processes": str(accelerator.num_processes),
        "seed": str(args.seed),
    }
    if args.pretrained_model_name_or_path and not Path(args.pretrained_model_name_or_path).exists():
        rows["started from"] = args.pretrained_model_name_or_path
    text_encoder = getattr(args, "text_encoder", None)
    if text_encoder and not Path(text_encoder).exists():
        rows["text encoder"] = text_encoder
    last: dict[str, float] = {}
    for record in read_metrics(log.path):
        last.update(record)
    figures = {
        name: f"{value:.4g}"
        for name, value in sorted(last.items())
        if re.match("loss/|validation/", name) and math.isfinite(value)
    }
    return "\n\n".join(
        [
            table("option", "value", rows),
            "Logged last, the losses on training samples and `validation/` on held-out ones:",
            table("figure", "value", figures),
        ]
    )


def _training_cost(accelerator: Accelerator, plan: TrainingPlan, log: MetricLog) -> str:
    """How long the steps took, on what, in a sentence; nothing where no speed was logged."""
    seconds, before = 0.0, 0
    for record in read_metrics(log.path):
        if speed := record.get("images_per_second"):
            seconds += (record["step"] - before) * plan.samples_per_step / speed
            before = int(record["step"])
    if seconds == 0:
        return ""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the {device.type.upper()}"
    processes = f"{accelerator.num_processes} x {name}" if accelerator.num_processes > 1 else name
    return f"{before:,} steps in {seconds / 3600:.3g} hours on {processes}."


def table(first: str, second: str, rows: dict[str, str]) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {first} | {second} |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows.items()])
