# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FAR, an autoregressive transformer over factorized image codes (arXiv 2411.16681).

    prefix, token 0, ..., token T-2 -> backbone -> one state per position -> head -> K distributions of codes

A token is the K codes of one position. The prefix holds what the image is generated for; see `conditioning`.

Shapes: B batch, P positions of the prefix, T positions of the image (grid_height * grid_width), K codebooks, V
codebook size, D hidden size, S positions of this call. Codes come as `(B, T, K)`. The *flat* sequence that the
library's generation loop sees is `[code 0 of token 0, code 1 of token 0, code 0 of token 1, ...]`, up to T * K codes;
the condition goes beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel, Cache
from transformers.utils import ModelOutput, can_return_tuple

from .cache_far import FARCache
from .conditioning import Condition, Prefix, drop_conditions, join_conditions
from .configuration_far import FARConfig
from .generation_far import FARGenerationMixin
from .modeling_generator import CodeGenerator
from .transformer_blocks import rotary_embedding


@dataclass
class FAROutput(ModelOutput):
    """
    Output of `FARForImageGeneration`.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Mean of `codebook_losses`, when `labels` are given.
        codebook_losses (`torch.Tensor` of shape `(num_codebooks,)`, *optional*): Cross-entropy of each codebook, nats.
        logits (`torch.Tensor`):
            `(batch, positions, num_codebooks, codebook_size)` for `codes`: `logits[:, t, k]` predict `codes[:, t, k]`.
            `(batch, 1, codebook_size)`, those of the next code, for flat `input_ids`.
        cache (`FARCache`, *optional*): The cache, advanced, when one was given.
    """

    loss: torch.Tensor | None = None
    codebook_losses: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: Cache | None = None


