# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Conditions of a generator: a prefix of embeddings, and its null for classifier-free guidance.

Shapes: B batch, P positions of the condition, D hidden size.
"""

import torch


def check_condition(
    condition: torch.Tensor | None, null_condition: torch.Tensor | None, hidden_size: int, batch_size: int | None
) -> None:
    """
    Raise `ValueError` unless a condition and its null have the shapes that they must have; both may be None.

    Args:
        condition (`torch.Tensor` of shape `(B, P, D)`, *optional*): P at least 1.
        null_condition (`torch.Tensor` of shape `(B or 1, P, D)`, *optional*): Only beside a condition.
        hidden_size (`int`): D.
        batch_size (`int`, *optional*): B, where it is known; any from 1 on otherwise.
    """
    if condition is None:
        if null_condition is not None:
            raise ValueError("null_condition can only be given with condition")
        return
    batch = "batch" if batch_size is None else batch_size
    fits = condition.ndim == 3 and condition.shape[2] == hidden_size and condition.shape[0] > 0
    if not fits or condition.shape[1] == 0 or batch_size not in (None, condition.shape[0]):
        raise ValueError(
            f"condition must have shape ({batch}, 1 or more positions, {hidden_size}), got {tuple(condition.shape)}"
        )
    if not condition.is_floating_point():
        raise ValueError(f"condition must be embeddings, of a floating point dtype, got {condition.dtype}")
    if null_condition is not None:
        accepted = [tuple(condition.shape), (1, *condition.shape[1:])]
        if tuple(null_condition.shape) not in accepted or null_condition.dtype != condition.dtype:
            raise ValueError(
                f"null_condition must have shape {accepted[0]} or {accepted[1]} and dtype {condition.dtype}, "
                f"got {tuple(null_condition.shape)} in {null_condition.dtype}"
            )
