# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How much a reconstruction is like its original, image by image: SSIM, L1, L2 and LPIPS; PSNR is in `metrics`.

All take pixels in [-1, 1], clamp the reconstruction and round both to 8 bits first, so that a figure is that of the
saved pictures.

Shapes: B batch, C channels, H W pixels.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fqgan_hf.evaluation.features import weights_sha256
from fqgan_hf.evaluation.metrics import levels
from fqgan_hf.frozen_vision import FrozenVisionModel


VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
SSIM_WINDOW = 11  # pixels: a Gaussian of sigma 1.5
VGG_PIXELS = 16  # it halves its maps four times


def ssim(original: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """
    Structural similarity of each image: Gaussian window of 11 x 11 pixels (sigma 1.5), mean over RGB channels and all
    places where the window fits, data range 255.

    Args:
        original (`torch.Tensor` of shape **(B, C, H, W)**): Pixels in [-1, 1]; at least 11 x 11.
        reconstruction (`torch.Tensor` of the same shape): Values outside [-1, 1] are clamped.

    Returns:
        `torch.Tensor` float64 **(B,)** on the CPU: at most 1, which equal images have.

    Raises:
        ValueError: Shapes that differ or are not 4-D, images smaller than the window, non-finite values, an `original`
            outside [-1, 1].
        ImportError: torchmetrics is not installed.

    Source: Wang et al. 2004, *Image Quality Assessment: From Error Visibility to Structural Similarity*, eq. 13.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise ImportError("ssim needs torchmetrics: pip install 'fqgan-hf[eval]'") from error
    original, reconstruction = levels(original, reconstruction)
    _check_size(original, SSIM_WINDOW, "ssim")
    if len(original) == 0:
        return original.new_zeros(0)
    _, everywhere = structural_similarity_index_measure(  # in fp32: convolutions of doubles are many times slower
        reconstruction.float(), original.float(), reduction="none", data_range=255.0, return_full_image=True
    )
    # Beyond these it mirrors the image, and whether that counts has changed among its versions.
    margin = SSIM_WINDOW // 2
    return everywhere[..., margin:-margin, margin:-margin].flatten(1).double().mean(dim=1)


def l1(original: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """
    Mean absolute error of each image's pixels in [0, 1] (levels of 8 bits, divided by 255).

    Args:
        original (`torch.Tensor` of shape **(B, C, H, W)**): Pixels in [-1, 1].
        reconstruction (`torch.Tensor` of the same shape): Values outside [-1, 1] are clamped.

    Returns:
        `torch.Tensor` float64 **(B,)** on the CPU, in [0, 1].

    Raises:
        ValueError: As `ssim`.
    """
    return _difference(original, reconstruction).abs().flatten(1).mean(dim=1)


def l2(original: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image's pixels in [0, 1] (levels of 8 bits, divided by 255); otherwise as `l1`."""
    return _difference(original, reconstruction).square().flatten(1).mean(dim=1)


class LPIPS:
    """
    Perceptual distance of each image to its reconstruction.

    With the backbone `"vgg"` it is the published LPIPS: VGG16 and its learned linear weights, by the package `lpips`,
    whose version is 0.1. With another network it is the same formula without learned weights, over the hidden states
    of the network, averaged over these: comparable with itself alone.

    Example:

        lpips = LPIPS("vgg", device="cuda")
        distances = lpips(images, model.decode(model.encode(images).latents).sample)

    Args:
        backbone (`str` or `Path`): `"vgg"`, or the Hub id or local folder of a vision model of transformers.
        device (`str` or `torch.device`): Where it computes.

    Attributes:
        description (`dict`): What its figures depend on: `name`, `backbone`, `weights_sha256` of all weights, and for
            another network than VGG its `preprocessing`.

    Raises:
        ImportError: `"vgg"` without the packages lpips and torchvision.
        OSError: The weights are not there and cannot be downloaded; the message says where to put them.
        ValueError: The network lacks weights, or has no hidden states.

    Source: Zhang et al. 2018, *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric* (arXiv
    1801.03924), eq. 1.
    """

    def __init__(self, backbone: str | Path = "vgg", device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.is_vgg = str(backbone) == "vgg"
        self.network = (_lpips_network() if self.is_vgg else _HiddenStates(str(backbone))).to(self.device)
        name = Path(backbone).name if Path(backbone).is_dir() else str(backbone)
        self.description: dict[str, Any] = {
            "name": "lpips (vgg, version 0.1)" if self.is_vgg else "unweighted distance of hidden states",
            "backbone": name,
            "weights_sha256": weights_sha256(self.network),
        }
        if not self.is_vgg:
            self.description["preprocessing"] = self.network.preprocessing()

    @torch.no_grad()
    def __call__(self, original: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        """
        Args:
            original (`torch.Tensor` of shape **(B, 3, H, W)**): Pixels in [-1, 1]; for VGG at least 16 x 16.
            reconstruction (`torch.Tensor` of the same shape): Values outside [-1, 1] are clamped.

        Returns:
            `torch.Tensor` float64 **(B,)** on the CPU, at least 0.

        Raises:
            ValueError: As `ssim`.
        """
        images = [(levels / 127.5 - 1).float().to(self.device) for levels in levels(original, reconstruction)]
        if images[0].shape[1] != 3:
            raise ValueError(f"original must have 3 channels for LPIPS, got {images[0].shape[1]}")
        if self.is_vgg:
            _check_size(images[0], VGG_PIXELS, "LPIPS with VGG")
        if len(images[0]) == 0:
            return torch.zeros(0, dtype=torch.float64)
        return self.network(*images).flatten().to("cpu", torch.float64)


class _HiddenStates(FrozenVisionModel):
    """Unweighted LPIPS on all hidden states of a vision model: images `(B, 3, H, W)` twice -> `(B,)`."""

    def __init__(self, name: str):
        super().__init__(name, "lpips backbone")
        if not hasattr(self.model.config, "image_size"):
            self.size = None  # a network for images of any size sees them as they are
        if not self._features(torch.zeros(1, 3, *(self.size or (64, 64)))):
            raise ValueError(f"lpips backbone: {name!r} must be a vision model with hidden states")

    def preprocessing(self) -> dict[str, Any]:
        """Size (None: as the images are), scale, mean and standard deviation that images get, for the protocol."""
        mean, std = (buffer.flatten().tolist() for buffer in (self.mean, self.std))
        return {"size": self.size and list(self.size), "scale": self.scale, "mean": mean, "std": std}

    def _features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Hidden states as unit vectors: maps `(B, C, h, w)`, tokens `(B, T, C)` as `(B, C, T)`."""
        prepared = self.preprocess(pixel_values, self.size, mode="bilinear")
        states = self.model(prepared, output_hidden_states=True).hidden_states or ()
        return [F.normalize((state.transpose(1, 2) if state.ndim == 3 else state).float(), dim=1) for state in states]

    def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        pairs = zip(self._features(images), self._features(others), strict=True)
        return torch.stack([(a - b).square().sum(1).flatten(1).mean(1) for a, b in pairs]).mean(0)


def _lpips_network() -> nn.Module:
    """VGG16 and the learned weights, by the package, in evaluation mode: it has dropout."""
    try:
        import lpips
    except ImportError as error:
        raise ImportError(
            f"LPIPS with VGG needs the packages lpips and torchvision ({error}): pip install 'fqgan-hf[eval]'"
        ) from error
    try:
        # Its draws, for weights that are loaded over, must not move anybody's random numbers.
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package calls torchvision by an old signature
            return lpips.LPIPS(net="vgg", verbose=False).requires_grad_(False).eval()
    except OSError as error:  # urllib's errors are among these
        raise OSError(
            f"LPIPS with VGG needs the weights of VGG16, and they cannot be downloaded ({error}): put {VGG16_URL} "
            f"into {torch.hub.get_dir()}/checkpoints, or name another network as its backbone"
        ) from error


def _difference(original: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    original, reconstruction = levels(original, reconstruction)
    return (original - reconstruction) / 255.0


def _check_size(images: torch.Tensor, least: int, name: str) -> None:
    if min(images.shape[-2:]) < least:
        raise ValueError(f"{name} needs images of at least {least} x {least} pixels, got {tuple(images.shape[-2:])}")
