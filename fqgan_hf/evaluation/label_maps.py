# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How well two label maps agree. Counts of pixels add up over batches and processes; figures follow from the counts.

    counts = confusion_counts(given, found, num_labels=3)
    label_iou(counts)                             # of each label
    mean_iou(given, found, num_labels=3)          # of all at once

Shapes: B batch, N labels, H W pixels.
"""

import numpy as np
import torch


LabelMaps = torch.Tensor | np.ndarray


def confusion_counts(map_a: LabelMaps, map_b: LabelMaps, num_labels: int) -> torch.Tensor:
    """
    How many pixels have one label in the first map and one in the second.

    Args:
        map_a, map_b (`torch.Tensor` or `np.ndarray` of one shape, such as `(H, W)` or `(B, H, W)`):
            Labels in [0, num_labels), of any integer type. Tensors may lie on any one device.
        num_labels (`int`): N.

    Returns:
        `torch.Tensor` int64 `(N, N)`, on the device of the maps: By label of the first map, then of the second.

    Raises:
        ValueError: `num_labels` is no positive integer, the shapes differ, or a map holds something else than labels.
    """
    if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
        raise ValueError(f"num_labels must be a positive integer, got {num_labels!r}")
    a, b = _labels("map_a", map_a, num_labels), _labels("map_b", map_b, num_labels)
    if a.shape != b.shape:
        raise ValueError(f"map_a and map_b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    pairs = a.flatten() * num_labels + b.flatten()
    return torch.bincount(pairs, minlength=num_labels**2).view(num_labels, num_labels)


def label_iou(counts: torch.Tensor) -> torch.Tensor:
    """
    Intersection over union of each label: of the pixels that have it in either map, the share that has it in both.

    Args:
        counts (`torch.Tensor` of shape `(N, N)`): By `confusion_counts`, or a sum of such.

    Returns:
        `torch.Tensor` float64 `(N,)` in [0, 1]; NaN for a label that occurs in neither map.
    """
    both = counts.diagonal().double()
    return both / (counts.sum(0) + counts.sum(1) - both)


def mean_iou(map_a: LabelMaps, map_b: LabelMaps, num_labels: int) -> float:
    """
    Mean intersection over union, as semantic segmentation is judged: pixels of all maps are counted together, then
    the mean is over the labels that occur. The mean over pictures would be another figure: there, one stray pixel of a
    label that a picture does not have costs as much as a whole object.

    Args:
        map_a, map_b, num_labels: See `confusion_counts`.

    Returns:
        `float` in [0, 1].

    Raises:
        ValueError: See `confusion_counts`; or the maps have no pixels.

    Source: Everingham et al. 2015, *The Pascal Visual Object Classes Challenge: A Retrospective*.
    """
    counts = confusion_counts(map_a, map_b, num_labels)
    if counts.sum() == 0:
        raise ValueError(f"map_a and map_b must hold at least one pixel, got shape {tuple(map_a.shape)}")
    return label_iou(counts).nanmean().item()


def _labels(name: str, label_map: LabelMaps, num_labels: int) -> torch.Tensor:
    """Labels as int64: in the 8 bits in which maps are often stored, a pair of them would not find room."""
    if not isinstance(label_map, (torch.Tensor, np.ndarray)):
        raise ValueError(f"{name} must be a torch tensor or a numpy array, got {type(label_map).__name__}")
    labels = torch.as_tensor(label_map)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} must be of an integer type, got {labels.dtype}")
    labels = labels.long()
    if labels.numel():
        low, high = (value.item() for value in labels.aminmax())
        if low < 0 or high >= num_labels:
            raise ValueError(f"{name} must hold labels in [0, {num_labels - 1}], got values in [{low}, {high}]")
    return labels
