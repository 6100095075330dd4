# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Training of a tokenizer, as `fqgan_hf.training.train_fqgan` runs it."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

from fqgan_hf.evaluation.image_batches import ProcessedImages
from fqgan_hf.evaluation.images import LabelledImages, check_sample, load_images
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
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
from fqgan_hf.training.data.datasets import AugmentedImages, CenterCrops, split_indices
from fqgan_hf.training.fqgan.adversary import Adversary, build_discriminator
from fqgan_hf.training.fqgan.codebook_monitor import CodebookMonitor, revive_codes
from fqgan_hf.training.fqgan.costs import TokenizerNetworks, describe_run, flops_per_image
from fqgan_hf.training.fqgan.label_map_options import check_num_labels
from fqgan_hf.training.fqgan.label_maps import network_input, validate_label_maps
from fqgan_hf.training.fqgan.loss_terms import loss_weights, needs_perceptual, remedies
from fqgan_hf.training.fqgan.losses import representation_losses, tokenizer_loss
from fqgan_hf.training.fqgan.perceptual import load_perceptual, perceptual_losses
from fqgan_hf.training.fqgan.regularization import prepare_quantizer, temperatures
from fqgan_hf.training.fqgan.teachers import Teacher, add_feature_dims, load_teachers
from fqgan_hf.training.fqgan.validation import validate


if TYPE_CHECKING:
    from fqgan_hf.training.train_fqgan import TrainFQGANArguments

logger = get_logger(__name__)


def build_model(args: "TrainFQGANArguments", teachers: Sequence[Teacher | None]) -> FQGANModel:
    """
    The tokenizer that the options name, pretrained or new, with a feature head for each teacher.

    Raises:
        ValueError: Its configuration does not fit the teachers or the images, or no model can be built from it.
    """
    if args.pretrained_model_name_or_path is not None:
        model = load_pretrained(FQGANModel, args.pretrained_model_name_or_path, "pretrained_model_name_or_path")
        given = model.config.feature_dims or [None] * model.config.num_codebooks
        add_feature_dims({"feature_dims": given}, teachers, model.config.num_codebooks)  # raises if they differ
    else:
        config = load_model_config(args.model_config_name_or_path) if args.model_config_name_or_path else {}
        check_config_keys(config, set(inspect.signature(FQGANModel.__init__).parameters) - {"self"}, "FQGANModel")
        if "sample_size" not in config and args.resolution is not None:
            config["sample_size"] = args.resolution
        default = inspect.signature(FQGANModel.__init__).parameters["num_codebooks"].default
        config = add_feature_dims(config, teachers, config.get("num_codebooks", default))
        if config.get("num_labels") is None:
            config["num_labels"] = args.num_labels
        model = build_from_config(lambda: FQGANModel.from_config(config))
    check_num_labels(args.num_labels, model.config.num_labels)
    if args.num_labels is None and (model.config.in_channels != 3 or model.config.out_channels != 3):
        raise ValueError(
            f"in_channels and out_channels must be 3, got {model.config.in_channels} and {model.config.out_channels}"
        )
    for k, head in enumerate(model.feature_heads):
        head.requires_grad_(bool(teachers) and teachers[k] is not None)  # without one there is nothing to learn from
    if args.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model


