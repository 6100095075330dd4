# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The validation bound against the sampler's exact likelihood, on so few codes that all states can be written out."""

import itertools

import pytest
import tiny
import torch

from fqgan_hf.modeling.conditioning import join_conditions
from fqgan_hf.modeling.configuration_code_diffusion import CodeDiffusionConfig
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler
from fqgan_hf.training.code_diffusion.validation import (
    draw_earlier_codes,
    guess_codes,
    held_out_bound,
    likelihood,
    mean_log_p0,
)


V, T = 3, 4
CHAINS = {
    "absorbing": {"transition": "absorbing"},
    "uniform": {"alpha_cum_start": 0.8, "alpha_cum_end": 0.05, "gamma_cum_start": 0.05, "gamma_cum_end": 0.7},
}
CLEAN = torch.tensor(list(itertools.product(range(V), repeat=2)))[:, None]  # all (1, 2) of one position, two codebooks
REPEATS = 120  # of each of these images
STATES = torch.tensor(list(itertools.product(range(V + 1), repeat=2)))[:, None]


def make_scheduler(chain: str) -> CodeDiffusionScheduler:
    return CodeDiffusionScheduler(codebook_size=V, num_train_timesteps=T, **CHAINS[chain])


def make_model(head_type: str, num_codebooks: int = 2) -> CodeDiffusionTransformer:
    settings = {**tiny.BACKBONE, "num_classes": 1, "grid_height": 1, "grid_width": 1, "codebook_size": V}
    config = CodeDiffusionConfig(**settings, num_codebooks=num_codebooks, head_type=head_type, num_train_timesteps=T)
    model = CodeDiffusionTransformer(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def one_step(scheduler: CodeDiffusionScheduler, t: int) -> torch.Tensor:
    """q(x_s | x_t, x_0) of one code: `(V + 1 of x_t, V of x_0, V + 1 of x_s)`, from the posterior under a sure x_0."""
    sure = torch.eye(V, dtype=torch.float64).expand(V + 1, V, V)
    noisy = torch.arange(V + 1)[:, None].expand(-1, V)
    return scheduler.chain.posterior(sure, noisy, torch.tensor(t), torch.tensor(t - 1))


def forward(scheduler: CodeDiffusionScheduler, t: int) -> torch.Tensor:
    """q(x_t | x_0) of one code, `(V of x_0, V + 1 of x_t)`."""
    outcomes = scheduler.chain.forward_outcomes(torch.tensor(t))
    codes = outcomes.original * torch.eye(V, dtype=torch.float64) + outcomes.uniform / V
    return torch.cat([codes, outcomes.mask.expand(V, 1)], dim=1)


@torch.no_grad()
def exact_figures(model: CodeDiffusionTransformer, scheduler: CodeDiffusionScheduler) -> tuple[torch.Tensor, ...]:
    """Of the ancestral sampler -log p(x_0) and the variational bound of it, `(V * V,)` each, without any drawing."""
    labels = torch.zeros(len(STATES), dtype=torch.long)
    prior = forward(scheduler, T).mean(0)
    probs = prior[STATES[:, 0, 0]] * prior[STATES[:, 0, 1]]
    bound = torch.full((len(CLEAN),), 2 * scheduler.prior_bound, dtype=torch.float64)
    for t in range(T, 0, -1):
        joint = torch.zeros(len(STATES), V, V, dtype=torch.float64)  # p(x_0 | x_t)
        for clean in CLEAN:
            logits = model(
                STATES, torch.full_like(labels, t), clean.expand(len(STATES), 1, 2), class_labels=labels
            ).logits  # fmt: skip
            first, second = clean[0].tolist()
            log_probs = logits.double().log_softmax(-1)[:, 0]
            log_first = log_probs[:, 0, first]
            if not scheduler.chain.has_uniform:  # where it is not masked it is known
                known = STATES[:, 0, 0]
                log_first = log_first.where(known == V, torch.where(known == first, 0.0, -torch.inf))
            joint[:, first, second] = (log_first + log_probs[:, 1, second]).exp()
        step = one_step(scheduler, t)
        ways = step[STATES[:, 0, 0]], step[STATES[:, 0, 1]]  # (x_t, x_0, x_s) of each codebook
        following = torch.einsum("nab,nax,nby->nxy", joint, *ways)  # p(x_s | x_t)
        probs = torch.einsum("n,nxy->xy", probs, following).flatten()  # in the order of STATES
        for i, clean in enumerate(CLEAN):
            first, second = clean[0].tolist()
            noisy = forward(scheduler, t)[first, STATES[:, 0, 0]] * forward(scheduler, t)[second, STATES[:, 0, 1]]
            true = ways[0][:, first, :, None] * ways[1][:, second, None]
            divergence = torch.xlogy(true, true) - torch.xlogy(true, following)
            bound[i] += (noisy * divergence.sum((1, 2))).sum()
    return -probs.view(V + 1, V + 1)[:V, :V].flatten().log(), bound


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("head_type", ["ar", "linear"])
def test_it_bounds_the_samplers_likelihood(head_type, chain):
    """For any network: not below the exact variational bound, which is not below -log p(x_0), and close to it."""
    model, scheduler = make_model(head_type), make_scheduler(chain)
    likelihoods, exact = exact_figures(model, scheduler)
    assert (-likelihoods).exp().sum().item() == pytest.approx(1)
    assert (exact > likelihoods).all()
    codes = CLEAN.repeat(REPEATS, 1, 1)
    inputs = {"class_labels": torch.zeros(len(codes), dtype=torch.long)}
    with torch.no_grad():
        found = held_out_bound(scheduler, model, codes, inputs, torch.arange(len(codes)), T, num_guesses=4)
    found = found.sum(1).view(REPEATS, -1).double()
    error = found.std(0) / REPEATS**0.5
    excess = found.mean(0) - exact
    assert (excess > -4 * error).all()
    if head_type == "linear":  # where no code depends on another nothing is lost
        assert (excess < 4 * error).all()
    assert excess.mean() < 0.1 * exact.mean()


@torch.no_grad()
def exact_log_p0(scheduler, model, noisy, earlier, time) -> torch.Tensor:
    """log p(x_0 | x_t, x_s of the earlier codes) of three codes, `(B, 3, V)`, by going through all x_0."""
    batch, labels = len(noisy), torch.zeros(len(noisy), dtype=torch.long)
    weights = torch.zeros(batch, V, V, V, dtype=torch.float64)
    for clean in itertools.product(range(V), repeat=3):
        codes = torch.tensor(clean).expand(batch, 1, 3)
        log_probs = model(noisy, time, codes, class_labels=labels).logits.double().log_softmax(-1)[:, 0]
        if not scheduler.chain.has_uniform:  # those that are not masked are known
            known = torch.full_like(log_probs, -torch.inf).scatter(-1, noisy[:, 0, :, None].clamp(max=V - 1), 0.0)
            log_probs[:, :2] = log_probs.where(noisy[:, 0, :, None] == V, known)[:, :2]
        weights[:, clean[0], clean[1], clean[2]] = sum(log_probs[:, k, clean[k]] for k in range(3)).exp()
    ways = [likelihood(scheduler.chain, noisy[:, 0, k], earlier[:, 0, k], time, time - 1) for k in range(2)]
    found = []
    for k in range(3):
        others = [1 + j for j in range(3) if j != k]
        found.append(weights.sum(others))
        weights = weights * ways[k][:, :, None, None].movedim(1, 1 + k) if k < 2 else weights
    return torch.stack([(probs / probs.sum(1, keepdim=True)).log() for probs in found], dim=1)


@pytest.mark.parametrize("chain", CHAINS)
def test_many_guesses_come_to_what_is_known(chain):
    """With three codebooks, of which the last sees two that may be guesses: the mean over all of them, weighted."""
    model, scheduler = make_model("ar", num_codebooks=3), make_scheduler(chain)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(V, (16, 1, 3), generator=generator)
    time = torch.arange(16) % T + 1
    noisy = scheduler.add_noise(clean, time, generator)
    uniforms = torch.rand(16, 1, 3, 101, dtype=torch.float64, generator=generator)
    earlier = draw_earlier_codes(scheduler.chain, clean, noisy, time, uniforms[..., 0])
    exact = exact_log_p0(scheduler, model, noisy, earlier, time)
    labels = torch.zeros(16, dtype=torch.long)
    with torch.no_grad():
        prefix = join_conditions(model.embed_conditions(labels), [True])
        states = model.backbone(noisy, time, prefix)
        errors = []
        for num_guesses in (100, 1):
            chosen = uniforms[..., 1 : 1 + num_guesses]
            found = mean_log_p0(scheduler.chain, model, states, (noisy, earlier, time), chosen)[:, 0]
            errors.append((found.exp() - exact.exp()).abs())
    if not scheduler.chain.has_uniform:  # of what is known nothing is asked
        errors = [error * (noisy[:, 0, :, None] == V) for error in errors]
    assert errors[0][:, 0].max() < 1e-5, "there is nothing to guess before the first"
    assert errors[0].max() < 0.15
    assert errors[1].max() > 0.2, "a single guess is far from that"


def test_true_earlier_codes_would_be_no_bound():
    """What a head is told must be what the step's outcome tells: with the truth itself it seems better than it is."""
    model, scheduler = make_model("ar"), make_scheduler("absorbing")
    codes = CLEAN.repeat(REPEATS, 1, 1)
    labels = torch.zeros(len(codes), dtype=torch.long)

    def told(noisy, times):
        return model(noisy, times, codes, class_labels=labels).logits.log_softmax(-1)

    with torch.no_grad():
        seeming = scheduler.elbo(told, codes, generator=torch.Generator().manual_seed(0))
        bound = held_out_bound(
            scheduler, model, codes, {"class_labels": labels}, torch.arange(len(codes)), num_times=T
        )
    torch.testing.assert_close(seeming[:, 0].mean(), bound[:, 0].mean(), rtol=0.1, atol=0)
    assert seeming[:, 1].mean() < bound[:, 1].mean() - 0.05


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("t", [1, 2, T])
def test_likelihood_of_every_clean_code(chain, t):
    scheduler = make_scheduler(chain)
    expected = one_step(scheduler, t)  # (x_t, x_0, x_s)
    for noisy, earlier in itertools.product(range(V + 1), repeat=2):
        found = likelihood(
            scheduler.chain, torch.tensor([noisy]), torch.tensor([earlier]), torch.tensor(t), torch.tensor(t - 1)
        )
        torch.testing.assert_close(found[0], expected[noisy, :, earlier])


def test_guesses_are_distributed_as_what_is_known():
    """x_0 given x_s, for x_s from the true x_0: by counting."""
    scheduler, t, number = make_scheduler("uniform"), 3, 20000
    log_p0 = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    step = one_step(scheduler, t)
    uniforms = torch.rand(1, number, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for noisy, clean in itertools.product(range(V + 1), range(V)):
        codes, noisy_codes, time = torch.full((1, number), clean), torch.full((1, number), noisy), torch.tensor([t])
        earlier_codes = draw_earlier_codes(
            scheduler.chain, codes[..., None], noisy_codes[..., None], time, uniforms[..., :1]
        )
        guesses, log_likelihood = guess_codes(
            scheduler.chain, log_p0.expand(1, number, V), noisy_codes, earlier_codes[..., 0], time, uniforms[..., 1:]
        )
        torch.testing.assert_close(log_likelihood[0].exp(), (log_p0.exp() @ step[noisy])[earlier_codes[0, :, 0]])
        weights = log_p0.exp()[:, None] * step[noisy]  # (x_0, x_s)
        expected = (weights / weights.sum(0).clamp(min=1e-300)) @ step[noisy, clean]
        counted = guesses.flatten().bincount(minlength=V) / number
        assert (counted - expected).abs().max() < 0.02, (noisy, clean)


def test_an_image_has_its_own_noise():
    """The same bound whatever stands beside it, and the same each time."""
    model, scheduler = make_model("ar"), make_scheduler("absorbing")
    index = torch.tensor([7, 3, 9])
    inputs = {"class_labels": torch.zeros(3, dtype=torch.long)}
    with torch.no_grad():
        together = held_out_bound(scheduler, model, CLEAN[:3], inputs, index)
        alone = held_out_bound(scheduler, model, CLEAN[1:2], {"class_labels": inputs["class_labels"][:1]}, index[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)
