# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What codes are generated for: class, text, map. Each condition is a piece of the prefix, and has a null of its own.

    conditions = model.embed_conditions(class_labels=labels)            # or text=..., or map_codes=..., or several
    prefix = join_conditions(conditions, [True] * len(conditions))     # False: the null in place of the condition

A generator reads the prefix before the tokens of the image and knows nothing of where it came from. Prefix positions
have places (row, column) on the image's grid: those of a map are where its cells lie, text lies at the origin, where
the rotary embedding does not turn, and a class lies `OFF_GRID`, as published.

Shapes: B batch, P positions of the prefix or of one condition, L tokens of a prompt, D hidden size, Km codebooks of a
map's tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from .configuration_generator import GeneratorConfig
from .transformer_blocks import OFF_GRID, RMSNorm, TransformerLayer, grid_places, rotary_embedding


@dataclass(frozen=True)
class Condition:
    """
    A condition as a generator reads it.

    Args:
        embeddings (`torch.Tensor` of shape `(B, P, D)`): P at least 1.
        null (`torch.Tensor` of shape `(B or 1, P, D)`, *optional*):
            What stands for "no such condition": in training for a share of the samples, and for guidance to lead away
            from. Without it none is dropped, and there is no guidance.
        mask (`torch.BoolTensor` of shape `(B, P)`, *optional*): False for padding, which comes first. All if None.
        null_mask (`torch.BoolTensor` of shape `(B or 1, P)`, *optional*): That of the null; all if None.
        places (`torch.Tensor` of shape `(P, 2)`, *optional*): Row and column of each position, at the origin if None.

    Raises:
        ValueError: Shapes or dtypes do not fit each other.
    """

    embeddings: torch.Tensor
    null: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    null_mask: torch.Tensor | None = None
    places: torch.Tensor | None = None

    def __post_init__(self):
        shape = tuple(self.embeddings.shape)
        if len(shape) != 3 or 0 in shape[:2]:
            raise ValueError(f"condition must have shape (batch, 1 or more positions, hidden_size), got {shape}")
        if not self.embeddings.is_floating_point():
            raise ValueError(f"condition must be embeddings, of a floating point dtype, got {self.embeddings.dtype}")
        if self.null is not None:
            accepted = [shape, (1, *shape[1:])]
            if tuple(self.null.shape) not in accepted or self.null.dtype != self.embeddings.dtype:
                raise ValueError(
                    f"null of a condition must have shape {accepted[0]} or {accepted[1]} and dtype "
                    f"{self.embeddings.dtype}, got {tuple(self.null.shape)} in {self.null.dtype}"
                )
        for name in ("mask", "null_mask"):
            mask = getattr(self, name)
            if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) not in (shape[:2], (1, shape[1]))):
                raise ValueError(
                    f"{name} of a condition must be booleans of shape {shape[:2]}, got {mask.dtype} of shape "
                    f"{tuple(mask.shape)}"
                )

    def map(self, function: Any) -> "Condition":
        """With `function` applied to everything that has a batch axis."""
        names = ("embeddings", "null", "mask", "null_mask")
        return replace(self, **{n: function(getattr(self, n)) for n in names if getattr(self, n) is not None})

    def prepared(self, num_images: int, device: torch.device, dtype: torch.dtype) -> "Condition":
        """On a device, in a dtype, and each row `num_images` times."""
        batch = len(self.embeddings)

        def prepare(tensor: torch.Tensor) -> torch.Tensor:
            tensor = tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
            return tensor.expand(batch, *tensor.shape[1:]).repeat_interleave(num_images, dim=0)

        return self.map(prepare)


@dataclass(frozen=True)
class Prefix:
    """
    Conditions joined to what precedes the tokens of an image.

    Args:
        embeddings (`torch.Tensor` of shape `(B, P, D)`).
        places (`torch.Tensor` of shape `(P, 2)`): Row and column of each position, or `OFF_GRID`.
        mask (`torch.BoolTensor` of shape `(B, P)`, *optional*): False for padding. All if None.
    """

    embeddings: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """P."""
        return self.embeddings.shape[1]

    def key_mask(self, num_keys: int) -> torch.Tensor | None:
        """Which of the first `num_keys` positions of prefix and image may be looked at: `(B, 1, 1, num_keys)`."""
        if self.mask is None:
            return None
        tokens = self.mask.new_ones(len(self.mask), num_keys - self.length)
        return torch.cat([self.mask, tokens], dim=1)[:, None, None]


