# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A bidirectional transformer over factorized image codes, which discrete diffusion asks for the clean codes.

    prefix, noisy tokens, time -> backbone -> one state per position -> head -> K distributions of clean codes

A noisy token is K states, each a code or [MASK] (the number V), independently of each other. The Markov chain, its
losses and its steps are the scheduler's: `scheduling_code_diffusion`. With the factorized head the K codes of a
position are predicted one after another, as in FAR: p(x_0 | x_t) is then no product over the codebooks.

Shapes: B batch, T positions of the image, K codebooks, V codebook size, D hidden size, P positions of the prefix.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn
from transformers import AutoConfig, AutoModel, LogitsProcessorList, StaticLayer
from transformers.utils import ModelOutput, can_return_tuple

from .code_sampling import guide
from .conditioning import Condition, Prefix, drop_conditions, join_conditions
from .configuration_code_diffusion import CodeDiffusionConfig
from .modeling_generator import CodeGenerator
from .transformer_blocks import grid_places, rotary_embedding


# log p(x_0) (N, V) and uniform numbers (N,) -> codes (N,) and their scores (N,).
DrawCodes = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class CodeDiffusionOutput(ModelOutput):
    """
    Output of `CodeDiffusionTransformer`.

    Args:
        logits (`torch.Tensor` of shape `(batch, positions, num_codebooks, codebook_size)`): Of the clean codes.
    """

    logits: torch.Tensor | None = None


