# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fqgan_hf.files import atomic_path


if TYPE_CHECKING:
    from PIL import Image


DIGIT_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

IMAGE_SIZE = 32

NUM_HELD_OUT = 360


@dataclass
class Digits:
    """
    scikit-learn's handwritten digits, split once and for all.

    Args:
        train, held_out (`np.ndarray` of shape `(digits, 64)`): 8x8 pixels in [0, 16], dark to bright.
        train_labels, held_out_labels (`np.ndarray` of shape `(digits,)`): What the writer meant.
    """

    train: np.ndarray
    train_labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray


def load_digits() -> Digits:
    """The 1797 digits: 1437 to train on, 360 held out, each class in the same proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=NUM_HELD_OUT, stratify=labels, random_state=0)
    train, held_out, train_labels, held_out_labels = parts
    return Digits(train, train_labels, held_out, held_out_labels)


def enlarge(digit: np.ndarray) -> "Image.Image":
    """A digit of 8x8 pixels in [0, 16] as a smooth greyscale picture of 32x32."""
    from PIL import Image

    small = Image.fromarray((digit.reshape(8, 8) * (255 / 16)).astype(np.float32))
    large = np.asarray(small.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS))
    return Image.fromarray(np.rint(large).clip(0, 255).astype(np.uint8))


def shrink(images: list["Image.Image"]) -> np.ndarray:
    """Pictures of 32x32 as digits of 8x8 in [0, 16], the inverse of `enlarge` but for its rounding: `(images, 64)`."""
    pixels = np.stack([np.asarray(image.convert("L"), dtype=np.float64) for image in images])
    cell = IMAGE_SIZE // 8
    return pixels.reshape(-1, 8, cell, 8, cell).mean(axis=(2, 4)).reshape(-1, 64) * (16 / 255)


def write_dataset(digits: Digits, folder: Path) -> None:
    """The digits as a dataset on disk: `train` and `held_out`, a parquet file of pictures and labels each."""
    import io

    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=DIGIT_NAMES)})
    for split, pixels, labels in (
        ("train", digits.train, digits.train_labels),
        ("held_out", digits.held_out, digits.held_out_labels),
    ):
        files = []
        for digit in pixels:
            buffer = io.BytesIO()
            enlarge(digit).save(buffer, format="PNG")
            files.append({"bytes": buffer.getvalue(), "path": None})
        dataset = datasets.Dataset.from_dict({"image": files, "label": labels.tolist()}, features=features)
        with atomic_path(folder / split / "00000.parquet") as path:
            dataset.to_parquet(str(path))


class DigitReader:
    """
    A small neural network that reads 8x8 digits; it has seen real training digits only.

    Args:
        digits ([`Digits`]): The classifier learns from `digits.train`.
    """

    def __init__(self, digits: Digits):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import threadpool_limits

        self.model = MLPClassifier((128, 64), alpha=0.1, max_iter=200, random_state=0)
        with threadpool_limits(1), warnings.catch_warnings():  # matrices this small only lose by threads
            warnings.simplefilter("ignore", category=ConvergenceWarning)  # 200 passes are what is meant
            self.model.fit(digits.train / 16, digits.train_labels)

    def read(self, digits: np.ndarray) -> np.ndarray:
        """Classes `(digits,)` of 8x8 digits `(digits, 64)`."""
        return self.model.predict(digits / 16)

    def accuracy(self, digits: np.ndarray, labels: np.ndarray) -> float:
        """Share of digits read as `labels`."""
        return float(np.mean(self.read(digits) == labels))

    def features(self, digits: np.ndarray) -> np.ndarray:
        """Activations of the last hidden layer, `(digits, 64)`."""
        hidden = digits / 16
        for weights, bias in zip(self.model.coefs_[:-1], self.model.intercepts_[:-1], strict=True):
            hidden = np.maximum(hidden @ weights + bias, 0)
        return hidden


def feature_distance(reader: DigitReader, digits: np.ndarray, others: np.ndarray) -> float:
    """Frechet distance between two sets of 8x8 digits on the classifier's features."""
    from fqgan_hf.evaluation.metrics import FeatureStatistics, frechet_distance

    a, b = (FeatureStatistics().update(reader.features(x)) for x in (digits, others))
    return frechet_distance(a.mu, a.sigma, b.mu, b.sigma)


def real_halves(digits: Digits, per_class: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of real training digits that share none, `per_class` of each class, seen through `enlarge`."""
    first, second = [], []
    for label in range(10):
        chosen = digits.train[digits.train_labels == label]
        first.append(chosen[:per_class])
        second.append(chosen[per_class : 2 * per_class])
    halves = (np.concatenate(first), np.concatenate(second))
    return tuple(shrink([enlarge(digit) for digit in half]) for half in halves)
