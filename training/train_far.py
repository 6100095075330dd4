# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Train a FAR generator on the codes that `extract_codes` wrote.

    accelerate launch -m fqgan_hf.training.train_far --codes_dir outputs/codes --tokenizer outputs/fqgan \
        --output_dir outputs/far --train_batch_size 32 --mixed_precision bf16

`python -m fqgan_hf.training.train_far` does the same on one device; `--config digits-far` supplies the options of a
preset. The result in `output_dir` loads with `FARForImageGeneration.from_pretrained`; beside it are `metrics.jsonl`
(a line each --logging_steps) and `checkpoint-*` (to go on with --resume_from_checkpoint latest).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from accelerate.logging import get_logger
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.arguments import (
    TrainingArguments,
    check_at_least,
    check_config_keys,
    load_model_config,
    option,
    parse_arguments,
)
from fqgan_hf.training.checkpointing import export, find_checkpoint, load_checkpoint, save_checkpoint
from fqgan_hf.training.codes import CodeSequences, CodesManifest, load_rows
from fqgan_hf.training.data import split_indices
from fqgan_hf.training.loop import (
    GuardedUpdate,
    MetricLog,
    TrainingPlan,
    build_accelerator,
    build_dataloader,
    build_optimizer,
    build_scheduler,
    ema_weights,
    seed_step,
    training_batches,
)


logger = get_logger(__name__)


@dataclass(kw_only=True)
class TrainFARArguments(TrainingArguments):
    """Options of this script; defaults are the published recipe, for a global batch of 256."""

    codes_dir: str = field(metadata={"help": "Folder of codes, written by extract_codes."})
    tokenizer: str | None = option(None, "The tokenizer that the codes must have come from; refused if they did not.")
    validation_codes_dir: str | None = option(None, "Codes to validate on, for --validation_fraction.")
    cache_dir: str | None = option(None, "Where `datasets` keeps what it prepares.")
    dataloader_num_workers: int = option(0, "Processes that read codes, for each training process.")
    head: Literal["ar", "linear", "mlp"] | None = option(None, "Overrides head_type of the model configuration.")

    num_train_epochs: int = option(300, "Passes over the data, unless --max_train_steps is given.")
    adam_weight_decay: float = option(0.05, "Decoupled weight decay of matrices.")

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 0, "dataloader_num_workers")
        if self.validation_codes_dir is not None and self.validation_fraction > 0:
            raise ValueError("at most one of --validation_codes_dir and --validation_fraction may be given")


def load_codes(codes_dir: str, tokenizer_fingerprint: str | None) -> CodesManifest:
    """The manifest of a store of codes, which must come from the tokenizer with this fingerprint, if one is given."""
    manifest = CodesManifest.load(codes_dir)
    if tokenizer_fingerprint not in (None, manifest.tokenizer_fingerprint):
        raise ValueError(
            f"codes_dir {codes_dir} holds codes of another tokenizer: {manifest.tokenizer} with fingerprint "
            f"{manifest.tokenizer_fingerprint[:16]}... made them, expected {tokenizer_fingerprint[:16]}..."
        )
    return manifest


def build_model(args: TrainFARArguments, manifest: CodesManifest) -> FARForImageGeneration:
    """A generator for these codes: what they determine comes from the manifest, the rest from the configuration."""
    given = {
        "num_codebooks": manifest.num_codebooks,
        "codebook_size": manifest.codebook_size,
        "grid_height": manifest.grid[0],
        "grid_width": manifest.grid[1],
        "num_classes": len(manifest.id2label),
    }
    if args.pretrained_model_name_or_path is not None:
        model = FARForImageGeneration.from_pretrained(args.pretrained_model_name_or_path)
        config = model.config.to_dict()
        if args.head not in (None, model.config.head_type):
            raise ValueError(
                f"head must be that of the pretrained model, {model.config.head_type!r}, got {args.head!r}"
            )
        given["tokenizer_fingerprint"] = manifest.tokenizer_fingerprint
    else:
        config = load_model_config(args.model_config_name_or_path) if args.model_config_name_or_path else {}
        check_config_keys(config, set(FARConfig().to_dict()), "FARConfig")
        model = None
    for name, value in given.items():
        if config.get(name, value) not in (None, value):
            raise ValueError(f"{name} of the model must be that of the codes, {value!r}, got {config[name]!r}")
    id2label = {int(key): name for key, name in manifest.id2label.items()}
    if model is None:
        config.update(given, id2label=id2label, tokenizer_fingerprint=manifest.tokenizer_fingerprint)
        if args.head is not None:
            config["head_type"] = args.head
        model = FARForImageGeneration(FARConfig(**config))
    model.config.id2label = id2label
    model.config.tokenizer_fingerprint = manifest.tokenizer_fingerprint
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


