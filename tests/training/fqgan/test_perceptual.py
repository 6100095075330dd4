# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Perceptual distances on a local backbone; what happens where LPIPS cannot be had."""

import math
import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F

from fqgan_hf.training.fqgan.contrastive import contrastive_loss, probabilistic_contrastive_loss
from fqgan_hf.training.fqgan.perceptual import VGG_LAYERS, FeatureDistance, load_perceptual, perceptual_losses


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


# ---- VGG-19 and layers by name ----


@pytest.fixture
def random_vgg19(monkeypatch):
    """torchvision's network with random weights in place of the download; gives the network."""
    models = pytest.importorskip("torchvision.models")
    network = models.vgg19(weights=None).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.bias, std=0.1)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def load(url, weights_only, check_hash, **_):
        assert url.endswith("vgg19-dcbb9e9d.pth") and weights_only and check_hash
        return dict(weights)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    return network


def test_vgg19_gives_the_five_named_layers(random_vgg19, images):
    perceptual = load_perceptual("vgg19")
    hidden_states, expected, names = (images + 1) / 2, [], []
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    hidden_states = (hidden_states - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    block, number = 1, 0
    for layer in random_vgg19.features:
        hidden_states = layer(hidden_states)
        number += isinstance(layer, torch.nn.ReLU)
        if isinstance(layer, torch.nn.MaxPool2d):
            block, number = block + 1, 0
        elif isinstance(layer, torch.nn.ReLU) and f"relu{block}_{number}" in VGG_LAYERS:
            names.append(f"relu{block}_{number}")
            expected.append(F.normalize(hidden_states.clone(), dim=1))
    assert names == ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]
    for found, wanted in zip(perceptual.features(images), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())
    reconstructions = images.flip(0).requires_grad_(True)
    perceptual(images, reconstructions).backward()
    assert reconstructions.grad.abs().sum() > 0
    (single,) = load_perceptual("vgg19", ["relu3_4"]).features(images)
    assert single.shape == (2, 256, 8, 8)
    with pytest.raises(ValueError, match=r"perceptual_layers: 'vgg19' has relu1_1, .* relu5_4, got 'relu3_5'"):
        load_perceptual("vgg19", ["relu3_5"])


def test_vgg19_without_its_weights(monkeypatch):
    pytest.importorskip("torchvision")

    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(OSError, match=r"weights of VGG-19.*no route to host.*vgg19-dcbb9e9d\.pth.*--perceptual_model"):
        load_perceptual("vgg19")


def test_layers_by_name(images, shared_dir):
    """They are those that the hidden states are of, and the network stops after the last of them."""
    network = str(shared_dir / "data" / "cifar10-net")
    stages = load_perceptual(network).features(images)
    named = load_perceptual(network, ["encoder.stages.0", "embedder", "embedder"])
    later = []
    named.model.encoder.stages[1].register_forward_hook(lambda *_: later.append(True))
    found = named.features(images)
    assert len(found) == 2 and all(torch.equal(one, other) for one, other in zip(found, stages, strict=False))
    assert not later
    with pytest.raises(ValueError, match=r"perceptual_layers: .* has no layer 'stages\.0'; it has encoder\.stages\.0"):
        load_perceptual(network, ["stages.0"])
    with pytest.raises(ValueError, match="perceptual_layers must not be set for 'lpips'"):
        load_perceptual("lpips", ["relu1_2"])


def test_contrastive_losses_on_the_tokens_of_a_transformer(images, tiny_dinov2):
    """Its class token has no place in the image, and is left out."""
    perceptual = load_perceptual(tiny_dinov2)
    args = SimpleNamespace(
        perceptual_weight=0.0, contrastive_weight=0.5, pcl_weight=0.25, pcl_num_patches=64, pcl_temperature=0.1
    )
    distances = torch.rand(2, 4, 4)
    loss, scalars = perceptual_losses(perceptual, images, images.flip(0).requires_grad_(True), distances, args)
    expected = 0.5 * scalars["loss/contrastive"] + 0.25 * scalars["loss/pcl"]
    torch.testing.assert_close(loss.detach(), expected)
    assert scalars.keys() == {"loss/contrastive", "loss/pcl"}
    side = perceptual.size[0] // perceptual.model.config.patch_size
    zero = SimpleNamespace(**{**vars(args), "pcl_temperature": 1e6})
    _, scalars = perceptual_losses(perceptual, images, images.flip(0), distances, zero)
    assert scalars["loss/contrastive"].item() == pytest.approx(math.log(min(64, side * side)), rel=1e-3)


