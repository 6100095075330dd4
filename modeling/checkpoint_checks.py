# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the libraries only warn about when they load a checkpoint, and a user needs to know."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from .checkpoint_files import FLOATING, read_header


def require_complete(model: torch.nn.Module, loading_info: dict, source: str) -> None:
    """
    Raise unless every weight of `model` came from the checkpoint and is finite.

    Args:
        model: The loaded model.
        loading_info: What `from_pretrained(..., output_loading_info=True)` returned beside it.
        source: Where it came from, for the message.

    Raises:
        ValueError: If keys were missing or superfluous, or weights are NaN or infinite.
    """
    _require_same_names(loading_info["missing_keys"], loading_info["unexpected_keys"], model, source)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all():
            raise ValueError(f"{source} holds non-finite weights in {name}")


def require_fitting_files(model: torch.nn.Module, files: Iterable[Path], folder: str | os.PathLike) -> None:
    """
    Raise unless the weight files in a folder hold what `model` needs, read from their headers alone.

    Called before anything is allocated: a configuration that asks for more than the weights beside it hold is refused
    in no time, whatever it asks for.

    Args:
        model: On the meta device, built from the folder's configuration.
        files: From `weight_files`.
        folder: Where they are, for the message.

    Raises:
        ValueError: A file is damaged, or names, shapes or types differ from those of the model.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {}
    for path in files:
        for name, tensor in read_header(path).items():
            found[name] = tensor.shape
            if tensor.dtype not in FLOATING:
                raise ValueError(
                    f"{path}: {name} must be of a floating type ({', '.join(FLOATING)}), got {tensor.dtype}"
                )
    _require_same_names(expected.keys() - found.keys(), found.keys() - expected.keys(), model, str(folder))
    wrong = [f"{name} {found[name]} instead of {shape}" for name, shape in expected.items() if found[name] != shape]
    if wrong:
        raise ValueError(
            f"the weights in {folder} do not fit the configuration beside them: {len(wrong)} of other shapes, "
            f"among them {', '.join(wrong[:3])}"
        )


def _require_same_names(
    missing: Iterable[str], unexpected: Iterable[str], model: torch.nn.Module, source: str
) -> None:
    for kind, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            raise ValueError(
                f"{source} is not a complete {type(model).__name__} checkpoint for its configuration: "
                f"{len(names)} {kind} keys, among them {', '.join(sorted(names)[:3])}"
            )
