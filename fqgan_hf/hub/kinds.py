# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    pass


# Component class -> (auto class, modeling file that defines the class).
COMPONENTS = {
    "FQGANModel": ("AutoModel", "modeling_fqgan"),
    "FARForImageGeneration": ("AutoModel", "modeling_far"),
    "FQGANImageProcessor": ("AutoImageProcessor", "image_processing_fqgan"),
}

CONFIG_CODE = {"FARForImageGeneration": {"AutoConfig": "configuration_far.FARConfig"}}

CARD_TEMPLATES = {
    "FQGANModel": "fqgan.md",
    "FARForImageGeneration": "far.md",
    "FARPipeline": "far_pipeline.md",
    "FQGANPipeline": "fqgan_pipeline.md",
}

PIPELINES = ("FARPipeline", "FQGANPipeline")


def _kind(obj: Any) -> str:
    # By name: a model that came as remote code has a class of its own, and no other class has these names.
    kind = type(obj).__name__
    if kind not in CARD_TEMPLATES:
        raise ValueError(f"only {', '.join(CARD_TEMPLATES)} can be exported, got {kind}")
    return kind
