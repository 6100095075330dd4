# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Loading models that a user has named: whatever goes wrong becomes one error that names the option and the cause."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fqgan_hf.failures import MISTAKES, first_line


Model = TypeVar("Model")


def load_pretrained(model_class: type[Model], name: str | Path, option: str, **settings) -> Model:
    """
    Load a model, a processor, a configuration or a pipeline: `model_class.from_pretrained(name, **settings)`.

    For names that come from outside, such as options of a command. What is wrong with a folder or a repository shows
    in the libraries as errors of every kind, from `KeyError` to `SafetensorError`; here it is one that a user
    understands.

    Example:

        tokenizer = load_pretrained(FQGANModel, arguments.tokenizer, "tokenizer")

    Args:
        model_class (`type`): Any class with a `from_pretrained`, ours or a library's.
        name (`str` or `Path`): A folder or a Hub id.
        option (`str`): What the user calls it, for the message.
        **settings: Passed on to `from_pretrained`.

    Returns:
        What `from_pretrained` returns.

    Raises:
        ValueError: It cannot be loaded. The message names the option, the name, the class and the cause.
        MemoryError, RuntimeError: There is too little memory for it, which is no fault of the name's.
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
    A new model from a configuration that a user has named by `--model_config_name_or_path`.

    Args:
        build (`Callable`): Makes the model.

    Raises:
        ValueError: No model can be made of that configuration; the message says why.
        MemoryError, RuntimeError: There is too little memory for it.
    """
    try:
        return build()
    except Exception as error:
        _let_memory_pass(error)
        reason = first_line(error)
        raise ValueError(f"model_config_name_or_path: no model can be built from it: {reason}") from error


def _let_memory_pass(error: Exception) -> None:
    """Raise an error that tells of too little memory as it is; torch's own is a `RuntimeError`."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
        raise error
