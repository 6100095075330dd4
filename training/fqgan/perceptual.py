# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Perceptual distances between images: LPIPS, or the same idea on any local or Hub vision model.

Networks here are frozen and always in evaluation mode: LPIPS has dropout, which training must not switch on.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import nn

from fqgan_hf.training.common.arguments import LPIPS_NAME
from fqgan_hf.training.fqgan.teachers import FrozenVisionModel


ALTERNATIVES = (
    "Or name a local vision model by --perceptual_model PATH, or do without by --perceptual_weight 0 "
    "(the published recipe has LPIPS at weight 1)."
)


class LPIPS(nn.Module):
    """
    LPIPS with VGG16 and its learned linear weights, from the package `lpips`.

    Raises:
        ValueError: The package or torchvision is not installed.
        OSError: The weights of VGG16 are neither in torch's hub cache nor can they be downloaded.

    Source: arXiv 1801.03924.
    """

    def __init__(self):
        super().__init__()
        try:
            import lpips
        except ImportError as error:
            raise ValueError(
                f"perceptual_model 'lpips' needs the packages lpips and torchvision ({error}): "
                f"pip install lpips torchvision. {ALTERNATIVES}"
            ) from error
        try:
            # Its draws, for weights that are loaded over, must not move the tokenizer's own.
            with torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the package calls torchvision by an old signature
                self.network = lpips.LPIPS(net="vgg", verbose=False)
        except OSError as error:  # urllib's errors are among these
            raise OSError(
                "perceptual_model 'lpips' needs the weights of VGG16, and they cannot be downloaded "
                f"({error}): put vgg16-397923af.pth from https://download.pytorch.org/models into "
                f"{torch.hub.get_dir()}/checkpoints. {ALTERNATIVES}"
            ) from error
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "LPIPS":
        """Evaluation mode, whatever `mode` is."""
        return super().train(False)

    def forward(self, images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """Two batches `(B, 3, H, W)` in [-1, 1] -> mean distance, a scalar with gradient to `reconstructions`."""
        return self.network(reconstructions, images).float().mean()


class FeatureDistance(FrozenVisionModel):
    """
    LPIPS without its learned weights, on the hidden states of a vision model of transformers.

    At each stage the features of every position are scaled to length 1; the squared distances between those of the
    two images are averaged over positions and stages. Networks whose configuration names an `image_size` see images
    of the size that their image processor produces, others see them as they are.

    Args:
        name (`str`): Hub id or local folder.

    Raises:
        OSError: It cannot be loaded.
        ValueError: It has no hidden states.

    Source: arXiv 1801.03924, equation 1 with w = 1.
    """

    def __init__(self, name: str):
        super().__init__(name, "perceptual_model")
        if not hasattr(self.model.config, "image_size"):
            self.size = None
        if not self.features(torch.zeros(1, 3, *(self.size or (64, 64)))):
            raise ValueError(f"perceptual_model: {name!r} must be a vision model with hidden states")

    def features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Unit features of each stage: maps `(B, C, h, w)` along C, tokens `(B, T, C)` along C."""
        prepared = self.preprocess(pixel_values, self.size, mode="bilinear")
        stages = self.model(prepared, output_hidden_states=True).hidden_states or ()
        return [F.normalize(stage.float(), dim=1 if stage.ndim == 4 else -1) for stage in stages]

    def forward(self, images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """Two batches `(B, 3, H, W)` in [-1, 1] -> mean distance, a scalar with gradient to `reconstructions`."""
        with torch.no_grad():
            targets = self.features(images)
        distances = [
            (feature - target).square().sum(1 if feature.ndim == 4 else -1).mean()
            for feature, target in zip(self.features(reconstructions), targets, strict=True)
        ]
        return torch.stack(distances).mean()


def load_perceptual(name: str) -> LPIPS | FeatureDistance:
    """The distance that `--perceptual_model` names: `lpips`, or a vision model's Hub id or folder."""
    return LPIPS() if name == LPIPS_NAME else FeatureDistance(name)
