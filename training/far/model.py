# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FAR as the training loop trains it: built for given codes, with its loss on held-out codes and its pipeline.

Shapes: B batch, T positions, K codebooks, V codebook size.
"""

from typing import TYPE_CHECKING, Any

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.evaluation.code_figures import code_cross_entropy
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.pipelines.pipeline_far import FARPipeline
from fqgan_hf.pretrained import build_from_config, load_pretrained
from fqgan_hf.training.common.arguments import load_model_config
from fqgan_hf.training.common.model_config import check_config_keys
from fqgan_hf.training.far.trainable import TrainableGenerator


if TYPE_CHECKING:
    from fqgan_hf.training.train_far import TrainFARArguments


def build_far(args: "TrainFARArguments", manifest: CodesManifest) -> TrainableGenerator:
    """
    A FAR for these codes, pretrained or new. What the codes determine comes from the manifest, the rest from the
    model's configuration.

    Args:
        args (`TrainFARArguments`): `head`, `model_config_name_or_path` and `pretrained_model_name_or_path` are read.
        manifest (`CodesManifest`): Of the codes.

    Raises:
        ValueError: The model is not one for these codes, or cannot be built.
    """
    given = {
        "num_codebooks": manifest.num_codebooks,
        "codebook_size": manifest.codebook_size,
        "grid_height": manifest.grid[0],
        "grid_width": manifest.grid[1],
        "num_classes": len(manifest.id2label),
    }
    id2label = {int(key): name for key, name in manifest.id2label.items()}
    if args.pretrained_model_name_or_path is not None:
        model = load_pretrained(
            FARForImageGeneration, args.pretrained_model_name_or_path, "pretrained_model_name_or_path"
        )
        if args.head not in (None, model.config.head_type):
            raise ValueError(
                f"head must be that of the pretrained model, {model.config.head_type!r}, got {args.head!r}"
            )
        given["tokenizer_fingerprint"] = manifest.tokenizer_fingerprint
        _check_fits(model.config.to_dict(), given)
    else:
        config = load_model_config(args.model_config_name_or_path) if args.model_config_name_or_path else {}
        check_config_keys(config, set(FARConfig().to_dict()), "FARConfig")
        _check_fits(config, given)
        config.update(given, id2label=id2label)
        if args.head is not None:
            config["head_type"] = args.head
        model = build_from_config(lambda: FARForImageGeneration(FARConfig(**config)))
    model.config.id2label = id2label
    model.config.tokenizer_fingerprint = manifest.tokenizer_fingerprint
    return trainable_far(model)


def _check_fits(config: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise `ValueError` for what a model's configuration says otherwise than the codes; it may leave it open."""
    for name, value in given.items():
        if config.get(name, value) not in (None, value):
            raise ValueError(f"{name} of the model must be that of the codes, {value!r}, got {config[name]!r}")


def trainable_far(model: FARForImageGeneration) -> TrainableGenerator:
    """A FAR with what the training loop asks of it."""
    config = model.config
    heads = {"ar": f"factorized head of {config.num_head_layers}", "linear": "linear heads", "mlp": "MLP heads"}
    return TrainableGenerator(
        model,
        f"{config.num_hidden_layers} layers of width {config.hidden_size}, {heads[config.head_type]}",
        code_cross_entropy,
        lambda tokenizer, model: FARPipeline(tokenizer, model, FQGANImageProcessor()),
    )
