# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How much of an image's class its codes tell: a linear classifier on the codes of each codebook."""

from collections.abc import Iterable

import numpy as np
import torch

from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


@torch.no_grad()
def encode_batches(
    model: FQGANModel, batches: Iterable[tuple[list[int], torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes `(N, K, h, w)` and labels `(N,)` of what `image_batches` gives."""
    pairs = [(model.encode(pixel_values.to(model.device)).codes.cpu(), labels) for _, pixel_values, labels in batches]
    codes, labels = zip(*pairs, strict=True)
    return torch.cat(codes), torch.cat(labels)


@torch.no_grad()
def linear_probe(
    model: FQGANModel, train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor]
) -> list[float]:
    """
    Accuracy of a linear classifier that reads the code vectors of one codebook, all positions side by side.

    Args:
        model ([`FQGANModel`]): Whose codes they are.
        train, test (`tuple[torch.Tensor, torch.Tensor]`): Codes `(N, K, h, w)`, labels `(N,)`: `encode_batches`.

    Returns:
        `list[float]`: The share of `test` that is classified correctly, for each of the K codebooks.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    accuracies = []
    for k, codebook in enumerate(model.quantizer.normalized_codebooks().cpu()):
        features = [codebook[codes[:, k]].flatten(1).numpy().astype(np.float64) for codes, _ in (train, test)]
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        probe.fit(features[0], train[1].numpy())
        raise_if_interrupted()  # scikit-learn's fit takes Ctrl-C for the wish to stop learning
        accuracies.append(float(probe.score(features[1], test[1].numpy())))
    return accuracies
