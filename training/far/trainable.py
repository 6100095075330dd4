# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the training loop asks of a generator, whatever its architecture.

Shapes: B batch, T positions, K codebooks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from fqgan_hf.modeling.modeling_fqgan import FQGANModel


@dataclass(frozen=True)
class TrainableGenerator:
    """
    A generator as `train_generator` trains it; `build_far` makes FAR's.

    Args:
        model (`PreTrainedModel`):
            Not wrapped. `model(class_labels=, codes=, labels=codes)` with codes `(B, T, K)` returns an output with
            `loss`, a scalar, and `codebook_losses` of shape `(K,)`. Its configuration has `num_classes`, `id2label`,
            `num_positions`, `num_codebooks` and `codebook_size`.
        description (`str`): Its architecture in a few words.
        held_out_losses (`Callable`):
            `(model, class_labels (B,), codes (B, T, K)) -> (B, K)`: the loss of each image and codebook, in nats per
            position. Called in evaluation mode and without gradients.
        build_pipeline (`Callable`):
            `(tokenizer, model) -> pipeline`, which makes images of class ids as [`FARPipeline`] does.
    """

    model: PreTrainedModel
    description: str
    held_out_losses: Callable[[PreTrainedModel, torch.Tensor, torch.Tensor], torch.Tensor]
    build_pipeline: Callable[[FQGANModel, PreTrainedModel], Any]
