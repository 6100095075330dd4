# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Frozen vision networks that look at tensors of pixels, with or without a gradient to them.

Any vision model of transformers serves, by its Hub id or a local folder. It sees images as its own image processor
would give them, apart from the resampling: they are resized on the device, without a trip through PIL.

Shapes: B batch, H W pixels.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, CLIPVisionModel
from transformers.utils import logging as transformers_logging

from fqgan_hf.failures import first_line


CLIP_TYPES = ("clip", "clip_vision_model")


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
                model_class = CLIPVisionModel if config.model_type in CLIP_TYPES else AutoModel
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
