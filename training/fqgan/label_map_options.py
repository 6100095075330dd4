# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the options of `train_fqgan` mean where it trains on label maps. Importing this file is cheap."""

from dataclasses import fields
from typing import Any

from fqgan_hf.evaluation.image_source import MAX_NUM_LABELS


# Options without a value of their own: what they are for pictures, and for label maps.
DEFAULTS = {
    "reconstruction_loss": ("l2", "cross-entropy"),
    "perceptual_weight": (1.0, 0.0),
    "disc_weight": (0.5, 0.0),
}
OTHER_LOSSES = "label maps are reconstructed by cross-entropy alone"
NO_PICTURES = "networks of pictures see nothing in label maps, whose numbers are names"
# Options that label maps exclude, and why.
EXCLUDED = {
    "image_column": "label_map_column names what is read",
    "reconstruction_loss": OTHER_LOSSES,
    **dict.fromkeys(
        (
            "teachers", "representation_weight", "perceptual_weight", "perceptual_model", "perceptual_layers",
            "contrastive_weight", "pcl_weight", "pcl_temperature", "pcl_num_patches",
        ),
        NO_PICTURES,
    ),
    **dict.fromkeys(
        (
            "disc_weight", "disc_start", "disc_adaptive_weight", "disc_type", "disc_loss", "disc_learning_rate",
            "disc_channels", "disc_num_layers", "disc_norm", "lecam_weight",
        ),
        OTHER_LOSSES,
    ),
}  # fmt: skip


def resolve_label_maps(args: Any) -> None:
    """
    Set what the kind of images determines: the options in `DEFAULTS` that were not given.

    Args:
        args (`TrainFQGANArguments`): With None for these.

    Raises:
        ValueError: An option is given that label maps exclude, or that needs them.
    """
    if (args.label_map_column is None) != (args.num_labels is None):
        raise ValueError(
            "label_map_column and num_labels belong together, "
            f"got label_map_column={args.label_map_column!r} and num_labels={args.num_labels}"
        )
    is_map = args.num_labels is not None
    if is_map:
        _check_excluded(args)
        if not 2 <= args.num_labels <= MAX_NUM_LABELS:
            raise ValueError(f"num_labels must be in [2, {MAX_NUM_LABELS}], got {args.num_labels}")
    elif args.reconstruction_loss == "cross-entropy":
        raise ValueError("reconstruction_loss 'cross-entropy' needs --label_map_column: pictures have no labels")
    for name, values in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, values[is_map])


def _check_excluded(args: Any) -> None:
    for field in fields(args):
        value = getattr(args, field.name)
        harmless = [field.default]
        if field.name in DEFAULTS:  # which may also say what is the case
            harmless.append(DEFAULTS[field.name][1])
        if field.name in EXCLUDED and value not in harmless:
            raise ValueError(
                f"{field.name} must not be set with --label_map_column, got {value!r}: {EXCLUDED[field.name]}"
            )


def check_num_labels(num_labels: int | None, of_model: int | None) -> None:
    """
    Raise `ValueError` where the option `--num_labels` is not the number of labels of the model.

    Args:
        num_labels (`int`, *optional*): The option; None for pictures.
        of_model (`int`, *optional*): `num_labels` of the model's configuration.
    """
    if num_labels == of_model:
        return
    if num_labels is None:
        raise ValueError(
            f"the model is a tokenizer of label maps: give --label_map_column and --num_labels {of_model}"
        )
    kind = "pictures, without labels" if of_model is None else f"{of_model} labels"
    raise ValueError(f"num_labels must be that of the model, which is one of {kind}, got {num_labels}")
