# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the training loop asks of a generator, whatever its architecture.

Shapes: B batch, T positions, K codebooks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.far.conditions import GeneratorConditions


Inputs = dict[str, torch.Tensor]  # of conditions, by the names of `forward`'s arguments


class TrainingLoss(NamedTuple):
    """
    Of one batch.

    Args:
        loss (`torch.Tensor` of shape `()`): What is descended.
        codebook_losses (`torch.Tensor` of shape `(K,)`): Nats per position of each codebook, to log.
        scalars (`dict`): Others to log, by name.
    """

    loss: torch.Tensor
    codebook_losses: torch.Tensor
    scalars: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class TrainableGenerator:
    """
    A generator as `train_generator` trains it; `build_far` makes FAR's.

    Args:
        model (`PreTrainedModel`):
            Not wrapped. Its configuration has `num_classes`, `id2label`, `num_positions`, `num_codebooks` and
            `codebook_size`, and where it has other conditions than class what `GeneratorConfig` has for them.
        description (`str`): Its architecture in a few words.
        training_loss (`Callable`):
            `(model, codes (B, T, K), inputs) -> TrainingLoss`; `model` is wrapped for several processes, and is called
            once. Draws come from torch's own generator, which the loop has seeded for this batch.
        held_out_losses (`Callable`):
            `(model, codes (B, T, K), inputs, index (B,)) -> (B, K)`: the loss of each image and codebook, in nats per
            position. Called in evaluation mode and without gradients. Draws follow from `index`, the numbers of the
            images, so that they are the same each time and in whatever processes.
        build_pipeline (`Callable`):
            `(tokenizer, model, parts) -> pipeline`, which makes images as [`FARPipeline`] does; `parts` are optional
            components by name.
        forward_inputs (`dict`):
            What a forward pass of one image takes, of which only shapes and dtypes matter: its cost is counted by it.
        conditions (`GeneratorConditions`): What it is given besides codes, and what encodes that.
        saved_parts (`Mapping[str, Any]`): What is saved in subfolders beside the model.
        stateful (`Sequence[Any]`): What checkpoints hold besides, with `state_dict` and `load_state_dict`.
        settings (`Mapping[str, Any]`):
            What belongs to the model and is not in its configuration: a run that is resumed must have the same.
    """

    model: PreTrainedModel
    description: str
    training_loss: Callable[[PreTrainedModel, torch.Tensor, Inputs], TrainingLoss]
    held_out_losses: Callable[[PreTrainedModel, torch.Tensor, Inputs, torch.Tensor], torch.Tensor]
    build_pipeline: Callable[[FQGANModel, PreTrainedModel, dict[str, Any]], Any]
    forward_inputs: Inputs
    conditions: GeneratorConditions = field(default_factory=GeneratorConditions)
    saved_parts: Mapping[str, Any] = field(default_factory=dict)
    stateful: Sequence[Any] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
