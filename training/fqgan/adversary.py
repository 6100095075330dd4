# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The adversarial side of tokenizer training: the discriminator, its optimizer, and the losses of both players."""

from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import nn

from fqgan_hf.training.common.loop import GuardedUpdate, TrainingPlan, build_optimizer, build_scheduler
from fqgan_hf.training.fqgan.discriminators import LeCam, PatchDiscriminator, StyleGANDiscriminator
from fqgan_hf.training.fqgan.losses import Scalars, adaptive_weight, discriminator_loss, generator_loss


if TYPE_CHECKING:
    from fqgan_hf.training.train_fqgan import TrainFQGANArguments


def build_discriminator(args: "TrainFQGANArguments", resolution: int) -> PatchDiscriminator | StyleGANDiscriminator:
    """
    The discriminator that the options of `train_fqgan` describe.

    Raises:
        ValueError: Images of this resolution are too small for it.
    """
    if args.disc_type == "patch":
        discriminator = PatchDiscriminator(3, args.disc_channels, args.disc_num_layers, args.disc_norm)
        reason = f"disc_num_layers = {args.disc_num_layers}"
    else:
        discriminator = StyleGANDiscriminator(3, args.disc_channels, resolution)
        reason = f"disc_type {args.disc_type!r}"
    if resolution < discriminator.min_size:
        raise ValueError(
            f"{reason} needs images of at least {discriminator.min_size} pixels, got resolution {resolution}"
        )
    return discriminator


class Adversary:
    """
    A discriminator that trains against the tokenizer.

    Args:
        accelerator (`Accelerator`): Of the run; prepares what is in here.
        args (`TrainFQGANArguments`): Options `disc_*` and `lecam_weight`.
        plan (`TrainingPlan`): The run's.
        discriminator (`nn.Module`): Images -> logits.
        last_layer (`nn.Parameter`): Of the tokenizer's decoder, for the adaptive weight.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        args: "TrainFQGANArguments",
        plan: TrainingPlan,
        discriminator: nn.Module,
        last_layer: nn.Parameter,
    ):
        self.accelerator = accelerator
        self.args = args
        self.last_layer = last_layer
        optimizer = build_optimizer(discriminator, args, args.disc_learning_rate or args.learning_rate)
        scheduler = build_scheduler(optimizer, args, plan)
        self.discriminator, self.optimizer, self.scheduler = accelerator.prepare(discriminator, optimizer, scheduler)
        self.bare_discriminator = accelerator.unwrap_model(self.discriminator)
        # It has no parameters, so there is nothing to distribute: it is only moved, and saved with the rest.
        self.lecam = accelerator.prepare_model(LeCam(), evaluation_mode=True) if args.lecam_weight > 0 else None

    def oppose(self, loss: torch.Tensor, reconstructions: torch.Tensor) -> tuple[torch.Tensor, Scalars]:
        """The tokenizer's side, weighted: to add to `loss`, the sum of its other terms."""
        args = self.args
        self.bare_discriminator.requires_grad_(False)
        game, scalars = generator_loss(args.disc_loss, self.bare_discriminator(reconstructions))
        weight = torch.full_like(game, args.disc_weight).detach()
        if args.disc_adaptive_weight:
            weight = weight * self.accelerator.reduce(adaptive_weight(loss, game, self.last_layer), "mean")
        return weight * game, {**scalars, "disc_weight": weight}

    def train(
        self, images: torch.Tensor, reconstructions: torch.Tensor, update: GuardedUpdate, samples: torch.Tensor
    ) -> Scalars:
        """The discriminator's side: a backward pass, and its optimizer's step where the tokenizer takes one."""
        self.bare_discriminator.requires_grad_(True)
        real, fake = self.discriminator(images), self.discriminator(reconstructions.detach())
        loss, scalars = discriminator_loss(self.args.disc_loss, real, fake)
        loss = self.args.disc_weight * loss
        if self.lecam is not None:
            means = torch.stack([scalars["discriminator/real"], scalars["discriminator/fake"]])
            self.lecam.update(self.accelerator.reduce(means, "mean"))
            regularization = self.lecam(real, fake)
            scalars["loss/lecam"] = regularization.detach()
            loss = loss + self.args.lecam_weight * regularization
        self.accelerator.backward(loss)
        scalars.update(
            (f"discriminator/{name}", value)
            for name, value in update(self.discriminator, self.optimizer, self.scheduler, samples).items()
        )
        return scalars
