# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Statistics of sets: whatever the order and the batches, those of the whole set; figures beside torch-fidelity's."""

import numpy as np
import pytest
import torch

from fqgan_hf.evaluation import judging
from fqgan_hf.evaluation.features import Features
from fqgan_hf.evaluation.judging import SetStatistics, compare_sets
from fqgan_hf.evaluation.metrics import frechet_distance, inception_score
from fqgan_hf.evaluation.precision_recall import precision_recall


def features(number, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    pooled = torch.from_numpy(rng.normal(shift, 1, (number, 6))).float()
    probabilities = torch.from_numpy(rng.dirichlet(np.ones(5), number)).float()
    return Features(pooled, probabilities, pooled[:, :3] * 2 + 1)


def part(found, rows):
    return Features(*(getattr(found, name)[rows] for name in ("pooled", "probabilities", "spatial")))


def statistics(found, order=None, batch_size=7, labels=None):
    number = len(found.pooled)
    order = list(range(number)) if order is None else order
    labels = torch.full((number,), -1) if labels is None else labels
    judge = SetStatistics(number, list("abcde"))
    for start in range(0, number, batch_size):
        rows = order[start : start + batch_size]
        judge.update(part(found, rows), rows, labels[rows])
    return judge


def test_figures_are_those_of_the_functions_on_all_features():
    ours, theirs = features(60), features(80, seed=1, shift=0.3)
    found = compare_sets(statistics(ours), statistics(theirs))

    def distance(one, other):
        mu, sigma = zip(*((x.double().mean(0), torch.cov(x.double().T)) for x in (one, other)), strict=True)
        return frechet_distance(mu[0], sigma[0], mu[1], sigma[1])

    score = inception_score(ours.probabilities)
    nearness = precision_recall(theirs.pooled, ours.pooled)
    assert found == {
        "frechet_distance": pytest.approx(distance(ours.pooled, theirs.pooled), rel=1e-9),
        "spatial_frechet_distance": pytest.approx(distance(ours.spatial, theirs.spatial), rel=1e-9),
        "inception_score": pytest.approx(score.mean, rel=1e-12),
        "inception_score_std": pytest.approx(score.std, rel=1e-9),
        "precision": nearness.precision,
        "recall": nearness.recall,
    }


def test_neither_order_nor_batches_count():
    found, theirs = features(50), statistics(features(50, seed=2))
    expected = compare_sets(statistics(found), theirs)
    order = np.random.default_rng(3).permutation(50).tolist()
    for other in (statistics(found, order), statistics(found, batch_size=1), statistics(found, order, 50)):
        assert compare_sets(other, theirs) == {name: pytest.approx(x, rel=1e-9) for name, x in expected.items()}


def test_of_many_images_those_drawn_by_number_count_for_precision_and_recall(monkeypatch):
    protocol = {**judging.PROTOCOL["precision_recall"], "max_images": 20}
    monkeypatch.setitem(judging.PROTOCOL, "precision_recall", protocol)
    found = features(50)
    order = np.random.default_rng(3).permutation(50).tolist()
    chosen = np.random.default_rng(0).permutation(50)[:20]
    for kept in (statistics(found, order).kept, statistics(found, batch_size=50).kept):
        assert sorted(kept.indices) == sorted(chosen)
        np.testing.assert_array_equal(kept[:], found.pooled[kept.indices].numpy())
        np.testing.assert_array_equal(kept[3:7], kept[:][3:7])


def test_accuracy_is_of_the_labelled_images():
    found = features(40)
    labels = found.predictions.clone()
    labels[:10] = (labels[:10] + 1) % 5
    labels[10:20] = -1
    assert statistics(found, labels=labels).accuracy == pytest.approx(20 / 30)
    assert statistics(found).accuracy is None


def test_few_images_have_no_score_and_no_neighbours():
    found = compare_sets(statistics(features(3)), statistics(features(30)))
    assert found["inception_score"] is None and found["precision"] is None
    assert found["frechet_distance"] > 0


def test_features_that_are_not_finite_are_refused():
    found = features(5)
    found.pooled[2, 1] = float("nan")
    with pytest.raises(ValueError, match="features must hold finite values, got NaN or infinity"):
        statistics(found)


def test_the_same_figures_as_torch_fidelity():
    """Its own functions on the same features; its precision and recall count distances in fp32."""
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    isc = pytest.importorskip("torch_fidelity.metric_isc")
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    ours, theirs = features(200), features(300, seed=1, shift=0.5)
    found = compare_sets(statistics(ours), statistics(theirs))
    distance = fid.fid_statistics_to_metric(
        fid.fid_features_to_statistics(ours.pooled), fid.fid_features_to_statistics(theirs.pooled), False
    )
    assert found["frechet_distance"] == pytest.approx(distance["frechet_inception_distance"], rel=1e-6)
    order = np.random.default_rng(0).permutation(200)  # ours: it has no seed of its own for the same shuffle
    score = isc.isc_features_to_metric(ours.probabilities[order].log(), splits=10, shuffle=False)
    assert found["inception_score"] == pytest.approx(score["inception_score_mean"], rel=1e-6)
    assert found["inception_score_std"] == pytest.approx(score["inception_score_std"], rel=1e-5)
    nearness = prc.prc_features_to_metric(ours.pooled, theirs.pooled, prc_neighborhood=3, prc_batch_size=64)
    assert found["precision"] == pytest.approx(nearness["precision"], abs=1 / 200)
    assert found["recall"] == pytest.approx(nearness["recall"], abs=1 / 300)