@torch.no_grad()
def validate(accelerator, model, dataloader) -> dict[str, float]:
    """Cross-entropy of each codebook on held-out codes, in nats, without dropout."""
    model = accelerator.unwrap_model(model).eval()
    sequences = []
    for batch in dataloader:
        logits = model(class_labels=batch["class_labels"], codes=batch["codes"]).logits.float()
        losses = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), batch["codes"], reduction="none")
        sequences.append(accelerator.gather_for_metrics(losses.mean(1)))  # (B, T, K) -> (B, K)
    model.train()
    losses = torch.cat(sequences).mean(0).tolist()
    return {
        "validation/loss": sum(losses) / len(losses),
        **{f"validation/loss/{k}": loss for k, loss in enumerate(losses)},
    }


def main(argv: list[str] | None = None) -> None:
    # Setup
    args = parse_arguments(TrainFARArguments, argv)
    fingerprint = None if args.tokenizer is None else FQGANModel.from_pretrained(args.tokenizer).fingerprint()
    manifest = load_codes(args.codes_dir, fingerprint)
    held_out_manifest = manifest
    if args.validation_codes_dir is not None:
        held_out_manifest = load_codes(args.validation_codes_dir, manifest.tokenizer_fingerprint)
    resume = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    accelerator = build_accelerator(args)
    if args.resume_from_checkpoint and resume is None:
        logger.warning(f"No complete checkpoint in {args.output_dir} yet: starting from the beginning")

    # Build
    model = build_model(args, manifest)
    with accelerator.main_process_first():
        rows = held_out_rows = load_rows(args.codes_dir, manifest, args.cache_dir)
        if args.validation_codes_dir is not None:
            held_out_rows = load_rows(args.validation_codes_dir, held_out_manifest, args.cache_dir)
    indices, held_out = split_indices(len(rows), args.validation_fraction, args.seed)
    if args.validation_codes_dir is not None:
        held_out = list(range(len(held_out_rows)))
    plan = TrainingPlan.from_arguments(args, len(indices), accelerator.num_processes)
    dataset = CodeSequences(rows, manifest, indices, seed=args.seed)
    dataloader = build_dataloader(dataset, plan, args, args.dataloader_num_workers)
    held_out = CodeSequences(held_out_rows, held_out_manifest, held_out[: args.max_validation_samples])
    held_out_loader = DataLoader(held_out, args.train_batch_size, num_workers=args.dataloader_num_workers)

    optimizer = build_optimizer(model, args, args.learning_rate)
    scheduler = build_scheduler(optimizer, args, plan)
    ema = EMAModel(model.parameters(), decay=args.ema_decay) if args.use_ema else None
    model, optimizer, scheduler, dataloader, held_out_loader = accelerator.prepare(
        model, optimizer, scheduler, dataloader, held_out_loader
    )
    bare_model = accelerator.unwrap_model(model)
    if ema is not None:
        ema.to(accelerator.device)
    first_step = load_checkpoint(accelerator, resume, plan.position, ema) if resume else 0
    update = GuardedUpdate(accelerator, args)

    # Loop
    log = MetricLog(accelerator, args.output_dir, plan, first_step)
    model.train()
    for step, number, batch in training_batches(dataloader, plan, first_step):
        seed_step(plan, step, number, accelerator.process_index)
        with accelerator.accumulate(model):
            output = model(class_labels=batch["class_labels"], codes=batch["codes"], labels=batch["codes"])
            accelerator.backward(output.loss)
            scalars = {f"loss/{k}": loss for k, loss in enumerate(output.codebook_losses.detach())}
            scalars["loss/total"] = output.loss.detach()
            scalars.update(update(model, optimizer, scheduler, batch["index"]))
        log.add(scalars)
        if not accelerator.sync_gradients:
            continue

        step += 1
        log.advance()
        if ema is not None:
            ema.step(bare_model.parameters())
        if step % args.logging_steps == 0 or step == plan.max_train_steps:
            log.write_means(step, learning_rate=scheduler.get_last_lr()[0])
        if len(held_out) and (step % args.validation_steps == 0 or step == plan.max_train_steps):
            with ema_weights(ema, bare_model):
                log.write(step, validate(accelerator, model, held_out_loader))
        if step % args.checkpointing_steps == 0:
            save_checkpoint(accelerator, args.output_dir, step, plan.position, ema, args.checkpoints_total_limit)

    # Save
    log.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with ema_weights(ema, bare_model):
            export([bare_model], args.output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
