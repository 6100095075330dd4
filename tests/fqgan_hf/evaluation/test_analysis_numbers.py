# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Probes, maps and colours of codes."""

import numpy as np
import pytest
import tiny
import torch


pytest.importorskip("sklearn")
pytest.importorskip("datasets")

from fqgan_hf.evaluation import analysis_numbers as numbers


def test_a_codebook_that_tells_the_class_is_found_out():
    model, labels = tiny.tokenizer(2), torch.arange(300) % 3
    labels[:20] = -1
    codes = torch.randint(0, 32, (300, 2, 4, 4), dtype=torch.int32)
    codes[:, 0] = (labels.clamp(min=0) * 7)[:, None, None]
    found = numbers.probe_codes(model, codes, labels)
    assert found.accuracy[0] == 1.0 and found.accuracy[1] < 0.5
    assert (found.num_classes, found.num_train + found.num_test) == (3, 280)
    assert found.num_test == 94 and found.chance == pytest.approx(1 / 3, abs=0.01)
    assert found == numbers.probe_codes(model, codes, labels)


def test_classes_of_few_images_are_not_probed():
    model, labels = tiny.tokenizer(1), torch.tensor([0] * 20 + [1] * 9)
    codes = torch.randint(0, 32, (29, 1, 4, 4))
    assert numbers.probe_codes(model, codes, labels) is None
    assert numbers.probe_codes(model, codes, torch.full((29,), -1)) is None


def test_a_probe_takes_as_many_images_as_fit(monkeypatch):
    monkeypatch.setattr(numbers, "MAX_PROBE_NUMBERS", 60 * 16 * 4)
    labels = torch.arange(200) % 2
    found = numbers.probe_codes(tiny.tokenizer(1), torch.randint(0, 32, (200, 1, 4, 4)), labels)
    assert found.num_train + found.num_test == 60


def test_frequent_classes_come_first():
    labels = np.array([5, 5, 5, 2, 2, 7, 7, -1, -1, -1, -1, 9])
    assert numbers.frequent_classes(labels, 10, 2).tolist() == [5, 2, 7]
    assert numbers.frequent_classes(labels, 2, 1).tolist() == [5, 2]
    assert numbers.frequent_classes(labels, 2, 4).tolist() == []


def test_vectors_are_those_of_codes_in_use(monkeypatch):
    model, counts = tiny.tokenizer(2), torch.zeros(2, 32, dtype=torch.long)
    counts[0, [3, 8]], counts[1, 5:25] = 2, 1
    rows = model.quantizer.normalized_codebooks().detach()
    first, second = numbers.used_code_vectors(model, counts)
    np.testing.assert_array_equal(first, rows[0, [3, 8]])
    np.testing.assert_array_equal(second, rows[1, 5:25])
    monkeypatch.setattr(numbers, "MAX_TSNE_POINTS", 14)
    first, second = numbers.used_code_vectors(model, counts)
    assert (len(first), len(second)) == (2, 7)
    assert all(any((row == other).all() for other in rows[1, 5:25].numpy()) for row in second)


def test_mean_code_vectors():
    model, codes = tiny.tokenizer(2), torch.randint(0, 32, (5, 2, 3, 4), dtype=torch.int32)
    rows, found = model.quantizer.normalized_codebooks(), numbers.mean_code_vectors(model, codes)
    for k in range(2):
        for i in range(5):
            expected = torch.stack([rows[k, code] for code in codes[i, k].flatten().tolist()]).mean(0)
            np.testing.assert_allclose(found[k, i], expected.detach(), atol=1e-6)


def test_tsne_keeps_groups_together_and_is_the_same_again():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 25)
    vectors = rng.normal(size=(50, 4)).astype(np.float32) + 20 * group[:, None]
    points = numbers.tsne(vectors, seed=1)
    np.testing.assert_array_equal(points, numbers.tsne(vectors, seed=1))
    distances = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(50)
    assert (group[distances.argmin(1)] == group).all()
    assert numbers.tsne(vectors[:9]) is None


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("num_used", [1, 2, 20])
def test_similar_codes_have_similar_colours(dim, num_used):
    rng = np.random.default_rng(0)
    codebook = rng.normal(size=(32, dim)).astype(np.float32)
    used = np.arange(32) < num_used
    colors = numbers.code_colors(codebook, used)
    assert colors.dtype == np.uint8 and (colors[~used] == 255).all()
    if num_used < 20:
        return
    spread = colors[used][:, :dim].astype(int)
    assert all(len(set(column)) == 20 for column in spread.T)  # every shade once
    order = np.argsort(codebook[used][:, 0]) if dim == 1 else None
    if order is not None:
        steps = np.diff(spread[order, 0])
        assert (steps > 0).all() or (steps < 0).all()
    again = numbers.code_colors(codebook, used)
    np.testing.assert_array_equal(colors, again)
