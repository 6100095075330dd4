# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Distances and scores between sets of images, computed on features that some network gave.

Nothing here knows the network: whatever turns images into one vector each will do, as long as both sets went through
the same one. Figures from different networks, or different numbers of images, are not comparable.

Shapes: N samples, D features, C classes.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch


def _matrix(values, name: str, min_rows: int = 1) -> np.ndarray:
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
    asymmetry = np.abs(sigma - sigma.T).max()
    if asymmetry > 1e-5 * np.abs(sigma).max():  # float32 statistics pass
        raise ValueError(
            f"sigma{suffix} must be symmetric, got entries that differ by {asymmetry:g} across the diagonal"
        )
    return mu, (sigma + sigma.T) / 2


def _nonnegative_eigenvalues(eigenvalues: np.ndarray, name: str) -> np.ndarray:
    """Set round-off around zero to zero, which the square root would magnify; refuse what is truly negative."""
    scale = np.abs(eigenvalues).max()
    if eigenvalues.min() < -1e-5 * scale:
        raise ValueError(f"{name} must have no negative eigenvalue, got {eigenvalues.min():g} (largest {scale:g})")
    noise = scale * len(eigenvalues) * np.finfo(np.float64).eps
    return np.where(eigenvalues > noise, eigenvalues, 0.0)


