# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The demo's two vision networks, trained in seconds and saved as they would go to the Hub.

The teacher gives the features that the semantic codebook learns to predict; the judge classifies digits and gives the
features of the Frechet distance. They share nothing: a tokenizer could learn what its own teacher likes to see.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from fqgan_hf.evaluation.images import LabelledImages
from fqgan_hf.failures import raise_if_interrupted


BATCH_SIZE = 32
LEARNING_RATE = 0.003


@dataclass(frozen=True)
class NetworkRecipe:
    """
    A small ResNet classifier and how long it trains.

    Args:
        hidden_sizes (`tuple[int, ...]`): Width of each stage; the last one is that of the features.
        seed (`int`): Of its weights and of the order of the images; not the demo's, so that all demos have one judge.
        num_epochs (`int`): Passes over the training images.
    """

    hidden_sizes: tuple[int, ...]
    seed: int
    num_epochs: int = 10

    def __str__(self) -> str:
        return f"ResNet of widths {', '.join(map(str, self.hidden_sizes))}, {self.num_epochs} epochs"


# The teacher's last width must be a multiple of the heads of the tokenizer's feature head.
TEACHER = NetworkRecipe(hidden_sizes=(16, 32, 64), seed=1)
JUDGE = NetworkRecipe(hidden_sizes=(32, 64), seed=0)


def train_network(images: LabelledImages, recipe: NetworkRecipe, folder: Path) -> None:
    """
    Train a classifier of `images` and save it, with its image processor, for `AutoModelForImageClassification`.

    Args:
        images (`LabelledImages`): Square pictures of one size.
        recipe ([`NetworkRecipe`]): What network.
        folder (`Path`): Where it goes.
    """
    pictures, labels = zip(*(images[i] for i in range(len(images))), strict=True)
    width, height = pictures[0].size
    # The variant of the processor that needs no torchvision. Pixels go to [-1, 1].
    processor = ViTImageProcessorPil(
        size={"height": height, "width": width}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    pixel_values = processor(list(pictures), return_tensors="pt")["pixel_values"]
    targets = torch.tensor(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = ResNetForImageClassification(
            ResNetConfig(
                embedding_size=recipe.hidden_sizes[0],
                hidden_sizes=recipe.hidden_sizes,
                depths=[1] * len(recipe.hidden_sizes),
                layer_type="basic",
                id2label=dict(enumerate(images.label_names)),
                label2id={name: i for i, name in enumerate(images.label_names)},
            )
        )
        _fit(network.train(), pixel_values, targets, recipe.num_epochs)
    network.eval().save_pretrained(folder)
    processor.save_pretrained(folder)


def _fit(
    network: ResNetForImageClassification, pixel_values: torch.Tensor, targets: torch.Tensor, num_epochs: int
) -> None:
    num_batches = -(-len(targets) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, num_epochs * num_batches)
    for _ in range(num_epochs):
        for batch in torch.randperm(len(targets)).split(BATCH_SIZE):
            logits = network(pixel_values=pixel_values[batch]).logits
            F.cross_entropy(logits, targets[batch], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        raise_if_interrupted()
