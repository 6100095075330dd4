# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What makes the library's `generate` sample codes of K codebooks: logits processors over the flat sequence.

They run in this order: guidance, the caller's own processors, the codebook's warpers, selection. The number of codes
so far tells which position and codebook the scores are for.

Shapes: B images, V codebook size. Scores are `(B, V)`, with guidance of one scale `(2 * B, V)` at first,
conditional half first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from .code_sampling import SamplingPlan, guide, require_codes, select_codes


# The library's processors that look at one step's scores only. Others of the library count tokens over the flat
# sequence, where the same number means another code in each codebook, so they are refused.
ALLOWED_PROCESSORS = (
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TopHLogitsWarper",
    "MinPLogitsWarper",
    "TypicalLogitsWarper",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
)


def _place(input_ids: torch.Tensor, num_codebooks: int) -> tuple[int, int]:
    """Position and codebook of the code that follows a flat sequence."""
    return divmod(input_ids.shape[1], num_codebooks)


class GuidanceLogitsProcessor(LogitsProcessor):
    """Guidance by position and codebook: `((scales + 1) * B, V)` -> `(B, V)`; see `guide`."""

    def __init__(self, plan: SamplingPlan):
        self.plan = plan

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position, codebook = _place(input_ids, len(self.plan.warpers))
        return guide(scores, self.plan.weights[:, position, codebook])


class PerCodebookLogitsWarper(LogitsProcessor):
    """The temperature, top-k and top-p of the codebook whose turn it is."""

    def __init__(self, plan: SamplingPlan):
        self.plan = plan

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return self.plan.warpers[_place(input_ids, len(self.plan.warpers))[1]](input_ids, scores)


class SelectionLogitsProcessor(LogitsProcessor):
    """Makes the library's argmax choose what `select_codes` chooses; keeps the scores that it saw, when asked."""

    def __init__(self, plan: SamplingPlan, keep_scores: bool):
        self.plan = plan
        self.scores = [] if keep_scores else None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.scores is not None:
            self.scores.append(scores)
        position, codebook = _place(input_ids, len(self.plan.warpers))
        uniforms = None if self.plan.uniforms is None else self.plan.uniforms[:, position, codebook]
        chosen = select_codes(scores, uniforms)
        require_codes(chosen[:, None, None], position, codebook)
        if self.plan.known_codes is not None:
            known = self.plan.known_codes[:, position, codebook]
            chosen = known.where(known >= 0, chosen)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class PositionCallbackCriteria(StoppingCriteria):
    """Calls back after each complete position, and stops all images when the callback returns True."""

    def __init__(self, callback: Callable[[int, torch.Tensor], bool | None], num_codebooks: int):
        self.callback = callback
        self.num_codebooks = num_codebooks

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        position, step = _place(input_ids, self.num_codebooks)
        stop = False
        if step == 0:
            codes = input_ids.unflatten(1, (-1, self.num_codebooks))
            stop = bool(self.callback(position - 1, codes))
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)


def checked_processors(processors: Sequence[LogitsProcessor] | None) -> list[LogitsProcessor]:
    """
    The caller's processors as a list.

    Raises:
        ValueError: For one of the library's that mixes up codebooks.
    """
    for processor in processors or []:
        kind = type(processor)
        if kind.__module__.startswith("transformers.") and kind.__name__ not in ALLOWED_PROCESSORS:
            raise ValueError(
                f"logits_processor {kind.__name__} is not supported: it reads token ids of the flat sequence, "
                "where a number means another code in each codebook; "
                f"accepted are {', '.join(ALLOWED_PROCESSORS)} and your own"
            )
    return list(processors or [])