def frechet_distance(mu1, sigma1, mu2, sigma2) -> float:
    """Frechet distance between two Gaussians, ``|mu1 - mu2|² + tr(S1 + S2 - 2 (S1 S2)^½)``.

    The trace of the root is that of the symmetric ``(S1^½ S2 S1^½)^½``, so two symmetric eigenvalue problems in
    float64 are enough: no complex square root, and singular covariances (fewer samples than features) need no
    correction.

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
    eigenvalues, eigenvectors = np.linalg.eigh(sigma1)
    root = (eigenvectors * np.sqrt(_nonnegative_eigenvalues(eigenvalues, "sigma1"))) @ eigenvectors.T
    _nonnegative_eigenvalues(np.linalg.eigvalsh(sigma2), "sigma2")
    product = root @ sigma2 @ root
    trace_root = np.sqrt(_nonnegative_eigenvalues(np.linalg.eigvalsh((product + product.T) / 2), "sigma2")).sum()
    difference = mu1 - mu2
    distance = difference @ difference + np.trace(sigma1) + np.trace(sigma2) - 2 * trace_root
    return max(float(distance), 0.0)


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
        self.count: int | None = 0
        self._mean: np.ndarray | None = None
        self._scatter: np.ndarray | None = None  # sum of (x - mean)(x - mean)^T
        self._sigma: np.ndarray | None = None  # the covariance itself, where the count is not known

    @property
    def num_features(self) -> int | None:
        return None if self._mean is None else len(self._mean)

    @property
    def mu(self) -> np.ndarray:
        """Mean, float64 **(D,)**. Raises `ValueError` before the first sample."""
        if self._mean is None:
            raise ValueError("mu needs at least 1 sample, got 0")
        return self._mean.copy()

    @property
    def sigma(self) -> np.ndarray:
        """Unbiased covariance (divided by N - 1), float64 **(D, D)**. Raises `ValueError` below two samples."""
        if self._sigma is not None:
            return self._sigma.copy()
        if self.count < 2:
            raise ValueError(f"sigma needs at least 2 samples, got {self.count}")
        return self._scatter / (self.count - 1)

    def update(self, features) -> "FeatureStatistics":
        """Add a batch.

        Args:
            features (array or tensor of shape **(N, D)**): any number type and device; N may be 0.

        Returns:
            `FeatureStatistics`: itself.

        Raises:
            ValueError: another shape or number of features, non-finite values, or statistics without a count.
        """
        features = _matrix(features, "features", min_rows=0)
        if len(features):
            mean = features.mean(axis=0)
            centered = features - mean
            self._add(len(features), mean, centered.T @ centered)
        return self

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Add what `other` has seen (say, another process). Returns itself; raises `ValueError` as `update` does."""
        if other.count is None:
            raise ValueError("other must know its number of samples, got statistics loaded without a count")
        if other.count:
            self._add(other.count, other._mean, other._scatter)
        return self

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self.count is None:
            raise ValueError("statistics loaded without a count cannot be extended, only read")
        if self.count == 0:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        if len(mean) != self.num_features:
            raise ValueError(f"features must have {self.num_features} columns, got {len(mean)}")
        total = self.count + count
        difference = mean - self._mean
        self._scatter += scatter + np.outer(difference, difference) * (self.count * count / total)
        self._mean += difference * (count / total)
        self.count = total

    def save(self, path: str | os.PathLike) -> None:
        """Write `mu`, `sigma` (the names common Frechet-distance tools read) and `count` to an .npz file.

        Raises:
            ValueError: fewer than two samples.
        """
        arrays = {"mu": self.mu, "sigma": self.sigma}
        if self.count is not None:
            arrays["count"] = np.int64(self.count)
        with open(path, "wb") as file:  # given a name, NumPy may append ".npz" to it
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "FeatureStatistics":
        """Read an .npz file with `mu` **(D,)** and `sigma` **(D, D)**, from `save` or another tool; never a pickle.

        Without a `count` (other tools write none) the result can be compared but not extended.

        Raises:
            ValueError: not such a file, or what it holds is no mean and covariance.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("mu", "sigma", "count") if name in file}
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
            statistics.count = int(arrays["count"])
            if statistics.count < 2:
                raise ValueError(f"count must be at least 2, {path} has {statistics.count}")
            statistics._scatter = sigma * (statistics.count - 1)
        else:
            statistics.count, statistics._sigma = None, sigma
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
    if isinstance(splits, bool) or not isinstance(splits, int) or splits < 1:
        raise ValueError(f"splits must be a positive integer, got {splits!r}")
    probabilities = _matrix(probabilities, "probabilities", min_rows=splits)
    if probabilities.min() < 0:
        raise ValueError(f"probabilities must not be negative, got {probabilities.min():g} (logits need a softmax)")
    sums = probabilities.sum(axis=1)
    worst = sums[np.abs(sums - 1).argmax()]
    if abs(worst - 1) > 1e-2:  # half precision gets this far off
        raise ValueError(f"probabilities must sum to 1 in each row, got a row that sums to {worst:g}")
    probabilities = probabilities / sums[:, None]
    order = np.random.default_rng(seed).permutation(len(probabilities))
    scores = []
    for part in np.array_split(probabilities[order], splits):
        # KL(p || m) averaged over the part = entropy of the mean - mean entropy
        scores.append(np.exp(_entropy(part.mean(axis=0)) - _entropy(part).mean()))
    return InceptionScore(mean=float(np.mean(scores)), std=float(np.std(scores)))


def _entropy(distribution: np.ndarray) -> np.ndarray:
    """Over the last axis, in nats, with 0 log 0 = 0."""
    logarithm = np.log(np.where(distribution > 0, distribution, 1.0))
    return -(distribution * logarithm).sum(axis=-1)


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
    real = _matrix(real, "real", min_rows=k + 1)
    generated = _matrix(generated, "generated", min_rows=k + 1)
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"real and generated must have the same number of features, got {real.shape[1]} and {generated.shape[1]}"
        )
    center = real.mean(axis=0)  # |a|² + |b|² - 2ab loses digits to a large common mean
    real, generated = (torch.from_numpy(features - center).to(device) for features in (real, generated))
    return PrecisionRecall(
        precision=_share_inside(generated, real, k, chunk_size), recall=_share_inside(real, generated, k, chunk_size)
    )


def _squared_distances(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(N, D), (M, D) -> (N, M)."""
    products = rows @ columns.T
    return (rows.square().sum(1)[:, None] + columns.square().sum(1) - 2 * products).clamp_(min=0)


def _share_inside(samples: torch.Tensor, centers: torch.Tensor, k: int, chunk_size: int) -> float:
    """Share of `samples` (N, D) that lie in a ball around any of the `centers` (M, D)."""
    radii = []
    for start in range(0, len(centers), chunk_size):
        distances = _squared_distances(centers[start : start + chunk_size], centers)
        distances.diagonal(start).fill_(torch.inf)  # a sample is not its own neighbour
        radii.append(distances.kthvalue(k, dim=1).values)
    # Equal samples come out some round-off apart; a ball of radius 0 still holds its copies.
    slack = 1e-12 * max(samples.square().sum(1).max(), centers.square().sum(1).max())
    radii = torch.cat(radii) + slack
    inside = sum(
        int((_squared_distances(chunk, centers) <= radii).any(dim=1).sum()) for chunk in samples.split(chunk_size)
    )
    return inside / len(samples)


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
    peak = 2.0
    images = [image.clamp(-1, 1) for image in images]
    if quantize:
        peak = 255.0
        images = [((image + 1) * 127.5).round() for image in images]
    error = (images[0] - images[1]).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(peak**2 / error)
