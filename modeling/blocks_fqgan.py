# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The blocks that FQGAN adds to diffusers' VQModel, and two of its own that run faster without gradients.

Shapes: B batch, D width of the trunk's output, d code dimension, W width of a teacher's feature, h w grid.
"""

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn


# Low-resolution positions in a batch from which the upsampling kernel is worth its making.
MIN_TRANSPOSED_POSITIONS = 1024


class InPlaceResnetBlock2D(ResnetBlock2D):
    """diffusers' residual block; without gradients it keeps no intermediate results and skips a division by one."""

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        if torch.is_grad_enabled():
            return super().forward(input_tensor, temb)
        hidden_states = self.conv1(F.silu(self.norm1(input_tensor), inplace=True))
        hidden_states = self.conv2(F.silu(self.norm2(hidden_states), inplace=True))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return hidden_states.add_(input_tensor)


class TransposedUpsample2D(Upsample2D):
    """diffusers' nearest upsampling and 3x3 convolution; on a CPU without gradients one transposed convolution.

    An output pixel's nine taps fall on four input pixels. Adding up the weights that meet leaves a 4x4 kernel of
    stride 2: 4/9 of the multiplications, no upsampled map, and the same values up to rounding.
    """

    def forward(self, hidden_states: torch.Tensor, output_size: int | None = None) -> torch.Tensor:
        weight = self.conv.weight
        batch, _, height, width = hidden_states.shape
        if (
            torch.is_grad_enabled()
            or hidden_states.device.type != "cpu"
            or hidden_states.dtype != weight.dtype  # autocast, layerwise casting: the convolution's own business
            or batch * height * width < MIN_TRANSPOSED_POSITIONS
        ):
            return super().forward(hidden_states, output_size)
        # Along one axis, output pixel 2i reads the taps w0 of input i - 1 and w1 + w2 of input i, and 2i + 1 reads
        # w0 + w1 of i and w2 of i + 1: the sums of neighbours in (0, w0, w1, w2, 0), which is a kernel of length 4.
        # Kernel axes first, so that the sums run over contiguous channels; in fp32, to round once.
        kernel = weight.permute(2, 3, 1, 0).flip(0, 1).float()
        kernel = F.pad(kernel, (0, 0, 0, 0, 1, 1, 1, 1))
        kernel = kernel[1:] + kernel[:-1]
        kernel = (kernel[:, 1:] + kernel[:, :-1]).permute(2, 3, 0, 1).to(weight.dtype)
        return F.conv_transpose2d(hidden_states, kernel, self.conv.bias, stride=2, padding=1)


def adopt_inference_forwards(module: nn.Module) -> None:
    """Give the library's blocks in `module` the classes above: same weights, names and training, faster inference."""
    for block in module.modules():
        if type(block) is ResnetBlock2D and isinstance(block.nonlinearity, nn.SiLU):
            block.__class__ = InPlaceResnetBlock2D
        elif type(block) is Upsample2D:
            block.__class__ = TransposedUpsample2D


class TokenTransformer(nn.Module):
    """Learned positions, LayerNorm, pre-LN transformer blocks, LayerNorm, over `(batch, positions, dim)` tokens.

    Positions form a grid, after `num_prefix_tokens` tokens without a place in it, and are interpolated bicubically
    when the grid differs from the trained one.
    """

    def __init__(self, dim: int, num_layers: int, num_heads: int, grid: int, num_prefix_tokens: int = 0):
        super().__init__()
        self.grid = grid
        self.num_prefix_tokens = num_prefix_tokens
        self.position_embedding = nn.Parameter(torch.randn(num_prefix_tokens + grid * grid, dim) * dim**-0.5)
        self.norm_in = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(dim, num_heads, dim // num_heads, activation_fn="gelu", attention_bias=True)
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(dim)
        self.gradient_checkpointing = False

    def positions(self, height: int, width: int) -> torch.Tensor:
        """Embeddings `(num_prefix_tokens + height * width, dim)`; those of the prefix are never interpolated."""
        if (height, width) == (self.grid, self.grid):
            return self.position_embedding
        prefix, grid = self.position_embedding.split([self.num_prefix_tokens, self.grid * self.grid])
        grid = grid.T.reshape(1, -1, self.grid, self.grid)
        # In fp32: bicubic interpolation has no bf16 kernel everywhere, and positions are few.
        grid = F.interpolate(grid.float(), (height, width), mode="bicubic", align_corners=False).to(prefix.dtype)
        return torch.cat([prefix, grid.flatten(2)[0].T])

    def forward(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`(B, num_prefix_tokens + height * width, dim)` -> the same shape."""
        hidden_states = self.norm_in(tokens + self.positions(height, width))
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
        return self.norm_out(hidden_states)


class CodebookBranch(nn.Module):
    """From the shared trunk to one codebook's space: adapter (paper: factorized adapter), output convs, projection.

    There is no residual connection around the adapter. The projection, to `latent_dim` channels, is left out where the
    quantizer has one of its own and takes all `latent_channels`.
    """

    def __init__(
        self,
        dim: int,
        latent_channels: int,
        latent_dim: int | None,
        num_layers: int,
        num_heads: int,
        grid: int,
        norm_num_groups: int,
    ):
        super().__init__()
        self.adapter = TokenTransformer(dim, num_layers, num_heads, grid) if num_layers > 0 else None
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, dim, eps=1e-6)
        self.conv_out = nn.Conv2d(dim, latent_channels, 3, padding=1)
        self.quant_conv = nn.Identity() if latent_dim is None else nn.Conv2d(latent_channels, latent_dim, 1)

    def forward(self, trunk: torch.Tensor) -> torch.Tensor:
        """`(B, D, h, w)` -> `(B, d, h, w)`."""
        if self.adapter is not None:
            height, width = trunk.shape[-2:]
            tokens = self.adapter(trunk.flatten(2).transpose(1, 2), height, width)
            trunk = tokens.transpose(1, 2).reshape(trunk.shape)
        return self.quant_conv(self.conv_out(F.silu(self.conv_norm_out(trunk))))


class FeatureHead(nn.Module):
    """Predicts a teacher's feature from one codebook's codes: `(B, d, h, w)` -> `(B, 1 + h * w, W)`; token 0 counts.

    Source: arXiv 2411.16681, section 3.2, "representation learning".
    """

    def __init__(self, codebook_dim: int, feature_dim: int, num_layers: int, num_heads: int, grid: int):
        super().__init__()
        self.upscale = nn.Sequential(
            nn.Linear(codebook_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, feature_dim)
        )
        self.class_embedding = nn.Parameter(torch.randn(1, feature_dim) * feature_dim**-0.5)
        self.transformer = TokenTransformer(feature_dim, num_layers, num_heads, grid, num_prefix_tokens=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        height, width = latents.shape[-2:]
        tokens = self.upscale(latents.flatten(2).transpose(1, 2))
        tokens = torch.cat([self.class_embedding.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.transformer(tokens, height, width)
