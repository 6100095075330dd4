# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Networks that tell reconstructions from images; needed in training only."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def _normalization(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        # No running statistics: nothing ever reads them, and data-parallel training would send them around.
        return nn.BatchNorm2d(channels, track_running_stats=False)
    # Sees one image at a time: accumulation and several processes then give what one large batch gives.
    return nn.GroupNorm(min(32, channels), channels)


class PatchDiscriminator(nn.Module):
    """
    PatchGAN: one logit per overlapping patch (70x70 pixels with three layers).

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
                _normalization(norm, width),
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


class _EqualizedConv2d(nn.Conv2d):
    """Weights of unit variance, scaled to the layer's fan-in when used: all layers learn at one pace under Adam."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        nn.init.normal_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight * self.weight[0].numel() ** -0.5, self.bias)


def _activation(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)  # keeps the variance


def _blur_down(x: torch.Tensor) -> torch.Tensor:
    """Binomial low-pass, then every second pixel: `(B, C, H, W)` -> `(B, C, ceil(H / 2), ceil(W / 2))`."""
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (1, 2, 1, 2)), kernel, stride=2, groups=x.shape[1])


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = _EqualizedConv2d(in_channels, in_channels, 3)
        self.conv2 = _EqualizedConv2d(in_channels, out_channels, 3)
        self.skip = _EqualizedConv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = _activation(self.conv2(_blur_down(_activation(self.conv1(x)))))
        return (hidden + self.skip(_blur_down(x))) / math.sqrt(2)


def _minibatch_stddev(x: torch.Tensor, max_group_size: int = 4) -> torch.Tensor:
    """Adds a channel: how much the images of a group differ. A group is the largest divisor of the batch up to 4."""
    batch, _, height, width = x.shape
    size = max(n for n in range(1, max_group_size + 1) if batch % n == 0)
    groups = x.float().reshape(size, batch // size, *x.shape[1:])
    spread = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, spread.to(x.dtype).repeat(size)[:, None, None, None].expand(-1, 1, height, width)], dim=1)


class StyleGANDiscriminator(nn.Module):
    """
    The residual discriminator of StyleGAN2: one logit per image; all images have one size.

    Args:
        in_channels (`int`): Channels of the image.
        base_channels (`int`): Width at full resolution; doubles with each halving, at most eightfold.
        resolution (`int`): Height and width of the images, at least 8.

    Source: arXiv 1912.04958, section 4 and figure 7; minibatch standard deviation and equalized learning rate:
        arXiv 1710.10196, sections 3 and 4.1.
    """

    min_size = 8

    def __init__(self, in_channels: int = 3, base_channels: int = 64, resolution: int = 256):
        super().__init__()
        layers, width, size = [], base_channels, resolution
        self.from_rgb = _EqualizedConv2d(in_channels, width, 1)
        while size > 4:
            previous, width = width, min(2 * width, 8 * base_channels)
            layers.append(_ResidualBlock(previous, width))
            size = (size + 1) // 2
        self.blocks = nn.Sequential(*layers)
        self.conv = _EqualizedConv2d(width + 1, width, 3)
        # Linear layers are 1x1 convolutions on a single pixel.
        self.hidden = _EqualizedConv2d(width * size * size, width, 1)
        self.out = _EqualizedConv2d(width, 1, 1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images `(B, C, H, W)` in [-1, 1] -> logits `(B, 1, 1, 1)`."""
        hidden = _minibatch_stddev(self.blocks(_activation(self.from_rgb(pixel_values))))
        hidden = _activation(self.conv(hidden)).flatten(1)[:, :, None, None]
        return self.out(_activation(self.hidden(hidden)))


class LeCam(nn.Module):
    """
    Keeps the discriminator's logits for one kind of image near its average for the other kind.

    A module so that checkpoints carry the averages; it has no parameters.

    Args:
        decay (`float`): Of the averages, which start at the first batch.

    Source: arXiv 2104.03310, equations 3 and 4.
    """

    def __init__(self, decay: float = 0.99):
        super().__init__()
        self.decay = decay
        # Sums divided by their weights: averages without a bias towards the initial value.
        self.register_buffer("sums", torch.zeros(2))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def update(self, mean_logits: torch.Tensor) -> None:
        """Count mean logits `(2,)` of a batch, of real and of generated images, over all processes."""
        finite = mean_logits.isfinite().all()  # one bad batch must not poison the averages forever
        new = torch.cat([mean_logits.float(), torch.ones_like(self.weight)[None]])
        old = torch.cat([self.sums, self.weight[None]])
        state = torch.where(finite, old.lerp(new, 1 - self.decay), old)
        self.sums.copy_(state[:2])
        self.weight.copy_(state[2])

    def forward(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """The regularization of a batch, before weighting: a scalar."""
        real, fake = self.sums / self.weight.clamp_min(1e-12)  # without any batch yet, 0
        return (real_logits.float() - fake).square().mean() + (fake_logits.float() - real).square().mean()
