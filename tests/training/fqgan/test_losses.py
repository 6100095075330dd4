# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Losses against values computed by hand, and where their gradients go."""

import math
from dataclasses import dataclass, fields
from types import SimpleNamespace

import pytest
import tiny
import torch

from fqgan_hf.modeling.modeling_fqgan import FQGANOutput
from fqgan_hf.modeling.quantizer_fqgan import FQGANLosses
from fqgan_hf.training.common.resuming import ON_RESUME
from fqgan_hf.training.fqgan.discriminators import PatchDiscriminator
from fqgan_hf.training.fqgan.loss_terms import loss_weights
from fqgan_hf.training.fqgan.losses import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    representation_loss,
    tokenizer_loss,
)
from fqgan_hf.training.train_fqgan import TrainFQGANArguments


PUBLISHED = {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25, "entropy": 0.03, "disentanglement": 0.1}


def make_output(sample: torch.Tensor) -> FQGANOutput:
    losses = FQGANLosses(
        codebook=torch.tensor([0.1, 0.2]),
        commitment=torch.tensor([0.4, 0.8]),
        entropy=torch.tensor([-1.0, -2.0]),
        disentanglement=torch.tensor(0.5),
    )
    return FQGANOutput(sample=sample, losses=losses)


@pytest.mark.parametrize(("kind", "error"), [("l2", 0.25), ("l1", 0.5)])
def test_tokenizer_loss_is_the_published_sum(kind, error):
    pixels = torch.zeros(2, 3, 4, 4)
    loss, scalars = tokenizer_loss(pixels, make_output(pixels + 0.5), PUBLISHED, kind)
    torch.testing.assert_close(loss, torch.tensor(error + 0.3 + 0.25 * 1.2 + 0.03 * -3.0 + 0.1 * 0.5))
    assert scalars["loss/reconstruction"] == pytest.approx(error)
    assert scalars["loss/commitment/1"] == pytest.approx(0.8)
    assert set(scalars) == {
        *(f"loss/{name}/{k}" for name in ("codebook", "commitment", "entropy") for k in range(2)),
        "loss/reconstruction",
        "loss/disentanglement",
    }


def test_each_weight_weighs_its_term():
    pixels = torch.zeros(1, 3, 4, 4)
    output = make_output(pixels + 0.5)
    terms = {"reconstruction": 0.25, "codebook": 0.3, "commitment": 1.2, "entropy": -3.0, "disentanglement": 0.5}
    for name, value in terms.items():
        weights = {**dict.fromkeys(terms, 0.0), name: 2.0}
        assert tokenizer_loss(pixels, output, weights)[0].item() == pytest.approx(2 * value)


@dataclass
class MoreLosses(FQGANLosses):
    """A quantizer with one term more."""

    extra: torch.Tensor | None = None


QUANTIZERS = {
    "nearest": {},
    "gumbel": {"quantizer_type": "gumbel"},
    "regularized": {"quantizer_type": "regularized"},
    "regularized, cosine": {"quantizer_type": "regularized", "token_logits": "cosine"},
}


def make_args(**changes) -> SimpleNamespace:
    """Options as they are by default."""
    defaults = {field.name: field.default for field in fields(TrainFQGANArguments)}
    return SimpleNamespace(**{**defaults, **changes})


@pytest.mark.parametrize("config", QUANTIZERS.values(), ids=QUANTIZERS)
def test_every_term_of_the_quantizer_has_a_weight_and_an_option(config):
    """The name of the field joins quantizer, weights, options and log."""
    model = tiny.tokenizer(2, **config).train()
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    output = model(pixels, return_losses=True)
    terms = [field.name for field in fields(output.losses)]
    options = {field.name: field for field in fields(TrainFQGANArguments)}
    for term in terms:
        assert options[f"{term}_weight"].default == {"disentanglement": 0.1}.get(term)
        assert f"{term}_weight" in ON_RESUME
    assert set(loss_weights(make_args(), config)) == {"reconstruction", *terms}
    values = {name: 3.0 + i for i, name in enumerate(["reconstruction", *terms])}
    weights = loss_weights(make_args(**{f"{name}_weight": value for name, value in values.items()}), config)
    assert weights == values
    loss, scalars = tokenizer_loss(pixels, output, weights)
    assert {name.split("/")[1] for name in scalars} == {"reconstruction", *terms}
    expected = sum(values[name.split("/")[1]] * value.item() for name, value in scalars.items())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_default_weights_are_the_published_ones():
    assert loss_weights(make_args(), {}) == PUBLISHED
    assert loss_weights(make_args(), {"quantizer_type": "regularized"})["prior"] == 0.01
    assert loss_weights(make_args(), {"quantizer_type": "gumbel"})["prior"] == 0.0


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("nearest", {"prior_weight": 0.1}, r"prior_weight .*'nearest', got 0.1: the nearest code is no distribution"),
        ("nearest", {"pcl_weight": 0.1}, r"pcl_weight .*got 0.1: no position is sampled"),
        ("nearest", {"prior": "a.json"}, r"prior must not be set .*'a.json'"),
        ("regularized", {"entropy_weight": 0.03}, r"entropy_weight .*'regularized' and linear logits, got 0.03: the "),
        ("regularized", {"commitment_weight": 1.0}, r"commitment_weight .*no vector that could be committed"),
        ("regularized", {"codebook_weight": 1.0}, r"codebook_weight .*no vector that could be committed"),
        ("regularized", {"revive_dead_codes": True}, r"revive_dead_codes .*codes have no place to be moved to"),
        ("gumbel", {"entropy_weight": 0.03}, r"entropy_weight .*'gumbel'.*would weigh it twice"),
        ("regularized, cosine", {"entropy_weight": 0.03}, r"entropy_weight .*cosine logits.*would weigh it twice"),
    ],
)
def test_what_a_quantizer_does_not_have_is_refused_by_name(config, options, message):
    with pytest.raises(ValueError, match=message):
        loss_weights(make_args(**options), QUANTIZERS[config])
    zeros = {name: 0.0 for name in options if name.endswith("_weight")}
    assert loss_weights(make_args(**zeros), QUANTIZERS[config])  # nothing is asked for


