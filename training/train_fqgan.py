# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Train an FQGAN tokenizer on a folder of images or a dataset.

    accelerate launch -m fqgan_hf.training.train_fqgan --train_data_dir images/ --output_dir outputs/fqgan \
        --model_config_name_or_path config.json --resolution 256 --train_batch_size 32 --mixed_precision bf16

`python -m fqgan_hf.training.train_fqgan` does the same on one device; `--config digits-fqgan` supplies the options of
a preset. The result in `output_dir` loads with `FQGANModel.from_pretrained`; beside it are `metrics.jsonl` (one line
every --logging_steps), `validation/` (pictures) and `checkpoint-*` (to resume from with --resume_from_checkpoint
latest).

With `--label_map_column map --num_labels 13` it is a tokenizer of label maps, for generators that are given a map.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.failures import leave
from fqgan_hf.files import read_json
from fqgan_hf.hub.config_fields import config_fields
from fqgan_hf.option_checks import check_at_least, option
from fqgan_hf.training.common.arguments import (
    LPIPS_NAME,
    TEACHER_KINDS,
    VGG19_NAME,
    WITHOUT_TEACHER,
    TrainingArguments,
    load_model_config,
    parse_arguments,
    run_script,
)
from fqgan_hf.training.common.preflight import check_images, check_model, check_training
from fqgan_hf.training.fqgan.label_map_options import check_num_labels, resolve_label_maps
from fqgan_hf.training.fqgan.loss_terms import loss_weights, needs_perceptual
from fqgan_hf.training.fqgan.regularization import check_prior


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

    label_map_column: str | None = option(
        None,
        "Column of label maps to train on instead of images, grey or palette pictures whose values are labels; needs "
        "--num_labels. Without adversarial and perceptual losses and teachers.",
    )
    num_labels: int | None = option(None, "Labels in --label_map_column, which are numbered from 0.")

    reconstruction_loss: Literal["l2", "l1", "cross-entropy"] | None = option(
        None, "Reconstruction error of pixels: by default l2, of label maps cross-entropy."
    )
    reconstruction_weight: float = option(1.0, "Weight of the reconstruction error.")
    codebook_weight: float | None = option(
        None, "Weight of the codebook loss of each codebook; by default 1 where the quantizer has it."
    )
    commitment_weight: float | None = option(
        None, "Weight of the commitment loss of each codebook; by default 0.25 where the quantizer has it."
    )
    entropy_weight: float | None = option(
        None, "Weight of the entropy loss of each codebook; by default 0.03 for quantizer_type nearest, which has it."
    )
    prior_weight: float | None = option(
        None,
        "Weight of the KL of the codes in use to a prior, of each codebook; by default 0.01 for quantizer_type "
        "regularized and 0 for gumbel, which have it.",
    )
    disentanglement_weight: float = option(0.1, "Weight of the disentanglement between codebooks.")

    prior: str | None = option(
        None, "JSON file with the prior: a list of a probability for each code, or one such list for each codebook."
    )
    gumbel_temperature: float = option(1.0, "Of the gradient where codes are sampled, at the first step.")
    gumbel_temperature_end: float | None = option(None, "At the last step; by default as at the first.")
    softmax_temperature: float = option(1.0, "Of the gradient where codes are not sampled, at the first step.")
    softmax_temperature_end: float | None = option(None, "At the last step; by default as at the first.")
    temperature_schedule: Literal["constant", "linear", "cosine"] = option(
        "constant", "How both temperatures go from the first step to the last."
    )

    teachers: list[str] | None = option(
        None,
        "One per codebook: `none`, or a frozen vision model whose feature the codebook learns to predict, by Hub id "
        "or folder, optionally with the prefix clip: or dinov2:. A single `none` stands for no teacher at all.",
    )
    representation_weight: float = option(0.5, "Weight of the representation loss of each teacher; 0 for no teacher.")

    perceptual_weight: float | None = option(
        None, "Weight of the perceptual loss, by default 1; 0 for none, as for label maps."
    )
    perceptual_model: str = option(
        "lpips",
        "`lpips` (VGG16; needs the package lpips), `vgg19` (needs torchvision), or a vision model: Hub id or folder.",
    )
    perceptual_layers: list[str] | None = option(
        None,
        "Layers of that network, by name, whose feature maps count; by default its hidden states, or VGG's relus.",
    )
    contrastive_weight: float = option(
        0.0, "Weight of the contrastive loss between the patches of images and reconstructions, on its feature maps."
    )
    pcl_weight: float = option(0.0, "Weight of the probabilistic contrastive loss, where codes are sampled.")
    pcl_temperature: float = option(0.07, "Temperature of both contrastive losses.")
    pcl_num_patches: int = option(256, "Patches of an image that both draw from a feature map, at most.")

    disc_start: int = option(20000, "Step from which discriminator and tokenizer train against each other.")
    disc_weight: float | None = option(
        None,
        "Weight of the adversarial losses of both sides, by default 0.5; 0 for no discriminator, as for label maps.",
    )
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
        resolve_label_maps(self)
        check_at_least(
            self, 0, "reconstruction_weight", "codebook_weight", "commitment_weight", "entropy_weight", "prior_weight",
            "disentanglement_weight", "representation_weight", "perceptual_weight", "contrastive_weight", "pcl_weight",
            "disc_weight", "disc_start", "lecam_weight", "warn_usage", "warn_perplexity", "warn_overlap",
        )  # fmt: skip
        check_at_least(
            self, 1, "max_resize_ratio", "disc_channels", "disc_num_layers", "usage_window", "pcl_num_patches"
        )
        for name in ("gumbel_temperature", "softmax_temperature", "pcl_temperature"):
            for end in ("", "_end"):
                value = getattr(self, name + end, None)
                if value is not None and not value > 0:
                    raise ValueError(f"{name}{end} must be greater than 0, got {value}")
        if self.temperature_schedule == "constant":
            for name in ("gumbel_temperature_end", "softmax_temperature_end"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs --temperature_schedule linear or cosine")
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
    if (config := _model_config(args)) is not None:
        is_pretrained = args.pretrained_model_name_or_path is not None
        if is_pretrained or config["num_labels"] is not None:  # a new model takes the option's
            check_num_labels(args.num_labels, config["num_labels"])
        loss_weights(args, config)
        check_prior(args, config)
    if needs_perceptual(args) and args.perceptual_model not in (LPIPS_NAME, VGG19_NAME):
        check_model("perceptual_model", args.perceptual_model)
    for spec in args.teachers or () if args.representation_weight > 0 else ():
        kind, _, name = spec.partition(":")
        if spec != WITHOUT_TEACHER:
            check_model("teachers", name if kind in TEACHER_KINDS else spec)


def _model_config(args: TrainFQGANArguments) -> dict[str, Any] | None:
    """Settings of the tokenizer, with the defaults of what is not said; None where only the Hub could tell."""
    config, name = {}, args.pretrained_model_name_or_path
    if name is not None:
        if not Path(name).is_dir():
            return None
        config = read_json(Path(name, "config.json"))
    elif args.model_config_name_or_path is not None:
        config = load_model_config(args.model_config_name_or_path)
    return {name: field.default for name, field in config_fields("FQGANModel").items()} | config


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(TrainFQGANArguments, argv)
    check(args)
    # Not before: torch and the libraries over it take seconds to import.
    from fqgan_hf.training.common.launch import run_training
    from fqgan_hf.training.fqgan.loop import train_tokenizer

    run_training(args, train_tokenizer)


if __name__ == "__main__":
    leave(run_script(main))
