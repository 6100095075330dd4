# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Train an FQGAN tokenizer on a folder of images or a dataset.

    accelerate launch -m fqgan_hf.training.train_fqgan --train_data_dir images/ --output_dir outputs/fqgan \
        --model_config_name_or_path config.json --resolution 256 --train_batch_size 32 --mixed_precision bf16

`python -m fqgan_hf.training.train_fqgan` does the same on one device; `--config digits-fqgan` supplies the options of
a preset. The result in `output_dir` loads with `FQGANModel.from_pretrained`; beside it are `metrics.jsonl` (a line
each --logging_steps), `validation/` (pictures) and `checkpoint-*` (to go on with --resume_from_checkpoint latest).
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate.logging import get_logger
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.adversary import Adversary, build_discriminator
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
from fqgan_hf.training.costs import describe_run, flops_per_image
from fqgan_hf.training.data import AugmentedImages, ProcessedImages, load_images, split_indices
from fqgan_hf.training.doctor import CollapseDoctor, revive_codes
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
from fqgan_hf.training.losses import (
    TokenizerLossWeights,
    representation_losses,
    tokenizer_loss,
)
from fqgan_hf.training.metric_log import MetricLog
from fqgan_hf.training.perceptual import load_perceptual
from fqgan_hf.training.publishing import save_model
from fqgan_hf.training.teachers import Teacher, add_feature_dims, load_teachers
from fqgan_hf.training.validation import validate


logger = get_logger(__name__)


@dataclass(kw_only=True)
class TrainFQGANArguments(ImageDataArguments, TrainingArguments):
    """Options of this script; defaults are the published recipe, for a global batch of 256."""

    num_train_epochs: int = option(40, "Passes over the data, unless --max_train_steps is given.")
    learning_rate: float = option(2e-4, "Peak learning rate.")
    center_crop: bool = option(False, "Train on the middle of each image rather than on random crops.")
    max_resize_ratio: float = option(
        1.25, "Random crops: short side up to this times the resolution. 1 for no change."
    )
    random_flip: bool = option(True, "Mirror half of the crops.")
    validation_split: str | None = option(None, "Split of --dataset_name to validate on, for --validation_fraction.")

    reconstruction_loss: Literal["l2", "l1"] = option("l2", "Error on pixels.")
    reconstruction_weight: float = option(1.0, "Weight of the error on pixels.")
    codebook_weight: float = option(1.0, "Weight of the codebook loss of each codebook.")
    commitment_weight: float = option(0.25, "Weight of the commitment loss of each codebook.")
    entropy_weight: float = option(0.03, "Weight of the entropy loss of each codebook.")
    disentanglement_weight: float = option(0.1, "Weight of the disentanglement between codebooks.")

    teachers: list[str] | None = option(
        None,
        "For each codebook `none` or a frozen vision model whose feature it learns to predict: a Hub id or a folder, "
        "with the prefix clip: or dinov2: if you like. A single `none` is none at all.",
    )
    representation_weight: float = option(0.5, "Weight of the prediction of each teacher's feature; 0 for no teacher.")

    perceptual_weight: float = option(1.0, "Weight of the perceptual distance; 0 for none.")
    perceptual_model: str = option(
        "lpips", "`lpips` (VGG16; needs the package lpips), or a vision model: a Hub id or a folder."
    )

    disc_start: int = option(20000, "Step from which on discriminator and generator train against each other.")
    disc_weight: float = option(0.5, "Weight of the adversarial losses on both sides; 0 for no discriminator.")
    disc_adaptive_weight: bool = option(False, "Scale the generator's side to the gradient of the other losses.")
    disc_type: Literal["patch", "stylegan"] = option("patch", "A logit for each patch, or StyleGAN2's for each image.")
    disc_loss: Literal["hinge", "vanilla", "non-saturating"] = option("hinge", "Adversarial loss.")
    disc_learning_rate: float | None = option(None, "Peak learning rate of the discriminator; by default the model's.")
    disc_channels: int = option(64, "Width of the discriminator's first layer.")
    disc_num_layers: int = option(3, "Layers of stride 2 in the patch discriminator.")
    disc_norm: Literal["batch", "group"] = option(
        "batch", "The patch discriminator's normalisation; group makes accumulated batches equal to large ones."
    )
    lecam_weight: float = option(0.0, "Weight of the LeCam regularisation of the discriminator.")

    usage_window: int = option(500, "Log usage, perplexity and overlap of the codebooks over every so many steps.")
    warn_usage: float = option(0.1, "Warn of a codebook of whose codes a smaller share occurs in a window.")
    warn_perplexity: float = option(0.02, "Warn of a codebook whose perplexity over its size is smaller.")
    warn_overlap: float = option(0.9, "Warn of codebooks that share more of their information, adjusted for chance.")
    revive_dead_codes: bool = option(
        False, "Put codes that did not occur in a window where outputs of the encoder are."
    )

    def __post_init__(self):
        ImageDataArguments.__post_init__(self)
        TrainingArguments.__post_init__(self)
        check_at_least(
            self, 0, "reconstruction_weight", "codebook_weight", "commitment_weight", "entropy_weight",
            "disentanglement_weight", "representation_weight", "perceptual_weight", "disc_weight", "disc_start",
            "lecam_weight", "warn_usage", "warn_perplexity", "warn_overlap",
        )  # fmt: skip
        check_at_least(self, 1, "max_resize_ratio", "disc_channels", "disc_num_layers", "usage_window")
        if self.validation_split is not None and (self.dataset_name is None or self.validation_fraction > 0):
            raise ValueError(
                "validation_split needs --dataset_name and excludes --validation_fraction, "
                f"got dataset_name={self.dataset_name!r} and validation_fraction={self.validation_fraction}"
            )