def as_conditions(condition: "Condition | Sequence[Condition]", hidden_size: int, batch_size: int | None) -> list:
    """
    One or several conditions as a list.

    Args:
        condition (`Condition` or sequence of them): In the order of the prefix.
        hidden_size (`int`): D.
        batch_size (`int`, *optional*): B, where it is known; any from 1 on otherwise.

    Raises:
        ValueError: They are none, or their shapes are not those of the generator or of each other.
    """
    conditions = [condition] if isinstance(condition, Condition) else condition
    is_list = isinstance(conditions, (list, tuple)) and len(conditions) > 0
    if not is_list or not all(isinstance(one, Condition) for one in conditions):
        raise ValueError(f"condition must be a Condition or a list of them, got {type(condition).__name__}")
    batch_size = len(conditions[0].embeddings) if batch_size is None else batch_size
    for one in conditions:
        if (one.embeddings.shape[0], one.embeddings.shape[2]) != (batch_size, hidden_size):
            raise ValueError(
                f"condition must have shape ({batch_size}, 1 or more positions, {hidden_size}), "
                f"got {tuple(one.embeddings.shape)}"
            )
    return list(conditions)


def join_conditions(conditions: Sequence[Condition], present: Sequence[bool | torch.Tensor]) -> Prefix:
    """
    The prefix of conditions, each of which may be replaced by its null.

    Args:
        conditions (`Sequence[Condition]`): In the order of the prefix.
        present (`Sequence`): For each: True for the condition, False for its null, or a mask `(B,)` of both.
    """
    pieces = [_present(condition, here) for condition, here in zip(conditions, present, strict=True)]
    embeddings = torch.cat([embeddings for embeddings, _ in pieces], dim=1)
    mask = None
    if any(mask is not None for _, mask in pieces):
        mask = torch.cat([_all_if_none(mask, embeddings) for embeddings, mask in pieces], dim=1)
    origin = embeddings.new_zeros(1, 2, dtype=torch.float32)
    places = [
        origin.expand(c.embeddings.shape[1], 2) if c.places is None else c.places.to(embeddings.device)
        for c in conditions
    ]
    return Prefix(embeddings, torch.cat(places), mask)


