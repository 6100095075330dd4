# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The contrastive losses of Reg-VQ: a patch of the reconstruction resembles the patch of the image at its place.

Features of both are unit vectors; y_i those of the image, z_i those of the reconstruction at the same place.

Shapes: B batch, C channels, h w feature map, L patches.

Source: arXiv 2303.06424, "probabilistic contrastive loss". Temperature, number of patches, unit length and the mean
over images and maps are ours: the paper does not give them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def contrastive_loss(
    targets: Sequence[torch.Tensor], features: Sequence[torch.Tensor], num_patches: int, temperature: float
) -> torch.Tensor:
    """
    The vanilla loss: -1/L sum_i log(e^(y_i z_i / t) / (e^(y_i z_i / t) + sum_{j != i} e^(y_i z_j / t))).

    Args:
        targets, features (`Sequence[torch.Tensor]`):
            Of the images and of their reconstructions: maps `(B, C, h, w)` of unit vectors, from each layer.
        num_patches (`int`): At most so many random places of each map; the same ones in both, and in all images.
        temperature (`float`): t.

    Returns:
        `torch.Tensor` of shape `()`: mean over images and maps.
    """
    losses = []
    for target, feature in zip(targets, features, strict=True):
        places = torch.randperm(target[0, 0].numel(), device=target.device)[:num_patches].expand(len(target), -1)
        similarity = _similarity(target, feature, places, temperature)
        correct = torch.arange(similarity.shape[-1], device=similarity.device).expand(len(similarity), -1)
        losses.append(F.cross_entropy(similarity.flatten(0, 1), correct.flatten()))
    return torch.stack(losses).mean()


def probabilistic_contrastive_loss(
    targets: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    distances: torch.Tensor,
    num_patches: int,
    temperature: float,
) -> torch.Tensor:
    """
    PCL: -1/L sum_i log(w_i e^(y_i z_i / t) / (w_i e^(y_i z_i / t) + 1/L sum_{j != i} e^(y_i z_j / t))).

    It runs over the places where the sampled code is not the likeliest one: their weights w are the distances between
    the two codes, resized to each map, and divided by their sum over the L places of an image that are drawn.

    Args:
        targets, features, num_patches, temperature: See `contrastive_loss`; each image has places of its own.
        distances (`torch.Tensor` of shape `(B, H, W)`): At least 0, on the grid of codes.

    Returns:
        `torch.Tensor` of shape `()`: mean over images and maps; 0 for an image without such a place.
    """
    losses = []
    for target, feature in zip(targets, features, strict=True):
        weights = F.interpolate(distances[:, None].float(), target.shape[-2:], mode="area").flatten(1)
        scores = torch.where(weights > 0, 1.0 + torch.rand_like(weights), 0.0)
        scores, places = scores.topk(min(num_patches, weights.shape[1]), dim=-1)
        losses.append(
            _probabilistic(
                _similarity(target, feature, places, temperature), weights.gather(1, places), is_drawn=scores > 0
            )
        )
    return torch.stack(losses).mean()


def _similarity(target: torch.Tensor, feature: torch.Tensor, places: torch.Tensor, temperature: float) -> torch.Tensor:
    """`(B, L, L)` in fp32: y_i z_j / t at `places (B, L)` of two maps."""
    with torch.autocast(target.device.type, enabled=False):
        rows = [
            map_.float().flatten(2).gather(2, places[:, None].expand(-1, map_.shape[1], -1))
            for map_ in (target.detach(), feature)
        ]
        return rows[0].mT @ rows[1] / temperature


def _probabilistic(similarity: torch.Tensor, weights: torch.Tensor, is_drawn: torch.Tensor) -> torch.Tensor:
    """Mean over images; `similarity (B, L, L)`, `weights (B, L)`; places that are not drawn fill up the others' L."""
    number = is_drawn.sum(-1, keepdim=True).clamp(min=1)
    weights = torch.where(is_drawn, weights, 0.0)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    # In logarithms. Rows that are not drawn get finite numbers that count for nothing.
    positive = similarity.diagonal(dim1=1, dim2=2) + torch.where(is_drawn, weights, 1.0).log()
    negatives = similarity - number[..., None].log()
    is_self = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    negatives = negatives.masked_fill(is_self | ~is_drawn[:, None], float("-inf"))
    all_terms = torch.cat([positive[..., None], negatives], dim=-1)
    losses = torch.where(is_drawn, all_terms.logsumexp(-1) - positive, 0.0)
    return (losses.sum(-1) / number[:, 0]).mean()
