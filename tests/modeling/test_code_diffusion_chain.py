# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The chain of discrete diffusion against products of transition matrices, and a distribution sampled back."""

import itertools
import math

import pytest
import torch
from enumerated import (
    KINDS,
    Enumerated,
    T,
    V,
    between,
    cumulative,
    distance,
    given_original,
    grid,
    make,
    matrix,
    random_log_p0,
    shares,
)

from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler


@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_are_the_products_of_the_steps(kind):
    scheduler = make(kind)
    for t, (alpha, gamma) in enumerate(cumulative(scheduler)):
        product = between(scheduler, 0, t)
        torch.testing.assert_close(product, matrix(alpha, gamma, V), rtol=0, atol=1e-12)
        outcomes = scheduler.chain.forward_outcomes(torch.tensor(t))
        torch.testing.assert_close(
            torch.stack([outcomes.original + outcomes.uniform / V, outcomes.uniform / V, outcomes.mask]),
            product[0, [0, 1, V]],
            rtol=0,
            atol=1e-12,
        )
        assert alpha + gamma <= 1


def test_the_published_schedules_leave_the_uniform_share_they_should():
    released, paper = CodeDiffusionScheduler(1024), CodeDiffusionScheduler(1024, gamma_cum_end=0.9)
    times = torch.arange(1, 101)
    torch.testing.assert_close(released.chain.forward_outcomes(times).uniform, torch.full((100,), 1e-6).double())
    uniform = paper.chain.forward_outcomes(times).uniform
    assert (uniform.diff() > 0).all() and abs(uniform[-1] - 0.1) < 1e-4
    assert not make("mask-only").chain.has_uniform and not make("absorbing").chain.has_uniform
    assert 0 < released.prior_bound < 1e-4 and make("absorbing").prior_bound == 0


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_the_marginals_of_the_matrices(kind):
    scheduler = make(kind)
    codes = torch.tensor([[2], [0]]).expand(2, 20_000)
    for t in range(1, T + 1):
        noisy = scheduler.add_noise(codes, torch.tensor([t, T]), uniforms=grid(20_000).expand(2, -1))
        for image, time in enumerate((t, T)):
            expected = between(scheduler, 0, time)[codes[image, 0]]
            torch.testing.assert_close(shares(noisy[image]), expected, rtol=0, atol=1e-4)
    drawn = scheduler.add_noise(codes, torch.tensor([3, 3]), torch.Generator().manual_seed(0))
    assert distance(shares(drawn[0]), between(scheduler, 0, 3)[2]) < 0.02
    start = scheduler.initial_codes((1, 20_000, 1), torch.Generator().manual_seed(0))
    expected = between(scheduler, 0, T)[:V].mean(dim=0)
    assert distance(shares(start), expected) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_and_loss_equal_the_sums_over_matrices(kind):
    """Every x_t, every t, every s < t; the loss for every x_0."""
    scheduler = make(kind, auxiliary_weight=0.0)
    log_p0 = random_log_p0(1, V + 1)
    codes = torch.arange(V + 1)[None]
    for t, s in itertools.combinations(range(T, -1, -1), 2):
        reference = given_original(scheduler, s, t)
        expected = torch.einsum("cxs,cx->cs", reference, log_p0[0].exp())
        found = scheduler.posterior(log_p0, codes, t, torch.tensor([s]))
        torch.testing.assert_close(found.exp()[0], expected, rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(1, V + 1).double(), rtol=0, atol=1e-12)
        if s != t - 1:
            continue
        # One image for each pair of x_t and x_0.
        noisy, clean = (x.flatten()[:, None, None] for x in torch.meshgrid(codes[0], codes[0, :V], indexing="ij"))
        output = scheduler.loss(log_p0[0][noisy], clean, noisy, torch.full((len(noisy),), t))
        q = reference.flatten(0, 1)
        p = expected[:, None].expand_as(reference).flatten(0, 1).clamp(min=math.exp(-70))
        divergence = (torch.xlogy(q, q) - q * p.log()).sum(-1)
        torch.testing.assert_close(output.codebook_losses[:, 0], T * divergence, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(output.loss, output.codebook_losses[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_an_ancestral_step_is_a_draw_from_the_posterior(kind):
    """x_0 and then x_s given x_0, over a grid of both uniform numbers."""
    scheduler, num = make(kind), 150
    scheduler.set_timesteps(3)
    log_p0 = random_log_p0(V + 1)
    uniforms = torch.stack(torch.meshgrid(grid(num), grid(num), indexing="ij"), dim=-1).view(1, -1, 1, 2)
    for t, s in itertools.pairwise([*scheduler.timesteps.tolist(), 0]):
        for code in range(V + 1):
            sample = torch.full((1, num**2, 1), code)
            output = scheduler.step(log_p0[code].expand(1, num**2, 1, V), t, sample, uniforms=uniforms)
            expected = scheduler.posterior(log_p0[None, code], torch.tensor([code]), t, s)[0].exp()
            torch.testing.assert_close(shares(output.prev_sample), expected, rtol=0, atol=1.5e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [1, 2, 4, T])
def test_a_certain_prediction_gives_the_marginals_whatever_the_stride(kind, num_steps):
    """With p(x_0 | x_t) = 1 at one code the states of every stride are distributed as the forward process says."""
    scheduler = make(kind)
    scheduler.set_timesteps(num_steps)
    certain = torch.full((1, V + 1, V), -math.inf, dtype=torch.float64).index_fill(2, torch.tensor(1), 0.0)
    times = [*scheduler.timesteps.tolist(), 0]
    state = between(scheduler, 0, T)[1]
    for t, s in itertools.pairwise(times):
        state = state @ scheduler.posterior(certain, torch.arange(V + 1)[None], t, s)[0].exp()
        torch.testing.assert_close(state, between(scheduler, 0, s)[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_one_code_is_sampled_back_exactly_by_any_number_of_steps(kind):
    """But for what the start lacks: p(x_T) is not quite q(x_T), and no step can add to that distance."""
    task = Enumerated(make(kind), num_sites=1)
    last = between(task.scheduler, 0, T)
    lacking = distance(last[:V].mean(0), task.probs @ last[:V])
    assert lacking < {"absorbing": 1e-15, "released": 1e-5, "paper": 1e-5}.get(kind, 0.2)
    for num_steps in (1, 2, 4, T):
        assert distance(task.sampled(num_steps), task.probs) <= lacking + 1e-12


def test_two_codes_are_sampled_back_but_for_those_revealed_at_once():
    """Codes revealed in one step are drawn independently. With N even steps that happens to 1 pair in N."""
    task = Enumerated(make("absorbing", codebook_size=3, num_train_timesteps=48), num_sites=2)
    first, second = task.marginals()
    at_once = distance((first[:, None] * second).flatten(), task.probs)
    assert at_once > 0.1
    for num_steps in (1, 2, 6, 48):
        found = distance(task.sampled(num_steps), task.probs)
        assert abs(found - at_once / num_steps) < 1e-12
    assert found < 0.01


@pytest.mark.parametrize("kind", ["released", "paper"])
def test_the_published_schedules_approach_the_joint_with_the_steps(kind):
    task = Enumerated(make(kind, codebook_size=3, num_train_timesteps=48), num_sites=2)
    found = [distance(task.sampled(num_steps), task.probs) for num_steps in (1, 4, 16, 48)]
    assert found[0] > 0.1 and all(later < 0.5 * earlier for earlier, later in itertools.pairwise(found))
    assert found[-1] < 0.01


@pytest.mark.parametrize("as_codebooks", [False, True])
def test_drawing_with_step_follows_the_enumeration(as_codebooks):
    """Two codes as two positions of one codebook, and as two codebooks of one position."""
    task, num = Enumerated(make("paper", codebook_size=3), num_sites=2), 20_000
    expected = task.sampled(3)
    codes = task.scheduler.initial_codes((num, 1, 2) if as_codebooks else (num, 2, 1))
    for t in task.scheduler.timesteps.tolist():
        index = codes.view(num, 2) @ torch.tensor([4, 1])
        codes = task.scheduler.step(task.log_p0(t)[index].view(*codes.shape, 3), t, codes).prev_sample
    found = shares(codes.view(num, 2) @ torch.tensor([3, 1]), size=9)[:9]
    assert distance(found, expected) < 0.015 < distance(found, torch.full((9,), 1 / 9).double())


def test_codes_drawn_one_after_another_are_not_independent():
    """A head that knows the first codebook's code: a single step gives the joint distribution."""
    task, num = Enumerated(make("absorbing", codebook_size=3), num_sites=2), 20_000
    task.scheduler.set_timesteps(1)
    first, second = task.marginals()
    joint = task.probs.view(3, 3)
    sample = task.scheduler.initial_codes((num, 1, 2))
    uniforms = task.scheduler.draw_uniforms((num, 1, 2), None, sample.device)
    code0, score0 = task.scheduler.draw_codes(first.log().expand(num, 1, 3), uniforms[:, :, 0, 0])
    code1, score1 = task.scheduler.draw_codes((joint / first[:, None]).log()[code0], uniforms[:, :, 1, 0])
    codes, scores = torch.stack([code0, code1], dim=-1), torch.stack([score0, score1], dim=-1)
    torch.testing.assert_close(scores.sum(-1), joint[code0, code1].log())
    output = task.scheduler.step_from_codes(codes, scores, T, sample, uniforms=uniforms[..., 1])
    found = shares(output.prev_sample.view(num, 2) @ torch.tensor([3, 1]), size=9)[:9]
    assert distance(found, task.probs) < 0.015 < 0.1 < distance(found, (first[:, None] * second).flatten())