def build_model(args: TrainFQGANArguments, teachers: Sequence[Teacher | None]) -> FQGANModel:
    if args.pretrained_model_name_or_path is not None:
        model = FQGANModel.from_pretrained(args.pretrained_model_name_or_path)
        given = model.config.feature_dims or [None] * model.config.num_codebooks
        add_feature_dims({"feature_dims": given}, teachers, model.config.num_codebooks)  # raises if they differ
    else:
        config = load_model_config(args.model_config_name_or_path) if args.model_config_name_or_path else {}
        check_config_keys(config, set(inspect.signature(FQGANModel.__init__).parameters) - {"self"}, "FQGANModel")
        if "sample_size" not in config and args.resolution is not None:
            config["sample_size"] = args.resolution
        default = inspect.signature(FQGANModel.__init__).parameters["num_codebooks"].default
        config = add_feature_dims(config, teachers, config.get("num_codebooks", default))
        model = FQGANModel.from_config(config)
    if model.config.in_channels != 3 or model.config.out_channels != 3:
        raise ValueError(
            f"in_channels and out_channels must be 3, got {model.config.in_channels} and {model.config.out_channels}"
        )
    for k, head in enumerate(model.feature_heads):
        head.requires_grad_(bool(teachers) and teachers[k] is not None)  # without one there is nothing to learn from
    if args.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model


