# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FAR, a class-conditional autoregressive transformer over factorized image codes (arXiv 2411.16681).

    class, token 0, ..., token T-2 -> backbone -> one state a position -> head -> K code distributions a position

A token is the K codes of one position. The factorized head is itself a small causal transformer over the K steps of a
position: step 0 sees the backbone's state, step k the embedding of code k-1 of the same token.

Shapes: B batch, T positions (grid_height * grid_width), K codebooks, V codebook size, D hidden size, S positions of
this call. Codes come as `(B, T, K)`. A *flat* sequence `[class, code 0 of token 0, code 1 of token 0, code 0 of token
1, ...]` of length 1 + T * K is what the library's generation loop sees.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, Cache, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput, can_return_tuple

from .checkpoint_checks import require_complete, require_fitting_files
from .configuration_far import FARConfig
from .generation_far import FARCache, FARGenerationMixin


@dataclass
class FAROutput(ModelOutput):
    """
    Output of `FARForImageGeneration`.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Mean of `codebook_losses`, when `labels` are given.
        codebook_losses (`torch.Tensor` of shape `(num_codebooks,)`, *optional*): Cross-entropy of each codebook, nats.
        logits (`torch.Tensor`):
            `(batch, positions, num_codebooks, codebook_size)` for `codes`: `logits[:, t, k]` predict `codes[:, t, k]`.
            `(batch, 1, codebook_size)`, those of the next code, for a flat `input_ids`.
        cache (`FARCache`, *optional*): The cache, advanced, when one was given.
    """

    loss: torch.Tensor | None = None
    codebook_losses: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: Cache | None = None


def rotary_embedding(positions: torch.Tensor, width: int, config: FARConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """
    cos and sin of the 2-D rotary embedding: half of the frequencies turn with the row, half with the column.

    Args:
        positions (`torch.LongTensor` of shape `(S,)`):
            Sequence positions: 0 is the class, whose cos and sin are both 0, t > 0 the cell t - 1 of the grid.
        width (`int`): Columns of the grid.

    Returns:
        Two fp32 tensors of shape `(S, head_dim)`, in the half-split layout (channel j turns with j + head_dim / 2).
    """
    quarter = config.head_dim // 4
    frequencies = config.rope_theta ** (-torch.arange(quarter, device=positions.device).float() / quarter)
    cell = (positions - 1).clamp(min=0)
    row, column = (cell // width)[:, None], (cell % width)[:, None]
    angles = torch.cat([row * frequencies, column * frequencies], dim=-1).repeat(1, 2)
    is_cell = (positions > 0)[:, None]
    return angles.cos() * is_cell, angles.sin() * is_cell


def rotate(states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Apply `rotary_embedding` to `(B, heads, S, head_dim)`, in fp32."""
    cos, sin = rotary
    x = states.float()
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(states.dtype)


class FARRMSNorm(nn.Module):
    """Root-mean-square norm in fp32; the weight is multiplied after casting back, as the published code does."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.weight * F.rms_norm(hidden_states.float(), self.weight.shape, eps=self.eps).to(hidden_states.dtype)


class FARAttention(nn.Module):
    def __init__(self, config: FARConfig):
        super().__init__()
        self.head_dim = config.head_dim
        self.num_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.qkv_proj = nn.Linear(
            config.hidden_size, (self.num_heads + 2 * self.num_key_value_heads) * self.head_dim, bias=False
        )
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, hidden_states, rotary, cache_layer=None, attention_mask=None, num_cached=None):
        """
        Args:
            hidden_states: `(B, S, D)`.
            rotary: cos and sin, each `(S, head_dim)`.
            cache_layer (`StaticLayer`, *optional*): Where the keys and values of these S positions are added.
            attention_mask (`torch.BoolTensor`, *optional*): `(S, slots)`, True where a query may look. Causal if None.
            num_cached (`int`, *optional*): Positions in the cache after this call: only those slots are read then.
        """
        batch, length, _ = hidden_states.shape
        qkv = self.qkv_proj(hidden_states).view(batch, length, -1, self.head_dim).transpose(1, 2)
        groups = [self.num_heads, self.num_key_value_heads, self.num_key_value_heads]
        query, key, value = qkv.split(groups, dim=1)
        query, key = rotate(query, rotary), rotate(key, rotary)
        if cache_layer is not None:
            key, value = cache_layer.update(key, value)
            if num_cached is not None:
                key, value = key[:, :, :num_cached], value[:, :, :num_cached]
        attention = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            is_causal=attention_mask is None and length > 1,
            enable_gqa=self.num_heads != self.num_key_value_heads,
        )
        return self.dropout(self.o_proj(attention.transpose(1, 2).reshape(batch, length, -1)))


class FARMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: FARConfig):
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.ffn_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.dropout(self.down_proj(F.silu(gate) * up))


class FARDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: FARConfig):
        super().__init__()
        self.input_layernorm = FARRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = FARAttention(config)
        self.post_attention_layernorm = FARRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FARMLP(config)

    def forward(self, hidden_states, rotary, cache_layer=None, attention_mask=None, num_cached=None):
        hidden_states = hidden_states + self.self_attn(
            self.input_layernorm(hidden_states), rotary, cache_layer, attention_mask, num_cached
        )
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class FARHead(nn.Module):
    """From the backbone's state of a position to one state for each of its K codes.

    `"ar"`: causal blocks over the K steps, with the rotary rows 0 (class: zero), 1, 2, ... of a one-row grid.
    `"linear"`: the backbone's state itself. `"mlp"`: a two-layer perceptron a codebook.
    """

    def __init__(self, config: FARConfig):
        super().__init__()
        self.config = config
        if config.head_type == "ar":
            self.layers = nn.ModuleList(FARDecoderLayer(config) for _ in range(config.num_head_layers))
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
        steps = torch.cat([hidden_states[:, :, None], code_embeddings], dim=2)
        states = steps.flatten(0, 1)
        rotary = self.rotary_embedding(states.device)
        for layer in self.layers:
            states = layer(states, rotary)
        return states.view_as(steps)

    def step(self, step: int, code_embedding: torch.Tensor | None, cache: FARCache, rotary=None) -> torch.Tensor:
        """State `(B, D)` of one step at the cache's current position; `code_embedding` `(B, D)` is code step-1's."""
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

    def rotary_embedding(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        num_codebooks = self.config.num_codebooks
        return rotary_embedding(torch.arange(num_codebooks, device=device), num_codebooks, self.config)


class FARCodeClassifier(nn.Linear):
    """Output matrix of one codebook. A class of its own because it starts at zero: every code equally likely."""


class FARPreTrainedModel(PreTrainedModel):
    config: FARConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FARDecoderLayer"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module):
        std = self.config.initializer_range
        if isinstance(module, FARCodeClassifier):
            init.zeros_(module.weight)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            init.normal_(module.weight, mean=0.0, std=std)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, FARRMSNorm):
            init.ones_(module.weight)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
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
            require_fitting_files(model, folder, "model", kwargs.get("variant"))
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        require_complete(model, info, str(pretrained_model_name_or_path))
        return (model, info) if with_info else model


