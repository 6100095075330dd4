# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The transformer blocks of the generators: RMS norm, 2-D rotary embedding, attention, SwiGLU, layer.

Nothing here knows of codes, classes or of one generator: a configuration is whatever has the fields of
`TransformerConfig`, and attention stores its keys in whatever `update`s as a `transformers.StaticLayer` does.

Shapes: B batch, S positions of this call, D hidden size, h heads, d head dimension (D / h), N slots of a cache.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn
from transformers import StaticLayer
from transformers.modeling_layers import GradientCheckpointingLayer


Rotary = tuple[torch.Tensor, torch.Tensor]  # cos and sin, each (S, d) in fp32

# Row and column of what has no place on the grid. Cells of a scaled grid may begin as low as -0.5.
OFF_GRID = -1.0


class TransformerConfig(Protocol):
    """What the blocks read of a model's configuration."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    residual_dropout: float
    ffn_dropout: float


def grid_places(
    height: int, width: int, device: torch.device | None = None, scale: tuple[float, float] = (1.0, 1.0)
) -> torch.Tensor:
    """
    Row and column of each cell of a grid, in raster order.

    Args:
        height, width (`int`): Sides of the grid.
        device (`torch.device`, *optional*).
        scale (`tuple[float, float]`):
            Height and width of a cell, where places are those of another grid over the same image. Centres stay.

    Returns:
        `torch.Tensor` of shape `(height * width, 2)`, fp32.
    """
    rows, columns = (
        (torch.arange(number, device=device) + 0.5) * size - 0.5
        for number, size in zip((height, width), scale, strict=True)
    )
    return torch.cartesian_prod(rows, columns).reshape(-1, 2)


def rotary_embedding(places: torch.Tensor, head_dim: int, theta: float) -> Rotary:
    """
    cos and sin of the 2-D rotary embedding: half of the frequencies turn with the row, half with the column.

    Args:
        places (`torch.Tensor` of shape `(S, 2)`):
            Row and column. At `OFF_GRID`, where the published models have their class, both cos and sin are 0: queries
            and keys vanish there, so that their attention logits are 0, whatever they hold.
        head_dim (`int`): d, a multiple of 4.
        theta (`float`): Base of the frequencies.

    Returns:
        Two fp32 tensors of shape `(S, head_dim)`, in the half-split layout (channel j turns with j + head_dim / 2).
    """
    quarter = head_dim // 4
    frequencies = theta ** (-torch.arange(quarter, device=places.device).float() / quarter)
    angles = (places[:, :, None] * frequencies).flatten(1).repeat(1, 2)
    on_grid = places[:, :1] > OFF_GRID
    return angles.cos().where(on_grid, 0.0), angles.sin().where(on_grid, 0.0)


def rotate(states: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Apply `rotary_embedding` to `(B, heads, S, head_dim)`, in fp32."""
    cos, sin = rotary
    x = states.float()
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(states.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm in fp32; the weight is multiplied after casting back, as the published code does."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.weight * F.rms_norm(hidden_states.float(), self.weight.shape, eps=self.eps).to(hidden_states.dtype)


class Attention(nn.Module):
    """Self-attention with rotary queries and keys; grouped queries where there are fewer key/value heads."""

    def __init__(self, config: TransformerConfig, is_causal: bool = True):
        super().__init__()
        self.is_causal = is_causal
        self.head_dim = config.head_dim
        self.num_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.qkv_proj = nn.Linear(
            config.hidden_size, (self.num_heads + 2 * self.num_key_value_heads) * self.head_dim, bias=False
        )
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        rotary: Rotary,
        cache_layer: StaticLayer | None = None,
        attention_mask: torch.Tensor | None = None,
        num_cached: int | None = None,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, S, D)`).
            rotary (`tuple`): cos and sin, each `(S, head_dim)`.
            cache_layer (`StaticLayer`, *optional*): Where the keys and values of these S positions are added.
            attention_mask (`torch.BoolTensor` of shape `(S, slots)` or `(B, 1, S or 1, slots)`, *optional*):
                True where a query may look. If None, everywhere, or no further than itself where attention is causal.
            num_cached (`int`, *optional*): Positions in the cache after this call: only those slots are read then.
                None reads all N, which `attention_mask` must then restrict to the filled ones.

        Returns:
            `torch.Tensor` of shape `(B, S, D)`.
        """
        batch, length, _ = hidden_states.shape
        # Query, key and value heads lie one after another in the projection: (B, heads, S, d) after transposing.
        qkv = self.qkv_proj(hidden_states).view(batch, length, -1, self.head_dim).transpose(1, 2)
        groups = [self.num_heads, self.num_key_value_heads, self.num_key_value_heads]
        query, key, value = qkv.split(groups, dim=1)
        query, key = rotate(query, rotary), rotate(key, rotary)
        if cache_layer is not None:
            # Keys are kept rotated: a position's rotation never changes. What comes back are all N slots.
            key, value = cache_layer.update(key, value)
            if num_cached is not None:
                key, value = key[:, :, :num_cached], value[:, :, :num_cached]
        attention = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            # A single query is the newest position: without a mask it may look at everything that is there.
            is_causal=self.is_causal and attention_mask is None and length > 1,
            enable_gqa=self.num_heads != self.num_key_value_heads,
        )
        return self.dropout(self.o_proj(attention.transpose(1, 2).reshape(batch, length, -1)))


class SwiGLU(nn.Module):
    """Feed-forward layer: down(silu(gate(x)) * up(x)). Source: arXiv 2002.05202, equation 6."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.ffn_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.dropout(self.down_proj(F.silu(gate) * up))


class TransformerLayer(GradientCheckpointingLayer):
    """
    Pre-norm attention and feed-forward layer, each with a residual connection.

    Args:
        config (`TransformerConfig`): Sizes.
        is_causal (`bool`): Whether a position sees those before it only.
        is_modulated (`bool`): Whether a time scales and shifts what the norms give (AdaLN).
    """

    def __init__(self, config: TransformerConfig, is_causal: bool = True, is_modulated: bool = False):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, is_causal)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)
        if is_modulated:
            self.modulation = nn.Linear(config.hidden_size, 4 * config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        rotary: Rotary,
        cache_layer: StaticLayer | None = None,
        attention_mask: torch.Tensor | None = None,
        num_cached: int | None = None,
        time_embedding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`(B, S, D)` -> `(B, S, D)`; arguments as for `Attention.forward`, and a time `(B, D)` if it is modulated."""
        # One for each norm.
        modulations = [None, None] if time_embedding is None else self.modulation(time_embedding)[:, None].chunk(2, -1)
        normed = _modulated(self.input_layernorm(hidden_states), modulations[0])
        hidden_states = hidden_states + self.self_attn(normed, rotary, cache_layer, attention_mask, num_cached)
        return hidden_states + self.mlp(_modulated(self.post_attention_layernorm(hidden_states), modulations[1]))


def _modulated(normed: torch.Tensor, modulation: torch.Tensor | None) -> torch.Tensor:
    """States `(B, S, D)`, scaled and shifted by `(B, 1, 2 * D)`."""
    if modulation is None:
        return normed
    scale, shift = modulation.chunk(2, -1)
    return torch.addcmul(shift, normed, 1 + scale)  # one pass over the states
