# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Train an FQGAN tokenizer on a folder of images or a dataset.

    accelerate launch -m fqgan_hf.training.train_fqgan --train_data_dir images/ --output_dir outputs/fqgan \
        --model_config_name_or_path config.json --resolution 256 --train_batch_size 32 --mixed_precision bf16

`python -m fqgan_hf.training.train_fqgan` does the same on one device; `--config digits-fqgan` supplies the options of
a preset. The result in `output_dir` loads with `FQGANModel.from_pretrained`; beside it are `metrics.jsonl` (a line
each --logging_steps), `validation/` (pictures) and `checkpoint-*` (to go on with --resume_from_checkpoint latest).
"""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate.logging import get_logger
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

from fqgan_hf.analysis import CodebookUsage, image_grid, psnr
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
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
from fqgan_hf.training.checkpointing import export, find_checkpoint, load_checkpoint, save_checkpoint
from fqgan_hf.training.data import AugmentedImages, ProcessedImages, load_images, split_indices
from fqgan_hf.training.discriminators import PatchDiscriminator
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
from fqgan_hf.training.losses import (
    TokenizerLossWeights,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    tokenizer_loss,
)


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

    disc_start: int = option(20000, "Step from which on discriminator and generator train against each other.")
    disc_weight: float = option(0.5, "Weight of the adversarial losses on both sides; 0 for no discriminator.")
    disc_adaptive_weight: bool = option(False, "Scale the generator's side to the gradient of the other losses.")
    disc_loss: Literal["hinge", "vanilla", "non-saturating"] = option("hinge", "Adversarial loss.")
    disc_learning_rate: float | None = option(None, "Peak learning rate of the discriminator; by default the model's.")
    disc_channels: int = option(64, "Width of the discriminator's first layer.")
    disc_num_layers: int = option(3, "Layers of stride 2 in the discriminator.")
    disc_norm: Literal["batch", "group"] = option(
        "batch", "The discriminator's normalisation; group makes accumulated batches equal to large ones."
    )

    def __post_init__(self):
        ImageDataArguments.__post_init__(self)
        TrainingArguments.__post_init__(self)
        check_at_least(
            self, 0, "reconstruction_weight", "codebook_weight", "commitment_weight", "entropy_weight",
            "disentanglement_weight", "disc_weight", "disc_start",
        )  # fmt: skip
        check_at_least(self, 1, "max_resize_ratio", "disc_channels", "disc_num_layers")
        if self.validation_split is not None and (self.dataset_name is None or self.validation_fraction > 0):
            raise ValueError(
                "validation_split needs --dataset_name and excludes --validation_fraction, "
                f"got dataset_name={self.dataset_name!r} and validation_fraction={self.validation_fraction}"
            )


def build_model(args: TrainFQGANArguments) -> FQGANModel:
    if args.pretrained_model_name_or_path is not None:
        model = FQGANModel.from_pretrained(args.pretrained_model_name_or_path)
    else:
        config = load_model_config(args.model_config_name_or_path) if args.model_config_name_or_path else {}
        check_config_keys(config, set(inspect.signature(FQGANModel.__init__).parameters) - {"self"}, "FQGANModel")
        if "sample_size" not in config and args.resolution is not None:
            config["sample_size"] = args.resolution
        model = FQGANModel.from_config(config)
    if model.config.in_channels != 3 or model.config.out_channels != 3:
        raise ValueError(
            f"in_channels and out_channels must be 3, got {model.config.in_channels} and {model.config.out_channels}"
        )
    model.feature_heads.requires_grad_(False)  # nothing to learn from without teachers
    if args.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model


def build_discriminator(args: TrainFQGANArguments, resolution: int) -> PatchDiscriminator | None:
    if args.disc_weight == 0:
        return None
    discriminator = PatchDiscriminator(3, args.disc_channels, args.disc_num_layers, args.disc_norm)
    if resolution < discriminator.min_size:
        raise ValueError(
            f"disc_num_layers = {args.disc_num_layers} needs images of at least {discriminator.min_size} pixels, "
            f"got resolution {resolution}"
        )
    return discriminator


@torch.no_grad()
def validate(accelerator, model, dataloader, folder: Path, step: int) -> dict[str, float]:
    """PSNR and codebook usage on held-out images; the first ones go to `folder` beside their reconstructions."""
    model = accelerator.unwrap_model(model).eval()
    usage = CodebookUsage(model.config.num_codebooks, model.config.codebook_size)
    ratios, errors, shown = [], [], None
    for batch in dataloader:
        images = batch["pixel_values"]
        output = model(images)
        reconstructions, codes, images = accelerator.gather_for_metrics((output.sample, output.codes, images))
        ratios.append(psnr(images, reconstructions))
        errors.append((images - reconstructions.clamp(-1, 1)).abs().flatten(1).mean(1))
        usage.update(codes)
        shown = (images[:8], reconstructions[:8]) if shown is None else shown
    model.train()
    if accelerator.is_main_process:
        folder.mkdir(exist_ok=True)
        rows = [FQGANImageProcessor().postprocess(images.float().cpu()) for images in shown]
        picture = image_grid(rows, row_captions=["original", "reconstruction"])
        picture.save(folder / f"step-{step:08d}.png")
    metrics = {
        "validation/psnr": torch.cat(ratios).mean().item(),
        "validation/l1": torch.cat(errors).mean().item(),
    }
    for k in range(model.config.num_codebooks):
        metrics[f"validation/usage/{k}"] = usage.usage[k].item()
        metrics[f"validation/perplexity/{k}"] = usage.perplexity[k].item()
    return metrics


def main(argv: list[str] | None = None) -> None:
    # Setup
    args = parse_arguments(TrainFQGANArguments, argv)
    resume = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    accelerator = build_accelerator(args)
    if args.resume_from_checkpoint and resume is None:
        logger.warning(f"No complete checkpoint in {args.output_dir} yet: starting from the beginning")

    # Build
    model = build_model(args)
    resolution = args.resolution or model.config.sample_size
    model.grid_size(resolution, resolution)  # raises for a resolution that the tokenizer cannot encode
    discriminator = build_discriminator(args, resolution)
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

    optimizer = build_optimizer(model, args, args.learning_rate)
    scheduler = build_scheduler(optimizer, args, plan)
    ema = EMAModel(model.parameters(), decay=args.ema_decay) if args.use_ema else None
    model, optimizer, scheduler, dataloader, held_out_loader = accelerator.prepare(
        model, optimizer, scheduler, dataloader, held_out_loader
    )
    bare_model = accelerator.unwrap_model(model)
    bare_discriminator = disc_optimizer = disc_scheduler = None
    if discriminator is not None:
        disc_optimizer = build_optimizer(discriminator, args, args.disc_learning_rate or args.learning_rate)
        disc_scheduler = build_scheduler(disc_optimizer, args, plan)
        discriminator, disc_optimizer, disc_scheduler = accelerator.prepare(
            discriminator, disc_optimizer, disc_scheduler
        )
        bare_discriminator = accelerator.unwrap_model(discriminator)
    if ema is not None:
        ema.to(accelerator.device)
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
    log = MetricLog(accelerator, args.output_dir, plan, first_step)
    trained = [model] if discriminator is None else [model, discriminator]
    for step, number, batch in training_batches(dataloader, plan, first_step):
        seed_step(plan, step, number, accelerator.process_index)
        adversarial = discriminator is not None and step >= args.disc_start
        pixel_values = batch["pixel_values"]
        with accelerator.accumulate(*trained):
            output = model(pixel_values, return_losses=True)
            loss, scalars = tokenizer_loss(pixel_values, output, weights, args.reconstruction_loss)
            if adversarial:
                bare_discriminator.requires_grad_(False)
                game, more = generator_loss(args.disc_loss, bare_discriminator(output.sample))
                scale = torch.full_like(game, args.disc_weight).detach()
                if args.disc_adaptive_weight:
                    factor = adaptive_weight(loss, game, bare_model.decoder.conv_out.weight)
                    scale = scale * accelerator.reduce(factor, "mean")
                loss = loss + scale * game
                scalars.update(more, disc_weight=scale)
            accelerator.backward(loss)
            scalars["loss/total"] = loss.detach()
            scalars.update(update(model, optimizer, scheduler, batch["index"]))

            if adversarial:
                bare_discriminator.requires_grad_(True)
                fake = output.sample.detach()
                loss, more = discriminator_loss(args.disc_loss, discriminator(pixel_values), discriminator(fake))
                accelerator.backward(args.disc_weight * loss)
                more.update(update(discriminator, disc_optimizer, disc_scheduler, batch["index"]))
                scalars.update({f"discriminator/{k}" if k == "gradient_norm" else k: v for k, v in more.items()})
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
                log.write(
                    step, validate(accelerator, model, held_out_loader, Path(args.output_dir, "validation"), step)
                )
        if step % args.checkpointing_steps == 0:
            save_checkpoint(accelerator, args.output_dir, step, plan.position, ema, args.checkpoints_total_limit)

    # Save
    log.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with ema_weights(ema, bare_model):
            export([bare_model, processor], args.output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
