# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The training objectives. Every function returns tensors with their names in the log; it logs nothing itself.

Shapes: B batch, C channels, H W pixels, K codebooks, D feature width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from fqgan_hf.modeling.modeling_fqgan import FQGANOutput


Scalars = dict[str, torch.Tensor]

# Of pixels and pictures; of logits and label maps.
RECONSTRUCTION_LOSSES = {"l2": F.mse_loss, "l1": F.l1_loss, "cross-entropy": F.cross_entropy}


def tokenizer_loss(
    target: torch.Tensor,
    output: FQGANOutput,
    weights: Mapping[str, float],
    reconstruction: Literal["l2", "l1", "cross-entropy"] = "l2",
) -> tuple[torch.Tensor, Scalars]:
    """
    Weighted sum of the reconstruction error and the quantizer's terms, each summed over the codebooks.

    Args:
        target (`torch.Tensor` of shape `(batch, 3, height, width)`):
            The images, in [-1, 1]; for `"cross-entropy"` label maps `(batch, height, width)`, int64.
        output (`FQGANOutput`): Of the model, with `return_losses=True`.
        weights (`Mapping[str, float]`): By the term's name, see `loss_weights`; a weight of 0 drops the term.
        reconstruction (`str`):
            `"l2"` or `"l1"`, mean over pixels and channels; `"cross-entropy"`, mean over pixels, in nats.

    Returns:
        `tuple`: the loss, a scalar; and its terms *before* weighting under the names `loss/reconstruction`, and for
        each field of `output.losses` `loss/{name}/{k}` if it has one value per codebook, else `loss/{name}`.

    Raises:
        ValueError: The quantizer gives a term that has no weight.
    """
    target = target.float() if target.is_floating_point() else target
    error = RECONSTRUCTION_LOSSES[reconstruction](output.sample.float(), target)
    loss = weights["reconstruction"] * error
    scalars = {"loss/reconstruction": error.detach()}
    for name in (field.name for field in fields(output.losses)):
        if name not in weights:
            raise ValueError(
                f"the quantizer's loss term {name!r} has no weight: loss_terms.py needs a default for it, and the "
                f"training script an option {name}_weight"
            )
        term = getattr(output.losses, name)
        loss = loss + weights[name] * term.sum()
        if term.ndim == 0:
            scalars[f"loss/{name}"] = term.detach()
        else:
            scalars.update((f"loss/{name}/{k}", value) for k, value in enumerate(term.detach()))
    return loss, scalars


def _hinge_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def _logistic_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


# Discriminator's and generator's side. "vanilla" is the minimax game of arXiv 1406.2661, equation 1; "non-saturating"
# keeps its discriminator and has the generator maximise log D(G) instead (section 3 there). "hinge": arXiv 1705.02894.
GAN_LOSSES = {
    "hinge": (_hinge_discriminator, lambda fake: -fake.mean()),
    "vanilla": (_logistic_discriminator, lambda fake: -F.softplus(fake).mean()),
    "non-saturating": (_logistic_discriminator, lambda fake: F.softplus(-fake).mean()),
}


def discriminator_loss(
    kind: str, real_logits: torch.Tensor, fake_logits: torch.Tensor
) -> tuple[torch.Tensor, Scalars]:
    """
    The discriminator's loss, halved over its two kinds of input, before weighting.

    Args:
        kind (`str`): `"hinge"`, `"vanilla"` or `"non-saturating"`.
        real_logits, fake_logits (`torch.Tensor`): Any shape; one logit per patch.
    """
    loss = GAN_LOSSES[kind][0](real_logits.float(), fake_logits.float())
    scalars = {
        "loss/discriminator": loss.detach(),
        "discriminator/real": real_logits.detach().float().mean(),
        "discriminator/fake": fake_logits.detach().float().mean(),
    }
    return loss, scalars


def generator_loss(kind: str, fake_logits: torch.Tensor) -> tuple[torch.Tensor, Scalars]:
    """The generator's adversarial loss, before weighting. See `discriminator_loss`."""
    loss = GAN_LOSSES[kind][1](fake_logits.float())
    return loss, {"loss/generator": loss.detach()}


def adaptive_weight(loss: torch.Tensor, adversarial: torch.Tensor, last_layer: nn.Parameter) -> torch.Tensor:
    """
    Factor that makes the adversarial gradient at the decoder's last layer as long as that of the other terms.

    Args:
        loss, adversarial (`torch.Tensor` of shape `()`): Both with a graph, which is kept.
        last_layer (`nn.Parameter`): Weight of the decoder's last convolution.

    Returns:
        `torch.Tensor` of shape `()`, detached, in [0, 10000].

    Source: arXiv 2012.09841, equation 7.
    """
    (of_loss,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
    (of_adversarial,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (of_loss.norm() / (of_adversarial.norm() + 1e-4)).clamp(0.0, 1e4).detach()


def representation_loss(
    prediction: torch.Tensor, target: torch.Tensor, temperature: float = 1.0, offset: int = 0
) -> torch.Tensor:
    """
    InfoNCE from a feature head's predictions to a teacher's features, with the other features as negatives.

    Args:
        prediction (`torch.Tensor` of shape `(batch, dim)`): Token 0 of the feature head's output.
        target (`torch.Tensor` of shape `(candidates, dim)`):
            The teacher's features: of this batch, or gathered from all processes.
        temperature (`float`): Of the softmax over cosines; published: 1.
        offset (`int`): Row of `target` that belongs to the first prediction: process index times batch when gathered.

    Returns:
        `torch.Tensor` of shape `()`. A single pair has no negatives, so that InfoNCE is constantly 0 there; one minus
        the cosine then stands in, which has the same minimum and pulls in the same direction.

    Source: arXiv 2411.16681, section 3.2 (one direction, in-batch negatives).
    """
    prediction = F.normalize(prediction.float(), dim=-1)
    target = F.normalize(target.detach().float(), dim=-1)
    if len(target) == 1:
        return 1.0 - (prediction * target).sum(-1).mean()
    logits = prediction @ target.T / temperature
    return F.cross_entropy(logits, torch.arange(len(prediction), device=logits.device) + offset)


def representation_losses(
    predictions: Sequence[torch.Tensor | None], targets: Sequence[torch.Tensor | None], offset: int = 0
) -> tuple[torch.Tensor, Scalars]:
    """
    Sum over the codebooks that have a teacher of `representation_loss`, before weighting.

    Args:
        predictions (`Sequence`): One per codebook: `(batch, 1 + positions, dim)`, or None without a feature head.
        targets (`Sequence`): One per codebook: the teacher's features `(candidates, dim)`, or None without a teacher.
        offset (`int`): See `representation_loss`.

    Returns:
        `tuple`: the loss, and its terms under the names `loss/representation/{k}`.
    """
    losses = {
        f"loss/representation/{k}": representation_loss(prediction[:, 0], target, offset=offset)
        for k, (prediction, target) in enumerate(zip(predictions, targets, strict=True))
        if target is not None
    }
    return torch.stack(list(losses.values())).sum(), {name: loss.detach() for name, loss in losses.items()}
