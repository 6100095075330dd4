# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Variants of weights: files such as `model.bf16.safetensors` beside `model.safetensors`, and what they are called."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from fqgan_hf.hub.kinds import KINDS
from fqgan_hf.modeling.checkpoint_files import FLOATING


# Names that a variant may have, with the type of its weights as torch calls it.
VARIANTS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# Types as safetensors files have them.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

STEMS = sorted({kind.weights_stem for kind in KINDS if kind.weights_stem})
_SHARD = r"(?:-\d{5}-of-\d{5})?"
_WEIGHTS = re.compile(
    rf"(?:{'|'.join(STEMS)})"
    rf"(?:(?:\.(?P<whole>[^.]+?))?{_SHARD}\.safetensors|\.safetensors\.index(?:\.(?P<index>[^.]+))?\.json)"
)


def check_variant(variant: str | None, dtype: str | None) -> str | None:
    """
    The type that weights are to have, as torch calls it: that of the variant's name, unless another is named.

    Args:
        variant (`str`, *optional*): Name of the variant.
        dtype (`str`, *optional*): Type as torch calls it.

    Returns:
        `str`, or None for weights that stay as they are.

    Raises:
        ValueError: One of them is not known, or they contradict each other.
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if dtype is not None and dtype not in VARIANTS.values():
        raise ValueError(f"dtype must be one of {', '.join(VARIANTS.values())}, got {dtype!r}")
    if variant is None:
        return dtype
    if dtype not in (None, VARIANTS[variant]):
        raise ValueError(f"dtype must be {VARIANTS[variant]} for the variant {variant}, got {dtype}")
    return VARIANTS[variant]


def variant_of(name: str) -> str | None:
    """
    The variant that a file of weights, or the index of its shards, belongs to.

    Args:
        name (`str`): Path in a folder or a repository.

    Returns:
        `str`: Its name, "" for the weights without one; None for a file that holds no weights.
    """
    match = _WEIGHTS.fullmatch(PurePosixPath(name).name)
    return None if match is None else match["whole"] or match["index"] or ""


def variants_among(names: Iterable[str]) -> list[str]:
    """The variants that there are weights of, "" for those without a name, which comes first."""
    return sorted({variant for name in names if (variant := variant_of(name)) is not None})


def stored_variant(folder: Path) -> str | None:
    """
    The variant that must be named to load a folder: None unless it holds no other weights.

    Args:
        folder (`Path`): Of a model or a pipeline.
    """
    names = [str(path.relative_to(folder)) for pattern in ("*", "*/*") for path in folder.glob(pattern)]
    variants = variants_among(names)
    return variants[0] if variants and variants[0] else None


def weight_patterns(prefix: str, stem: str, variant: str | None) -> list[str]:
    """
    Patterns of the names that the weight files of a variant may have.

    Args:
        prefix (`str`): The subfolder, "" for none.
        stem (`str`): What the names begin with.
        variant (`str`, *optional*): None for the weights without one.
    """
    suffix = f".{variant}" if variant else ""
    names = (
        f"{stem}{suffix}.safetensors",
        f"{stem}{suffix}-?????-of-?????.safetensors",
        f"{stem}.safetensors.index{suffix}.json",
    )
    return [f"{prefix}/{name}" if prefix else name for name in names]


def widest(dtypes: Iterable[str]) -> str:
    """The type that holds all of some types, as safetensors files have them, named as torch does."""
    found = {name for name in dtypes if name in FLOATING}
    if found == {"F16", "BF16"} or not found:
        return "float32"
    return DTYPES[max(found, key=FLOATING.__getitem__)]
