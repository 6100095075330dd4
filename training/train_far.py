# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Train a FAR generator on the codes that `extract_codes` wrote.

    accelerate launch -m fqgan_hf.training.train_far --codes_dir outputs/codes --tokenizer outputs/fqgan \
        --output_dir outputs/far --train_batch_size 32 --mixed_precision bf16

`python -m fqgan_hf.training.train_far` does the same on one device; `--config digits-far` supplies the options of a
preset; `--on_the_fly --train_data_dir images/` encodes images as training goes, without a store of codes. The result
in `output_dir` loads with `FARForImageGeneration.from_pretrained`; beside it are `metrics.jsonl` (a line each
--logging_steps), `losses.png`, `samples/` (with --sample_steps) and `checkpoint-*` (to go on with
--resume_from_checkpoint latest).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate.logging import get_logger
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.arguments import (
    ImageDataArguments,
    TrainingArguments,
    check_at_least,
    check_config_keys,
    load_model_config,
    option,
    parse_arguments,
)
from fqgan_hf.training.checkpointing import find_checkpoint, load_checkpoint, save_checkpoint
from fqgan_hf.training.codes import CodesManifest
from fqgan_hf.training.costs_far import describe_run, flops_per_image
from fqgan_hf.training.generator_data import GeneratorData, encoded_images, stored_codes
from fqgan_hf.training.loop import (
    GuardedUpdate,
    TrainingPlan,
    build_accelerator,
    build_dataloader,
    build_optimizer,
    build_scheduler,
    ema_weights,
    seed_step,
    training_batches,
)
from fqgan_hf.training.metric_log import MetricLog
from fqgan_hf.training.publishing import save_model
from fqgan_hf.training.sampling import check_classes, save_samples


logger = get_logger(__name__)