class FARForImageGeneration(FARGenerationMixin, FARPreTrainedModel):
    """
    FAR with its head: class labels to codes.

    `forward(class_labels=..., codes=..., labels=...)` is the teacher-forced form for training and evaluation;
    `generate(class_labels=[207, 5], ...)` samples codes.
    """

    def __init__(self, config: FARConfig):
        super().__init__(config)
        self.class_embedding = nn.Embedding(config.num_classes + 1, config.hidden_size)
        # The K code tables, one below the other; the head reads the same table as the input.
        self.code_embedding = nn.Embedding(config.num_codebooks * config.codebook_size, config.hidden_size)
        self.aggregation = nn.Linear(config.num_codebooks * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.token_dropout)
        self.layers = nn.ModuleList(FARDecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.head = FARHead(config)
        self.norm = FARRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_heads = nn.ModuleList(
            FARCodeClassifier(config.hidden_size, config.codebook_size, bias=False)
            for _ in range(config.num_codebooks)
        )
        self.post_init()

    def get_input_embeddings(self):
        return self.code_embedding

    def embed_codes(self, codes: torch.Tensor, first_codebook: int = 0) -> torch.Tensor:
        """Embeddings `(..., k, D)` of codes `(..., k)` of the codebooks `first_codebook, first_codebook + 1, ...`."""
        offsets = torch.arange(first_codebook, first_codebook + codes.shape[-1], device=codes.device)
        return self.code_embedding(codes + offsets * self.config.codebook_size)

    def embed_tokens(self, codes: torch.Tensor) -> torch.Tensor:
        """Input embeddings `(B, S, D)` of whole tokens `(B, S, K)`."""
        return self.aggregation(self.embed_codes(codes).flatten(-2))

    def backbone(
        self, embeddings: torch.Tensor, start: int | torch.Tensor = 0, cache: FARCache | None = None
    ) -> torch.Tensor:
        """
        States `(B, S, D)` of the positions start, ..., start + S - 1, before any norm.

        With `start` an `int`, attention reads the filled slots of the cache only; with a tensor of shape `()`, on the
        model's device, it reads all slots under a mask, so that every shape is static and one compiled or captured
        graph serves all positions.
        """
        length = embeddings.shape[1]
        positions = torch.arange(length, device=embeddings.device) + start
        rotary = rotary_embedding(positions, self.config.grid_width, self.config)
        if isinstance(start, torch.Tensor):
            slots = torch.arange(self.config.num_positions, device=embeddings.device)
            mask, num_cached = slots <= positions[:, None], None
        else:
            num_cached = start + length
            slots = torch.arange(num_cached, device=embeddings.device)
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
        input_ids: torch.LongTensor | None = None,
        cache: FARCache | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> FAROutput:
        """
        Args:
            class_labels (`torch.LongTensor` of shape `(batch,)`): In [0, num_classes]; num_classes is the null class.
            codes (`torch.LongTensor` of shape `(batch, positions, num_codebooks)`):
                In [0, codebook_size); a whole grid, or its first positions.
            labels (`torch.LongTensor`, *optional*): Of the shape of `codes`, usually equal to them; -100 is ignored.
            input_ids (`torch.LongTensor` of shape `(batch, 1 + codes so far)`, *optional*):
                The flat form, in place of `class_labels` and `codes`: gives the logits of the next code.
            cache (`FARCache`, *optional*): Only with `input_ids`, which stay the *whole* sequence.

        Raises:
            ValueError: If shapes or dtypes do not fit.
        """
        if input_ids is not None:
            return self._forward_next(input_ids, cache)
        self._check_inputs(class_labels, codes, labels)
        if self.training and self.config.class_dropout > 0:
            dropped = torch.rand(class_labels.shape, device=class_labels.device) < self.config.class_dropout
            class_labels = class_labels.masked_fill(dropped, self.config.null_class_id)
        code_embeddings = self.embed_codes(codes)
        tokens = self.aggregation(code_embeddings[:, :-1].flatten(-2))
        hidden_states = self.backbone(torch.cat([self.class_embedding(class_labels)[:, None], tokens], dim=1))
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

    def _forward_next(self, input_ids: torch.Tensor, cache: FARCache | None) -> FAROutput:
        """Bring the cache up to the flat sequence, whatever it still lacks, and give the next code's logits."""
        num_codebooks = self.config.num_codebooks
        position, step = divmod(input_ids.shape[1] - 1, num_codebooks)
        state_cache = FARCache(self.config) if cache is None else cache
        codes = input_ids[:, 1:]
        if state_cache.num_positions <= position:
            start = state_cache.num_positions
            tokens = codes[:, max(start - 1, 0) * num_codebooks : position * num_codebooks]
            embeddings = self.embed_tokens(tokens.unflatten(1, (-1, num_codebooks))) if tokens.shape[1] else None
            if start == 0:
                first = self.class_embedding(input_ids[:, :1])
                embeddings = first if embeddings is None else torch.cat([first, embeddings], dim=1)
            state_cache.start_position(self.backbone(embeddings, start, state_cache)[:, -1])
            state_cache.num_positions = position + 1
        for k in range(state_cache.num_steps, step + 1):
            code = None if k == 0 else self.embed_codes(codes[:, [position * num_codebooks + k - 1]], k - 1)[:, 0]
            state = self.head.step(k, code, state_cache)
        state_cache.num_steps = step + 1
        logits = self.lm_heads[step](self.norm(state))
        return FAROutput(logits=logits[:, None], cache=cache)

    def _check_inputs(self, class_labels, codes, labels):
        config = self.config
        if class_labels is None or codes is None:
            raise ValueError("class_labels and codes must both be given (or a flat input_ids)")
        for name, value in (("class_labels", class_labels), ("codes", codes)):
            if value.dtype not in (torch.long, torch.int):
                raise ValueError(f"{name} must be int64 or int32, got {value.dtype}")
        if codes.ndim != 3 or codes.shape[2] != config.num_codebooks or not 0 < codes.shape[1] <= config.num_positions:
            raise ValueError(
                f"codes must have shape (batch, 1 to {config.num_positions} positions, {config.num_codebooks}), "
                f"got {tuple(codes.shape)}"
            )
        if class_labels.shape != codes.shape[:1]:
            raise ValueError(f"class_labels must have shape ({codes.shape[0]},), got {tuple(class_labels.shape)}")
        if labels is not None and labels.shape != codes.shape:
            raise ValueError(f"labels must have the shape of codes, {tuple(codes.shape)}, got {tuple(labels.shape)}")


if not __name__.startswith("transformers_modules."):  # loaded as remote code it must not replace an installed package
    AutoConfig.register("far", FARConfig, exist_ok=True)
    AutoModel.register(FARConfig, FARForImageGeneration, exist_ok=True)
