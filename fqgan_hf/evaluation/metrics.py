# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Distances and scores between sets of images, computed on features that some network gave.

Nothing here knows the network: whatever turns images into one vector each will do, as long as both sets went through
the same one. Figures from different networks, or different numbers of images, are not comparable.

Shapes: N samples, D features, C classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fqgan_hf.files import atomic_path


ROWS_AT_ONCE = 1024  # that statistics wait for before they pass over a covariance


def finite_matrix(values, name: str, min_rows: int = 1) -> np.ndarray:
    """Tensor or array -> finite float64 (N, D) with at least `min_rows` rows."""
    array = _float64(values, name)
    if array.ndim != 2 or array.shape[1] < 1:
        raise ValueError(f"{name} must have shape (samples, features), got {array.shape}")
    if array.shape[0] < min_rows:
        raise ValueError(f"{name} must hold at least {min_rows} samples, got {array.shape[0]}")
    return array


def _float64(values, name: str) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite values, got NaN or infinity")
    return array


def _gaussian(mu, sigma, suffix: str) -> tuple[np.ndarray, np.ndarray]:
    mu, sigma = _float64(mu, f"mu{suffix}"), _float64(sigma, f"sigma{suffix}")
    if mu.ndim != 1 or sigma.shape != (mu.size, mu.size) or mu.size == 0:
        raise ValueError(
            f"mu{suffix} and sigma{suffix} must have shapes (D,) and (D, D), got {mu.shape} and {sigma.shape}"
        )
    asymmetry = max(np.abs(rows - columns).max() for rows, columns in zip(sigma, sigma.T, strict=True))
    if asymmetry > 1e-5 * np.abs(sigma).max():  # float32 statistics pass
        raise ValueError(
            f"sigma{suffix} must be symmetric, got entries that differ by {asymmetry:g} across the diagonal"
        )
    return mu, sigma if asymmetry == 0 else (sigma + sigma.T) / 2


def _nonnegative_eigenvalues(eigenvalues: np.ndarray, name: str) -> np.ndarray:
    """Set round-off around zero to zero, which the square root would magnify; refuse what is truly negative."""
    scale = np.abs(eigenvalues).max(initial=0.0)
    if eigenvalues.min(initial=0.0) < -1e-5 * scale:
        raise ValueError(f"{name} must have no negative eigenvalue, got {eigenvalues.min():g} (largest {scale:g})")
    noise = scale * len(eigenvalues) * np.finfo(np.float64).eps
    return np.where(eigenvalues > noise, eigenvalues, 0.0)


def _root(sigma: np.ndarray) -> np.ndarray:
    """A matrix R with ``R R^T = sigma``, as wide as the rank of sigma."""
    try:
        return np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:  # fewer samples than features, or features that are always zero
        eigenvalues, eigenvectors = np.linalg.eigh(sigma)
        eigenvalues = _nonnegative_eigenvalues(eigenvalues, "sigma1")
        return eigenvectors[:, eigenvalues > 0] * np.sqrt(eigenvalues[eigenvalues > 0])


def frechet_distance(mu1, sigma1, mu2, sigma2) -> float:
    """Frechet distance between two Gaussians, ``|mu1 - mu2|² + tr(S1 + S2 - 2 (S1 S2)^½)``.

    With any ``R R^T = S1`` the trace of the root is that of the symmetric ``(R^T S2 R)^½``, so a Cholesky factor and
    the eigenvalues of one symmetric matrix in float64 are enough: no complex square root, and singular covariances
    (fewer samples than features) need no correction.

    Args:
        mu1, mu2 (array or tensor of shape **(D,)**): means.
        sigma1, sigma2 (array or tensor of shape **(D, D)**): covariances, symmetric and positive semi-definite.

    Returns:
        `float`: the (squared) distance, at least 0.

    Raises:
        ValueError: shapes that don't fit, non-finite entries, an asymmetric or indefinite covariance.

    Source: Dowson & Landau 1982; Heusel et al. 2017, *GANs Trained by a Two Time-Scale Update Rule* (arXiv
    1706.08500), eq. 6.
    """
    mu1, sigma1 = _gaussian(mu1, sigma1, "1")
    mu2, sigma2 = _gaussian(mu2, sigma2, "2")
    if mu1.shape != mu2.shape:
        raise ValueError(f"mu1 and mu2 must have the same number of features, got {mu1.size} and {mu2.size}")
    return _frechet_distance(mu1, sigma1, 1.0, mu2, sigma2, 1.0)


