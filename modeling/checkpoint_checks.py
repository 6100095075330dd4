# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the libraries only warn about when they load a checkpoint, and a user needs to know."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open


FLOATING = ("F64", "F32", "F16", "BF16")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


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


def require_fitting_files(model: torch.nn.Module, folder: str | os.PathLike, stem: str, variant: str | None) -> None:
    """
    Raise unless the weight files in a folder hold what `model` needs, read from their headers alone.

    Called before anything is allocated: a configuration that asks for more than the weights beside it hold is refused
    in no time, whatever it asks for.

    Args:
        model: On the meta device, built from the folder's configuration.
        folder: Where the files are.
        stem: "model" (transformers) or "diffusion_pytorch_model" (diffusers).
        variant: See `from_pretrained`.

    Raises:
        FileNotFoundError: There are no weights that may be loaded.
        ValueError: A file is damaged, or names, shapes or types differ from those of the model.
    """
    folder = Path(folder)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {}
    for path in _weight_files(folder, stem, variant):
        for name, shape, dtype in _header(path):
            found[name] = shape
            if dtype not in FLOATING:
                raise ValueError(f"{path}: {name} must be of a floating type ({', '.join(FLOATING)}), got {dtype}")
    _require_same_names(expected.keys() - found.keys(), found.keys() - expected.keys(), model, str(folder))
    wrong = [f"{name} {found[name]} instead of {shape}" for name, shape in expected.items() if found[name] != shape]
    if wrong:
        raise ValueError(
            f"the weights in {folder} do not fit the configuration beside them: {len(wrong)} of other shapes, "
            f"among them {', '.join(wrong[:3])}"
        )


def _require_same_names(missing, unexpected, model: torch.nn.Module, source: str) -> None:
    for kind, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            raise ValueError(
                f"{source} is not a complete {type(model).__name__} checkpoint for its configuration: "
                f"{len(names)} {kind} keys, among them {', '.join(sorted(names)[:3])}"
            )


def _weight_files(folder: Path, stem: str, variant: str | None) -> list[Path]:
    suffix = f".{variant}" if variant else ""
    whole, index = folder / f"{stem}{suffix}.safetensors", folder / f"{stem}.safetensors.index{suffix}.json"
    if whole.is_file() and index.is_file():  # which of them is read depends on the library
        raise ValueError(
            f"{folder} holds weights twice, as {whole.name} and by {index.name}: remove what is not meant"
        )
    if whole.is_file():
        return [whole]
    if not index.is_file():
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        hint = f"; {pickles[0]} is a pickle, which is not loaded since it could run code" if pickles else ""
        raise FileNotFoundError(f"{folder} holds no weights: there is no {whole.name}{hint}")
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is damaged: {error}") from error
    paths = [folder / name for name in sorted(names)]
    for name, path in zip(sorted(names), paths, strict=True):
        if Path(name).name != name or not path.is_file():
            raise FileNotFoundError(f"{folder} lacks {name!r:.80}, which {index.name} names")
    return paths


def _header(path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of each tensor of a file."""
    try:
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                part = weights.get_slice(name)
                yield name, tuple(part.get_shape()), part.get_dtype()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
