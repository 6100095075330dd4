# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How well a generator predicts codes that it was not trained on."""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from fqgan_hf.training.common.loop import evaluation_mode
from fqgan_hf.training.far.generator_data import GeneratorData
from fqgan_hf.training.far.trainable import TrainableGenerator


@torch.no_grad()
def validate(
    accelerator: Accelerator, generator: TrainableGenerator, dataloader: DataLoader, data: GeneratorData
) -> dict[str, float]:
    """
    Loss of each codebook on held-out codes, without dropout; every process calls this.

    Args:
        accelerator (`Accelerator`): Of the run.
        generator (`TrainableGenerator`): Its model has the weights to validate.
        dataloader (`DataLoader`): Of the held-out data, prepared.
        data (`GeneratorData`): Turns batches into codes.

    Returns:
        `dict`: `validation/loss/{k}` of each codebook in nats per position, and `validation/loss`, their mean.
    """
    images = []
    with evaluation_mode(generator.model) as model:
        for batch in dataloader:
            codes = data.codes_of(batch)  # not within: images are encoded in full precision
            with accelerator.autocast():
                inputs = generator.conditions.inputs(batch, accelerator.device)
                losses = generator.held_out_losses(model, codes, inputs, batch["index"])
            images.append(accelerator.gather_for_metrics(losses))  # without those that only fill up a last batch
    losses = torch.cat(images).mean(0).tolist()
    return {
        "validation/loss": sum(losses) / len(losses),
        **{f"validation/loss/{k}": loss for k, loss in enumerate(losses)},
    }
