# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Linear probes of codes."""

import pytest
import tiny
import torch


pytest.importorskip("sklearn")

from fqgan_hf.evaluation.probe import encode_batches, linear_probe


def test_a_codebook_that_tells_the_class_is_found_out():
    """The first codebook's codes follow from the class, the second one's from nothing."""
    model = tiny.tokenizer(2)
    labels = torch.arange(300) % 3
    codes = torch.randint(0, 32, (300, 2, 4, 4))
    codes[:, 0] = (labels * 7)[:, None, None]
    split = [(codes[part], labels[part]) for part in (slice(0, 200), slice(200, 300))]
    first, second = linear_probe(model, *split)
    assert first == 1.0
    assert second < 0.5


def test_batches_are_encoded_in_their_order():
    model = tiny.tokenizer(3)
    pixels, labels = torch.rand(5, 3, 16, 16) * 2 - 1, torch.arange(5)
    codes, found = encode_batches(model, zip([[0], [2], [4]], pixels.split(2), labels.split(2), strict=True))
    assert torch.equal(found, labels)
    assert torch.equal(codes, model.encode(pixels).codes)