class CodeDiffusionTransformer(CodeGenerator):
    """
    Noisy codes, a time and conditions to the distribution of the clean codes.

    `forward(codes=noisy, timesteps=t, clean_codes=codes, class_labels=...)` is the teacher-forced form;
    `backbone` and `sample_codes` are its two halves for sampling.
    """

    config: CodeDiffusionConfig

    def __init__(self, config: CodeDiffusionConfig):
        is_modulated = config.time_conditioning == "adaln"
        super().__init__(config, config.codebook_size + 1, is_causal=False, is_modulated=is_modulated)
        if is_modulated:
            self.time_embedding = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size),
                nn.SiLU(),
                nn.Linear(config.hidden_size, config.hidden_size),
                nn.SiLU(),
            )
        self.post_init()

    @property
    def mask_code(self) -> int:
        """The state [MASK]."""
        return self.config.codebook_size

    def backbone(
        self, codes: torch.Tensor, timesteps: torch.Tensor, prefix: Prefix, grid: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """
        States `(B, T, D)` of the image's positions, before any norm.

        Args:
            codes (`torch.LongTensor` of shape `(B, T, K)`): In [0, V]; V is [MASK].
            timesteps (`torch.Tensor` of shape `(B,)`): In [1, num_train_timesteps].
            prefix (`Prefix`): What the image is generated for.
            grid (`tuple[int, int]`, *optional*):
                Height and width, T in all, where they are not the configuration's: the places of the cells are then
                spread over those of the trained grid.
        """
        config = self.config
        height, width = grid or (config.grid_height, config.grid_width)
        scale = config.grid_height / height, config.grid_width / width
        places = torch.cat([prefix.places, grid_places(height, width, codes.device, scale)])
        rotary = rotary_embedding(places, config.head_dim, config.rope_theta)
        hidden_states = torch.cat([prefix.embeddings, self.embed_tokens(codes)], dim=1)
        mask = prefix.key_mask(hidden_states.shape[1])
        time = None
        if config.time_conditioning == "adaln":
            time = get_timestep_embedding(timesteps, config.hidden_size, flip_sin_to_cos=True, downscale_freq_shift=0)
            time = self.time_embedding(time.to(hidden_states.dtype))
        hidden_states = self.dropout(hidden_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states, rotary, attention_mask=mask, time_embedding=time)
        return hidden_states[:, prefix.length :]

    @can_return_tuple
    def forward(
        self,
        codes: torch.LongTensor | None = None,
        timesteps: torch.Tensor | None = None,
        clean_codes: torch.LongTensor | None = None,
        class_labels: torch.LongTensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.BoolTensor | None = None,
        map_codes: torch.LongTensor | None = None,
        condition: Condition | Sequence[Condition] | None = None,
    ) -> CodeDiffusionOutput:
        """
        Args:
            codes (`torch.LongTensor` of shape `(batch, num_positions, num_codebooks)`):
                Noisy codes in [0, codebook_size]; codebook_size is [MASK].
            timesteps (`torch.LongTensor` of shape `(batch,)`): In [1, num_train_timesteps].
            clean_codes (`torch.LongTensor`, *optional*):
                Of the shape of `codes`, in [0, codebook_size): those that precede a code at its own position. Needed
                by the factorized head.
            class_labels, text, text_mask, map_codes (*optional*):
                See `embed_conditions`; as the configuration's `conditions` say.
            condition (`Condition` or sequence of them, *optional*):
                In place of all of these. In training a share of `class_dropout` of the samples sees the nulls.

        Raises:
            ValueError: If shapes or dtypes do not fit.
        """
        self._check_codes(codes, timesteps, clean_codes)
        inputs = {"class_labels": class_labels, "text": text, "text_mask": text_mask, "map_codes": map_codes}
        conditions = self.conditions_of(inputs, condition, codes.shape[0])
        share = self.config.class_dropout if self.training else 0.0
        prefix = join_conditions(conditions, drop_conditions(conditions, share))
        hidden_states = self.backbone(codes, timesteps, prefix)
        earlier = None
        if self.config.head_type == "ar":
            earlier = self.embed_codes(clean_codes[:, :, :-1])
        states = self.norm(self.head(hidden_states, earlier))
        logits = torch.stack([head(states[:, :, k]) for k, head in enumerate(self.lm_heads)], dim=2)
        return CodeDiffusionOutput(logits=logits)

    def sample_codes(
        self,
        hidden_states: torch.Tensor,
        draw_codes: DrawCodes,
        uniforms: torch.Tensor,
        warpers: Sequence[LogitsProcessorList] | None = None,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Clean codes of all positions, drawn codebook after codebook.

        Guidance acts on the normalised head state, as in FAR: that is l_u + s (l_c - l_u) on log-probabilities,
        renormalised. Source: arXiv 2205.16007, equation 7.

        Args:
            hidden_states (`torch.Tensor` of shape `((scales + 1) * B, T, D)`): Of `backbone`.
            draw_codes (`Callable`): A scheduler's; see [`CodeDiffusionScheduler.draw_codes`].
            uniforms (`torch.Tensor` of shape `(B, T, K)`): In [0, 1), float64.
            warpers (`Sequence[LogitsProcessorList]`, *optional*): Of each codebook; see `codebook_warpers`.
            weights (`torch.Tensor` of shape `(scales, K)`, *optional*): Guidance; see `guide`.

        Returns:
            What `draw_codes` gives: codes `(B, T, K)`, -1 where the logits are no distribution, and their scores.
        """
        num_scales = 0 if weights is None else len(weights)
        num_positions = hidden_states.shape[1]
        # Positions become samples, ((scales + 1) * B * T, D): parts of the batch stay one below the other.
        hidden_states = hidden_states.flatten(0, 1)
        caches = [StaticLayer(self.config.num_codebooks) for _ in getattr(self.head, "layers", ())]
        rotary = self.head.rotary_embedding(hidden_states.device)
        drawn, code_embedding = [], None
        for k, lm_head in enumerate(self.lm_heads):
            state = self.norm(self.head.step(k, hidden_states, code_embedding, caches, rotary))
            if weights is not None:
                state = guide(state.float(), weights[:, k]).to(state.dtype)
            logits = lm_head(state).float()
            logits = logits if warpers is None else warpers[k](None, logits)
            codes, scores = draw_codes(logits.log_softmax(-1), uniforms[:, :, k].flatten())
            drawn.append((codes, scores))
            if k + 1 < self.config.num_codebooks:
                # -1, where there is no distribution, is found by the step; until then any code may stand for it.
                code_embedding = self.embed_codes(codes.clamp(min=0)[:, None], k)[:, 0].repeat(num_scales + 1, 1)
        codes, scores = (torch.stack(parts, 1).unflatten(0, (-1, num_positions)) for parts in zip(*drawn, strict=True))
        return codes, scores

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`torch.compile` the forward pass and the backbone, which sampling calls, in place; arguments are torch's."""
        super().compile(*args, **kwargs)
        self.backbone = torch.compile(self.backbone, *args, **kwargs)

    def _check_codes(
        self, codes: torch.Tensor | None, timesteps: torch.Tensor | None, clean_codes: torch.Tensor | None
    ) -> None:
        config = self.config
        if codes is None or timesteps is None:
            raise ValueError("codes and timesteps must both be given")
        if config.head_type == "ar" and clean_codes is None:
            raise ValueError("clean_codes must be given for head_type 'ar': each code is predicted from those before")
        for name, value in (("codes", codes), ("clean_codes", clean_codes)):
            if value is None:
                continue
            if value.dtype not in (torch.long, torch.int):
                raise ValueError(f"{name} must be int64 or int32, got {value.dtype}")
            expected = (len(codes), config.num_positions, config.num_codebooks)
            if tuple(value.shape) != expected:
                raise ValueError(
                    f"{name} must have shape (batch, {config.num_positions}, {config.num_codebooks}), "
                    f"got {tuple(value.shape)}"
                )
        if timesteps.shape != codes.shape[:1]:
            raise ValueError(f"timesteps must have shape ({len(codes)},), got {tuple(timesteps.shape)}")


if not __name__.startswith("transformers_modules."):  # loaded as remote code it must not replace an installed package
    AutoConfig.register("code_diffusion", CodeDiffusionConfig, exist_ok=True)
    AutoModel.register(CodeDiffusionConfig, CodeDiffusionTransformer, exist_ok=True)