def train_tokenizer(accelerator: Accelerator, args: "TrainFQGANArguments", resume: Path | None) -> None:
    """Build, loop and save; `run_training` sees to the setup."""
    # Build
    with accelerator.main_process_first():  # frozen networks before all else: they may be out of reach
        perceptual = load_perceptual(args.perceptual_model, args.perceptual_layers) if needs_perceptual(args) else None
        teachers = load_teachers(args.teachers) if args.representation_weight > 0 else []
    model = build_model(args, teachers)
    weights = loss_weights(args, model.config)
    resolution = args.resolution or model.config.sample_size
    model.grid_size(resolution, resolution)  # raises for a resolution that the tokenizer cannot encode
    discriminator = build_discriminator(args, resolution) if args.disc_weight > 0 else None
    is_map = args.label_map_column is not None
    processor = None if is_map else FQGANImageProcessor(size=resolution, multiple_of=model.downsample_factor)

    with accelerator.main_process_first():
        images = load_images(args)
        held_out_images = load_images(args, args.validation_split) if args.validation_split else images
    if is_map and isinstance(images, LabelledImages):
        check_sample(images, images.__getitem__)
    indices, held_out = split_indices(len(images), args.validation_fraction, args.seed)
    if args.validation_split:
        held_out = list(range(len(held_out_images)))
    plan = TrainingPlan.from_arguments(args, len(indices), accelerator.num_processes)
    state = state_of_run(accelerator, args, plan, images, model)
    dataset = AugmentedImages(
        images, indices, resolution, args.seed, args.max_resize_ratio, args.center_crop, args.random_flip
    )
    dataloader = build_dataloader(dataset, plan, args, args.dataloader_num_workers)
    held_out = held_out[: args.max_validation_samples]
    if is_map:
        held_out, measure = CenterCrops(held_out_images, held_out, resolution), validate_label_maps
    else:
        held_out, measure = ProcessedImages(held_out_images, held_out, processor), validate
    held_out_loader = DataLoader(held_out, args.train_batch_size, num_workers=args.dataloader_num_workers)
    networks = TokenizerNetworks(model, discriminator, perceptual, teachers)
    flops = flops_per_image(networks, resolution)
    if accelerator.is_main_process:
        print(describe_run(args, plan, networks, resolution, flops), flush=True)

    optimizer = build_optimizer(model, args, args.learning_rate)
    scheduler = build_scheduler(optimizer, args, plan)
    ema = EMAModel(model.parameters(), decay=args.ema_decay) if args.use_ema else None
    if args.compile:
        # The adaptive weight goes back through the graph before the loss does: nothing saved in it may be overwritten.
        torch._functorch.config.donated_buffer = not args.disc_adaptive_weight
        model.compile()
    model, optimizer, scheduler, dataloader, held_out_loader = accelerator.prepare(
        model, optimizer, scheduler, dataloader, held_out_loader
    )
    bare_model = accelerator.unwrap_model(model)
    adversary = None
    if discriminator is not None:
        adversary = Adversary(accelerator, args, plan, discriminator, bare_model.decoder.conv_out.weight)
    config = bare_model.config
    thresholds = args.warn_usage, args.warn_perplexity, args.warn_overlap
    monitor = CodebookMonitor(config.num_codebooks, config.codebook_size, *thresholds, remedies(config))
    monitor = accelerator.prepare_model(monitor, evaluation_mode=True)  # to place and to save: it has no parameters
    for network in filter(None, (perceptual, ema, *teachers)):
        network.to(accelerator.device)
    samples_codes = config.quantizer_type != "nearest"
    if samples_codes:
        prepare_quantizer(accelerator, bare_model.quantizer, args)
    first_step = load_checkpoint(accelerator, resume, state, plan.max_train_steps, ema) if resume else 0
    update = GuardedUpdate(accelerator, args)

    # Loop
    log = MetricLog(accelerator, args.output_dir, plan, first_step, args.peak_flops)
    trained = [model] if adversary is None else [model, adversary.discriminator]
    for step, number, batch in training_batches(dataloader, plan, first_step):
        seed_step(plan, step, number, accelerator.process_index)
        adversarial = adversary is not None and step >= args.disc_start
        if samples_codes:
            bare_model.quantizer.set_temperatures(*temperatures(args, step, plan.max_train_steps))
        target = batch["pixel_values"]
        pixel_values = network_input(target, args.num_labels)
        with accelerator.accumulate(*trained):
            output = model(pixel_values, return_losses=True)
            loss, scalars = tokenizer_loss(target, output, weights, args.reconstruction_loss)
            with accelerator.autocast():
                perceived = perceptual and perceptual_losses(
                    perceptual, pixel_values, output.sample, output.sampling_distance, args
                )
                features = [teacher and accelerator.gather(teacher(pixel_values)) for teacher in teachers]
            if perceived is not None:
                loss = loss + perceived[0]
                scalars.update(perceived[1])
            if teachers:
                offset = accelerator.process_index * len(pixel_values)
                term, more = representation_losses(output.feature_predictions, features, offset)
                loss = loss + args.representation_weight * term
                scalars.update(more)
            if adversarial:
                term, more = adversary.oppose(loss, output.sample)
                loss = loss + term
                scalars.update(more)
            accelerator.backward(loss)
            scalars["loss/total"] = loss.detach()
            scalars.update(update(model, optimizer, scheduler, batch["index"]))
            if adversarial:
                scalars.update(adversary.train(pixel_values, output.sample, update, batch["index"]))
        log.add(scalars)
        monitor.observe(output.codes)
        if not accelerator.sync_gradients:
            continue

        step += 1
        last = step == plan.max_train_steps
        log.advance(flops[adversarial])
        if ema is not None:
            ema.step(bare_model.parameters())
        seen = {}
        if step % args.usage_window == 0 or last:
            utilization = monitor.close_window(accelerator, output.codes)
            seen = utilization.scalars
            for warning in utilization.warnings:
                logger.warning(f"Step {step}: {warning}")
            if args.revive_dead_codes and not last:
                where = (args.seed, step)
                seen.update(
                    revive_codes(accelerator, bare_model, optimizer, ema, utilization.unused, pixel_values, where)
                )
        if step % args.logging_steps == 0 or seen:
            log.write_means(step, learning_rate=scheduler.get_last_lr()[0], **seen)
        if len(held_out) and (step % args.validation_steps == 0 or last):
            with ema_weights(ema, bare_model):
                pictures = Path(args.output_dir, "validation")
                log.write(step, measure(accelerator, bare_model, held_out_loader, pictures, step))
        if step % args.checkpointing_steps == 0:
            monitor.synchronize(accelerator)
            save_checkpoint(accelerator, args.output_dir, step, state, ema, args.checkpoints_total_limit)

    # Save
    log.close()
    save_model(accelerator, args, plan, log, model, ema, processor)
