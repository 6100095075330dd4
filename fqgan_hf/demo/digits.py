# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The demo's data, scikit-learn's handwritten digits, and the two small networks that know them.

The *teacher* gives the second codebook a feature to predict, and the *judge* classifies reconstructions and generated
digits. They are of different shape and start from different seeds; both learn from the training digits only, are saved
in Hub form, and are loaded like any other network.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.files import atomic_path


if TYPE_CHECKING:
    from PIL import Image
    from transformers import ResNetForImageClassification


DIGIT_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
IMAGE_SIZE = 32
NUM_HELD_OUT = 360

# What a data set says of pictures besides their labels: from pictures and labels `(N,)`, by the name of a column, its
# feature (of `datasets`) and its N values.
Columns = Callable[[list["Image.Image"], np.ndarray], dict[str, tuple[Any, list[Any]]]]


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


def stored_picture(picture: "Image.Image") -> dict[str, Any]:
    """A picture as a cell of an image column: a PNG file, and no path."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_dataset(digits: Digits, folder: Path, columns: Columns | None = None) -> None:
    """
    The digits as a dataset on disk: `train` and `held_out`, each a parquet file of pictures and labels.

    Args:
        digits ([`Digits`]): What is written.
        folder (`Path`): Created if missing.
        columns (`Columns`, *optional*): What else there is to say of each picture.
    """
    import datasets

    datasets.disable_progress_bars()
    for split, pixels, labels in (
        ("train", digits.train, digits.train_labels),
        ("held_out", digits.held_out, digits.held_out_labels),
    ):
        pictures = [enlarge(digit) for digit in pixels]
        told = {
            "image": (datasets.Image(), [stored_picture(picture) for picture in pictures]),
            "label": (datasets.ClassLabel(names=DIGIT_NAMES), labels.tolist()),
            **({} if columns is None else columns(pictures, labels)),
        }
        features = datasets.Features({name: feature for name, (feature, _) in told.items()})
        dataset = datasets.Dataset.from_dict({name: values for name, (_, values) in told.items()}, features=features)
        with atomic_path(folder / split / "00000.parquet") as path:
            dataset.to_parquet(str(path))


@dataclass(frozen=True)
class NetworkRecipe:
    """
    A small residual network and how it learns the digits.

    Args:
        hidden_sizes (`tuple[int, ...]`): Channels of its stages; the last is the width of its feature.
        seed (`int`): Of its weights and of the order of the digits.
        num_epochs (`int`): Passes over the training digits.
    """

    hidden_sizes: tuple[int, ...]
    seed: int
    num_epochs: int = 10


JUDGE = NetworkRecipe(hidden_sizes=(32, 64), seed=1)
TEACHER = NetworkRecipe(hidden_sizes=(16, 32, 64), seed=2)

BATCH_SIZE = 64
LEARNING_RATE = 0.01


def train_network(recipe: NetworkRecipe, digits: Digits, folder: Path) -> None:
    """
    Train a classifier of digits and save it in Hub form, with its image processor.

    Args:
        recipe ([`NetworkRecipe`]): Its shape and training.
        digits ([`Digits`]): It sees `digits.train`, as pictures shifted by up to two pixels each way.
        folder (`Path`): Created if missing.
    """
    import torch
    from transformers import BitImageProcessorPil, ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=recipe.hidden_sizes[0],
        hidden_sizes=list(recipe.hidden_sizes),
        depths=[1] * len(recipe.hidden_sizes),
        layer_type="basic",
        id2label=dict(enumerate(DIGIT_NAMES)),
        label2id={name: label for label, name in enumerate(DIGIT_NAMES)},
    )
    pixels = np.stack([np.asarray(enlarge(digit)) for digit in digits.train])
    images = (torch.from_numpy(pixels).float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)
    labels = torch.from_numpy(digits.train_labels).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = ResNetForImageClassification(config).train()
        _learn(network, images, labels, recipe.num_epochs)
    processor = BitImageProcessorPil(  # the one that needs no torchvision; every AutoImageProcessor loads it
        do_resize=False, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    network.eval().save_pretrained(str(folder))
    processor.save_pretrained(str(folder))


def _learn(network: "ResNetForImageClassification", images, labels, num_epochs: int) -> None:
    """Cross-entropy, AdamW, one cycle of the learning rate; what is random comes from torch's global generator."""
    import torch
    import torch.nn.functional as F

    steps = -(-len(images) // BATCH_SIZE) * num_epochs
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(num_epochs):
        for chosen in torch.randperm(len(images)).split(BATCH_SIZE):
            down, right = torch.randint(0, 5, (2,)).tolist()
            batch = F.pad(images[chosen], (2, 2, 2, 2), value=-1.0)
            batch = batch[:, :, down : down + IMAGE_SIZE, right : right + IMAGE_SIZE]
            loss = network(pixel_values=batch, labels=labels[chosen]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        raise_if_interrupted()
