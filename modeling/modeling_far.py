# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FAR, an autoregressive transformer over factorized image codes (arXiv 2411.16681).

    condition, token 0, ..., token T-2 -> backbone -> one state per position -> head -> K distributions of codes

A token is the K codes of one position. The factorized head is itself a small causal transformer over the K steps of a
position: step 0 sees the backbone's state, step k the embedding of code k-1 of the same token.

A condition is a prefix of embeddings `(B, P, D)`, beside one that stands for "no condition" (its null). The class
condition is the first kind: one position, looked up in `class_embedding`. Only `embed_condition` and what checks its
argument know of class ids.

Shapes: B batch, P positions of the condition, T positions of the image (grid_height * grid_width), K codebooks, V
codebook size, D hidden size, S positions of this call. Codes come as `(B, T, K)`. The *flat* sequence that the
library's generation loop sees is `[code 0 of token 0, code 1 of token 0, code 0 of token 1, ...]`, up to T * K codes;
the condition goes beside it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, Cache, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .cache_far import FARCache
from .checkpoint_checks import require_complete, require_fitting_files
from .checkpoint_files import weight_files
from .conditioning import check_condition
from .configuration_far import FARConfig
from .generation_far import FARGenerationMixin
from .transformer_blocks import DecoderLayer, RMSNorm, Rotary, rotary_embedding


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


class FARHead(nn.Module):
    """From the backbone's state of a position to one state for each of its K codes.

    `"ar"`: causal blocks over the K steps. Step 0, the backbone's state, lies off the grid as a class does, step k > 0
    in cell k - 1 of a grid of one row. `"linear"`: the backbone's state itself. `"mlp"`: one two-layer perceptron per
    codebook.
    """

    def __init__(self, config: FARConfig):
        super().__init__()
        self.config = config
        if config.head_type == "ar":
            self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_head_layers))
        elif config.head_type == "mlp":
            self.mlps = nn.ModuleList(
                nn.Sequential(
                    nn.Linear(config.hidden_size, config.intermediate_size),
                    nn.SiLU(),
                    nn.Linear(config.intermediate_size, config.hidden_size),
                )
                for _ in range(config.num_codebooks)
            )

    def forward(self, hidden_states: torch.Tensor, code_embeddings: torch.Tensor) -> torch.Tensor:
        """
        All K steps at once, with the true codes given.

        Args:
            hidden_states: The backbone's states `(B, T, D)`.
            code_embeddings: Embeddings of the first K - 1 codes of each token, `(B, T, K - 1, D)`.

        Returns:
            States `(B, T, K, D)`.
        """
        num_codebooks = self.config.num_codebooks
        if self.config.head_type == "linear":
            return hidden_states[:, :, None].expand(-1, -1, num_codebooks, -1)
        if self.config.head_type == "mlp":
            return torch.stack([mlp(hidden_states) for mlp in self.mlps], dim=2)
        # Positions become samples, (B * T, K, D): a step sees the steps before it at its own position and no other,
        # for what lies before is in the backbone's state.
        steps = torch.cat([hidden_states[:, :, None], code_embeddings], dim=2)
        states = steps.flatten(0, 1)
        rotary = self.rotary_embedding(states.device)
        for layer in self.layers:
            states = layer(states, rotary)
        return states.view_as(steps)

    def step(
        self, step: int, code_embedding: torch.Tensor | None, cache: FARCache, rotary: Rotary | None = None
    ) -> torch.Tensor:
        """
        One step at the cache's current position; the steps before it must have been made.

        Args:
            step (`int`): In [0, K).
            code_embedding (`torch.Tensor` of shape `(B, D)`): Of code step - 1; not read at step 0.
            cache (`FARCache`): Whose `hidden_state` is the backbone's, and whose head layers take up the step.
            rotary (`tuple`, *optional*): `self.rotary_embedding(...)`, when the caller already has it.

        Returns:
            `torch.Tensor` of shape `(B, D)`.
        """
        if self.config.head_type == "linear":
            return cache.hidden_state
        if self.config.head_type == "mlp":
            return self.mlps[step](cache.hidden_state)
        cos, sin = self.rotary_embedding(cache.hidden_state.device) if rotary is None else rotary
        rotary = cos[step : step + 1], sin[step : step + 1]
        state = (cache.hidden_state if step == 0 else code_embedding)[:, None]
        for layer, cache_layer in zip(self.layers, cache.head_layers, strict=True):
            state = layer(state, rotary, cache_layer, num_cached=step + 1)
        return state[:, 0]

    def rotary_embedding(self, device: torch.device) -> Rotary:
        """cos and sin of the K steps."""
        num_codebooks = self.config.num_codebooks
        cells = torch.arange(num_codebooks, device=device) - 1
        return rotary_embedding(cells, num_codebooks, self.config.head_dim, self.config.rope_theta)


