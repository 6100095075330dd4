# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Faults of a model's `config.json` that show without the model: misspelt keys and values of a wrong type.

What a model takes is read from the source of its class, since importing it takes seconds.
"""

import ast
import difflib
import math
from pathlib import Path
from typing import Any

import fqgan_hf.modeling


# Where the fields of a configuration stand: in the signature of a diffusers model, in the body of a config class.
SOURCES = {
    "FQGANModel": ("modeling_fqgan.py", "__init__"),
    "FARForImageGeneration": ("configuration_far.py", None),
}
CLASSES = {"FQGANModel": "FQGANModel", "FARForImageGeneration": "FARConfig"}


def model_fields(model_class: str) -> dict[str, ast.expr]:
    """Type annotation of each field of a model's configuration, its base class's fields aside."""
    file, method = SOURCES[model_class]
    source = Path(fqgan_hf.modeling.__file__).with_name(file).read_text(encoding="utf-8")
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == CLASSES[model_class]
    )
    if method is None:
        return {node.target.id: node.annotation for node in body if isinstance(node, ast.AnnAssign)}
    arguments = next(node.args.args for node in body if isinstance(node, ast.FunctionDef) and node.name == method)
    return {argument.arg: argument.annotation for argument in arguments if argument.annotation is not None}


def check_model_config(config: dict[str, Any], model_class: str) -> None:
    """
    Find what no model of this class could be built from.

    Args:
        config (`dict`): Content of a `config.json`.
        model_class (`str`): `"FQGANModel"` or `"FARForImageGeneration"`.

    Raises:
        ValueError: A key looks like a misspelt field, or a field has a value of another type.
    """
    known = model_fields(model_class)
    for name, value in config.items():
        if name not in known:
            # The base class has keys of its own; the model itself judges those that resemble none of ours.
            if close := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
                raise ValueError(
                    f"model_config_name_or_path: {model_class} has no {name!r}, did you mean {close[0]!r}?"
                )
        elif not _fits(value, known[name]):
            accepted = ast.unparse(known[name])
            raise ValueError(f"model_config_name_or_path: {name} must be of type {accepted}, got {value!r}")


def check_config_keys(config: dict[str, Any], known: set[str], model_class: str) -> None:
    """Raise `ValueError` for keys that the model does not have: the libraries would ignore a misspelt one."""
    unknown = sorted(key for key in config if key not in known and not key.startswith("_"))
    if unknown:
        raise ValueError(f"model_config_name_or_path: {model_class} has no {unknown}, accepted are {sorted(known)}")


def _fits(value: Any, annotation: ast.expr) -> bool:
    """Whether a JSON value is of a type, as it is written: `int`, `float | None`, `tuple[int, ...]`."""
    if isinstance(annotation, ast.BinOp):
        return _fits(value, annotation.left) or _fits(value, annotation.right)
    if isinstance(annotation, ast.Subscript):  # JSON has lists only
        item = annotation.slice.elts[0] if isinstance(annotation.slice, ast.Tuple) else annotation.slice
        return isinstance(value, list) and all(_fits(part, item) for part in value)
    name = ast.unparse(annotation)
    if name == "float":
        return type(value) is int or (type(value) is float and math.isfinite(value))
    types = {"int": int, "str": str, "bool": bool, "None": type(None)}
    return name not in types or type(value) is types[name]