def main(argv: list[str] | None = None) -> None:
    # Setup
    args = parse_arguments(TrainFQGANArguments, argv)
    resume = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    accelerator = build_accelerator(args)
    if args.resume_from_checkpoint and resume is None:
        logger.warning(f"No complete checkpoint in {args.output_dir} yet: starting from the beginning")

    # Build
    with accelerator.main_process_first():  # frozen networks before all else: they may be out of reach
        perceptual = load_perceptual(args.perceptual_model) if args.perceptual_weight > 0 else None
        teachers = load_teachers(args.teachers) if args.representation_weight > 0 else []
    model = build_model(args, teachers)
    resolution = args.resolution or model.config.sample_size
    model.grid_size(resolution, resolution)  # raises for a resolution that the tokenizer cannot encode
    discriminator = build_discriminator(args, resolution) if args.disc_weight > 0 else None
    processor = FQGANImageProcessor(size=resolution, multiple_of=model.downsample_factor)

    with accelerator.main_process_first():
        images = load_images(args)
        held_out_images = load_images(args, args.validation_split) if args.validation_split else images
    indices, held_out = split_indices(len(images), args.validation_fraction, args.seed)
    if args.validation_split:
        held_out = list(range(len(held_out_images)))
    plan = TrainingPlan.from_arguments(args, len(indices), accelerator.num_processes)
    dataset = AugmentedImages(
        images, indices, resolution, args.seed, args.max_resize_ratio, args.center_crop, args.random_flip
    )
    dataloader = build_dataloader(dataset, plan, args, args.dataloader_num_workers)
    held_out = ProcessedImages(held_out_images, held_out[: args.max_validation_samples], processor)
    held_out_loader = DataLoader(held_out, args.train_batch_size, num_workers=args.dataloader_num_workers)
    flops = flops_per_image(model, resolution, discriminator, perceptual, teachers)
    if accelerator.is_main_process:
        print(describe_run(args, plan, model, resolution, flops, discriminator, perceptual, teachers), flush=True)

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
    doctor = CollapseDoctor(
        config.num_codebooks, config.codebook_size, args.warn_usage, args.warn_perplexity, args.warn_overlap
    )
    doctor = accelerator.prepare_model(doctor, evaluation_mode=True)  # to place and to save: it has no parameters
    for network in filter(None, (perceptual, ema, *teachers)):
        network.to(accelerator.device)
    weights = TokenizerLossWeights(
        args.reconstruction_weight,
        args.codebook_weight,
        args.commitment_weight,
        args.entropy_weight,
        args.disentanglement_weight,
    )
    first_step = load_checkpoint(accelerator, resume, plan.position, ema) if resume else 0
    update = GuardedUpdate(accelerator, args)

    # Loop
    log = MetricLog(accelerator, args.output_dir, plan, first_step, args.peak_flops)
    trained = [model] if adversary is None else [model, adversary.discriminator]
    for step, number, batch in training_batches(dataloader, plan, first_step):
        seed_step(plan, step, number, accelerator.process_index)
        adversarial = adversary is not None and step >= args.disc_start
        pixel_values = batch["pixel_values"]
        with accelerator.accumulate(*trained):
            output = model(pixel_values, return_losses=True)
            loss, scalars = tokenizer_loss(pixel_values, output, weights, args.reconstruction_loss)
            with accelerator.autocast():
                distance = perceptual(pixel_values, output.sample) if perceptual else None
                features = [teacher and accelerator.gather(teacher(pixel_values)) for teacher in teachers]
            if perceptual is not None:
                loss = loss + args.perceptual_weight * distance
                scalars["loss/perceptual"] = distance.detach()
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
        doctor.observe(output.codes)
        if not accelerator.sync_gradients:
            continue

        step += 1
        last = step == plan.max_train_steps
        log.advance(flops[adversarial])
        if ema is not None:
            ema.step(bare_model.parameters())
        seen = {}
        if step % args.usage_window == 0 or last:
            diagnosis = doctor.examine(accelerator, output.codes)
            seen = diagnosis.scalars
            for warning in diagnosis.warnings:
                logger.warning(f"Step {step}: {warning}")
            if args.revive_dead_codes and not last:
                where = (args.seed, step)
                seen.update(
                    revive_codes(accelerator, bare_model, optimizer, ema, diagnosis.unused, pixel_values, where)
                )
        if step % args.logging_steps == 0 or seen:
            log.write_means(step, learning_rate=scheduler.get_last_lr()[0], **seen)
        if len(held_out) and (step % args.validation_steps == 0 or last):
            with ema_weights(ema, bare_model):
                log.write(
                    step, validate(accelerator, model, held_out_loader, Path(args.output_dir, "validation"), step)
                )
        if step % args.checkpointing_steps == 0:
            doctor.synchronize(accelerator)
            save_checkpoint(accelerator, args.output_dir, step, plan.position, ema, args.checkpoints_total_limit)

    # Save
    log.close()
    save_model(accelerator, args, plan, log, model, ema, processor)
    accelerator.end_training()


if __name__ == "__main__":
    main()
