# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Perceptual distances on a local backbone; what happens where LPIPS cannot be had."""

import sys
from functools import partial
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F

from fqgan_hf.training.fqgan.perceptual import FeatureDistance, load_perceptual


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32) * 2 - 1


def test_distance_on_maps_is_the_unweighted_lpips(images, shared_dir):
    distance = load_perceptual(str(shared_dir / "data" / "cifar10-net"))
    assert isinstance(distance, FeatureDistance) and distance.size is None, "convolutions take any size"
    others = images.flip(0)
    expected = []
    for i in (0, 1):
        stages = [
            distance.model(
                distance.preprocess(x[i : i + 1], None, "bilinear"), output_hidden_states=True
            ).hidden_states
            for x in (images, others)
        ]
        for one, other in zip(*stages, strict=True):
            cosine = F.cosine_similarity(one, other, dim=1)
            dead = (one.norm(dim=1) == 0) | (other.norm(dim=1) == 0)
            assert not dead.any()
            expected.append((2 - 2 * cosine).mean())
    torch.testing.assert_close(distance(images, others), torch.stack(expected).mean(), rtol=1e-4, atol=1e-6)
    assert distance(images, images) == 0
    larger = F.interpolate(images, 48, mode="bilinear")
    assert 0 < distance(larger, larger.flip(0)) < 4


@pytest.mark.parametrize("network", ["tiny_clip", "tiny_dinov2"])
def test_distance_on_tokens(network, images, request):
    distance = load_perceptual(request.getfixturevalue(network))
    assert distance.size is not None, "a transformer sees images of its own size"
    assert distance(images, images) == 0
    assert distance(images, images.flip(0)) > 0


def test_only_the_reconstruction_learns(images, tiny_dinov2):
    distance = load_perceptual(tiny_dinov2)
    assert not any(module.training for module in distance.train().modules())
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    images.requires_grad_(True)
    reconstructions = (images.detach() * 0.5).requires_grad_(True)
    distance(images, reconstructions).backward()
    assert images.grad is None
    assert torch.isfinite(reconstructions.grad).all() and reconstructions.grad.abs().sum() > 0


def test_lpips_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match=r"pip install lpips torchvision.*--perceptual_weight 0"):
        load_perceptual("lpips")


def test_lpips_without_its_weights(monkeypatch):
    def offline(**kwargs):
        raise URLError("no route to host")

    package = ModuleType("lpips")
    package.LPIPS = offline
    monkeypatch.setitem(sys.modules, "lpips", package)
    with pytest.raises(OSError, match=r"weights of VGG16.*no route to host.*vgg16-397923af\.pth.*--perceptual_model"):
        load_perceptual("lpips")


@pytest.fixture
def random_lpips(monkeypatch):
    """The package's own network, with random weights in place of the download."""
    lpips = pytest.importorskip("lpips")
    monkeypatch.setattr(lpips, "LPIPS", partial(lpips.LPIPS, pnet_rand=True))
    return load_perceptual("lpips")


def test_lpips_is_that_of_the_package(random_lpips, images):
    expected = random_lpips.network(images.flip(0), images).mean()
    torch.testing.assert_close(random_lpips(images, images.flip(0)), expected, rtol=1e-4, atol=1e-7)
    assert [map_.shape[1] for map_ in random_lpips.features(images)] == [64, 128, 256, 512, 512]


def test_lpips_dropout_stays_off(random_lpips, images, monkeypatch):
    distance = random_lpips.train()
    assert any(isinstance(module, torch.nn.Dropout) for module in distance.modules())
    assert not any(module.training for module in distance.modules())
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert distance(images, images.flip(0)) == distance(images, images.flip(0))
    state = torch.get_rng_state()
    load_perceptual("lpips")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.hub
def test_lpips_with_its_weights(images):
    lpips = pytest.importorskip("lpips")
    distance = load_perceptual("lpips")
    expected = lpips.LPIPS(net="vgg", verbose=False)(images.flip(0), images).mean()
    torch.testing.assert_close(distance(images, images.flip(0)), expected)
