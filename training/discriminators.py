# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Networks that tell reconstructions from images; needed in training only."""

import torch
from torch import nn


def _normalisation(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        # No running statistics: nothing ever reads them, and data-parallel training would send them around.
        return nn.BatchNorm2d(channels, track_running_stats=False)
    # Sees one image at a time: accumulation and several processes then give what one large batch gives.
    return nn.GroupNorm(min(32, channels), channels)


class PatchDiscriminator(nn.Module):
    """
    PatchGAN: one logit for each overlapping patch (70x70 pixels with three layers).

    Args:
        in_channels (`int`): Channels of the image.
        base_channels (`int`): Width of the first layer; doubles with each layer, at most eightfold. Published: 64.
        num_layers (`int`): Convolutions of stride 2. Published: 3.
        norm (`str`): `"batch"` (published) or `"group"`.

    Source: arXiv 1611.07004, section 6.1.2.
    """

    def __init__(self, in_channels: int = 3, base_channels: int = 64, num_layers: int = 3, norm: str = "batch"):
        super().__init__()
        self.num_layers = num_layers
        layers = [nn.Conv2d(in_channels, base_channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = base_channels
        for i in range(1, num_layers + 1):
            previous, width = width, base_channels * min(2**i, 8)
            stride = 2 if i < num_layers else 1
            layers += [
                nn.Conv2d(previous, width, 4, stride=stride, padding=1, bias=False),
                _normalisation(norm, width),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(width, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)

    @property
    def min_size(self) -> int:
        """Smallest image side that leaves at least one patch: the two stride-1 layers need 3 pixels between them."""
        return 3 * 2**self.num_layers

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images `(B, C, H, W)` in [-1, 1] -> logits `(B, 1, h, w)`."""
        return self.layers(pixel_values)
