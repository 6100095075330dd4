# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Frozen vision networks: the teachers whose features the semantic codebooks learn to predict.

Any vision model of transformers serves, by its Hub id or a local folder: see `fqgan_hf.frozen_vision`.

Shapes: B batch, H W pixels, D feature width.
"""

from collections.abc import Sequence

import torch

from fqgan_hf.frozen_vision import CLIP_TYPES, FrozenVisionModel
from fqgan_hf.training.common.arguments import WITHOUT_TEACHER


# What a prefix `kind:` promises about the model behind it, by its config's model_type. See `TEACHER_KINDS`.
MODEL_TYPES = {"clip": CLIP_TYPES, "dinov2": ("dinov2", "dinov2_with_registers")}
PROBE_SIZE = 224  # for networks that take images of any size


class Teacher(FrozenVisionModel):
    """
    Gives the feature of an image that a codebook's feature head learns to predict.

    The feature is the class token of the last layer for CLIP (*before* the post-layernorm) and for DINOv2 (after its
    final one); for other networks the flattened `pooler_output`, or where there is none the mean over positions of
    `last_hidden_state`.

    Args:
        spec (`str`): Hub id or local folder, with or without the prefix `clip:` or `dinov2:`.

    Attributes:
        feature_dim (`int`): D.

    Raises:
        OSError: It cannot be loaded.
        ValueError: Its prefix and its configuration disagree.

    Source: arXiv 2411.16681, section 3.2 and its public configuration.
    """

    def __init__(self, spec: str):
        kind, _, name = spec.partition(":")
        if kind not in MODEL_TYPES:
            kind, name = None, spec
        super().__init__(name, "teachers")
        if kind is not None and self.model_type not in MODEL_TYPES[kind]:
            raise ValueError(f"teachers: {spec!r} must be a {kind} model, got model_type {self.model_type!r}")
        self.takes_class_token = any(self.model_type in types for types in MODEL_TYPES.values())
        self.feature_dim = self(torch.zeros(1, 3, *(self.size or (PROBE_SIZE, PROBE_SIZE)))).shape[-1]

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images `(B, 3, H, W)` in [-1, 1], nearest-resized to the teacher's size as published -> `(B, D)`."""
        output = self.model(self.preprocess(pixel_values, self.size, mode="nearest"))
        hidden = output.last_hidden_state
        if self.takes_class_token:
            return hidden[:, 0]
        if self.has_pooler and getattr(output, "pooler_output", None) is not None:
            return output.pooler_output.flatten(1)
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)


def load_teachers(specs: Sequence[str] | None) -> list[Teacher | None]:
    """One teacher or None per codebook, in order; an empty list when there is none at all."""
    if all(spec == WITHOUT_TEACHER for spec in specs or ()):
        return []
    return [None if spec == WITHOUT_TEACHER else Teacher(spec) for spec in specs]


def add_feature_dims(config: dict, teachers: Sequence[Teacher | None], num_codebooks: int) -> dict:
    """
    A tokenizer's configuration with a feature head as wide as its teacher for each codebook that has one.

    Args:
        config (`dict`): The tokenizer's. If it gives `feature_dims`, they must be the teachers'; else they become so.
        teachers (`list`): As from `load_teachers`; without any the configuration stays as it is.
        num_codebooks (`int`): Of that configuration, or of the model's defaults.

    Raises:
        ValueError: The number of teachers or a width does not fit.
    """
    if not teachers:
        return config
    if len(teachers) != num_codebooks:
        raise ValueError(
            f"teachers must name one teacher or {WITHOUT_TEACHER!r} for each of {num_codebooks} codebooks, "
            f"got {len(teachers)}"
        )
    widths = [None if teacher is None else teacher.feature_dim for teacher in teachers]
    given = config.get("feature_dims")
    if given is not None and list(given) != widths:
        raise ValueError(
            f"feature_dims of the model must be the widths of the teachers' features, {widths}, got {list(given)}; "
            "a new model may leave them out"
        )
    return {**config, "feature_dims": widths}
