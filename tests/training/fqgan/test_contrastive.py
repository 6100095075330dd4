# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The contrastive losses against loops that follow the paper's formulas literally, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from fqgan_hf.training.fqgan.contrastive import contrastive_loss, probabilistic_contrastive_loss


ALL = 10_000  # patches: nothing is left to chance
SIZES = ((5, 4, 4), (7, 2, 3))  # channels, height and width of the maps


def unit_maps(batch: int = 3, sizes=SIZES) -> list[torch.Tensor]:
    return [F.normalize(torch.randn(batch, *size), dim=1) for size in sizes]


def literal(targets, features, temperature, distances=None) -> float:
    """The formulas, place by place; with distances the probabilistic one."""
    of_maps = []
    for target, feature in zip(targets, features, strict=True):
        of_images = []
        for b in range(len(target)):
            y, z = target[b].double().flatten(1).T, feature[b].double().flatten(1).T
            weights = [1.0] * len(y)
            if distances is not None:
                weights = F.interpolate(distances[b, None, None].double(), target.shape[-2:], mode="area").flatten()
            places = [i for i in range(len(y)) if weights[i] > 0]
            total = sum(float(weights[i]) for i in places)
            loss = 0.0
            for i in places:
                positive = math.exp(float(y[i] @ z[i]) / temperature)
                negatives = sum(math.exp(float(y[i] @ z[j]) / temperature) for j in places if j != i)
                if distances is None:
                    loss -= math.log(positive / (positive + negatives))
                else:
                    weighted = float(weights[i]) / total * positive
                    loss -= math.log(weighted / (weighted + negatives / len(places)))
            of_images.append(loss / max(1, len(places)))
        of_maps.append(sum(of_images) / len(of_images))
    return sum(of_maps) / len(of_maps)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_vanilla_is_the_formula(temperature):
    targets, features = unit_maps(), unit_maps()
    found = contrastive_loss(targets, features, ALL, temperature)
    assert found.item() == pytest.approx(literal(targets, features, temperature), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_probabilistic_is_the_formula(temperature, share):
    targets, features = unit_maps(), unit_maps()
    distances = torch.rand(3, 4, 4) * (torch.rand(3, 4, 4) < share)
    found = probabilistic_contrastive_loss(targets, features, distances, ALL, temperature)
    assert found.item() == pytest.approx(literal(targets, features, temperature, distances), rel=1e-4)


def test_equal_weights_are_the_vanilla_loss():
    """There 1/L stands before every exponential, and cancels."""
    targets, features = unit_maps(), unit_maps()
    found = probabilistic_contrastive_loss(targets, features, torch.full((3, 4, 4), 0.7), ALL, 0.2)
    torch.testing.assert_close(found, contrastive_loss(targets, features, ALL, 0.2))


def test_a_heavier_place_is_pulled_less():
    """As the formula has it: a weight in the numerator and the denominator brings the loss of its place down."""
    targets, features = unit_maps(1, SIZES[:1]), [map_.requires_grad_(True) for map_ in unit_maps(1, SIZES[:1])]
    gradients = []
    for first in (1.0, 100.0):
        distances = torch.ones(1, 4, 4)
        distances[0, 0, 0] = first
        loss = probabilistic_contrastive_loss(targets, features, distances, ALL, 0.5)
        (gradient,) = torch.autograd.grad(loss, features)
        gradients.append(-(gradient[0, :, 0, 0] * targets[0][0, :, 0, 0]).sum())
    assert gradients[1] < gradients[0]


@pytest.mark.parametrize("is_probabilistic", [False, True])
def test_where_the_gradient_points(is_probabilistic):
    """A step against it brings each place nearer to its own, and further from the others."""
    targets, features = unit_maps(), unit_maps()
    before = [map_.clone().requires_grad_(True) for map_ in features]
    loss = (
        probabilistic_contrastive_loss(targets, before, torch.rand(3, 4, 4) + 0.1, ALL, 0.2)
        if is_probabilistic
        else contrastive_loss(targets, before, ALL, 0.2)
    )
    for target, feature, gradient in zip(targets, before, torch.autograd.grad(loss, before), strict=True):
        change = -torch.einsum("bchw,bcij->bhwij", target, gradient).flatten(1, 2).flatten(2)
        own = change.diagonal(dim1=1, dim2=2)
        assert own.mean() > 0 and (change.sum((1, 2)) - own.sum(1)).mean() < 0
        assert feature.grad_fn is None and not target.requires_grad


def test_only_the_reconstruction_learns():
    targets, features = ([map_.requires_grad_(True) for map_ in unit_maps()] for _ in range(2))
    loss = contrastive_loss(targets, features, ALL, 0.07)
    loss = loss + probabilistic_contrastive_loss(targets, features, torch.rand(3, 4, 4), ALL, 0.07)
    loss.backward()
    assert all(map_.grad is None for map_ in targets)
    assert all(map_.grad.abs().sum() > 0 for map_ in features)


def test_nothing_sampled_costs_nothing():
    targets, features = unit_maps(), [map_.requires_grad_(True) for map_ in unit_maps()]
    loss = probabilistic_contrastive_loss(targets, features, torch.zeros(3, 4, 4), ALL, 0.07)
    loss.backward()
    assert loss.item() == 0 and all((map_.grad == 0).all() for map_ in features)


def test_a_single_place_has_no_negatives():
    targets, features = unit_maps(1, SIZES[:1]), [map_.requires_grad_(True) for map_ in unit_maps(1, SIZES[:1])]
    distances = torch.zeros(1, 4, 4)
    distances[0, 1, 2] = 3.0
    loss = probabilistic_contrastive_loss(targets, features, distances, ALL, 0.07)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert features[0].grad.isfinite().all() and features[0].grad.abs().max() < 1e-5


def test_images_without_samples_count_as_zero():
    targets, features = unit_maps(2), unit_maps(2)
    distances = torch.rand(2, 4, 4) + 0.1
    distances[1] = 0
    both = probabilistic_contrastive_loss(targets, features, distances, ALL, 0.3)
    first = [[map_[:1] for map_ in maps] for maps in (targets, features)]
    torch.testing.assert_close(both, probabilistic_contrastive_loss(*first, distances[:1], ALL, 0.3) / 2)


def test_the_order_of_the_negatives_does_not_matter():
    targets, features = unit_maps(2, SIZES[:1]), unit_maps(2, SIZES[:1])
    distances = torch.rand(2, 4, 4)
    order = torch.randperm(16)

    def permuted(maps: torch.Tensor) -> torch.Tensor:
        return maps.flatten(-2)[..., order].unflatten(-1, (4, 4))

    for temperature in (0.07, 1.0):
        torch.testing.assert_close(
            probabilistic_contrastive_loss(targets, features, distances, ALL, temperature),
            probabilistic_contrastive_loss(
                [permuted(targets[0])], [permuted(features[0])], permuted(distances), ALL, temperature
            ),
        )


def test_few_patches_are_drawn_at_the_same_places():
    """Where both maps are the same, every place finds itself, however few are drawn: so they are the same places."""
    maps = [F.normalize(torch.randn(2, 64, 16, 16), dim=1)]
    assert contrastive_loss(maps, maps, 20, 0.01).item() == pytest.approx(0, abs=1e-6)
    assert probabilistic_contrastive_loss(maps, maps, torch.ones(2, 8, 8), 20, 0.01).item() == pytest.approx(
        0, abs=1e-6
    )
    zeros = [torch.zeros(2, 3, 16, 16)]  # all alike: the loss is the logarithm of how many there are
    assert contrastive_loss(zeros, zeros, 20, 1.0).item() == pytest.approx(math.log(20), rel=1e-5)
    found = probabilistic_contrastive_loss(zeros, zeros, torch.ones(2, 8, 8), 20, 1.0)
    assert found.item() == pytest.approx(math.log(20), rel=1e-5)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_extreme_temperatures_stay_finite(temperature):
    targets, features = unit_maps(), [map_.requires_grad_(True) for map_ in unit_maps()]
    distances = torch.rand(3, 4, 4) * torch.logspace(-30, 0, 16).view(4, 4)
    loss = contrastive_loss(targets, features, ALL, temperature)
    loss = loss + probabilistic_contrastive_loss(targets, features, distances, ALL, temperature)
    loss.backward()
    assert loss.isfinite() and all(map_.grad.isfinite().all() for map_ in features)


def test_under_bf16_autocast_it_is_computed_in_fp32():
    targets, features = unit_maps(), unit_maps()
    distances = torch.rand(3, 4, 4)
    expected = probabilistic_contrastive_loss(targets, features, distances, ALL, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        found = probabilistic_contrastive_loss(targets, features, distances, ALL, 0.07)
        halves = [[map_.bfloat16() for map_ in maps] for maps in (targets, features)]
        assert contrastive_loss(*halves, ALL, 0.07).dtype == torch.float32
    torch.testing.assert_close(found, expected)