class FARForImageGeneration(FARGenerationMixin, CodeGenerator):
    """
    FAR with its head: conditions to codes.

    `forward(class_labels=..., codes=..., labels=...)` is the teacher-forced form for training and evaluation;
    `generate(class_labels=[207, 5], ...)` samples codes. Both take `text`, `text_mask` and `map_codes` where the
    configuration's `conditions` say so, and in place of all of them `condition=`, embeddings of any number of
    positions. A subclass may make its own in `embed_conditions`.
    """

    config: FARConfig

    def __init__(self, config: FARConfig):
        super().__init__(config, config.codebook_size, is_causal=True)
        self.post_init()

    def backbone(
        self,
        embeddings: torch.Tensor,
        prefix: Prefix,
        start: int | torch.Tensor = 0,
        cache: FARCache | None = None,
    ) -> torch.Tensor:
        """
        States `(B, S, D)` of the positions start, ..., start + S - 1 of prefix and image, before any norm.

        There are two modes. With `start` an `int`, attention reads the filled slots of the cache only: the least work
        for eager calls, whose shapes may grow. With a tensor of shape `()`, on the model's device, it reads all slots
        under a mask. Every shape is then static and no value reaches Python, so that one compiled or captured graph
        serves all positions; slots not yet filled hold zeros or an earlier image's keys, which the mask hides.

        Args:
            embeddings (`torch.Tensor` of shape `(B, S, D)`): Of the prefix (from position 0 on), then of tokens.
            prefix (`Prefix`): Where its positions lie and which are padding; position P + t is the token of cell t.
            start (`int` or `torch.Tensor` of shape `()`): Positions that the cache already holds.
            cache (`FARCache`, *optional*): Takes up these positions.
        """
        config, length, device = self.config, embeddings.shape[1], embeddings.device
        positions = torch.arange(length, device=device) + start
        rotary = rotary_embedding(self._places(prefix, positions), config.head_dim, config.rope_theta)
        is_static = isinstance(start, torch.Tensor)
        num_slots = prefix.length + config.num_positions - 1 if is_static else start + length
        slots, mask = torch.arange(num_slots, device=device), None
        # From an empty cache the plain causal kernel does, and one position may look at everything.
        if is_static or (length > 1 and (start > 0 or prefix.mask is not None)):
            mask = slots <= positions[:, None]
        if prefix.mask is not None:
            keys = prefix.key_mask(num_slots)
            # Padding sees itself: no query may be left without a key.
            mask = keys if mask is None else (mask & keys) | (slots == positions[:, None])
        num_cached = None if is_static else num_slots
        cache_layers = [None] * len(self.layers) if cache is None else cache.backbone_layers
        hidden_states = self.dropout(embeddings)
        for layer, cache_layer in zip(self.layers, cache_layers, strict=True):
            hidden_states = layer(hidden_states, rotary, cache_layer, mask, num_cached)
        return hidden_states

    def _places(self, prefix: Prefix, positions: torch.Tensor) -> torch.Tensor:
        """Row and column `(S, 2)` of positions of prefix and image."""
        cells = positions - prefix.length
        on_image = torch.stack([cells // self.config.grid_width, cells % self.config.grid_width], dim=1).float()
        on_prefix = prefix.places[positions.clamp(max=prefix.length - 1)]
        return torch.where((cells < 0)[:, None], on_prefix, on_image)

    @can_return_tuple
    def forward(
        self,
        class_labels: torch.LongTensor | None = None,
        codes: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.BoolTensor | None = None,
        map_codes: torch.LongTensor | None = None,
        condition: Condition | Sequence[Condition] | None = None,
        input_ids: torch.LongTensor | None = None,
        prefix: Prefix | None = None,
        cache: FARCache | None = None,
    ) -> FAROutput:
        """
        Args:
            class_labels (`torch.LongTensor` of shape `(batch,)`): In [0, num_classes]; num_classes is the null class.
            codes (`torch.LongTensor` of shape `(batch, positions, num_codebooks)`):
                In [0, codebook_size); a whole grid, or its first positions.
            labels (`torch.LongTensor`, *optional*): Of the shape of `codes`, usually equal to them; -100 is ignored.
            text, text_mask, map_codes (*optional*): See `embed_conditions`; as the configuration's `conditions` say.
            condition (`Condition` or sequence of them, *optional*):
                In place of all of these. In training a share of `class_dropout` of the samples sees the nulls.
            input_ids (`torch.LongTensor` of shape `(batch, codes so far)`, *optional*):
                The flat form, in place of `codes`: gives the logits of the next code.
            prefix (`Prefix`, *optional*): Only with `input_ids`: conditions that are joined already.
            cache (`FARCache`, *optional*): Only with `input_ids`, which stay the *whole* sequence.

        Raises:
            ValueError: If shapes or dtypes do not fit.
        """
        inputs = {"class_labels": class_labels, "text": text, "text_mask": text_mask, "map_codes": map_codes}
        if input_ids is not None:
            if prefix is None:
                conditions = self.conditions_of(inputs, condition, input_ids.shape[0])
                prefix = join_conditions(conditions, [True] * len(conditions))
            return self._forward_next(input_ids, prefix, cache)
        self._check_codes(codes, labels)
        conditions = self.conditions_of(inputs, condition, codes.shape[0])
        share = self.config.class_dropout if self.training else 0.0
        prefix = join_conditions(conditions, drop_conditions(conditions, share))
        code_embeddings = self.embed_codes(codes)  # (B, T, K, D), read by the backbone and by the head
        tokens = self.aggregation(code_embeddings[:, :-1].flatten(-2))
        hidden_states = self.backbone(torch.cat([prefix.embeddings, tokens], dim=1), prefix)
        # The prefix's last position predicts the first token; those before it predict nothing.
        hidden_states = hidden_states[:, prefix.length - 1 :]
        # The one norm comes after the head, which continues the backbone's residual stream.
        states = self.norm(self.head(hidden_states, code_embeddings[:, :, :-1]))
        logits = torch.stack([head(states[:, :, k]) for k, head in enumerate(self.lm_heads)], dim=2)
        loss = codebook_losses = None
        if labels is not None:
            codebook_losses = torch.stack(
                [
                    F.cross_entropy(logits[:, :, k].flatten(0, 1).float(), labels[:, :, k].flatten())
                    for k in range(self.config.num_codebooks)
                ]
            )
            loss = codebook_losses.mean()
        return FAROutput(loss=loss, codebook_losses=codebook_losses, logits=logits)

    def _forward_next(self, input_ids: torch.Tensor, prefix: Prefix, cache: FARCache | None) -> FAROutput:
        """
        Logits `(B, 1, V)` of the code after a flat sequence, having brought the cache up to it.

        The library's loop calls this once per code with the whole sequence. How much of it the cache lacks is read
        off the cache, not off the call: nothing but a step in the usual case, a whole prefix at the first call,
        everything without a cache. So the same lines serve all three, and after them these hold:
        the backbone's layers have P + position slots filled, and the head's layers step + 1.
        """
        num_codebooks = self.config.num_codebooks
        position, step = divmod(input_ids.shape[1], num_codebooks)  # of the code to predict
        state_cache = FARCache(self.config, prefix.length) if cache is None else cache
        num_filled, num_needed = state_cache.num_filled, prefix.length + position
        if num_filled < num_needed:
            # Slot P + t holds the token of position t; those before it hold the prefix, all at once.
            first = max(num_filled - prefix.length, 0)
            parts = [prefix.embeddings] if num_filled == 0 else []
            if first < position:
                tokens = input_ids[:, first * num_codebooks : position * num_codebooks]
                parts.append(self.embed_tokens(tokens.unflatten(1, (-1, num_codebooks))))
            states = self.backbone(torch.cat(parts, dim=1), prefix, num_filled, state_cache)
            state_cache.start_position(states[:, -1])
            state_cache.num_filled = num_needed
        for k in range(state_cache.num_steps, step + 1):
            code = None if k == 0 else self.embed_codes(input_ids[:, [position * num_codebooks + k - 1]], k - 1)[:, 0]
            state = self.head.step(k, state_cache.hidden_state, code, state_cache.head_layers)
        state_cache.num_steps = step + 1
        logits = self.lm_heads[step](self.norm(state))
        return FAROutput(logits=logits[:, None], cache=cache)

    def _check_codes(self, codes: torch.Tensor | None, labels: torch.Tensor | None) -> None:
        config = self.config
        if codes is None:
            raise ValueError("codes (or flat input_ids) must be given besides what they are generated for")
        if codes.dtype not in (torch.long, torch.int):
            raise ValueError(f"codes must be int64 or int32, got {codes.dtype}")
        if codes.ndim != 3 or codes.shape[2] != config.num_codebooks or not 0 < codes.shape[1] <= config.num_positions:
            raise ValueError(
                f"codes must have shape (batch, 1 to {config.num_positions} positions, {config.num_codebooks}), "
                f"got {tuple(codes.shape)}"
            )
        if labels is not None and labels.shape != codes.shape:
            raise ValueError(f"labels must have the shape of codes, {tuple(codes.shape)}, got {tuple(labels.shape)}")


if not __name__.startswith("transformers_modules."):  # loaded as remote code it must not replace an installed package
    AutoConfig.register("far", FARConfig, exist_ok=True)
    AutoModel.register(FARConfig, FARForImageGeneration, exist_ok=True)
