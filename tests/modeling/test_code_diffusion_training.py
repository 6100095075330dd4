# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The loss of discrete diffusion, its bound, and the choice of timesteps."""

import math

import pytest
import torch
from enumerated import (
    KINDS,
    Enumerated,
    T,
    V,
    between,
    grid,
    make,
    random_log_p0,
    shares,
)

from fqgan_hf.modeling.code_diffusion_training import TimestepSampler


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_of_an_exact_denoiser_is_the_entropy(kind):
    """For one code, plus KL(q(x_T) || p(x_T)), which is 0 where everything ends in [MASK]."""
    task = Enumerated(make(kind), num_sites=1)
    last = between(task.scheduler, 0, T)
    q, p = task.probs @ last[:V], last[:V].mean(0)
    lacking = (torch.xlogy(q, q) - torch.xlogy(q, p)).sum()
    torch.testing.assert_close(task.bound(), task.entropy() + lacking, rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_timesteps", [1, 2, 8])
def test_the_bound_of_two_codes_exceeds_the_entropy_by_the_share_revealed_at_once(num_timesteps):
    task = Enumerated(make("absorbing", codebook_size=3, num_train_timesteps=num_timesteps), num_sites=2)
    information = sum(-torch.xlogy(p, p).sum() for p in task.marginals()) - task.entropy()
    torch.testing.assert_close(task.bound(), task.entropy() + information / num_timesteps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["much-uniform", "absorbing"])
def test_the_mean_loss_over_the_timesteps_is_the_bound(kind):
    scheduler = make(kind, auxiliary_weight=0.25)
    codes = torch.randint(V, (2, 5, 3))
    table = random_log_p0(T + 1, V + 1)

    def log_p0(noisy_codes: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return table[timesteps[:, None, None], noisy_codes]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (7, 8)]

    drawn, losses = generators(), []
    for t in range(1, T + 1):
        times = torch.full((2,), t)
        noisy = scheduler.add_noise(codes, times, drawn)
        prediction = log_p0(noisy, times)
        output = scheduler.loss(prediction, codes, noisy, times)
        assert output.codebook_losses.shape == (2, 3) and (output.codebook_losses > -1e-12).all()
        cross_entropy = -prediction.gather(-1, codes[..., None]).mean((1, 2, 3))
        expected = output.codebook_losses.mean(1) + T * 0.25 * (2 - t / T) * cross_entropy
        torch.testing.assert_close(output.loss, expected)
        losses.append(output.codebook_losses)
    bound = torch.stack(losses).mean(0) + scheduler.prior_bound
    torch.testing.assert_close(scheduler.elbo(log_p0, codes, generator=generators()), bound)
    alone = scheduler.elbo(log_p0, codes[1:], generator=generators()[1:])
    torch.testing.assert_close(alone, bound[1:])

    # Some timesteps: one in each part of the chain, each part as often as another.
    times = torch.stack([scheduler.stratified_timesteps(4, 2) for _ in range(200)])
    assert times.shape == (200, 4, 2) and ((times.diff(dim=1)) >= 0).all()
    assert (torch.bincount(times.flatten(), minlength=T + 1)[1:] / times.numel() - 1 / T).abs().max() < 0.03
    assert torch.equal(scheduler.stratified_timesteps(T, 2), torch.arange(1, T + 1)[:, None].expand(-1, 2))
    drawn, terms = generators(), []
    for some in times[0]:
        noisy = scheduler.add_noise(codes, some, drawn)
        terms.append(scheduler.loss(log_p0(noisy, some), codes, noisy, some).codebook_losses)
    expected = torch.stack(terms).mean(0) + scheduler.prior_bound
    torch.testing.assert_close(scheduler.elbo(log_p0, codes, times[0], generators()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_loss(kind):
    scheduler = make(kind)
    codes = torch.randint(V, (4, 2, 1))
    times = torch.tensor([1, 2, 4, T])
    noisy = scheduler.add_noise(codes, times)
    logits = torch.randn(4, 2, 1, V, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: scheduler.loss(x.log_softmax(-1), codes, noisy, times).loss, logits, rtol=1e-4, atol=1e-6
    )
    truncated = logits.detach().masked_fill(torch.arange(V) == codes[..., None], -math.inf).requires_grad_()
    loss = scheduler.loss(truncated.log_softmax(-1).float(), codes, noisy, times).loss
    assert loss.dtype == torch.float32 and loss.isfinite().all()


def test_importance_sampling_is_uniform_first_and_unbiased_then():
    sampler = TimestepSampler(4, min_count=2)
    times = torch.tensor([1, 2, 3, 4])
    sampler.update(times, torch.tensor([1.0, 0.0, 2.0, 3.0]))
    sampler.update(times[:3], torch.tensor([1.0, 0.0, 2.0]))
    assert torch.equal(sampler.probabilities(), torch.full((4,), 0.25).double())
    assert torch.equal(sampler.sample(8)[1], torch.ones(8))
    sampler.update(torch.tensor([4, 4]), torch.tensor([3.0, 5.0]))  # in turn: 9, 9, 0.9 * 9 + 0.1 * 25
    torch.testing.assert_close(sampler.mean_squares, torch.tensor([1.0, 0.0, 4.0, 10.6]).double())
    probs = sampler.probabilities()
    roots = sampler.mean_squares.sqrt()
    torch.testing.assert_close(probs, 0.99 * roots / roots.sum() + 0.01 / 4)

    drawn, weights = sampler.sample(100_000, uniforms=grid(100_000))
    torch.testing.assert_close(shares(drawn, 4)[1:], probs, rtol=0, atol=1e-4)
    losses = torch.tensor([3.0, 1.0, 4.0, 1.5]).double()
    torch.testing.assert_close((weights * losses[drawn - 1]).mean(), losses.mean(), rtol=1e-3, atol=0)
    assert weights.dtype == torch.float32

    other = TimestepSampler(4, min_count=2)
    other.load_state_dict(sampler.state_dict())
    assert torch.equal(other.probabilities(), probs) and torch.equal(other.counts, torch.tensor([2, 2, 2, 3]))
    sampler.update(times, torch.ones(4))
    assert torch.equal(other.probabilities(), probs)  # nothing is shared
    with pytest.raises(ValueError, match=r"mean_squares must have shape \(4,\), got \(3,\)"):
        other.load_state_dict(TimestepSampler(3).state_dict())
    with pytest.raises(ValueError, match="losses must be finite"):
        other.update(times, torch.tensor([1.0, math.nan, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"timesteps must be in \[1, 4\], got 5"):
        other.update(torch.tensor([5]), torch.ones(1))
