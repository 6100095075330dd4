# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Key/value storage of FAR's sampling.

Shapes: B batch, P positions of the condition, T positions of the image, K codebooks, D hidden size.

The backbone reads P + T - 1 positions: the condition, then all tokens but the last, whose successor nobody asks for.
The state at slot P - 1 + t predicts the token of position t.
"""

import torch
from transformers import Cache, StaticLayer

from .configuration_far import FARConfig


class FARCache(Cache):
    """
    Static storage of one `generate` call: P + T - 1 slots per backbone layer, K per head layer.

    Slots are allocated once, at the first use. Those of the head are reused by every position.

    Args:
        config (`FARConfig`): Of the model.
        num_condition_positions (`int`): P.
    """

    def __init__(self, config: FARConfig, num_condition_positions: int = 1):
        self.num_backbone_layers = config.num_hidden_layers
        self.num_condition_positions = num_condition_positions
        num_slots = num_condition_positions + config.num_positions - 1
        num_head_layers = config.num_head_layers if config.head_type == "ar" else 0
        super().__init__(
            layers=[StaticLayer(num_slots) for _ in range(config.num_hidden_layers)]
            + [StaticLayer(config.num_codebooks) for _ in range(num_head_layers)]
        )
        self.num_filled = 0  # slots that the backbone layers hold, counted by the library loop only
        self.num_steps = 0  # steps of the current position that the head layers hold, likewise
        self.hidden_state: torch.Tensor | None = None  # the backbone's state at the current position, (B, D)

    @property
    def backbone_layers(self) -> list[StaticLayer]:
        return self.layers[: self.num_backbone_layers]

    @property
    def head_layers(self) -> list[StaticLayer]:
        return self.layers[self.num_backbone_layers :]

    def reset(self) -> None:
        """Begin another image in the same storage."""
        super().reset()
        self.num_filled = self.num_steps = 0

    def start_position(self, hidden_state: torch.Tensor) -> None:
        """Begin the steps of a new position, predicted from `hidden_state` `(B, D)`; the head's slots are free."""
        self.hidden_state = hidden_state
        self.num_steps = 0
        for layer in self.head_layers:
            # Not by `reset`, which also clears the storage: a step reads no slot beyond its own.
            layer.cumulative_length.zero_()