def _frechet_distance(mu1, scatter1, scale1: float, mu2, scatter2, scale2: float) -> float:
    """The same of covariances `scale * scatter`. Of 2,048 features a copy of one takes 33 MB: there is none."""
    root = _root(scatter1)
    if root.shape[1] < len(scatter2):  # what lies outside of its range shows in no product
        _nonnegative_eigenvalues(np.linalg.eigvalsh(scatter2), "sigma2")
    product = root.T @ scatter2 @ root
    del root
    # Of the product one triangle is read: it is symmetric up to round-off.
    eigenvalues = _nonnegative_eigenvalues(np.linalg.eigvalsh(product), "sigma2")
    trace_root = np.sqrt(eigenvalues * (scale1 * scale2)).sum()
    difference = mu1 - mu2
    variances = scale1 * np.trace(scatter1) + scale2 * np.trace(scatter2)
    return max(float(difference @ difference + variances - 2 * trace_root), 0.0)


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches, in float64 and without keeping the features.

    Batches are merged by their means and centred scatter matrices, so neither large means nor the order or size of the
    batches cost precision.

    Attributes:
        num_features (`int` or `None`): D, known from the first batch on.
        count (`int` or `None`): samples seen; `None` for statistics loaded from a file that does not say.

    Source: Chan, Golub & LeVeque 1979, *Updating Formulae and a Pairwise Algorithm for Computing Sample Variances*.
    """

    def __init__(self):
        self._count: int | None = 0
        self._mean: np.ndarray | None = None
        self._scatter: np.ndarray | None = None  # sum of (x - mean)(x - mean)^T
        self._sigma: np.ndarray | None = None  # the covariance itself, where the count is not known
        self._waiting: list[np.ndarray] = []  # batches that are not in these sums yet

    @property
    def num_features(self) -> int | None:
        return len(self._waiting[0][0]) if self._waiting else None if self._mean is None else len(self._mean)

    @property
    def count(self) -> int | None:
        return None if self._count is None else self._count + sum(map(len, self._waiting))

    @property
    def mu(self) -> np.ndarray:
        """Mean, float64 **(D,)**. Raises `ValueError` before the first sample."""
        self._add_waiting()
        if self._mean is None:
            raise ValueError("mu needs at least 1 sample, got 0")
        return self._mean.copy()

    @property
    def sigma(self) -> np.ndarray:
        """Unbiased covariance (divided by N - 1), float64 **(D, D)**. Raises `ValueError` below two samples."""
        self._add_waiting()
        if self._sigma is not None:
            return self._sigma.copy()
        if self._count < 2:
            raise ValueError(f"sigma needs at least 2 samples, got {self._count}")
        return self._scatter / (self._count - 1)

    def distance(self, other: "FeatureStatistics") -> float:
        """`frechet_distance` to what other statistics are of. Raises `ValueError` as it and `sigma` do."""
        (mu1, *covariance1), (mu2, *covariance2) = self._gaussian(), other._gaussian()
        if len(mu1) != len(mu2):
            raise ValueError(f"other must be of {len(mu1)} features, got {len(mu2)}")
        return _frechet_distance(mu1, *covariance1, mu2, *covariance2)

    def _gaussian(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The mean, and a matrix that is the covariance when multiplied by a number; no copies."""
        self._add_waiting()
        if self._sigma is not None:
            return self._mean, self._sigma, 1.0
        if self._count < 2:
            raise ValueError(f"sigma needs at least 2 samples, got {self._count}")
        return self._mean, self._scatter, 1 / (self._count - 1)

    def update(self, features) -> "FeatureStatistics":
        """Add a batch.

        Args:
            features (array or tensor of shape **(N, D)**): any number type and device; N may be 0.

        Returns:
            `FeatureStatistics`: itself.

        Raises:
            ValueError: another shape or number of features, non-finite values, or statistics without a count.
        """
        features = finite_matrix(features, "features", min_rows=0)
        if self._count is None:
            raise ValueError("statistics loaded without a count cannot be extended, only read")
        if len(features):
            if self.num_features not in (None, features.shape[1]):
                raise ValueError(f"features must have {self.num_features} columns, got {features.shape[1]}")
            self._waiting.append(features)
            if sum(map(len, self._waiting)) >= ROWS_AT_ONCE:
                self._add_waiting()
        return self

    def _add_waiting(self) -> None:
        """A pass over the covariance costs more than a small batch's own products: one pass for many rows."""
        if self._waiting:
            features, self._waiting = np.concatenate(self._waiting), []
            mean = features.mean(axis=0)
            features -= mean
            self._add(len(features), mean, features.T @ features)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Add what `other` has seen (say, another process). Returns itself; raises `ValueError` as `update` does."""
        if other.count is None:
            raise ValueError("other must know its number of samples, got statistics loaded without a count")
        if self._count is None:
            raise ValueError("statistics loaded without a count cannot be extended, only read")
        for statistics in (self, other):
            statistics._add_waiting()
        if other._count:
            self._add(other._count, other._mean, other._scatter)
        return self

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self._count == 0:
            self._count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        if len(mean) != len(self._mean):
            raise ValueError(f"features must have {len(self._mean)} columns, got {len(mean)}")
        total = self._count + count
        difference = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(difference, difference * (self._count * count / total))
        self._mean += difference * (count / total)
        self._count = total

    def save(self, path: str | os.PathLike, **more: Any) -> None:
        """Write `mu`, `sigma` (the names common Frechet-distance tools read), `count` and more arrays to an .npz file.

        Raises:
            ValueError: fewer than two samples.
        """
        arrays = {"mu": self.mu, "sigma": self.sigma, **more}
        if self.count is not None:
            arrays["count"] = np.int64(self.count)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:  # NumPy may append ".npz" to a name
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike, suffix: str = "") -> "FeatureStatistics":
        """Read an .npz file with `mu` **(D,)** and `sigma` **(D, D)**, from `save` or another tool; never a pickle.

        With a suffix the arrays are those of that ending: ADM's files have spatial features in `mu_s` and `sigma_s`.

        Without a `count` (other tools write none) the result can be compared but not extended.

        Raises:
            ValueError: not such a file, or what it holds is no mean and covariance.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                names = {"mu": f"mu{suffix}", "sigma": f"sigma{suffix}", "count": "count"}
                arrays = {name: file[stored] for name, stored in names.items() if stored in file}
        except FileNotFoundError:
            raise
        except Exception as error:  # no zip, no npz, a damaged or a pickled member
            raise ValueError(f"path must be an .npz file with arrays mu and sigma, got {path}: {error}") from error
        if not {"mu", "sigma"} <= set(arrays):
            raise ValueError(
                f"path must be an .npz file with arrays mu and sigma, {path} has {sorted(arrays)} of them"
            )
        statistics = cls()
        statistics._mean, sigma = _gaussian(arrays["mu"], arrays["sigma"], "")
        if "count" in arrays:
            statistics._count = int(arrays["count"])
            if statistics._count < 2:
                raise ValueError(f"count must be at least 2, {path} has {statistics._count}")
            statistics._scatter = sigma * (statistics._count - 1)
        else:
            statistics._count, statistics._sigma = None, sigma
        return statistics


