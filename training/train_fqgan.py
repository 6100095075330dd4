# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Train an FQGAN tokenizer on a folder of images or a dataset.

    accelerate launch -m fqgan_hf.training.train_fqgan --train_data_dir images/ --output_dir outputs/fqgan \
        --model_config_name_or_path config.json --resolution 256 --train_batch_size 32 --mixed_precision bf16

`python -m fqgan_hf.training.train_fqgan` does the same on one device; `--config digits-fqgan` supplies the options of
a preset. The result in `output_dir` loads with `FQGANModel.from_pretrained`; beside it are `metrics.jsonl` (one line
every --logging_steps), `validation/` (pictures) and `checkpoint-*` (to resume from with --resume_from_checkpoint
latest).
"""

from dataclasses import dataclass
from typing import Literal

from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.failures import leave
from fqgan_hf.option_checks import check_at_least, option
from fqgan_hf.training.common.arguments import (
    LPIPS_NAME,
    TEACHER_KINDS,
    WITHOUT_TEACHER,
    TrainingArguments,
    parse_arguments,
    run_script,
)
from fqgan_hf.training.common.preflight import check_images, check_model, check_training


@dataclass(kw_only=True)
class TrainFQGANArguments(ImageDataArguments, TrainingArguments):
    """Options of this script; defaults are the published recipe, for a global batch of 256."""

    num_train_epochs: int = option(40, "Passes over the data, unless --max_train_steps is given.")
    learning_rate: float = option(2e-4, "Peak learning rate.")
    center_crop: bool = option(False, "Train on the center of each image rather than on random crops.")
    max_resize_ratio: float = option(
        1.25, "Random crops: the short side is resized to up to this times the resolution; 1 for the resolution."
    )
    random_flip: bool = option(True, "Mirror half of the crops.")
    validation_split: str | None = option(
        None, "Split of --dataset_name to validate on, without --validation_fraction."
    )

    reconstruction_loss: Literal["l2", "l1"] = option("l2", "Reconstruction error of pixels.")
    reconstruction_weight: float = option(1.0, "Weight of the reconstruction error.")
    codebook_weight: float = option(1.0, "Weight of the codebook loss of each codebook.")
    commitment_weight: float = option(0.25, "Weight of the commitment loss of each codebook.")
    entropy_weight: float = option(0.03, "Weight of the entropy loss of each codebook.")
    disentanglement_weight: float = option(0.1, "Weight of the disentanglement between codebooks.")

    teachers: list[str] | None = option(
        None,
        "One per codebook: `none`, or a frozen vision model whose feature the codebook learns to predict, by Hub id "
        "or folder, optionally with the prefix clip: or dinov2:. A single `none` stands for no teacher at all.",
    )
    representation_weight: float = option(0.5, "Weight of the representation loss of each teacher; 0 for no teacher.")

    perceptual_weight: float = option(1.0, "Weight of the perceptual loss; 0 for none.")
    perceptual_model: str = option(
        "lpips", "`lpips` (VGG16; needs the package lpips), or a vision model: a Hub id or a folder."
    )

    disc_start: int = option(20000, "Step from which discriminator and tokenizer train against each other.")
    disc_weight: float = option(0.5, "Weight of the adversarial losses of both sides; 0 for no discriminator.")
    disc_adaptive_weight: bool = option(False, "Scale the tokenizer's adversarial loss to its other gradients.")
    disc_type: Literal["patch", "stylegan"] = option("patch", "One logit per patch, or StyleGAN2's one per image.")
    disc_loss: Literal["hinge", "vanilla", "non-saturating"] = option("hinge", "Adversarial loss.")
    disc_learning_rate: float | None = option(None, "Peak learning rate of the discriminator; by default the model's.")
    disc_channels: int = option(64, "Width of the discriminator's first layer.")
    disc_num_layers: int = option(3, "Layers of stride 2 in the patch discriminator.")
    disc_norm: Literal["batch", "group"] = option(
        "batch", "The patch discriminator's normalization; with group, accumulated batches equal large ones."
    )
    lecam_weight: float = option(0.0, "Weight of the LeCam regularization of the discriminator.")

    usage_window: int = option(500, "Log usage, perplexity and overlap of codebooks over windows of this many steps.")
    warn_usage: float = option(0.1, "Warn if a smaller share of a codebook's codes occurs in a window.")
    warn_perplexity: float = option(0.02, "Warn if the perplexity of a codebook, relative to its size, is smaller.")
    warn_overlap: float = option(0.9, "Warn if two codebooks share more of their information, adjusted for chance.")
    revive_dead_codes: bool = option(
        False, "Move codes that did not occur in a window to where the encoder's outputs are."
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
        if self.disc_num_layers > 16:  # sees patches of some hundred thousand pixels
            raise ValueError(f"disc_num_layers must be at most 16, got {self.disc_num_layers}")
        if self.validation_split is not None and (self.dataset_name is None or self.validation_fraction > 0):
            raise ValueError(
                "validation_split needs --dataset_name and excludes --validation_fraction, "
                f"got dataset_name={self.dataset_name!r} and validation_fraction={self.validation_fraction}"
            )


def check(args: TrainFQGANArguments) -> None:
    """Find what would end the run, before anything is imported for it."""
    check_training(args, "FQGANModel")
    check_images(args)
    if args.perceptual_weight > 0 and args.perceptual_model != LPIPS_NAME:
        check_model("perceptual_model", args.perceptual_model)
    for spec in args.teachers or () if args.representation_weight > 0 else ():
        kind, _, name = spec.partition(":")
        if spec != WITHOUT_TEACHER:
            check_model("teachers", name if kind in TEACHER_KINDS else spec)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(TrainFQGANArguments, argv)
    check(args)
    # Not before: torch and the libraries over it take seconds to import.
    from fqgan_hf.training.common.launch import run_training
    from fqgan_hf.training.fqgan.loop import train_tokenizer

    run_training(args, train_tokenizer)


if __name__ == "__main__":
    leave(run_script(main))