def test_vgg19_layers_come_in_the_networks_order(random_vgg19, images):
    """Whatever that of the names, each once; what comes after the last one is not even kept."""
    perceptual = load_perceptual("vgg19", ["relu3_4", "relu1_1", "relu3_4"]).train()
    assert [map_.shape[1:] for map_ in perceptual.features(images)] == [(64, 32, 32), (256, 8, 8)]
    assert sum(parameter.numel() for parameter in perceptual.parameters()) == 2_325_568, "eight convolutions"
    assert not any(module.training for module in perceptual.modules())
    assert perceptual(images, images) == 0


def test_vgg19_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match=r"'vgg19' needs torchvision.*--perceptual_weight 0"):
        load_perceptual("vgg19")


def test_an_output_of_the_librarys_class(images, shared_dir):
    """Its first entry is the last hidden state; another call leaves nothing of the one before."""
    network = str(shared_dir / "data" / "cifar10-net")
    whole, named = load_perceptual(network), load_perceptual(network, ["encoder"])
    for batch in (images, images.flip(0), images[:1]):
        (found,) = named.features(batch)
        assert torch.equal(found, whole.features(batch)[-1])


def test_a_layer_without_a_map_is_named(shared_dir, tiny_clip):
    network = str(shared_dir / "data" / "cifar10-net")
    for layers in (["encoder.stages"], ["encoder.stages", "embedder"]):  # a list of modules is never called
        with pytest.raises(ValueError, match=r"perceptual_layers: not all of \['encoder\.stages'.*\] have an output"):
            load_perceptual(network, layers)
    names = dict(load_perceptual(tiny_clip).model.named_modules())
    pooled = next(name for name in names if name.endswith("post_layernorm"))
    with pytest.raises(ValueError, match=r"perceptual_layers: '.*post_layernorm' must give a feature map, got shape"):
        load_perceptual(tiny_clip, [pooled])


WEIGHTS = {"perceptual": 0.5, "contrastive": 2.0, "pcl": 3.0}
ALL_PATCHES = {"pcl_num_patches": 10_000, "pcl_temperature": 0.3}


@pytest.mark.parametrize("left_out", [None, *WEIGHTS])
def test_losses_are_weighted_terms_of_one_pass(left_out, images, shared_dir):
    perceptual = load_perceptual(str(shared_dir / "data" / "cifar10-net"), ["embedder", "encoder.stages.0"])
    others, distances = images.flip(0), torch.rand(2, 4, 4) * (torch.rand(2, 4, 4) < 0.6)
    maps = perceptual.features(images), perceptual.features(others)
    expected = {
        "perceptual": perceptual(images, others),
        "contrastive": contrastive_loss(*maps, 10_000, 0.3),
        "pcl": probabilistic_contrastive_loss(*maps, distances, 10_000, 0.3),
    }
    weights = {name: 0.0 if name == left_out else weight for name, weight in WEIGHTS.items()}
    args = SimpleNamespace(**{f"{name}_weight": weight for name, weight in weights.items()}, **ALL_PATCHES)
    passes = []
    perceptual.model.embedder.register_forward_pre_hook(lambda *_: passes.append(True))
    images.requires_grad_(True)
    others.requires_grad_(True)
    loss, scalars = perceptual_losses(perceptual, images, others, distances, args)
    assert len(passes) == 2
    assert scalars.keys() == {f"loss/{name}" for name in WEIGHTS if name != left_out}
    for name, value in scalars.items():
        torch.testing.assert_close(value, expected[name.removeprefix("loss/")])
    torch.testing.assert_close(loss, sum(weights[name] * expected[name] for name in expected))
    loss.backward()
    assert images.grad is None and others.grad.abs().sum() > 0


def test_tokens_stand_at_their_places(images, tiny_dinov2):
    """The weights of 4x4 positions go to 4x4 tokens, whose grid is read row by row after the class token."""
    perceptual, others = load_perceptual(tiny_dinov2), images.flip(0)
    maps = [
        [map_[:, :, 0, 1:].reshape(2, -1, 4, 4) for map_ in perceptual.features(batch)] for batch in (images, others)
    ]
    distances = torch.zeros(2, 4, 4)
    distances[:, 0, 3] = distances[:, 2, 1] = distances[:, 3, 3] = 1.0
    distances[0, 1, 1] = 5.0
    args = SimpleNamespace(perceptual_weight=0.0, contrastive_weight=0.0, pcl_weight=1.0, **ALL_PATCHES)
    loss, _ = perceptual_losses(perceptual, images, others, distances, args)
    torch.testing.assert_close(loss, probabilistic_contrastive_loss(*maps, distances, 10_000, 0.3))


@pytest.mark.hub
def test_lpips_with_its_weights(images):
    lpips = pytest.importorskip("lpips")
    distance = load_perceptual("lpips")
    expected = lpips.LPIPS(net="vgg", verbose=False)(images.flip(0), images).mean()
    torch.testing.assert_close(distance(images, images.flip(0)), expected)
