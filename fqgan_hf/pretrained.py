# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Loading models, with errors that say which option named what could not be loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fqgan_hf.failures import MISTAKES, first_line


Model = TypeVar("Model")


def load_pretrained(model_class: type[Model], name: str | Path, option: str, **settings) -> Model:
    """
    `model_class.from_pretrained(name, **settings)`.

    Raises:
        ValueError: It cannot be loaded, whatever the reason: the libraries raise errors of every kind.
    """
    try:
        return model_class.from_pretrained(str(name), **settings)
    except Exception as error:
        _let_memory_pass(error)
        kind = model_class.__name__
        reason = first_line(error) if isinstance(error, MISTAKES) else f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{option}: {str(name)!r} cannot be loaded as {kind}: {reason}") from error


def build_from_config(build: Callable[[], Model]) -> Model:
    """
    What `build` makes of a model configuration.

    Raises:
        ValueError: No model can be made of it.
    """
    try:
        return build()
    except Exception as error:
        _let_memory_pass(error)
        reason = first_line(error)
        raise ValueError(f"model_config_name_or_path: no model can be built from it: {reason}") from error


def _let_memory_pass(error: Exception) -> None:
    """Too little memory is no fault of the model's; torch says it by a `RuntimeError`."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
        raise error
