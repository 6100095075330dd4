# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The factorized head: from the state of a position to one state for each of its K codes.

It is itself a small causal transformer over the K steps of a position: step 0 sees the backbone's state, step k the
embedding of code k - 1 of the same position. Source: arXiv 2411.16681, section 3.3.

Shapes: B batch, T positions, K codebooks, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import StaticLayer

from .configuration_generator import GeneratorConfig
from .transformer_blocks import OFF_GRID, Rotary, TransformerLayer, rotary_embedding


class FactorizedHead(nn.Module):
    """
    `"ar"`: causal blocks over the K steps. Step 0, the backbone's state, lies off the grid as a class does, step k > 0
    in cell k - 1 of a grid of one row. `"linear"`: the backbone's state itself. `"mlp"`: one two-layer perceptron per
    codebook.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        if config.head_type == "ar":
            self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_head_layers))
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
        self,
        step: int,
        hidden_states: torch.Tensor,
        code_embedding: torch.Tensor | None,
        cache_layers: Sequence[StaticLayer],
        rotary: Rotary | None = None,
    ) -> torch.Tensor:
        """
        One step of a position; the steps before it must have been made.

        Args:
            step (`int`): In [0, K).
            hidden_states (`torch.Tensor` of shape `(B, D)`): The backbone's.
            code_embedding (`torch.Tensor` of shape `(B, D)`): Of code step - 1; not read at step 0.
            cache_layers (`Sequence[StaticLayer]`): Take up the step; one per block, with K slots.
            rotary (`tuple`, *optional*): `self.rotary_embedding(...)`, when the caller already has it.

        Returns:
            `torch.Tensor` of shape `(B, D)`.
        """
        if self.config.head_type == "linear":
            return hidden_states
        if self.config.head_type == "mlp":
            return self.mlps[step](hidden_states)
        cos, sin = self.rotary_embedding(hidden_states.device) if rotary is None else rotary
        rotary = cos[step : step + 1], sin[step : step + 1]
        state = (hidden_states if step == 0 else code_embedding)[:, None]
        for layer, cache_layer in zip(self.layers, cache_layers, strict=True):
            state = layer(state, rotary, cache_layer, num_cached=step + 1)
        return state[:, 0]

    def rotary_embedding(self, device: torch.device) -> Rotary:
        """cos and sin of the K steps."""
        columns = torch.arange(self.config.num_codebooks, device=device, dtype=torch.float32) - 1
        rows = torch.zeros_like(columns).where(columns >= 0, OFF_GRID)
        return rotary_embedding(torch.stack([rows, columns], 1), self.config.head_dim, self.config.rope_theta)


class CodeClassifier(nn.Linear):
    """Output matrix of one codebook. A class of its own because it starts at zero: every code equally likely."""
