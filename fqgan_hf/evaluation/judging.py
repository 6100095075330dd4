# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a network says of a set of images, in sums that do not grow with the set.

    judge = SetStatistics(num_images, label_names)
    judge.update(network(pictures), indices, labels)
    judge.gather()                       # of all processes
    compare_sets(judge, reference)       # Frechet distances, precision, recall, Inception score, accuracy

Of every image only its share in sums is kept, and of at most 10,000 images, drawn by number and the same in any order
of the set, the features for precision and recall. These lie in a file without a name, not in memory.

Shapes: B batch, D features, S spatial features, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from fqgan_hf.evaluation.features import Features
from fqgan_hf.evaluation.metrics import FeatureStatistics, InceptionScoreSums
from fqgan_hf.evaluation.precision_recall import RowChunks, precision_recall_of_chunks
from fqgan_hf.files import nameless_file


# The protocol of ADM: 10 splits, balls to the third neighbour. The choices by seed are ours, and noted in results.
PROTOCOL = {
    "inception_score": {"splits": 10, "shuffle_seed": 0},
    "precision_recall": {"k": 3, "max_images": 10_000, "choice_seed": 0},
}


class FeatureStore:
    """
    Vectors that wait on disk until all of them are needed.

    Rows `(B, D)` of float32 under the number of their image, in any order.
    """

    def __init__(self):
        self.indices: list[int] = []
        self._file = nameless_file()
        self._width = 0

    def __len__(self) -> int:
        return len(self.indices)

    def append(self, indices: Sequence[int], rows: torch.Tensor) -> None:
        """Keep rows `(B, D)` of the images of these numbers."""
        self.indices += indices
        self._width = rows.shape[1]
        self._file.write(rows.float().contiguous().numpy().tobytes())

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows in the order in which they came."""
        start, stop, _ = rows.indices(len(self))
        self._file.flush()
        self._file.seek(start * self._width * 4)
        found = np.fromfile(self._file, dtype=np.float32, count=(stop - start) * self._width)
        self._file.seek(0, 2)
        return found.reshape(stop - start, self._width)


class SetStatistics:
    """
    Everything that figures need of one set of images.

    Args:
        num_images (`int`): In the whole set, over all processes; known beforehand, since which images share a split of
            the Inception score, and which count for precision and recall, is drawn by number.
        label_names (`list[str]`, *optional*): Classes of the network, where those of the images are the same.
    """

    def __init__(self, num_images: int, label_names: Sequence[str] | None = None):
        self.num_images = num_images
        self.pooled = FeatureStatistics()
        self.spatial = FeatureStatistics()
        self.score: InceptionScoreSums | None = None
        self.kept = FeatureStore()
        num_classes = len(label_names) if label_names is not None else 0
        self.hits = torch.zeros(num_classes, dtype=torch.long)
        self.counts = torch.zeros(num_classes, dtype=torch.long)
        most, seed = PROTOCOL["precision_recall"]["max_images"], PROTOCOL["precision_recall"]["choice_seed"]
        self._is_kept = np.zeros(num_images, dtype=bool)
        self._is_kept[np.random.default_rng(seed).permutation(num_images)[:most]] = True

    def update(self, features: Features, indices: Sequence[int], labels: torch.Tensor) -> None:
        """
        Add a batch.

        Args:
            features ([`Features`]): Of its images.
            indices (`Sequence[int]`): Their numbers, each in [0, num_images) and once in the set.
            labels (`torch.Tensor` of shape `(B,)`): Class ids, -1 for none.

        Raises:
            ValueError: Features that are not finite.
        """
        self.pooled.update(features.pooled)
        if features.spatial is not None:
            self.spatial.update(features.spatial)
        if features.probabilities is not None and self.num_images >= PROTOCOL["inception_score"]["splits"]:
            self._score(features.probabilities.shape[1]).update(features.probabilities, indices)
        chosen = [row for row, index in enumerate(indices) if self._is_kept[index]]
        if chosen:
            self.kept.append([indices[row] for row in chosen], features.pooled[chosen])
        if len(self.counts):
            known = labels >= 0
            self.counts += torch.bincount(labels[known], minlength=len(self.counts))
            right = known & (features.predictions == labels)
            self.hits += torch.bincount(labels[right], minlength=len(self.counts))

    def _score(self, num_classes: int) -> InceptionScoreSums:
        if self.score is None:
            protocol = PROTOCOL["inception_score"]
            self.score = InceptionScoreSums(self.num_images, num_classes, protocol["splits"], protocol["shuffle_seed"])
        return self.score

    def gather(self) -> "SetStatistics":
        """Of all processes: each then has the statistics of the whole set. Every process calls it, once."""
        if PartialState().num_processes == 1:
            return self
        mine = (self.pooled, self.spatial, self.score, self.kept.indices, self.kept[:], self.hits, self.counts)
        self.pooled, self.spatial, self.score = FeatureStatistics(), FeatureStatistics(), None
        self.kept = FeatureStore()
        self.hits, self.counts = torch.zeros_like(self.hits), torch.zeros_like(self.counts)
        for pooled, spatial, score, indices, rows, hits, counts in gather_object([mine]):
            self.pooled.merge(pooled)
            self.spatial.merge(spatial)
            if score is not None:
                self.score = score if self.score is None else self.score.merge(score)
            if indices:
                self.kept.append(indices, torch.from_numpy(rows))
            self.hits += hits
            self.counts += counts
        return self

    @property
    def accuracy(self) -> float | None:
        """Share of images whose predicted class is their label."""
        return self.hits.sum().item() / self.counts.sum().item() if self.counts.sum() else None


def compare_sets(ours: SetStatistics, theirs: SetStatistics) -> dict[str, Any]:
    """
    Figures of a set of images beside a reference.

    Args:
        ours ([`SetStatistics`]): Of the images that are judged.
        theirs ([`SetStatistics`]): Of the reference; statistics from a file have no features for precision and recall.

    Returns:
        `dict`: `frechet_distance`; `spatial_frechet_distance`, `inception_score`, `inception_score_std`, `precision`
        and `recall`, each None where the network or the reference does not give it.
    """
    score = None if ours.score is None else ours.score.compute()
    k = PROTOCOL["precision_recall"]["k"]
    found = None
    if len(theirs.kept) > k and len(ours.kept) > k:
        center = theirs.pooled.mu
        real, generated = (RowChunks(kept, center) for kept in (theirs.kept, ours.kept))
        found = precision_recall_of_chunks(real, generated, k)
    return {
        "frechet_distance": _distance(ours.pooled, theirs.pooled),
        "spatial_frechet_distance": _distance(ours.spatial, theirs.spatial),
        "inception_score": None if score is None else score.mean,
        "inception_score_std": None if score is None else score.std,
        "precision": None if found is None else found.precision,
        "recall": None if found is None else found.recall,
    }


def _distance(ours: FeatureStatistics, theirs: FeatureStatistics) -> float | None:
    if ours.num_features is None or theirs.num_features is None:
        return None
    return ours.distance(theirs)
