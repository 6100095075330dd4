# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A generator for given codes and conditions, pretrained or new, whatever its architecture."""

from typing import TYPE_CHECKING, Any

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.modeling.modeling_generator import CodeGenerator
from fqgan_hf.pretrained import build_from_config, load_pretrained
from fqgan_hf.training.common.arguments import load_model_config
from fqgan_hf.training.common.model_config import check_config_keys
from fqgan_hf.training.far.condition_options import check_condition_names, check_stored_conditions, conditions_in
from fqgan_hf.training.far.conditions import GeneratorConditions, load_conditions


if TYPE_CHECKING:
    from fqgan_hf.training.far.arguments import GeneratorArguments
    from fqgan_hf.training.far.generator_data import GeneratorData

PRETRAINED = "pretrained_model_name_or_path"
HEADS = {"ar": "factorized head of {}", "linear": "linear heads", "mlp": "MLP heads"}


def build_generator(
    model_class: type[CodeGenerator],
    args: "GeneratorArguments",
    data: "GeneratorData",
    overrides: dict[str, tuple[str, Any]],
) -> tuple[CodeGenerator, GeneratorConditions]:
    """
    A generator for these codes. What codes, captions and maps determine comes from them, the rest from the model's
    configuration, or from the options that override it.

    Args:
        model_class (`type`): What to build.
        args (`GeneratorArguments`): `conditions`, `text_encoder`, `num_text_tokens`, `model_config_name_or_path` and
            `pretrained_model_name_or_path` are read.
        data (`GeneratorData`): The codes.
        overrides (`dict`):
            By option the field of the configuration that it overrides, and its value; None leaves the field as it is.

    Raises:
        ValueError: The model is not one for these codes, or cannot be built.
    """
    config_class = model_class.config_class
    defaults = config_class()
    options = {"conditions": args.conditions, "num_text_tokens": args.num_text_tokens}
    overrides = {**{name: (name, value) for name, value in options.items()}, **overrides}
    model, config = None, {}
    if args.pretrained_model_name_or_path is not None:
        model = load_pretrained(model_class, args.pretrained_model_name_or_path, PRETRAINED)
        config = model.config.to_dict()
        _check_overrides(config, overrides)
        _check_text_encoder(args, config)
    elif args.model_config_name_or_path is not None:
        config = load_model_config(args.model_config_name_or_path)
        check_config_keys(config, set(defaults.to_dict()), config_class.__name__)
    config.update({field: value for field, value in overrides.values() if value is not None})

    names = conditions_in(config)
    # Once more: what a model on the Hub is for has not been known until now.
    check_condition_names(args, names)
    check_stored_conditions(names, str(args.codes_dir), data.manifest)
    conditions = load_conditions(args, data, names, config.get("num_text_tokens") or defaults.num_text_tokens)
    given = _given_by_codes(data.manifest, names) | _given_by_text(conditions)
    _check_fits(config, given)
    id2label = {int(key): name for key, name in data.manifest.id2label.items()}
    if model is None:
        config.update(given, id2label=id2label, num_classes=len(id2label))
        config["tokenizer_fingerprint"] = data.manifest.tokenizer_fingerprint
        model = build_from_config(lambda: model_class(config_class(**config)))
    elif "class" not in names:
        model.config.num_classes = len(id2label)
    model.config.id2label = id2label
    model.config.tokenizer_fingerprint = data.manifest.tokenizer_fingerprint
    _freeze_unused(model)
    return model, conditions


def _check_overrides(config: dict[str, Any], overrides: dict[str, tuple[str, Any]]) -> None:
    """Raise `ValueError` for an option that says otherwise than a pretrained model."""
    for option, (field, value) in overrides.items():
        have = config[field]
        same = list(have) == list(value) if isinstance(value, list) else have == value
        if value is not None and not same:
            raise ValueError(f"{option} must be that of the pretrained model, {have!r}, got {value!r}")


def _check_text_encoder(args: "GeneratorArguments", config: dict[str, Any]) -> None:
    """Raise `ValueError` unless a pretrained model gets the kind of text encoder that it was trained with."""
    if "text" not in config["conditions"]:
        return
    if config["text_vocab_size"] is None and args.text_encoder is None:
        raise ValueError("text_encoder must be given: the pretrained model reads the states of one")
    if config["text_vocab_size"] is not None and args.text_encoder is not None:
        raise ValueError("text_encoder must not be given: the pretrained model has a text encoder of its own")


def _given_by_codes(manifest: CodesManifest, names: tuple[str, ...]) -> dict[str, Any]:
    """Fields of the configuration that the codes determine."""
    given = {
        "num_codebooks": manifest.num_codebooks,
        "codebook_size": manifest.codebook_size,
        "grid_height": manifest.grid[0],
        "grid_width": manifest.grid[1],
        "tokenizer_fingerprint": manifest.tokenizer_fingerprint,
    }
    if "class" in names:
        given["num_classes"] = len(manifest.id2label)
    if "map" in names:
        given["map_num_codebooks"] = manifest.map.num_codebooks
        given["map_codebook_size"] = manifest.map.codebook_size
        given["map_grid_height"], given["map_grid_width"] = manifest.map.grid
        given["map_tokenizer_fingerprint"] = manifest.map.tokenizer_fingerprint
    return given


def _given_by_text(conditions: GeneratorConditions) -> dict[str, Any]:
    """Fields of the configuration that the text encoder determines."""
    if conditions.tokenizer is None:
        return {}
    if conditions.text_encoder is None:
        return {"text_vocab_size": len(conditions.tokenizer)}
    return {"text_hidden_size": conditions.text_encoder.config.hidden_size}


def _check_fits(config: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise `ValueError` for what a model's configuration says otherwise than the codes; it may leave it open."""
    for name, value in given.items():
        if config.get(name, value) not in (None, value):
            source = "text encoder" if name.startswith("text_") else "codes"
            raise ValueError(f"{name} of the model must be that of the {source}, {value!r}, got {config[name]!r}")


def _freeze_unused(model: CodeGenerator) -> None:
    """Where no condition is ever dropped its null has no gradient, which several processes would wait for."""
    if model.config.class_dropout == 0:
        for name in ("text_condition", "map_condition"):
            if hasattr(model, name):
                getattr(model, name).null_embedding.requires_grad_(False)


def describe_architecture(model: CodeGenerator) -> str:
    """Layers, width and head of a generator in a few words."""
    config = model.config
    head = HEADS[config.head_type].format(config.num_head_layers)
    return f"{config.num_hidden_layers} layers of width {config.hidden_size}, {head}"
