# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Improved precision and recall, a chunk of rows at a time, from memory or from a file.

Shapes: N, M samples, D features.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fqgan_hf.evaluation.metrics import finite_matrix


@dataclass
class PrecisionRecall:
    """`precision`: share of generated samples near real ones; `recall`: share of real samples near generated ones."""

    precision: float
    recall: float


def precision_recall(real, generated, k: int = 3, chunk_size: int = 1024) -> PrecisionRecall:
    """Improved precision and recall: is a sample of one set inside a ball around a sample of the other?

    A ball reaches to its centre's k-th nearest neighbour in its own set. Distances are computed in float64,
    `chunk_size` rows at a time, on the device of `real` (a tensor there) or the CPU.

    Args:
        real (array or tensor of shape **(N, D)**): features of real images.
        generated (array or tensor of shape **(M, D)**): features of generated images. Use N = M: both figures depend
            on them.
        k (`int`, defaults to 3): which neighbour sets the radius, the sample itself not counted.
        chunk_size (`int`, defaults to 1024): rows of the distance matrix held at once.

    Returns:
        [`PrecisionRecall`]: both in [0, 1].

    Raises:
        ValueError: other shapes, non-finite values, or not more than `k` samples on a side.

    Source: Kynkäänniemi et al. 2019, *Improved Precision and Recall Metric for Assessing Generative Models*
    (arXiv 1904.06991), eq. 1 and 2.
    """
    for name, value in (("k", k), ("chunk_size", chunk_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    device = real.device if isinstance(real, torch.Tensor) else torch.device("cpu")
    real, generated = _rows(real, "real", k + 1), _rows(generated, "generated", k + 1)
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"real and generated must have the same number of features, got {real.shape[1]} and {generated.shape[1]}"
        )
    center = real.mean(axis=0, dtype=np.float64)  # |a|² + |b|² - 2ab loses digits to a large common mean
    chunks = [RowChunks(features, center, chunk_size, device) for features in (real, generated)]
    return precision_recall_of_chunks(*chunks, k)


def _rows(values, name: str, min_rows: int) -> np.ndarray:
    """A finite matrix of at least so many rows, in float32 if it comes so: as float64 it takes twice the memory."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float().numpy() if values.dtype.itemsize < 4 else values.detach().cpu().numpy()
    if not (isinstance(values, np.ndarray) and values.dtype == np.float32 and values.ndim == 2):
        return finite_matrix(values, name, min_rows)
    finite_matrix(values[:min_rows], name, min_rows)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must hold finite values, got NaN or infinity")
    return values


@dataclass(frozen=True)
class RowChunks:
    """
    Rows **(N, D)** minus a common centre, in float64 and so many at a time.

    Args:
        rows: Anything with a length that gives arrays for slices.
        center (`np.ndarray` of shape `(D,)`): Subtracted from each.
        size (`int`): Rows at a time.
        device (`torch.device`): Where they go.
    """

    rows: Any
    center: np.ndarray
    size: int = 512
    device: torch.device = torch.device("cpu")

    @property
    def starts(self) -> range:
        """Of the chunks."""
        return range(0, len(self.rows), self.size)

    def chunk(self, start: int) -> torch.Tensor:
        """The rows from there on."""
        return torch.from_numpy(self.rows[start : start + self.size] - self.center).to(self.device)


def precision_recall_of_chunks(real: RowChunks, generated: RowChunks, k: int = 3) -> PrecisionRecall:
    """`precision_recall` of rows that need not lie in memory: two chunks of them do, and their distances."""
    real_radii, generated_radii = _radii(real, k), _radii(generated, k)
    # Equal samples come out some round-off apart; a ball of radius 0 still holds its copies.
    slack = 1e-12 * max(_largest_square(real), _largest_square(generated))
    is_covered, covers = (torch.zeros(len(x.rows), dtype=torch.bool, device=x.device) for x in (generated, real))
    for start in generated.starts:
        rows = generated.chunk(start)
        here = slice(start, start + len(rows))
        for other_start in real.starts:
            others = real.chunk(other_start)
            there = slice(other_start, other_start + len(others))
            distances = _squared_distances(rows, others) - slack
            is_covered[here] |= (distances <= real_radii[there]).any(dim=1)
            covers[there] |= (distances <= generated_radii[here, None]).any(dim=0)
    return PrecisionRecall(precision=is_covered.double().mean().item(), recall=covers.double().mean().item())


def _squared_distances(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(N, D), (M, D) -> (N, M)."""
    distances = torch.addmm(rows.square().sum(1)[:, None], rows, columns.T, alpha=-2)
    return distances.add_(columns.square().sum(1)).clamp_(min=0)


def _largest_square(chunks: RowChunks) -> float:
    return max(chunks.chunk(start).square().sum(1).max().item() for start in chunks.starts)


def _radii(centers: RowChunks, k: int) -> torch.Tensor:
    """Squared distance of each row to the k-th nearest of the others, `(N,)`."""
    nearest = torch.full((len(centers.rows), k), torch.inf, dtype=torch.float64, device=centers.device)

    def keep(start: int, distances: torch.Tensor) -> None:
        found = nearest[start : start + len(distances)]
        found.copy_(torch.cat([found, distances], dim=1).topk(k, largest=False).values)

    for start in centers.starts:
        rows = centers.chunk(start)
        for other_start in centers.starts[start // centers.size :]:  # each pair of chunks once
            distances = _squared_distances(rows, centers.chunk(other_start))
            if start == other_start:
                keep(start, distances.fill_diagonal_(torch.inf))  # a sample is not its own neighbour
            else:
                keep(start, distances)
                keep(other_start, distances.T)
    return nearest[:, -1]