def _present(condition: Condition, here: bool | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeddings and mask of a condition or of its null."""
    if here is True or condition.null is None:
        return condition.embeddings, condition.mask
    null = condition.null.expand_as(condition.embeddings)
    if here is False:
        return null, None if condition.null_mask is None else condition.null_mask.expand(null.shape[:2])
    embeddings = torch.where(here[:, None, None], condition.embeddings, null)
    if condition.mask is None and condition.null_mask is None:
        return embeddings, None
    masks = (_all_if_none(mask, null) for mask in (condition.mask, condition.null_mask))
    return embeddings, torch.where(here[:, None], *masks)


def _all_if_none(mask: torch.Tensor | None, embeddings: torch.Tensor) -> torch.Tensor:
    if mask is None:
        return torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
    return mask.expand(embeddings.shape[:2])


def drop_conditions(conditions: Sequence[Condition], share: float) -> list[bool | torch.Tensor]:
    """
    Which conditions a training step shows, for `join_conditions`.

    A share of the samples goes without any: guidance needs the unconditional distribution, not a mixture. Where there
    are several, each is left out by itself for the same share of the others, for a guidance of its own.
    """
    if share == 0 or all(condition.null is None for condition in conditions):
        return [True] * len(conditions)
    batch, device = len(conditions[0].embeddings), conditions[0].embeddings.device
    kept = torch.rand(batch, device=device) >= share
    if len(conditions) == 1:
        return [kept]
    return [kept & (torch.rand(batch, device=device) >= share) for _ in conditions]


def guidance_prefix(conditions: Sequence[Condition], num_scales: int) -> Prefix:
    """
    The prefixes that guidance compares, one below the other: with all conditions first, with none last.

    Args:
        conditions (`Sequence[Condition]`): Each with its null where `num_scales` is not 0.
        num_scales (`int`):
            0 without guidance; 1 for one scale of all conditions; their number for a scale of each. They then come in
            one by one, in order: nothing, the first, the first two, ... Source: arXiv 2211.09800, equation 3.
    """
    total = len(conditions)
    numbers = [total, 0] if num_scales == 1 else range(total, total - num_scales - 1, -1)
    prefixes = [join_conditions(conditions, [i < number for i in range(total)]) for number in numbers]
    if len(prefixes) == 1:
        return prefixes[0]
    embeddings = torch.cat([prefix.embeddings for prefix in prefixes])
    masks = [prefix.mask for prefix in prefixes]
    if any(mask is not None for mask in masks):
        masks = [_all_if_none(prefix.mask, prefix.embeddings) for prefix in prefixes]
        return Prefix(embeddings, prefixes[0].places, torch.cat(masks))
    return Prefix(embeddings, prefixes[0].places)


@dataclass(frozen=True, kw_only=True)
class ConditionInputs:
    """
    What is known of some images, before it is embedded: what a generator's `forward` and `generate` take by name.

    Args:
        class_labels (`torch.LongTensor` of shape `(B,)`, *optional*).
        text (`torch.Tensor`, *optional*): Token ids `(B, L)`, or a text encoder's states `(B, L, E)`.
        text_mask (`torch.BoolTensor` of shape `(B, L)`, *optional*): False for padding, which comes first.
        negative_text, negative_text_mask (*optional*): As these; what guidance leads away from.
        map_codes (`torch.LongTensor` of shape `(B, P, Km)`, *optional*).
    """

    class_labels: torch.Tensor | None = None
    text: torch.Tensor | None = None
    text_mask: torch.Tensor | None = None
    negative_text: torch.Tensor | None = None
    negative_text_mask: torch.Tensor | None = None
    map_codes: torch.Tensor | None = None

    def arguments(self) -> dict[str, torch.Tensor]:
        """What is given, as keyword arguments."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


class TextCondition(nn.Module):
    """
    Prompts to a piece of the prefix: a projection of a frozen text encoder's states, or an encoder of its own.

    Args:
        config (`GeneratorConfig`): With `text_hidden_size` for the former, `text_vocab_size` for the latter.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        self.null_embedding = nn.Embedding(1, config.hidden_size)
        if config.text_vocab_size is None:
            self.norm = RMSNorm(config.text_hidden_size, config.rms_norm_eps)
            self.projection = nn.Linear(config.text_hidden_size, config.hidden_size)
        else:
            self.token_embedding = nn.Embedding(config.text_vocab_size, config.hidden_size)
            self.position_embedding = nn.Embedding(config.num_text_tokens, config.hidden_size)
            self.layers = nn.ModuleList(
                TransformerLayer(config, is_causal=False) for _ in range(config.num_text_layers)
            )
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings `(B, L, D)` of token ids `(B, L)` or states `(B, L, E)`."""
        if self.config.text_vocab_size is None:
            return self.projection(self.norm(text.to(self.norm.weight.dtype)))  # a packed projection has no weight
        # Counted from the first token on: how much padding precedes it must not matter.
        positions = (text_mask.long().cumsum(1) - 1).clamp(min=0)
        states = self.token_embedding(text) + self.position_embedding(positions)
        origin = torch.zeros(text.shape[1], 2, device=text.device)
        rotary = rotary_embedding(origin, self.config.head_dim, self.config.rope_theta)
        own = torch.eye(text.shape[1], dtype=torch.bool, device=text.device)
        mask = text_mask[:, None, None] | own  # padding sees itself: no query may be left without a key
        for layer in self.layers:
            states = layer(states, rotary, attention_mask=mask)
        return self.norm(states)

    def null(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The null of prompts, `(1, length, D)`, and its mask: one learned position after nothing but padding."""
        embeddings = self.null_embedding.weight[None].expand(1, length, -1)
        mask = torch.arange(length, device=embeddings.device) == length - 1
        return embeddings, mask[None]


class MapCondition(nn.Module):
    """Codes of a map to a piece of the prefix, whose places are where its cells lie on the image's grid."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        self.null_embedding = nn.Embedding(1, config.hidden_size)
        self.code_embedding = nn.Embedding(config.map_num_codebooks * config.map_codebook_size, config.hidden_size)
        self.aggregation = nn.Linear(config.map_num_codebooks * config.hidden_size, config.hidden_size)

    def forward(self, map_codes: torch.Tensor) -> torch.Tensor:
        """Embeddings `(B, P, D)` of codes `(B, P, Km)`."""
        offsets = torch.arange(self.config.map_num_codebooks, device=map_codes.device) * self.config.map_codebook_size
        return self.aggregation(self.code_embedding(map_codes + offsets).flatten(-2))

    def places(self, device: torch.device) -> torch.Tensor:
        """Row and column of each cell in units of the image's cells, `(P, 2)`."""
        config = self.config
        scale = config.grid_height / config.map_grid_height, config.grid_width / config.map_grid_width
        return grid_places(config.map_grid_height, config.map_grid_width, device, scale)


def class_condition(embedding: nn.Embedding, class_labels: torch.Tensor, null_class_id: int) -> Condition:
    """Class ids `(B,)` as one position, which lies off the grid."""
    null = torch.full_like(class_labels, null_class_id)
    places = torch.full((1, 2), OFF_GRID, device=class_labels.device)
    return Condition(embedding(class_labels)[:, None], embedding(null)[:, None], places=places)
