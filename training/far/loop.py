# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Training of a generator, as `fqgan_hf.training.train_far` runs it."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pretrained import build_from_config, load_pretrained
from fqgan_hf.training.common.arguments import load_model_config
from fqgan_hf.training.common.checkpointing import load_checkpoint, save_checkpoint
from fqgan_hf.training.common.loop import (
    GuardedUpdate,
    TrainingPlan,
    build_dataloader,
    build_optimizer,
    build_scheduler,
    ema_weights,
    seed_step,
    state_of_run,
    training_batches,
)
from fqgan_hf.training.common.metric_log import MetricLog
from fqgan_hf.training.common.model_config import check_config_keys
from fqgan_hf.training.common.publishing import save_model
from fqgan_hf.training.data.codes_manifest import CodesManifest
from fqgan_hf.training.far.costs import describe_run, flops_per_image
from fqgan_hf.training.far.generator_data import GeneratorData, encoded_images, stored_codes
from fqgan_hf.training.far.sampling import check_classes, save_samples


if TYPE_CHECKING:
    from fqgan_hf.training.train_far import TrainFARArguments


def build_model(args: "TrainFARArguments", manifest: CodesManifest) -> FARForImageGeneration:
    """A generator for these codes: what they determine comes from the manifest, the rest from the configuration."""
    given = {
        "num_codebooks": manifest.num_codebooks,
        "codebook_size": manifest.codebook_size,
        "grid_height": manifest.grid[0],
        "grid_width": manifest.grid[1],
        "num_classes": len(manifest.id2label),
    }
    if args.pretrained_model_name_or_path is not None:
        model = load_pretrained(
            FARForImageGeneration, args.pretrained_model_name_or_path, "pretrained_model_name_or_path"
        )
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
        model = build_from_config(lambda: FARForImageGeneration(FARConfig(**config)))
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


def train_generator(accelerator: Accelerator, args: "TrainFARArguments", resume: Path | None) -> None:
    """Build, loop and save; `run_training` sees to the setup."""
    # Build
    if args.sample_steps is not None and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError("sample_steps is not possible with FSDP: no process has the whole model")
    with torch.random.fork_rng(devices=[]):  # its draws, for weights that are loaded over, are not the generator's
        tokenizer = None if args.tokenizer is None else load_pretrained(FQGANModel, args.tokenizer, "tokenizer")
    with accelerator.main_process_first():
        if args.on_the_fly:
            data = encoded_images(args, tokenizer)
        else:
            data = stored_codes(args, None if tokenizer is None else tokenizer.fingerprint())
    model = build_model(args, data.manifest)
    sample_classes = check_classes(args.sample_classes, model.config.num_classes)
    plan = TrainingPlan.from_arguments(args, data.num_samples, accelerator.num_processes)
    state = state_of_run(accelerator, args, plan, data, model)
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
    first_step = load_checkpoint(accelerator, resume, state, plan.max_train_steps, ema) if resume else 0
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
            save_checkpoint(accelerator, args.output_dir, step, state, ema, args.checkpoints_total_limit)

    # Save
    log.close()
    save_model(accelerator, args, plan, log, model, ema)