@dataclass
class InceptionScore:
    """`mean` over the splits and their (population) standard deviation `std`."""

    mean: float
    std: float


def inception_score(probabilities, splits: int = 10, seed: int = 0) -> InceptionScore:
    """Exponential of the mean KL divergence from each sample's class distribution to that of its split.

    The score depends on which samples share a split. Generated samples often come sorted by class, so they are
    shuffled first, always in the same way for the same `seed`.

    Args:
        probabilities (array or tensor of shape **(N, C)**): one distribution over the classes per sample; rows sum to
            1.
        splits (`int`, defaults to 10): the samples are divided into so many near-equal parts. The usual protocol has
            5000 in each.
        seed (`int`, defaults to 0): of the shuffle.

    Returns:
        [`InceptionScore`]: each in [1, C].

    Raises:
        ValueError: rows that are no distributions, or fewer samples than splits.

    Source: Salimans et al. 2016, *Improved Techniques for Training GANs* (arXiv 1606.03498), section 4.
    """
    probabilities = finite_matrix(probabilities, "probabilities")
    sums = InceptionScoreSums(*probabilities.shape, splits, seed)
    return sums.update(probabilities, range(len(probabilities))).compute()


class InceptionScoreSums:
    """`inception_score` of samples that arrive in batches, in any order and in several processes: kept are sums.

    Args:
        num_samples (`int`): N, known beforehand, since the shuffle follows from it.
        num_classes (`int`): C.
        splits, seed: see `inception_score`.

    Raises:
        ValueError: fewer samples than splits.
    """

    def __init__(self, num_samples: int, num_classes: int, splits: int = 10, seed: int = 0):
        if isinstance(splits, bool) or not isinstance(splits, int) or splits < 1:
            raise ValueError(f"splits must be a positive integer, got {splits!r}")
        if num_samples < splits:
            raise ValueError(f"probabilities must hold at least {splits} samples, got {num_samples}")
        order = np.random.default_rng(seed).permutation(num_samples)
        self._split_of = np.empty(num_samples, dtype=np.int64)
        for split, members in enumerate(np.array_split(order, splits)):
            self._split_of[members] = split
        self._counts = np.zeros(splits, dtype=np.int64)
        self._distributions = np.zeros((splits, num_classes))  # sums over the samples of a split
        self._entropies = np.zeros(splits)

    def update(self, probabilities, indices: Sequence[int]) -> "InceptionScoreSums":
        """Add distributions **(B, C)** of the samples of these numbers. Raises as `inception_score` does."""
        probabilities = finite_matrix(probabilities, "probabilities", min_rows=0)
        if len(probabilities):
            probabilities, splits = _normalized(probabilities), self._split_of[indices]
            np.add.at(self._distributions, splits, probabilities)
            np.add.at(self._entropies, splits, _entropy(probabilities))
            np.add.at(self._counts, splits, 1)
        return self

    def merge(self, other: "InceptionScoreSums") -> "InceptionScoreSums":
        """Add what `other` has seen of the same samples' rest. Returns itself."""
        self._counts += other._counts
        self._distributions += other._distributions
        self._entropies += other._entropies
        return self

    def compute(self) -> InceptionScore:
        """The score. Raises `ValueError` before all samples have been seen."""
        if self._counts.sum() != len(self._split_of):
            raise ValueError(f"the score needs all {len(self._split_of)} samples, got {self._counts.sum()}")
        counts = self._counts[:, None]
        # KL(p || m) averaged over a split = entropy of the mean - mean entropy
        scores = np.exp(_entropy(self._distributions / counts) - self._entropies / self._counts)
        return InceptionScore(mean=float(np.mean(scores)), std=float(np.std(scores)))