@pytest.mark.parametrize(
    ("extra", "logged"),
    [(torch.tensor(7.0), {"loss/extra": 7.0}), (torch.tensor([3.0, 4.0]), {"loss/extra/0": 3.0, "loss/extra/1": 4.0})],
    ids=["one-value", "one-per-codebook"],
)
def test_a_new_term_of_a_quantizer_is_taken_up_by_its_name(extra, logged):
    pixels = torch.zeros(1, 3, 4, 4)
    output = make_output(pixels)
    before, _ = tokenizer_loss(pixels, output, PUBLISHED)
    output.losses = MoreLosses(**vars(output.losses), extra=extra)
    with pytest.raises(ValueError, match=r"loss term 'extra' has no weight.* an option extra_weight"):
        tokenizer_loss(pixels, output, PUBLISHED)
    loss, scalars = tokenizer_loss(pixels, output, {**PUBLISHED, "extra": 0.5})
    assert loss.item() == pytest.approx(before.item() + 0.5 * 7.0)
    assert {name: value.item() for name, value in scalars.items() if "extra" in name} == logged


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("kind", "for_discriminator", "for_generator"),
    [
        ("hinge", 0.5 * ((0 + 0.5) / 2 + (0 + 1.5) / 2), 0.25 + 0.5),
        ("vanilla", None, -(softplus(-2.0) + softplus(0.5)) / 2),
        ("non-saturating", None, (softplus(2.0) + softplus(-0.5)) / 2),
    ],
)
def test_gan_losses(kind, for_discriminator, for_generator):
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.5])
    if for_discriminator is None:
        for_discriminator = 0.5 * ((softplus(-2.0) + softplus(-0.5)) / 2 + (softplus(-2.0) + softplus(0.5)) / 2)
    loss, scalars = discriminator_loss(kind, real, fake)
    assert loss.item() == pytest.approx(for_discriminator)
    assert scalars["discriminator/real"] == pytest.approx(1.25)
    assert generator_loss(kind, fake)[0].item() == pytest.approx(for_generator)


@pytest.mark.parametrize("kind", ["hinge", "vanilla", "non-saturating"])
def test_the_generator_is_pushed_towards_real(kind):
    fake = torch.zeros(4, requires_grad=True)
    generator_loss(kind, fake)[0].backward()
    assert (fake.grad < 0).all()


def test_adaptive_weight_balances_the_gradients():
    layer = torch.nn.Parameter(torch.ones(3))
    loss, adversarial = 4.0 * layer.sum(), 0.5 * layer.sum()
    weight = adaptive_weight(loss, adversarial, layer)
    assert weight.item() == pytest.approx(8.0, rel=1e-3)
    assert not weight.requires_grad
    (loss + weight * adversarial).backward()  # the graph is still there


def test_representation_loss_by_hand():
    prediction = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    target = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    # cosines: first row 1 and 1, second row 0 and 0
    expected = math.log(2)
    assert representation_loss(prediction, target).item() == pytest.approx(expected)
    matched = representation_loss(prediction, prediction).item()
    assert matched == pytest.approx(math.log(1 + math.exp(-1)))
    assert representation_loss(prediction, prediction, temperature=0.5).item() == pytest.approx(
        math.log(1 + math.exp(-2))
    )


def test_representation_loss_with_gathered_targets():
    torch.manual_seed(0)
    prediction, target = torch.randn(4, 8), torch.randn(4, 8)
    whole = representation_loss(prediction, target)
    halves = [representation_loss(prediction[i : i + 2], target, offset=i) for i in (0, 2)]
    torch.testing.assert_close(whole, torch.stack(halves).mean())


def test_representation_loss_at_batch_one_still_teaches():
    prediction = torch.tensor([[1.0, 1.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = representation_loss(prediction, target)
    assert loss.item() == pytest.approx(1 - 2**-0.5)
    loss.backward()
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None, "the teacher is frozen"


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_patch_discriminator_shapes(norm, num_layers):
    discriminator = PatchDiscriminator(3, 8, num_layers, norm)
    size = discriminator.min_size
    assert discriminator(torch.randn(2, 3, size, size)).shape == (2, 1, 1, 1)
    with pytest.raises(RuntimeError):
        discriminator(torch.randn(2, 3, size - 1, size - 1))


def test_published_patch_discriminator():
    discriminator = PatchDiscriminator()
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_765_633
    assert discriminator(torch.randn(1, 3, 256, 256)).shape == (1, 1, 30, 30)
