# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Agreement of label maps, against a loop over pixels."""

import math

import numpy as np
import pytest
import torch

from fqgan_hf.evaluation.label_maps import confusion_counts, label_iou, mean_iou


def iou_by_loop(map_a, map_b, label):
    both = either = 0
    for a, b in zip(map_a.flatten().tolist(), map_b.flatten().tolist(), strict=True):
        both += a == label and b == label
        either += a == label or b == label
    return both / either if either else math.nan


@pytest.mark.parametrize("num_labels", [2, 3, 40])
def test_iou_is_that_of_a_loop(num_labels):
    random = np.random.default_rng(num_labels)
    a = random.integers(0, num_labels, (3, 9, 7)).astype(np.uint8)
    b = np.where(random.random(a.shape) < 0.6, a, random.integers(0, num_labels, a.shape)).astype(np.uint8)
    expected = np.array([iou_by_loop(a, b, label) for label in range(num_labels)])
    counts = confusion_counts(a, b, num_labels)
    assert np.allclose(label_iou(counts).numpy(), expected, equal_nan=True)
    assert mean_iou(a, b, num_labels) == pytest.approx(np.nanmean(expected))
    assert mean_iou(torch.from_numpy(a).int(), torch.from_numpy(b).long(), num_labels) == mean_iou(a, b, num_labels)


def test_rows_of_the_counts_are_labels_of_the_first_map_and_counts_add_up():
    a, b = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 1, 1, 1]])
    counts = confusion_counts(a, b, 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert torch.equal(confusion_counts(a[:, :2], b[:, :2], 3) + confusion_counts(a[:, 2:], b[:, 2:], 3), counts)
    assert torch.equal(confusion_counts(b, a, 3), counts.T)


def test_a_label_that_occurs_nowhere_does_not_count():
    a, b = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    assert label_iou(confusion_counts(a, b, 4)).isnan().tolist() == [False, False, True, True]
    assert mean_iou(a, b, 4) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert mean_iou(a, a, 4) == 1
    assert mean_iou(a, 1 - a, 2) == 0


@pytest.mark.parametrize(
    ("a", "b", "num_labels", "message"),
    [
        (torch.zeros(2, 2).long(), torch.zeros(2, 3).long(), 2, r"one shape, got \(2, 2\) and \(2, 3\)"),
        (torch.tensor([0, 2]), torch.tensor([0, 1]), 2, r"map_a must hold labels in \[0, 1\], got values in \[0, 2\]"),
        (torch.tensor([0, 1]), torch.tensor([-1, 1]), 2, r"map_b .*got values in \[-1, 1\]"),
        (np.zeros(2), np.zeros(2, int), 2, "map_a must be of an integer type, got torch.float64"),
        ([0], [0], 2, "map_a must be a torch tensor or a numpy array, got list"),
        (torch.zeros(0).long(), torch.zeros(0).long(), 2, r"at least one pixel, got shape \(0,\)"),
        (torch.zeros(2).long(), torch.zeros(2).long(), 0, "num_labels must be a positive integer, got 0"),
    ],
)
def test_what_is_no_pair_of_label_maps_is_refused(a, b, num_labels, message):
    with pytest.raises(ValueError, match=message):
        mean_iou(a, b, num_labels)
