# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Options that the training scripts of all generators share, and their checks before any library is imported."""

from dataclasses import dataclass

from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.option_checks import check_at_least, option
from fqgan_hf.training.common.arguments import CropName, TrainingArguments
from fqgan_hf.training.common.preflight import check_codes, check_images, check_model, check_training
from fqgan_hf.training.far.condition_options import (
    asked_conditions,
    check_condition_names,
    check_condition_options,
    check_stored_conditions,
)


@dataclass(kw_only=True)
class GeneratorArguments(ImageDataArguments, TrainingArguments):
    """Where the codes come from, what images are generated for, and which samples are shown during training."""

    codes_dir: str | None = option(None, "Folder of codes, written by extract_codes.")
    tokenizer: str | None = option(
        None,
        "Folder or Hub name of the tokenizer; codes of another one are refused. Needed for --on_the_fly and samples.",
    )
    validation_codes_dir: str | None = option(None, "Codes to validate on, in place of --validation_fraction.")
    on_the_fly: bool = option(
        False,
        "Encode images with --tokenizer during training instead of reading --codes_dir: slower, but no disk.",
    )
    crop: CropName = option(
        "flip", "With --on_the_fly: the views of each image, as extract_codes has them, of which each epoch shows one."
    )
    validation_split: str | None = option(None, "With --on_the_fly: split of --dataset_name to validate on.")

    conditions: list[str] | None = option(
        None,
        "What images are generated for, in this order: some of class, text and map. By default as the model's "
        "configuration says, or else class.",
    )
    text_encoder: str | None = option(
        None,
        "For the condition text: folder or Hub name of a text model of transformers, such as CLIP, T5 or BERT, which "
        "stays as it is.",
    )
    train_text_encoder: bool = option(
        False,
        "For the condition text, in place of --text_encoder: the generator gets a small text encoder of its own, "
        "which knows the words of the captions.",
    )
    num_text_tokens: int | None = option(
        None,
        "Tokens of a prompt, special ones included; longer captions are cut. By default as the model's configuration "
        "says, or else 77.",
    )
    map_tokenizer: str | None = option(
        None,
        "For the condition map: folder or Hub name of the tokenizer of the maps, which then stand beside the pictures "
        "of --sample_steps.",
    )

    num_train_epochs: int = option(300, "Passes over the data, unless --max_train_steps is given.")
    adam_weight_decay: float = option(0.05, "Decoupled weight decay of matrices.")

    sample_steps: int | None = option(None, "Write pictures to samples/ every this many steps, and at the end.")
    sample_classes: list[int] | None = option(
        None,
        "Class ids to show; by default up to eight, spread over all of them. With other conditions than class, those "
        "of held-out images are shown.",
    )
    sample_guidance_scale: float = option(2.0, "Guidance scale of those pictures.")

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
        check_at_least(self, 1, "sample_steps", "max_train_samples", "num_text_tokens")
        check_condition_options(self)
        sources = [self.validation_codes_dir, self.validation_split, self.validation_fraction or None]
        if sum(source is not None for source in sources) > 1:
            raise ValueError(
                "at most one of --validation_codes_dir, --validation_split and --validation_fraction may be given"
            )
        if self.validation_codes_dir is not None and self.on_the_fly:
            raise ValueError("validation_codes_dir needs --codes_dir; with --on_the_fly use --validation_split")


def check_generator(args: GeneratorArguments, model_class: str) -> None:
    """Find what would end the run, before anything is imported for it; `model_class` is what it trains."""
    check_training(args, model_class)
    if args.on_the_fly:
        check_images(args)
    conditions = asked_conditions(args)
    if conditions is not None:
        check_condition_names(args, conditions)
    for codes_dir in filter(None, (args.codes_dir, args.validation_codes_dir)):
        manifest = check_codes(codes_dir)
        check_stored_conditions(conditions or (), codes_dir, manifest)
    if args.tokenizer is not None:
        check_model("tokenizer", args.tokenizer, "FQGANModel")
    if args.text_encoder is not None:
        check_model("text_encoder", args.text_encoder)
    if args.map_tokenizer is not None:
        check_model("map_tokenizer", args.map_tokenizer, "FQGANModel")
