# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the codes of images say of the codebooks: how much class each carries, and maps of vectors in the plane.

Shapes: N images, K codebooks, V codebook size, d code dimension, h w grid, P points.
"""

from dataclasses import dataclass

import numpy as np
import torch

from fqgan_hf.evaluation.probe import linear_probe
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


MAX_TSNE_POINTS = 1000  # about ten seconds of a core; more points look no different
MIN_TSNE_POINTS = 10
MAX_PROBE_CLASSES = 100
MIN_PROBE_IMAGES_PER_CLASS = 10
MAX_PROBE_NUMBERS = 2**24  # images times numbers per image: 128 MB in float64


@dataclass(frozen=True)
class ProbeResult:
    """
    What a linear classifier reads from each codebook.

    Args:
        accuracy (`list[float]`): On images that it has not seen, for each of the K codebooks.
        chance (`float`): Share of the most frequent class among these.
        num_classes, num_train, num_test (`int`): Of the images it learned from and was tested on.
    """

    accuracy: list[float]
    chance: float
    num_classes: int
    num_train: int
    num_test: int


def frequent_classes(labels: np.ndarray, most: int, min_images: int) -> np.ndarray:
    """Ids of the classes of at least `min_images` images, at most `most` of them, the most frequent ones first."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    order = np.lexsort((classes, -counts))
    return classes[order][counts[order] >= min_images][:most]


def probe_codes(model: FQGANModel, codes: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> ProbeResult | None:
    """
    Learn classes from the codes of two thirds of the images, for each codebook by itself, and read the rest.

    Args:
        model ([`FQGANModel`]): Whose codes they are.
        codes (`torch.Tensor` of shape `(N, K, h, w)`): Of images in random order: the first ones are taken, as many as
            fit in memory.
        labels (`torch.Tensor` of shape `(N,)`): Class ids, -1 for none. The most frequent classes count.
        seed (`int`): Of the split.

    Returns:
        [`ProbeResult`], or None where fewer than two classes have `MIN_PROBE_IMAGES_PER_CLASS` images.
    """
    from sklearn.model_selection import train_test_split

    per_image = codes[0, 0].numel() * model.config.codebook_dim
    codes, labels = (tensor[: max(1, MAX_PROBE_NUMBERS // per_image)] for tensor in (codes, labels))
    classes = frequent_classes(labels.numpy(), MAX_PROBE_CLASSES, MIN_PROBE_IMAGES_PER_CLASS)
    if len(classes) < 2:
        return None
    rows = np.flatnonzero(np.isin(labels.numpy(), classes))
    parts = train_test_split(rows, test_size=1 / 3, stratify=labels.numpy()[rows], random_state=seed)
    train, test = ((codes[part].long(), labels[part]) for part in parts)
    return ProbeResult(
        accuracy=linear_probe(model, train, test),
        chance=int(test[1].bincount().max()) / len(test[1]),
        num_classes=len(classes),
        num_train=len(train[1]),
        num_test=len(test[1]),
    )


def used_code_vectors(model: FQGANModel, counts: torch.Tensor, seed: int = 0) -> list[np.ndarray]:
    """
    Vectors of codes in use, for each codebook, drawn where there are more than `MAX_TSNE_POINTS` together.

    Args:
        model ([`FQGANModel`]): Whose codes they are.
        counts (`torch.Tensor` of shape `(K, V)`): How often each code occurred.
        seed (`int`): Of the choice.

    Returns:
        `list[np.ndarray]`: K arrays of unit rows `(points, d)`.
    """
    rng = np.random.default_rng(seed)
    codebooks, most = model.quantizer.normalized_codebooks().cpu(), MAX_TSNE_POINTS // len(counts)
    used = [row.nonzero()[:, 0].numpy() for row in counts]
    chosen = [np.sort(rng.permutation(codes)[:most]) for codes in used]
    return [codebooks[k, torch.from_numpy(codes)].detach().numpy() for k, codes in enumerate(chosen)]


@torch.no_grad()
def mean_code_vectors(model: FQGANModel, codes: torch.Tensor) -> np.ndarray:
    """Mean over the positions of each image's code vectors: codes `(N, K, h, w)` -> `(K, N, d)`."""
    codebooks = model.quantizer.normalized_codebooks().cpu()
    return torch.stack([rows[codes[:, k].flatten(1).long()].mean(1) for k, rows in enumerate(codebooks)]).numpy()


def tsne(vectors: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """
    Vectors in the plane, neighbours near each other. The same for the same vectors and seed: on a single thread.

    Args:
        vectors (`np.ndarray` of shape `(P, d)`): At most some thousands.
        seed (`int`): Of the optimization.

    Returns:
        `np.ndarray` of shape `(P, 2)`, or None for fewer than `MIN_TSNE_POINTS`.

    Source: van der Maaten & Hinton 2008, *Visualizing Data using t-SNE*; scikit-learn's Barnes-Hut version.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(vectors) < MIN_TSNE_POINTS:
        return None
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    init = "pca" if vectors.shape[1] >= 2 else "random"
    with threadpool_limits(1):  # several threads add up in an order of their own
        return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(vectors)


def code_colors(codebook: np.ndarray, used: np.ndarray) -> np.ndarray:
    """
    A colour for each code, alike for codes with similar vectors: its first three principal components as red, green
    and blue, each spread evenly over the codes in use.

    Args:
        codebook (`np.ndarray` of shape `(V, d)`): Code vectors.
        used (`np.ndarray` of shape `(V,)`): Which of them occur.

    Returns:
        `np.ndarray` uint8 of shape `(V, 3)`; white for codes that don't occur.
    """
    rows = codebook[used] - codebook[used].mean(0)
    axes = np.linalg.svd(rows, full_matrices=False)[2][:3]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])  # either is a principal component
    ranks = (rows @ (axes * signs[:, None]).T).argsort(0, kind="stable").argsort(0, kind="stable")
    colors = np.full((len(codebook), 3), 255, dtype=np.uint8)
    shades = np.full((len(rows), 3), 128)
    shades[:, : len(axes)] = np.rint(255 * (ranks + 0.5) / len(rows))
    colors[used] = shades
    return colors
