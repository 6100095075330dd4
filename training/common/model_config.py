# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Faults of a model's `config.json` that show without the model: misspelt keys and values of a wrong type."""

import difflib
from typing import Any

from fqgan_hf.hub.config_fields import config_fields


def check_model_config(config: dict[str, Any], model_class: str) -> None:
    """
    Find what no model of this class could be built from.

    Args:
        config (`dict`): Content of a `config.json`.
        model_class (`str`): `"FQGANModel"` or `"FARForImageGeneration"`.

    Raises:
        ValueError: A key looks like a misspelt field, or a field has a value of another type.
    """
    known = config_fields(model_class)
    for name, value in config.items():
        if name not in known:
            # The base class has keys of its own; the model itself judges those that resemble none of ours.
            if close := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
                raise ValueError(
                    f"model_config_name_or_path: {model_class} has no {name!r}, did you mean {close[0]!r}?"
                )
        elif not known[name].accepts(value):
            raise ValueError(f"model_config_name_or_path: {name} must be of type {known[name].type}, got {value!r}")


def check_config_keys(config: dict[str, Any], known: set[str], model_class: str) -> None:
    """Raise `ValueError` for keys that the model does not have: the libraries would ignore a misspelt one."""
    unknown = sorted(key for key in config if key not in known and not key.startswith("_"))
    if unknown:
        raise ValueError(f"model_config_name_or_path: {model_class} has no {unknown}, accepted are {sorted(known)}")
