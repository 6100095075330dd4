# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Who judges drawings of emoji: a network that reads group and skin tone, and rules that read colours and copies.

Shapes: N drawings, D features, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
)

from fqgan_hf.evaluation.label_maps import confusion_counts, label_iou


NUM_COLOURS = 13  # of maps, the background among them
TONES = ("no tone", "light", "medium-light", "medium", "medium-dark", "dark")
HIDDEN_SIZES = (48, 96, 192)
NUM_EPOCHS = 25
BATCH_SIZE = 64
LEARNING_RATE = 4e-3
MAX_SHIFT = 4  # pixels, each way


class Drawings:
    """
    The data set.

    Args:
        splits (`datasets.DatasetDict`): `train` and `test` with the columns that `emoji.py` names.

    Attributes:
        groups, tones, unseen (`np.ndarray` of shape `(N,)`): Of the drawings of `test`.
        palette (`np.ndarray` of shape `(colours, 3)`): RGB of the labels of maps; the first is the background.
    """

    def __init__(self, splits: datasets.DatasetDict):
        self.train, self.test = splits["train"], splits["test"]
        self.groups, self.tones = (np.array(self.test[name]) for name in ("group", "skin_tone"))
        self.unseen = np.array(self.test["unseen"])
        self.people = self.train.features["group"].str2int("People & Body")
        first = self.test[0]["map"]
        self.palette = np.array(first.getpalette(), dtype=np.int32).reshape(-1, 3)[:NUM_COLOURS]
        self.maps = [np.asarray(one).astype(np.int64) for one in self.test["map"]]


@dataclass
class Reading:
    """
    What the network says of drawings.

    Args:
        features (`np.ndarray` of shape `(N, D)`): Its pooled features.
        groups, tones (`np.ndarray` of shape `(N,)`): Ids of the likeliest group and skin tone.
    """

    features: np.ndarray
    groups: np.ndarray
    tones: np.ndarray


