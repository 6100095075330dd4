# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Figures of tokenizers, generators and images. The names below load with their first use."""

from importlib import import_module
from typing import Any


_MODULE_OF = {
    "Reference": "reference",
    "evaluate_generator": "evaluate",
    "evaluate_images": "evaluate",
    "evaluate_tokenizer": "evaluate",
    "load_network": "features",
    "open_image_set": "image_sets",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
