# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Whether the components of a pipeline belong together."""

from typing import TYPE_CHECKING

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fqgan_hf.modeling.configuration_generator import GeneratorConfig
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.prompts import check_tokenizer


if TYPE_CHECKING:
    from fqgan_hf.modeling.modeling_generator import CodeGenerator
    from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler


def check_components(
    vqmodel: FQGANModel,
    transformer: "CodeGenerator",
    tokenizer: PreTrainedTokenizerBase | None = None,
    text_encoder: PreTrainedModel | None = None,
    map_vqmodel: FQGANModel | None = None,
    scheduler: "CodeDiffusionScheduler | None" = None,
) -> None:
    """
    Raise `ValueError` if the components of a pipeline do not belong together, naming everything that differs.

    What a generator needs for a condition may be missing, but not be there for a generator that does not know it.
    """
    config = transformer.config
    _check_image_tokenizer(vqmodel, config)
    if scheduler is not None:
        _check_scheduler(scheduler, config)
    for name, component, condition in (
        ("tokenizer", tokenizer, "text"), ("text_encoder", text_encoder, "text"), ("map_vqmodel", map_vqmodel, "map"),
    ):  # fmt: skip
        if component is not None and condition not in config.conditions:
            raise ValueError(
                f"{name} must be None: this generator was trained for {', '.join(config.conditions)}, "
                f"got {type(component).__name__}"
            )
    if tokenizer is not None:
        _check_text(tokenizer, text_encoder, config)
    if map_vqmodel is not None:
        _check_map_tokenizer(map_vqmodel, config)


def _check_image_tokenizer(vqmodel: FQGANModel, config: GeneratorConfig) -> None:
    """Raise if the generator's codes are not the tokenizer's."""
    if vqmodel.config.num_labels is not None:
        raise ValueError(f"vqmodel must be a tokenizer of pictures, got one of {vqmodel.config.num_labels} labels")
    size, factor = vqmodel.config.sample_size, vqmodel.downsample_factor
    pairs = [
        ("num_codebooks", vqmodel.config.num_codebooks, config.num_codebooks),
        ("codebook_size", vqmodel.config.codebook_size, config.codebook_size),
        (
            f"grid (height, width; sample_size {size} / {factor})",
            (size // factor, size // factor),
            (config.grid_height, config.grid_width),
        ),
    ]
    differences = [f"{name} {ours} and {theirs}" for name, ours, theirs in pairs if ours != theirs]
    differences += _other_fingerprint(vqmodel, config, "tokenizer_fingerprint")
    if differences:
        raise ValueError(
            "vqmodel and transformer do not belong together (vqmodel's value first): " + "; ".join(differences)
        )


def _check_map_tokenizer(map_vqmodel: FQGANModel, config: GeneratorConfig) -> None:
    """Raise if the map codes that the generator was trained on are not this tokenizer's."""
    pairs = [
        ("num_codebooks", map_vqmodel.config.num_codebooks, config.map_num_codebooks),
        ("codebook_size", map_vqmodel.config.codebook_size, config.map_codebook_size),
    ]
    differences = [f"{name} {ours} and map_{name} {theirs}" for name, ours, theirs in pairs if ours != theirs]
    differences += _other_fingerprint(map_vqmodel, config, "map_tokenizer_fingerprint")
    if differences:
        raise ValueError(
            "map_vqmodel and transformer do not belong together (map_vqmodel's value first): " + "; ".join(differences)
        )


def _other_fingerprint(vqmodel: FQGANModel, config: GeneratorConfig, name: str) -> list[str]:
    ours, theirs = vqmodel.fingerprint(), getattr(config, name)
    if theirs in (None, ours):
        return []
    return [f"fingerprint {ours[:16]}... and {name} {theirs[:16]}..."]


def _check_text(
    tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel | None, config: GeneratorConfig
) -> None:
    """Raise if what tokenizer and text encoder make of a prompt is not what the generator reads."""
    check_tokenizer(tokenizer)
    if config.text_vocab_size is not None:
        if text_encoder is not None:
            raise ValueError(
                "text_encoder must be None: this generator has a text encoder of its own, got "
                f"{type(text_encoder).__name__}"
            )
        if len(tokenizer) > config.text_vocab_size:
            raise ValueError(
                f"tokenizer must have at most the text_vocab_size = {config.text_vocab_size} tokens of the generator, "
                f"got {len(tokenizer)}"
            )
    elif text_encoder is not None and text_encoder.config.hidden_size != config.text_hidden_size:
        raise ValueError(
            f"text_encoder must have states of the text_hidden_size = {config.text_hidden_size} of the generator, "
            f"got {text_encoder.config.hidden_size}"
        )


def _check_scheduler(scheduler: "CodeDiffusionScheduler", config: GeneratorConfig) -> None:
    pairs = [
        (name, scheduler.config[name], getattr(config, name)) for name in ("codebook_size", "num_train_timesteps")
    ]
    differences = [f"{name} {ours} and {theirs}" for name, ours, theirs in pairs if ours != theirs]
    if differences:
        raise ValueError(
            "scheduler and transformer do not belong together (scheduler's value first): " + "; ".join(differences)
        )
