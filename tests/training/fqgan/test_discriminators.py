# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""StyleGAN's discriminator and LeCam."""

import pytest
import torch

from fqgan_hf.training.fqgan.discriminators import LeCam, StyleGANDiscriminator, _blur_down, _minibatch_stddev


@pytest.mark.parametrize("resolution", [8, 12, 32, 33])
@pytest.mark.parametrize("batch", [1, 3])
def test_one_logit_an_image(resolution, batch):
    discriminator = StyleGANDiscriminator(3, 4, resolution)
    images = torch.randn(batch, 3, resolution, resolution, requires_grad=True)
    logits = discriminator(images)
    assert logits.shape == (batch, 1, 1, 1)
    logits.sum().backward()
    assert torch.isfinite(images.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in discriminator.parameters())


def test_signals_keep_their_size_through_the_blocks():
    """Equalized learning rate: unit weights, yet no layer lets activations grow or vanish."""
    discriminator = StyleGANDiscriminator(3, 16, 64)
    assert all(0.9 < block.conv1.weight.std() < 1.1 for block in discriminator.blocks)
    hidden = discriminator.from_rgb(torch.randn(4, 3, 64, 64))
    for block in discriminator.blocks:
        hidden = block(hidden)
        assert 0.2 < hidden.std() < 2


def test_blur_is_a_low_pass():
    flat = torch.full((1, 2, 10, 9), 3.0)
    assert _blur_down(flat).shape == (1, 2, 5, 5)
    torch.testing.assert_close(_blur_down(flat)[:, :, 1:-1, 1:-1], torch.full((1, 2, 3, 3), 3.0))
    checkerboard = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert _blur_down(checkerboard[None, None])[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_minibatch_stddev_by_hand():
    x = torch.zeros(8, 2, 3, 3)
    x[4:] = 2.0  # groups of 4 are every second image: two at 0 and two at 2
    stddev = _minibatch_stddev(x)
    assert stddev.shape == (8, 3, 3, 3)
    torch.testing.assert_close(stddev[:, 2], torch.ones(8, 3, 3))
    assert _minibatch_stddev(x[:1])[:, 2].abs().max() < 1e-3, "one image differs from nothing"


def test_lecam_by_hand():
    lecam = LeCam(decay=0.5)
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, -3.0])
    lecam.update(torch.stack([real.mean(), fake.mean()]))
    # The averages start at the first batch: 1 and -2. Real logits are drawn to -2, generated ones to 1.
    assert lecam(real, fake).item() == pytest.approx((16 + 4) / 2 + (4 + 16) / 2)
    lecam.update(torch.tensor([4.0, 4.0]))
    torch.testing.assert_close(lecam.sums / lecam.weight, torch.tensor([(1 + 2 * 4) / 3, (-2 + 2 * 4) / 3]))


def test_lecam_survives_a_bad_batch():
    lecam = LeCam()
    lecam.update(torch.tensor([1.0, -1.0]))
    before = {name: tensor.clone() for name, tensor in lecam.state_dict().items()}
    lecam.update(torch.tensor([float("nan"), 0.0]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in lecam.state_dict().items())
    assert set(before) == {"sums", "weight"} and not list(lecam.parameters())
