# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Frozen vision networks: the teachers whose features the semantic codebooks learn to predict.

Any vision model of transformers serves, by its Hub id or a local folder. It sees images as its own image processor
would give them, apart from the resampling: training crops are resized on the device, without a trip through PIL.

Shapes: B batch, C channels, H W pixels, T tokens, D feature width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, CLIPVisionModel
from transformers.utils import logging as transformers_logging

from fqgan_hf.failures import first_line
from fqgan_hf.training.common.arguments import WITHOUT_TEACHER


# What a prefix `kind:` promises about the model behind it, by its config's model_type. See `TEACHER_KINDS`.
MODEL_TYPES = {"clip": ("clip", "clip_vision_model"), "dinov2": ("dinov2", "dinov2_with_registers")}
PROBE_SIZE = 224  # for networks that take images of any size


class FrozenVisionModel(nn.Module):
    """
    A pretrained network with its own normalization, without trainable parameters and always in evaluation mode.

    Args:
        name (`str`): Hub id or local folder, with weights, `config.json` and `preprocessor_config.json`.
        purpose (`str`): The option that names it, for errors.

    Attributes:
        model (`PreTrainedModel`): The vision model.
        size (`tuple[int, int]` or None): Height and width that its image processor produces; None for any.
        has_pooler (`bool`): False where a pooler is part of the model but its weights were not saved.

    Raises:
        OSError: It cannot be loaded.
        ValueError: Weights are missing, so that a part of it would be random.
    """

    def __init__(self, name: str, purpose: str):
        super().__init__()
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # it would list the weights of every text tower and classifier
        try:
            # What a network draws for weights that the checkpoint replaces must not move the tokenizer's own draws.
            with torch.random.fork_rng():
                config = AutoConfig.from_pretrained(name)
                model_class = CLIPVisionModel if config.model_type in MODEL_TYPES["clip"] else AutoModel
                self.model, info = model_class.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
            processor = AutoImageProcessor.from_pretrained(name)
        except Exception as error:  # the library's are of every kind
            raise OSError(
                f"{purpose}: {name!r} cannot be loaded as a vision model of transformers, from the Hub or a local "
                f"folder with config.json, weights and preprocessor_config.json: {first_line(error)}"
            ) from error
        finally:
            transformers_logging.set_verbosity(verbosity)
        # Classifiers are often published without the pooler that the bare model would have.
        self.has_pooler = not any(key.startswith("pooler.") for key in info["missing_keys"])
        if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
            raise ValueError(f"{purpose}: {name!r} lacks the weights {missing[:5]}")
        self.model_type = config.model_type
        self.size = _image_size(processor)
        # Images come in [-1, 1]; the processor's factor and normalization are for [0, 255].
        scale = 255.0 * (processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0)
        normalize = getattr(processor, "do_normalize", True)
        mean, std = (processor.image_mean, processor.image_std) if normalize else ([0.0], [1.0])
        self.scale = scale / 2
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenVisionModel":
        """Evaluation mode, whatever `mode` is: dropout and batch statistics have no place in a frozen network."""
        return super().train(False)

    def preprocess(self, pixel_values: torch.Tensor, size: tuple[int, int] | None, mode: str) -> torch.Tensor:
        """Images `(B, 3, H, W)` in [-1, 1] -> the network's normalization, resized to `size` unless it is None."""
        if size is not None and tuple(pixel_values.shape[-2:]) != size:
            pixel_values = F.interpolate(pixel_values, size, mode=mode)
        return ((pixel_values.float() + 1.0) * self.scale - self.mean) / self.std


def _image_size(processor) -> tuple[int, int] | None:
    """Height and width of what an image processor makes of a square image."""
    if getattr(processor, "do_center_crop", None) and processor.crop_size:
        size = processor.crop_size
    elif getattr(processor, "do_resize", True):
        size = processor.size
    else:
        return None
    height = size.get("height") or size.get("shortest_edge")
    return (height, size.get("width") or height) if height else None


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
