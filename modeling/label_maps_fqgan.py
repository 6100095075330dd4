# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Label maps as a tokenizer's channels: one for each label, 1 where a pixel has it and 0 elsewhere.

Shapes: B batch, N labels, H W pixels.
"""

import torch
import torch.nn.functional as F


def one_hot_labels(label_map: torch.Tensor, num_labels: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """
    Label maps as one-hot channels.

    Args:
        label_map (`torch.LongTensor` of shape `(batch, height, width)`): Labels in [0, num_labels); not checked here.
        num_labels (`int`): N.
        dtype (`torch.dtype`): Of the result.

    Returns:
        `torch.Tensor` of shape `(batch, num_labels, height, width)`: 1 for the label of a pixel, 0 for all others.
    """
    return F.one_hot(label_map, num_labels).movedim(-1, 1).to(dtype)


def require_num_labels(num_labels: int | None) -> int:
    """The number of labels of a tokenizer's configuration; raises `ValueError` for a tokenizer of pictures."""
    if num_labels is None:
        raise ValueError("this tokenizer is one of pictures: its configuration has no num_labels")
    return num_labels


def check_label_map(label_map: torch.Tensor, num_labels: int) -> None:
    """Raise `ValueError` for what are no label maps `(batch, height, width)` with labels in [0, num_labels)."""
    if label_map.ndim != 3 or label_map.is_floating_point() or label_map.dtype == torch.bool:
        raise ValueError(
            f"label_map must be integers of shape (batch, height, width), got {label_map.dtype} of shape "
            f"{tuple(label_map.shape)}"
        )
    if label_map.numel() and (label_map.min() < 0 or label_map.max() >= num_labels):
        raise ValueError(
            f"label_map must be in [0, {num_labels - 1}], got {label_map.min().item()} to {label_map.max().item()}"
        )
