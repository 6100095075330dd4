# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Training of a generator on codes: one loop for every generator. See `TrainableGenerator` for what differs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pretrained import load_pretrained
from fqgan_hf.training.common.checkpointing import load_checkpoint, save_checkpoint
from fqgan_hf.training.common.loop import (
    GuardedUpdate,
    TrainingPlan,
    build_dataloader,
    build_optimizer,
    build_scheduler,
    ema_weights,
    evaluation_mode,
    seed_step,
    state_of_run,
    training_batches,
)
from fqgan_hf.training.common.metric_log import MetricLog
from fqgan_hf.training.common.publishing import save_model
from fqgan_hf.training.far.costs import describe_run, flops_per_image
from fqgan_hf.training.far.generator_data import GeneratorData, encoded_images, stored_codes
from fqgan_hf.training.far.sampling import SampleGrid, load_map_tokenizer
from fqgan_hf.training.far.trainable import TrainableGenerator
from fqgan_hf.training.far.validation import validate


if TYPE_CHECKING:
    from fqgan_hf.training.far.arguments import GeneratorArguments

Arguments = TypeVar("Arguments", bound="GeneratorArguments")


def train_generator(
    accelerator: Accelerator,
    args: Arguments,
    resume: Path | None,
    build_model: Callable[[Arguments, GeneratorData], TrainableGenerator],
) -> None:
    """
    Build, loop and save; `run_training` sees to the setup.

        run_training(args, partial(train_generator, build_model=build_far))

    Args:
        accelerator (`Accelerator`): Of the run.
        args (`GeneratorArguments`): The script's options.
        resume (`Path`, *optional*): Checkpoint to go on from.
        build_model (`Callable`): From the options and the data to the generator.
    """
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
    generator = build_model(args, data)
    model, conditions = generator.model, generator.conditions
    map_vqmodel = load_map_tokenizer(args.map_tokenizer, data.manifest)
    samples = SampleGrid.from_arguments(args, model.config, conditions.names, data.held_out, map_vqmodel)
    plan = TrainingPlan.from_arguments(args, data.num_samples, accelerator.num_processes)
    state = state_of_run(accelerator, args, plan, data, model) | conditions.state
    state["model"].update(generator.settings)
    dataloader = build_dataloader(data.training, plan, args, args.dataloader_num_workers)
    held_out_loader = DataLoader(data.held_out, args.train_batch_size, num_workers=args.dataloader_num_workers)
    flops = flops_per_image(generator, data.encoder, data.manifest.resolution)
    if accelerator.is_main_process:
        print(describe_run(args, plan, generator, flops, data.encoder), flush=True)

    optimizer = build_optimizer(model, args, args.learning_rate)
    scheduler = build_scheduler(optimizer, args, plan)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if args.compile:
        model.compile()
    model, optimizer, scheduler, dataloader, held_out_loader = accelerator.prepare(
        model, optimizer, scheduler, dataloader, held_out_loader
    )
    generator = replace(generator, model=accelerator.unwrap_model(model))
    ema = None
    if args.use_ema:  # of the prepared weights: FSDP shards them
        ema = EMAModel(generator.model.parameters(), decay=args.ema_decay)
        ema.to(accelerator.device)
    if args.on_the_fly or args.sample_steps is not None:
        tokenizer.to(accelerator.device).eval().requires_grad_(False)
    conditions.to(accelerator.device)
    accelerator.register_for_checkpointing(*generator.stateful)
    first_step = load_checkpoint(accelerator, resume, state, plan.max_train_steps, ema) if resume else 0
    update = GuardedUpdate(accelerator, args)

    # Loop
    log = MetricLog(accelerator, args.output_dir, plan, first_step, args.peak_flops)
    model.train()
    for step, number, batch in training_batches(dataloader, plan, first_step):
        seed_step(plan, step, number, accelerator.process_index)
        codes = data.codes_of(batch)
        with accelerator.autocast():
            inputs = conditions.inputs(batch, accelerator.device, training=True)
        with accelerator.accumulate(model):
            output = generator.training_loss(model, codes, inputs)
            accelerator.backward(output.loss)
            scalars = {f"loss/{k}": loss for k, loss in enumerate(output.codebook_losses)}
            scalars |= {"loss/total": output.loss.detach(), **output.scalars}
            scalars.update(update(model, optimizer, scheduler, batch["index"]))
        log.add(scalars)
        if not accelerator.sync_gradients:
            continue

        step += 1
        log.advance(flops)
        if ema is not None:
            ema.step(generator.model.parameters())
        last = step == plan.max_train_steps
        if step % args.logging_steps == 0 or last:
            log.write_means(step, learning_rate=scheduler.get_last_lr()[0])
        if len(data.held_out) and (step % args.validation_steps == 0 or last):
            with ema_weights(ema, generator.model):
                log.write(step, validate(accelerator, generator, held_out_loader, data))
        if args.sample_steps is not None and (step % args.sample_steps == 0 or last) and accelerator.is_main_process:
            with ema_weights(ema, generator.model), evaluation_mode(generator.model) as bare_model:
                pipe = generator.build_pipeline(tokenizer, bare_model, conditions.pipeline_parts)
                samples.save(pipe, step)
        if step % args.checkpointing_steps == 0:
            save_checkpoint(accelerator, args.output_dir, step, state, ema, args.checkpoints_total_limit)

    # Save
    log.close()
    save_model(accelerator, args, plan, log, model, ema, parts=generator.saved_parts)
