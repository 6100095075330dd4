# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FAR as the training loop trains it: built for given codes, with its losses and its pipeline.

Shapes: B batch, T positions, K codebooks, V codebook size.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.pipeline_far import FARPipeline
from fqgan_hf.training.far.building import build_generator, describe_architecture
from fqgan_hf.training.far.conditions import GeneratorConditions, empty_inputs
from fqgan_hf.training.far.trainable import Inputs, TrainableGenerator, TrainingLoss


if TYPE_CHECKING:
    from fqgan_hf.training.far.generator_data import GeneratorData
    from fqgan_hf.training.train_far import TrainFARArguments


def build_far(args: "TrainFARArguments", data: "GeneratorData") -> TrainableGenerator:
    """
    A FAR for these codes, pretrained or new; see `build_generator`.

    Args:
        args (`TrainFARArguments`): The run's.
        data (`GeneratorData`): The codes.

    Raises:
        ValueError: The model is not one for these codes, or cannot be built.
    """
    model, conditions = build_generator(FARForImageGeneration, args, data, {"head": ("head_type", args.head)})
    return trainable_far(model, conditions)


def trainable_far(model: FARForImageGeneration, conditions: GeneratorConditions | None = None) -> TrainableGenerator:
    """A FAR with what the training loop asks of it."""
    conditions = conditions or GeneratorConditions()
    config = model.config
    codes = torch.zeros(1, config.num_positions, config.num_codebooks, dtype=torch.long)
    return TrainableGenerator(
        model,
        describe_architecture(model),
        far_loss,
        far_held_out_losses,
        build_far_pipeline,
        {**empty_inputs(config), "codes": codes},
        conditions,
        saved_parts=conditions.saved_parts,
    )


def far_loss(model: FARForImageGeneration, codes: torch.Tensor, inputs: Inputs) -> TrainingLoss:
    """Cross-entropy of codes `(B, T, K)`, each given those before it."""
    output = model(codes=codes, labels=codes, **inputs)
    return TrainingLoss(output.loss, output.codebook_losses.detach(), {})


def far_held_out_losses(
    model: FARForImageGeneration, codes: torch.Tensor, inputs: Inputs, index: torch.Tensor
) -> torch.Tensor:
    """The same of each image and codebook, `(B, K)`; nothing is drawn."""
    logits = model(codes=codes, **inputs).logits.float()  # (B, T, K, V)
    return F.cross_entropy(logits.movedim(-1, 1), codes, reduction="none").mean(1)


def build_far_pipeline(vqmodel: FQGANModel, model: FARForImageGeneration, parts: dict[str, Any]) -> FARPipeline:
    """The pipeline that shows what a FAR makes; `parts` are optional components by name."""
    return FARPipeline(vqmodel=vqmodel, transformer=model, image_processor=FQGANImageProcessor(), **parts)
