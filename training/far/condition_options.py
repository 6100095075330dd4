# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Which conditions a generator is trained for, and whether options and codes have what these need. Cheap to import."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.files import read_json
from fqgan_hf.training.common.arguments import load_model_config


if TYPE_CHECKING:
    from fqgan_hf.training.far.arguments import GeneratorArguments

CONDITIONS = ("class", "text", "map")
DEFAULT_CONDITIONS = ("class",)
# Options of one condition alone.
_OPTIONS_OF = {"text": ("text_encoder", "train_text_encoder", "num_text_tokens"), "map": ("map_tokenizer",)}


def check_condition_options(args: "GeneratorArguments") -> None:
    """Raise `ValueError` for options of conditions that exclude each other, whatever the model."""
    if args.conditions is not None:
        conditions_in({"conditions": args.conditions})
    if args.text_encoder is not None and args.train_text_encoder:
        raise ValueError("at most one of --text_encoder and --train_text_encoder may be given")


def conditions_in(config: dict[str, Any]) -> tuple[str, ...]:
    """
    The conditions that a model's configuration names; class if it names none.

    Raises:
        ValueError: They are not some of `CONDITIONS`, each once.
    """
    names = config.get("conditions", DEFAULT_CONDITIONS)
    is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if not is_list or not names or len(set(names)) < len(names) or set(names) - set(CONDITIONS):
        raise ValueError(f"conditions must be some of {', '.join(CONDITIONS)}, each once, got {names!r:.80}")
    return tuple(names)


def asked_conditions(args: "GeneratorArguments") -> tuple[str, ...] | None:
    """
    The conditions that the options ask for: those of `--conditions`, of the model configuration, or class.

    Returns:
        `tuple[str, ...]`, or None where a model on the Hub will say it.
    """
    if args.conditions is not None:
        return tuple(args.conditions)
    config: dict[str, Any] = {}
    if args.model_config_name_or_path is not None:
        config = load_model_config(args.model_config_name_or_path)
    elif args.pretrained_model_name_or_path is not None:
        path = Path(args.pretrained_model_name_or_path, "config.json")
        if not path.is_file():
            return None
        config = read_json(path)
    return conditions_in(config)


def check_condition_names(args: "GeneratorArguments", names: Sequence[str]) -> None:
    """
    Raise `ValueError` unless the options have what training for these conditions needs, and nothing else.

    Args:
        args (`GeneratorArguments`): The run's.
        names (`Sequence[str]`): Its conditions, as `--conditions` or the model's configuration has them.
    """
    _check_options_fit(args, names)
    beyond_class = [name for name in names if name != "class"]
    if not beyond_class:
        return
    if args.on_the_fly:
        raise ValueError(
            f"on_the_fly has no captions and no maps, which the condition {beyond_class[0]} needs: extract_codes "
            "stores them, by --caption_column and --map_column"
        )
    needs_encoder = "text" in names and args.pretrained_model_name_or_path is None
    if needs_encoder and args.text_encoder is None and not args.train_text_encoder:
        raise ValueError("the condition text needs --text_encoder or --train_text_encoder")
    if args.sample_classes is not None:
        raise ValueError(f"sample_classes needs the condition class alone, got {' '.join(names)!r}")
    if args.sample_steps is not None and args.validation_codes_dir is None and not args.validation_fraction:
        raise ValueError(
            f"sample_steps shows the condition {beyond_class[0]} of held-out images: it needs --validation_fraction "
            "or --validation_codes_dir"
        )


def _check_options_fit(args: "GeneratorArguments", names: Sequence[str]) -> None:
    for condition, options in _OPTIONS_OF.items():
        for option in options:
            if getattr(args, option) and condition not in names:
                raise ValueError(
                    f"{option} needs the condition {condition}: this generator is trained for {' '.join(names)!r}"
                )


def check_stored_conditions(names: Sequence[str], codes_dir: str, manifest: CodesManifest) -> None:
    """
    Raise `ValueError` unless codes come with what is generated for.

    Args:
        names (`Sequence[str]`): The conditions.
        codes_dir (`str`): Where the codes are, for the message.
        manifest (`CodesManifest`): What they are.
    """
    if "text" in names and not manifest.captions:
        raise ValueError(f"codes_dir {codes_dir} has no captions: extract_codes stores them, by --caption_column")
    if "map" in names and manifest.map is None:
        raise ValueError(
            f"codes_dir {codes_dir} has no maps: extract_codes stores them, by --map_column and --map_tokenizer"
        )
