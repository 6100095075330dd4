# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Figures of codes: how a tokenizer uses its codebooks on given images, and how well a generator predicts its codes.

Shapes: B batch, K codebooks, V codebook size, h w grid, T = h * w positions.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from fqgan_hf.evaluation.codebooks import CodebookUsage, codebook_overlap


# Positions from which overlap and joint usage are estimated, the first ones: 8 MB per codebook hold them.
MAX_JOINT_POSITIONS = 2**21


class CodeFigures:
    """
    Counts the codes of batch after batch.

    Args:
        num_codebooks (`int`): K.
        codebook_size (`int`): V.
    """

    def __init__(self, num_codebooks: int, codebook_size: int):
        self.usage = CodebookUsage(num_codebooks, codebook_size)
        self._first: dict[int, torch.Tensor] = {}  # codes of the first images, by the number of the first in the batch
        self._grid: list[int] = []
        self._num_kept = torch.zeros(num_codebooks, dtype=torch.long)  # codes that encode(decode(codes)) gives again
        self._num_compared = 0

    def update(self, codes: torch.Tensor, indices: Sequence[int], again: torch.Tensor | None = None) -> None:
        """
        Count a batch.

        Args:
            codes (`torch.Tensor` of shape `(B, K, h, w)`): Of images.
            indices (`Sequence[int]`): Numbers of these images.
            again (`torch.Tensor` of that shape, *optional*): Codes of their reconstructions.
        """
        codes = codes.cpu()
        self.usage.update(codes)
        self._grid = list(codes.shape[2:])
        if indices[0] * codes[0, 0].numel() < MAX_JOINT_POSITIONS:
            self._first[indices[0]] = codes.int()
        if again is not None:
            self._num_kept += (codes == again.cpu()).sum((0, 2, 3))
            self._num_compared += codes[:, 0].numel()

    def gather(self) -> "CodeFigures":
        """Of all processes; every process calls it, once."""
        self.usage.all_reduce()
        if PartialState().num_processes > 1:
            everywhere = gather_object([(self._first, self._num_kept, self._num_compared, self._grid)])
            self._first = {index: codes for first, *_ in everywhere for index, codes in first.items()}
            self._num_kept = sum(kept for _, kept, *_ in everywhere)
            self._num_compared = sum(compared for *_, compared, _ in everywhere)
            self._grid = next(grid for *_, grid in everywhere if grid)
        return self

    def compute(self) -> dict[str, Any]:
        """
        Returns:
            `dict`: Of each codebook `usage`, `codes_used`, `perplexity`, `entropy` in bits and, where reconstructions
            were encoded, `codes_kept`, the share of codes that are the same again. `joint_codes_used`, the different
            combinations of codes at the first positions, and `joint_usage`, their share of those that could be there.
            `overlap`, the normalised mutual information of two codebooks above chance (mean over the pairs; None for
            one codebook). `num_codebooks`, `codebook_size`, `grid`, `bits_per_position`.
        """
        num_codebooks, size = self.usage.num_codebooks, self.usage.codebook_size
        first = torch.cat([self._first[index] for index in sorted(self._first)]).transpose(0, 1).flatten(1)
        first = first[:, :MAX_JOINT_POSITIONS]
        num_joint = first.unique(dim=1).shape[1] if num_codebooks > 1 else int(self.usage.num_used[0])
        bits = num_codebooks * math.log2(size)
        possible = self.usage.num_positions if num_codebooks == 1 else first.shape[1]
        kept = None if not self._num_compared else (self._num_kept / self._num_compared).tolist()
        return {
            "usage": self.usage.usage.tolist(),
            "codes_used": self.usage.num_used.tolist(),
            "perplexity": self.usage.perplexity.tolist(),
            "entropy": self.usage.perplexity.clamp(min=1).log2().tolist(),
            "codes_kept": kept,
            "joint_codes_used": num_joint,
            "joint_usage": num_joint / (min(possible, size**num_codebooks)),
            "overlap": _mean_overlap(first),
            "num_codebooks": num_codebooks,
            "codebook_size": size,
            "grid": self._grid,
            "bits_per_position": bits,
        }


def _mean_overlap(codes: torch.Tensor) -> float | None:
    """Mean over the pairs of codebooks, from codes `(K, positions)`."""
    if len(codes) == 1:
        return None
    pairs = codebook_overlap(codes[None], adjusted=True)
    return pairs[~torch.eye(len(pairs), dtype=torch.bool)].mean().item()


def code_cross_entropy(model: PreTrainedModel, class_labels: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """
    Negative log-likelihood of codes under a FAR, each given those before it.

    Args:
        model ([`FARForImageGeneration`]): The generator.
        class_labels (`torch.Tensor` of shape `(B,)`): Class ids.
        codes (`torch.Tensor` of shape `(B, T, K)`): Sequences.

    Returns:
        `torch.Tensor` of shape `(B, K)`: In nats, averaged over positions.
    """
    logits = model(class_labels=class_labels, codes=codes).logits.float()  # (B, T, K, V)
    return F.cross_entropy(logits.movedim(-1, 1), codes, reduction="none").mean(1)