def train_judge(drawings: datasets.Dataset, folder: Path, seed: int = 0) -> None:
    """
    Train a residual network on drawings and save it in Hub form, with its image processor. The first classes are the
    groups, the others the skin tones; each of the two has a softmax of its own.

    Args:
        drawings (`datasets.Dataset`): With columns image, group and skin_tone.
        folder (`Path`): Created if missing.
        seed (`int`): Of its weights, and of the order and the views of the drawings.
    """
    names = [*drawings.features["group"].names, *TONES]
    config = ResNetConfig(
        embedding_size=HIDDEN_SIZES[0], hidden_sizes=list(HIDDEN_SIZES), depths=[1] * len(HIDDEN_SIZES),
        layer_type="basic", id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in drawings["image"]])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    groups, tones = torch.tensor(drawings["group"]), torch.tensor(drawings["skin_tone"]).long()
    torch.manual_seed(seed)
    network = ResNetForImageClassification(config).train()
    num_groups, steps = len(names) - len(TONES), -(-len(images) // BATCH_SIZE) * NUM_EPOCHS
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(NUM_EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH_SIZE):
            logits = network(pixel_values=_view(images[chosen])).logits
            loss = F.cross_entropy(logits[:, :num_groups], groups[chosen], label_smoothing=0.1)
            loss = loss + F.cross_entropy(logits[:, num_groups:], tones[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    processor = BitImageProcessorPil(
        do_resize=False, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    network.eval().save_pretrained(str(folder))
    processor.save_pretrained(str(folder))


def _view(images: torch.Tensor) -> torch.Tensor:
    """Drawings `(N, 3, H, W)`, each shifted by itself, half of them mirrored; what comes in is white."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (MAX_SHIFT,) * 4, value=1.0)
    places = torch.randint(0, 2 * MAX_SHIFT + 1, (len(images), 2)).tolist()
    views = torch.stack(
        [image[:, top : top + height, left : left + width] for image, (top, left) in zip(padded, places, strict=True)]
    )
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, views, views.flip(-1))


class EmojiJudge:
    """A network that `train_judge` left in `folder`."""

    def __init__(self, folder: Path):
        self.processor = AutoImageProcessor.from_pretrained(str(folder))
        self.network = AutoModelForImageClassification.from_pretrained(str(folder)).eval()
        self.num_groups = self.network.config.num_labels - len(TONES)

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image]) -> Reading:
        """What it says of drawings, RGB."""
        features, logits = [], []
        for start in range(0, len(images), BATCH_SIZE):
            inputs = self.processor(images=list(images[start : start + BATCH_SIZE]), return_tensors="pt")
            found = self.network.resnet(inputs["pixel_values"])
            features.append(found.pooler_output.flatten(1))
            logits.append(self.network.classifier(found.pooler_output))
        all_logits = torch.cat(logits)
        groups, tones = all_logits.split([self.num_groups, len(TONES)], dim=1)
        return Reading(torch.cat(features).numpy(), groups.argmax(1).numpy(), tones.argmax(1).numpy())


# ---- Rules ----------------------------------------------------------------------------------------------------------


def colour_map(image: Image.Image, palette: np.ndarray) -> np.ndarray:
    """
    The nearest colour of every pixel.

    Args:
        image: RGB.
        palette (`np.ndarray` of shape `(colours, 3)`): RGB; the first is the background, white.

    Returns:
        `np.ndarray` of shape `(H, W)`: Numbers of colours.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    return np.square(pixels[:, :, None] - palette).sum(-1).argmin(-1)


def map_agreement(maps: Sequence[np.ndarray], images: Sequence[Image.Image], palette: np.ndarray) -> float:
    """
    Mean intersection over union of the colours of drawings with given maps. Background and white count as one: on
    paper they look alike.

    Args:
        maps (`Sequence` of N `np.ndarray` of shape `(H, W)`): What was asked for.
        images (`Sequence` of N pictures): What came.
        palette: See `colour_map`.
    """
    white = int(np.square(palette[1:] - palette[0]).sum(-1).argmin()) + 1
    counts = torch.zeros(len(palette), len(palette), dtype=torch.long)
    for asked, image in zip(maps, images, strict=True):
        found = colour_map(image, palette)
        asked, found = (np.where(one == white, 0, one) for one in (asked, found))
        counts += confusion_counts(asked, found, len(palette))
    return label_iou(counts).nanmean().item()


def pixel_errors(images: Sequence[Image.Image], originals: Sequence[Image.Image]) -> np.ndarray:
    """Root mean square difference `(N,)` of each picture from its original, of pixels in [0, 1]."""
    return np.sqrt(np.square(_pixels(images) - _pixels(originals)).mean(1))


def nearest_drawings(images: Sequence[Image.Image], known: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """
    Of each drawing the one among `known`, or their mirror images, that differs least in its pixels.

    Returns:
        Their numbers `(N,)`, and the root mean square differences `(N,)` of pixels in [0, 1].
    """
    there = np.concatenate([_pixels(known), _pixels(known, mirrored=True)])
    squares, numbers, distances = np.square(there).sum(1), [], []
    for start in range(0, len(images), BATCH_SIZE):
        ours = _pixels(images[start : start + BATCH_SIZE])
        found = np.square(ours).sum(1)[:, None] + squares - 2 * ours @ there.T
        nearest = found.argmin(1)
        numbers.append(nearest % len(known))
        distances.append(np.sqrt(np.maximum(found[np.arange(len(ours)), nearest], 0) / ours.shape[1]))
    return np.concatenate(numbers), np.concatenate(distances)


def _pixels(images: Sequence[Image.Image], mirrored: bool = False) -> np.ndarray:
    """`(N, values)` in [0, 1]."""
    stacked = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]) / 255
    return (stacked[:, :, ::-1] if mirrored else stacked).reshape(len(stacked), -1)