@dataclass(kw_only=True)
class TrainFARArguments(ImageDataArguments, TrainingArguments):
    """Options of this script; defaults are the published recipe, for a global batch of 256."""

    codes_dir: str | None = option(None, "Folder of codes, written by extract_codes.")
    tokenizer: str | None = option(
        None,
        "Folder or Hub name of the tokenizer; codes of another one are refused. Needed for --on_the_fly and samples.",
    )
    validation_codes_dir: str | None = option(None, "Codes to validate on, for --validation_fraction.")
    on_the_fly: bool = option(
        False, "Encode images with --tokenizer as training goes, instead of reading --codes_dir: slower, and no disk."
    )
    crop: Literal["plain", "flip", "ten-crop"] = option("flip", "With --on_the_fly: views of each image, one a time.")
    validation_split: str | None = option(None, "With --on_the_fly: split of --dataset_name to validate on.")
    head: Literal["ar", "linear", "mlp"] | None = option(None, "Overrides head_type of the model configuration.")

    num_train_epochs: int = option(300, "Passes over the data, unless --max_train_steps is given.")
    adam_weight_decay: float = option(0.05, "Decoupled weight decay of matrices.")

    sample_steps: int | None = option(None, "Write pictures to samples/ every so many steps, and at the end.")
    sample_classes: list[int] | None = option(None, "Class ids to show; by default some that are spread over all.")
    sample_guidance_scale: float = option(2.0, "Guidance of those pictures.")

    def __post_init__(self):
        TrainingArguments.__post_init__(self)
        if (self.codes_dir is None) != self.on_the_fly:
            raise ValueError("exactly one of --codes_dir and --on_the_fly must be given")
        if self.on_the_fly:
            ImageDataArguments.__post_init__(self)
        else:
            for name in ("train_data_dir", "dataset_name", "streaming", "validation_split"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs --on_the_fly: without it training reads --codes_dir")
        if self.tokenizer is None and (self.on_the_fly or self.sample_steps is not None):
            raise ValueError("on_the_fly and sample_steps need --tokenizer")
        check_at_least(self, 0, "dataloader_num_workers", "sample_guidance_scale")
        check_at_least(self, 1, "sample_steps", "max_train_samples")
        sources = [self.validation_codes_dir, self.validation_split, self.validation_fraction or None]
        if sum(source is not None for source in sources) > 1:
            raise ValueError(
                "at most one of --validation_codes_dir, --validation_split and --validation_fraction may be given"
            )
        if self.validation_codes_dir is not None and self.on_the_fly:
            raise ValueError("validation_codes_dir needs --codes_dir; with --on_the_fly use --validation_split")


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
    return model


@torch.no_grad()
def validate(accelerator, model, dataloader, data: GeneratorData) -> dict[str, float]:
    """Cross-entropy of each codebook on held-out codes, in nats, without dropout."""
    model = accelerator.unwrap_model(model).eval()
    sequences = []
    for batch in dataloader:
        codes = data.codes_of(batch)
        logits = model(class_labels=batch["class_labels"], codes=codes).logits.float()
        losses = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), codes, reduction="none")
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
    tokenizer = None if args.tokenizer is None else FQGANModel.from_pretrained(args.tokenizer)
    resume = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    accelerator = build_accelerator(args)
    if args.resume_from_checkpoint and resume is None:
        logger.warning(f"No complete checkpoint in {args.output_dir} yet: starting from the beginning")
    if args.sample_steps is not None and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError("sample_steps is not possible with FSDP: no process has the whole model")

    # Build
    with accelerator.main_process_first():
        if args.on_the_fly:
            data = encoded_images(args, tokenizer)
        else:
            data = stored_codes(args, None if tokenizer is None else tokenizer.fingerprint())
    model = build_model(args, data.manifest)
    sample_classes = check_classes(args.sample_classes, model.config.num_classes)
    plan = TrainingPlan.from_arguments(args, data.num_samples, accelerator.num_processes)
    position = {**plan.position, "tokenizer_fingerprint": data.manifest.tokenizer_fingerprint}
    dataloader = build_dataloader(data.training, plan, args, args.dataloader_num_workers)
    held_out_loader = DataLoader(data.held_out, args.train_batch_size, num_workers=args.dataloader_num_workers)
    flops = flops_per_image(model, data.encoder, data.manifest.resolution)
    if accelerator.is_main_process:
        print(describe_run(args, plan, model, flops, data.encoder), flush=True)

    optimizer = build_optimizer(model, args, args.learning_rate)
    scheduler = build_scheduler(optimizer, args, plan)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if args.compile:
        model.compile()
    model, optimizer, scheduler, dataloader, held_out_loader = accelerator.prepare(
        model, optimizer, scheduler, dataloader, held_out_loader
    )
    bare_model = accelerator.unwrap_model(model)
    ema = None
    if args.use_ema:  # of the prepared weights: FSDP shards them
        ema = EMAModel(bare_model.parameters(), decay=args.ema_decay)
        ema.to(accelerator.device)
    if args.on_the_fly or args.sample_steps is not None:
        tokenizer.to(accelerator.device).eval().requires_grad_(False)
    first_step = load_checkpoint(accelerator, resume, position, ema) if resume else 0
    update = GuardedUpdate(accelerator, args)

    # Loop
    log = MetricLog(accelerator, args.output_dir, plan, first_step, args.peak_flops)
    model.train()
    for step, number, batch in training_batches(dataloader, plan, first_step):
        seed_step(plan, step, number, accelerator.process_index)
        codes = data.codes_of(batch)
        with accelerator.accumulate(model):
            output = model(class_labels=batch["class_labels"], codes=codes, labels=codes)
            accelerator.backward(output.loss)
            scalars = {f"loss/{k}": loss for k, loss in enumerate(output.codebook_losses.detach())}
            scalars["loss/total"] = output.loss.detach()
            scalars.update(update(model, optimizer, scheduler, batch["index"]))
        log.add(scalars)
        if not accelerator.sync_gradients:
            continue

        step += 1
        log.advance(flops)
        if ema is not None:
            ema.step(bare_model.parameters())
        last = step == plan.max_train_steps
        if step % args.logging_steps == 0 or last:
            log.write_means(step, learning_rate=scheduler.get_last_lr()[0])
        if len(data.held_out) and (step % args.validation_steps == 0 or last):
            with ema_weights(ema, bare_model):
                log.write(step, validate(accelerator, model, held_out_loader, data))
        if args.sample_steps is not None and (step % args.sample_steps == 0 or last) and accelerator.is_main_process:
            path = Path(args.output_dir, "samples", f"step-{step:08d}.png")
            with ema_weights(ema, bare_model):
                save_samples(bare_model, tokenizer, sample_classes, args.sample_guidance_scale, args.seed, path)
        if step % args.checkpointing_steps == 0:
            save_checkpoint(accelerator, args.output_dir, step, position, ema, args.checkpoints_total_limit)

    # Save
    log.close()
    save_model(accelerator, args, plan, log, model, ema)
    accelerator.end_training()


if __name__ == "__main__":
    main()