def _normalized(probabilities: np.ndarray) -> np.ndarray:
    """Rows that sum to 1 to the last digit; `ValueError` where they are none."""
    if probabilities.min() < 0:
        raise ValueError(f"probabilities must not be negative, got {probabilities.min():g} (logits need a softmax)")
    sums = probabilities.sum(axis=1)
    worst = sums[np.abs(sums - 1).argmax()]
    if abs(worst - 1) > 1e-2:  # half precision gets this far off
        raise ValueError(f"probabilities must sum to 1 in each row, got a row that sums to {worst:g}")
    return probabilities / sums[:, None]


def _entropy(distribution: np.ndarray) -> np.ndarray:
    """Over the last axis, in nats, with 0 log 0 = 0."""
    logarithm = np.log(np.where(distribution > 0, distribution, 1.0))
    return -(distribution * logarithm).sum(axis=-1)


def psnr(original: torch.Tensor, reconstruction: torch.Tensor, quantize: bool = True) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image, ``10 log10(peak² / mean squared error)``, in dB.

    Args:
        original (`torch.Tensor` of shape **(B, C, H, W)**): pixels in [-1, 1].
        reconstruction (`torch.Tensor` of the same shape): values outside [-1, 1] are clamped, as they are when it is
            saved.
        quantize (`bool`, defaults to `True`): first round both to 8 bits, so that the figure is that of the saved
            pictures (peak 255). `False` compares the values as they are (peak 2, the range of [-1, 1]).

    Returns:
        `torch.Tensor` float64 **(B,)** on the CPU; infinite where the images are equal.

    Raises:
        ValueError: shapes that differ or are not 4-D, non-finite values, an `original` outside [-1, 1].
    """
    peak = 255.0 if quantize else 2.0
    images = levels(original, reconstruction) if quantize else checked_pixels(original, reconstruction)
    error = (images[0] - images[1]).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(peak**2 / error)


def levels(original: torch.Tensor, reconstruction: torch.Tensor) -> list[torch.Tensor]:
    """Both as the levels 0 to 255 of the saved pictures, float64 on the CPU. Raises as `psnr` does."""
    return [((image + 1) * 127.5).round() for image in checked_pixels(original, reconstruction)]


def checked_pixels(original: torch.Tensor, reconstruction: torch.Tensor) -> list[torch.Tensor]:
    """Both in [-1, 1], float64 on the CPU; `ValueError` for what are no images of one shape in that range."""
    if original.ndim != 4 or original.shape != reconstruction.shape:
        raise ValueError(
            "original and reconstruction must have the same shape (B, C, H, W), "
            f"got {tuple(original.shape)} and {tuple(reconstruction.shape)}"
        )
    images = []
    for name, image in (("original", original), ("reconstruction", reconstruction)):
        if not image.is_floating_point():
            raise ValueError(f"{name} must hold floats in [-1, 1], got {image.dtype}")
        image = image.detach().to("cpu", torch.float64)
        if not image.isfinite().all():
            raise ValueError(f"{name} must hold finite values, got NaN or infinity")
        images.append(image)
    if original.numel() and images[0].abs().max() > 1 + 1e-3:
        low, high = images[0].aminmax()
        raise ValueError(f"original must lie in [-1, 1], got values in [{low:g}, {high:g}]")
    return [image.clamp(-1, 1) for image in images]