class FARCodeClassifier(nn.Linear):
    """Output matrix of one codebook. A class of its own because it starts at zero: every code equally likely."""


class FARPreTrainedModel(PreTrainedModel):
    config: FARConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, FARCodeClassifier):
            init.zeros_(module.weight)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            init.normal_(module.weight, mean=0.0, std=std)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any):
        """
        Load as transformers does, from safetensors only; in addition missing, superfluous or non-finite weights raise
        `ValueError`, those of a local folder before anything is allocated.
        """
        with_info = kwargs.pop("output_loading_info", False)
        kwargs["use_safetensors"] = True  # whatever is asked for (pipelines do): a pickle could run code
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if folder.is_dir() and kwargs.get("state_dict") is None:
            config = kwargs.get("config")
            config = config if isinstance(config, PreTrainedConfig) else cls.config_class.from_pretrained(str(folder))
            with torch.device("meta"):
                model = cls(config)
            require_fitting_files(model, weight_files(folder, "model", kwargs.get("variant")), folder)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        require_complete(model, info, str(pretrained_model_name_or_path))
        return (model, info) if with_info else model


class FARForImageGeneration(FARGenerationMixin, FARPreTrainedModel):
    """
    FAR with its head: a condition to codes.

    `forward(class_labels=..., codes=..., labels=...)` is the teacher-forced form for training and evaluation;
    `generate(class_labels=[207, 5], ...)` samples codes. Both take `condition=` and `null_condition=`, embeddings of
    any number of positions, in place of `class_labels`; a subclass may make its own in `embed_condition`.
    """

    # cos of the condition's rotary embedding. 0 is the published layout: every position gives the class the attention
    # logit 0. A condition whose positions are to be told apart by their keys needs 1, which leaves them unrotated.
    condition_cos = 0.0

    def __init__(self, config: FARConfig):
        super().__init__(config)
        self.class_embedding = nn.Embedding(config.num_classes + 1, config.hidden_size)
        # The K code tables, one below the other; the head reads the same table as the input.
        self.code_embedding = nn.Embedding(config.num_codebooks * config.codebook_size, config.hidden_size)
        self.aggregation = nn.Linear(config.num_codebooks * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.token_dropout)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.head = FARHead(config)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_heads = nn.ModuleList(
            FARCodeClassifier(config.hidden_size, config.codebook_size, bias=False)
            for _ in range(config.num_codebooks)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.code_embedding

    def embed_condition(self, class_labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        A condition and its null.

        Args:
            class_labels (`torch.LongTensor` of shape `(B,)`): In [0, num_classes]; num_classes is the null class.

        Returns:
            Two tensors of shape `(B, P, D)`; here P = 1.
        """
        null_class = torch.full_like(class_labels, self.config.null_class_id)
        return self.class_embedding(class_labels)[:, None], self.class_embedding(null_class)[:, None]

    def embed_codes(self, codes: torch.Tensor, first_codebook: int = 0) -> torch.Tensor:
        """Embeddings `(..., k, D)` of codes `(..., k)` of the codebooks `first_codebook, first_codebook + 1, ...`."""
        offsets = torch.arange(first_codebook, first_codebook + codes.shape[-1], device=codes.device)
        return self.code_embedding(codes + offsets * self.config.codebook_size)

    def embed_tokens(self, codes: torch.Tensor) -> torch.Tensor:
        """Input embeddings `(B, S, D)` of whole tokens `(B, S, K)`."""
        return self.aggregation(self.embed_codes(codes).flatten(-2))

    def backbone(
        self,
        embeddings: torch.Tensor,
        num_condition_positions: int,
        start: int | torch.Tensor = 0,
        cache: FARCache | None = None,
    ) -> torch.Tensor:
        """
        States `(B, S, D)` of the positions start, ..., start + S - 1 of condition and image, before any norm.

        There are two modes. With `start` an `int`, attention reads the filled slots of the cache only: the least work
        for eager calls, whose shapes may grow. With a tensor of shape `()`, on the model's device, it reads all slots
        under a mask. Every shape is then static and no value reaches Python, so that one compiled or captured graph
        serves all positions; slots not yet filled hold zeros or an earlier image's keys, which the mask hides.

        Args:
            embeddings (`torch.Tensor` of shape `(B, S, D)`): Of the condition (from position 0 on), then of tokens.
            num_condition_positions (`int`): P: position P + t is the token of cell t.
            start (`int` or `torch.Tensor` of shape `()`): Positions that the cache already holds.
            cache (`FARCache`, *optional*): Takes up these positions.
        """
        config, length, device = self.config, embeddings.shape[1], embeddings.device
        positions = torch.arange(length, device=device) + start
        rotary = rotary_embedding(
            positions - num_condition_positions,
            config.grid_width,
            config.head_dim,
            config.rope_theta,
            self.condition_cos,
        )
        if isinstance(start, torch.Tensor):
            slots = torch.arange(num_condition_positions + config.num_positions - 1, device=device)
            mask, num_cached = slots <= positions[:, None], None
        else:
            num_cached = start + length
            slots = torch.arange(num_cached, device=device)
            # From an empty cache the plain causal kernel does, and one position may look at everything.
            mask = slots <= positions[:, None] if start > 0 and length > 1 else None
        cache_layers = [None] * len(self.layers) if cache is None else cache.backbone_layers
        hidden_states = self.dropout(embeddings)
        for layer, cache_layer in zip(self.layers, cache_layers, strict=True):
            hidden_states = layer(hidden_states, rotary, cache_layer, mask, num_cached)
        return hidden_states

    @can_return_tuple
    def forward(
        self,
        class_labels: torch.LongTensor | None = None,
        codes: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        condition: torch.Tensor | None = None,
        null_condition: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        cache: FARCache | None = None,
    ) -> FAROutput:
        """
        Args:
            class_labels (`torch.LongTensor` of shape `(batch,)`): In [0, num_classes]; num_classes is the null class.
            codes (`torch.LongTensor` of shape `(batch, positions, num_codebooks)`):
                In [0, codebook_size); a whole grid, or its first positions.
            labels (`torch.LongTensor`, *optional*): Of the shape of `codes`, usually equal to them; -100 is ignored.
            condition (`torch.Tensor` of shape `(batch, P, hidden_size)`, *optional*):
                Embeddings in place of `class_labels`.
            null_condition (`torch.Tensor` of shape `(batch or 1, P, hidden_size)`, *optional*):
                Takes the place of `condition` for a share of `class_dropout` of the samples in training; without it
                none is dropped.
            input_ids (`torch.LongTensor` of shape `(batch, codes so far)`, *optional*):
                The flat form, in place of `codes`: gives the logits of the next code.
            cache (`FARCache`, *optional*): Only with `input_ids`, which stay the *whole* sequence.

        Raises:
            ValueError: If shapes or dtypes do not fit.
        """
        if input_ids is not None:
            self._check_condition(class_labels, condition, null_condition, input_ids.shape[0])
            if class_labels is not None:
                condition, _ = self.embed_condition(class_labels)
            return self._forward_next(input_ids, condition, cache)
        self._check_inputs(class_labels, codes, labels, condition, null_condition)
        if class_labels is not None:
            condition, null_condition = self.embed_condition(class_labels)
        if self.training and self.config.class_dropout > 0 and null_condition is not None:
            dropped = torch.rand(codes.shape[0], device=codes.device) < self.config.class_dropout
            # The whole condition or none of it: guidance needs the unconditional distribution, not a mixture.
            condition = torch.where(dropped[:, None, None], null_condition, condition)
        code_embeddings = self.embed_codes(codes)  # (B, T, K, D), read by the backbone and by the head
        tokens = self.aggregation(code_embeddings[:, :-1].flatten(-2))
        hidden_states = self.backbone(torch.cat([condition, tokens], dim=1), condition.shape[1])
        # The condition's last position predicts the first token; those before it predict nothing.
        hidden_states = hidden_states[:, condition.shape[1] - 1 :]
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

    def _forward_next(self, input_ids: torch.Tensor, condition: torch.Tensor, cache: FARCache | None) -> FAROutput:
        """
        Logits `(B, 1, V)` of the code after a flat sequence, having brought the cache up to it.

        The library's loop calls this once per code with the whole sequence. How much of it the cache lacks is read
        off the cache, not off the call: nothing but a step in the usual case, a whole prefix at the first call,
        everything without a cache. So the same lines serve all three, and after them these hold:
        the backbone's layers have P + position slots filled, and the head's layers step + 1.
        """
        num_codebooks, num_condition = self.config.num_codebooks, condition.shape[1]
        position, step = divmod(input_ids.shape[1], num_codebooks)  # of the code to predict
        state_cache = FARCache(self.config, num_condition) if cache is None else cache
        num_filled, num_needed = state_cache.num_filled, num_condition + position
        if num_filled < num_needed:
            # Slot P + t holds the token of position t; those before it hold the condition, all at once.
            first = max(num_filled - num_condition, 0)
            parts = [condition] if num_filled == 0 else []
            if first < position:
                tokens = input_ids[:, first * num_codebooks : position * num_codebooks]
                parts.append(self.embed_tokens(tokens.unflatten(1, (-1, num_codebooks))))
            states = self.backbone(torch.cat(parts, dim=1), num_condition, num_filled, state_cache)
            state_cache.start_position(states[:, -1])
            state_cache.num_filled = num_needed
        for k in range(state_cache.num_steps, step + 1):
            code = None if k == 0 else self.embed_codes(input_ids[:, [position * num_codebooks + k - 1]], k - 1)[:, 0]
            state = self.head.step(k, code, state_cache)
        state_cache.num_steps = step + 1
        logits = self.lm_heads[step](self.norm(state))
        return FAROutput(logits=logits[:, None], cache=cache)

    def _check_inputs(
        self,
        class_labels: torch.Tensor | None,
        codes: torch.Tensor | None,
        labels: torch.Tensor | None,
        condition: torch.Tensor | None,
        null_condition: torch.Tensor | None,
    ) -> None:
        config = self.config
        if codes is None:
            raise ValueError("class_labels (or a condition) and codes must both be given (or flat input_ids)")
        if codes.dtype not in (torch.long, torch.int):
            raise ValueError(f"codes must be int64 or int32, got {codes.dtype}")
        if codes.ndim != 3 or codes.shape[2] != config.num_codebooks or not 0 < codes.shape[1] <= config.num_positions:
            raise ValueError(
                f"codes must have shape (batch, 1 to {config.num_positions} positions, {config.num_codebooks}), "
                f"got {tuple(codes.shape)}"
            )
        self._check_condition(class_labels, condition, null_condition, codes.shape[0])
        if labels is not None and labels.shape != codes.shape:
            raise ValueError(f"labels must have the shape of codes, {tuple(codes.shape)}, got {tuple(labels.shape)}")

    def _check_condition(
        self,
        class_labels: torch.Tensor | None,
        condition: torch.Tensor | None,
        null_condition: torch.Tensor | None,
        batch_size: int,
    ) -> None:
        if (class_labels is None) == (condition is None):
            raise ValueError("one of class_labels and condition must be given (besides codes or flat input_ids)")
        if class_labels is not None:
            if class_labels.dtype not in (torch.long, torch.int):
                raise ValueError(f"class_labels must be int64 or int32, got {class_labels.dtype}")
            if class_labels.shape != (batch_size,):
                raise ValueError(f"class_labels must have shape ({batch_size},), got {tuple(class_labels.shape)}")
        check_condition(condition, null_condition, self.config.hidden_size, batch_size)


if not __name__.startswith("transformers_modules."):  # loaded as remote code it must not replace an installed package
    AutoConfig.register("far", FARConfig, exist_ok=True)
    AutoModel.register(FARConfig, FARForImageGeneration, exist_ok=True)
