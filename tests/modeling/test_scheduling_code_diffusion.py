# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""CodeDiffusionScheduler: timesteps, the samplers that reveal codes by count, reproducible draws, settings, errors."""

import itertools
import math

import pytest
import torch
from enumerated import (
    T,
    V,
    cumulative,
    grid,
    make,
    random_log_p0,
    shares,
)

from fqgan_hf.modeling.code_diffusion_training import TimestepSampler
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler


def test_timesteps_run_from_the_last_to_the_first():
    scheduler = CodeDiffusionScheduler(V, 100)
    assert scheduler.timesteps.tolist() == list(range(100, 0, -1))
    for num, expected in ((1, [100]), (4, [100, 75, 50, 25]), (3, [100, 67, 33])):
        scheduler.set_timesteps(num)
        assert scheduler.timesteps.tolist() == expected and scheduler.timesteps.dtype == torch.long
    masked = CodeDiffusionScheduler(V, 100, sampling="confidence")
    masked.set_timesteps(8)
    assert masked.timesteps.tolist() == [round(100 * math.cos(math.pi / 2 * i / 8)) for i in range(8)]
    for num in range(1, 101):
        for one in (scheduler, masked):
            one.set_timesteps(num)
            assert len(one.timesteps) == num and (one.timesteps.diff() < 0).all()
            assert one.timesteps[0] == 100 and one.timesteps[-1] >= 1


def walk(scheduler: CodeDiffusionScheduler, codes: torch.Tensor, generator=None, **settings) -> list[torch.Tensor]:
    """The codes before and after each step, under a prediction that depends on all of them."""
    weights = torch.randn(1, *codes.shape[1:], V, generator=torch.Generator().manual_seed(1))
    walked = [codes]
    for t in scheduler.timesteps:
        log_p0 = (weights * (1 + codes.sum((1, 2)) % 5)[:, None, None, None]).log_softmax(-1)
        codes = scheduler.step(log_p0, t, codes, generator, **settings).prev_sample
        walked.append(codes)
    return walked


@pytest.mark.parametrize("kind", ["paper", "absorbing"])
@pytest.mark.parametrize("sampling", ["purity", "confidence"])
def test_counts_are_the_schedule_and_revealed_codes_stay(kind, sampling):
    scheduler = make(kind, num_train_timesteps=100, sampling=sampling)
    kept = torch.zeros(2, 20, 2, dtype=torch.bool)
    kept[0, :5, 0] = True
    kept[1] = True
    for num_steps, given in itertools.product((1, 5, 8, 30), (None, kept)):
        scheduler.set_timesteps(num_steps)
        codes = scheduler.initial_codes((2, 20, 2))
        assert (codes == V).all()
        if given is not None:
            codes = torch.where(given, 3, codes)
        num_free = torch.full((2, 2), 20) if given is None else (~given).sum(1)
        walked = walk(scheduler, codes, kept=given)
        gammas = [gamma for _, gamma in cumulative(scheduler)]
        times = [*scheduler.timesteps.tolist(), 0]
        for index, (before, after) in enumerate(itertools.pairwise(walked), start=1):
            cosine = math.cos(math.pi / 2 * index / num_steps)
            share = gammas[times[index]] / gammas[-1] if sampling == "purity" else cosine
            assert torch.equal((after == V).sum(1), (num_free * share + 1e-9).floor().long())
            assert torch.equal(after[before < V], before[before < V])
        assert (walked[-1] < V).all()


@pytest.mark.parametrize("sampling", ["ancestral", "purity", "confidence"])
@pytest.mark.parametrize("kind", ["paper", "absorbing"])
def test_kept_codes_come_back_and_the_rest_is_generated(kind, sampling):
    scheduler = make(kind, sampling=sampling)
    clean = torch.randint(V, (3, 8, 2))
    kept = torch.rand(3, 8, 2) < 0.5
    start = torch.where(kept, clean, scheduler.initial_codes((3, 8, 2)))
    for codes in walk(scheduler, start, kept=kept):
        assert torch.equal(codes[kept], clean[kept])
    assert (codes < V).all() and not torch.equal(codes, clean)
    # From a later timestep on, as for variations of an image.
    scheduler.set_timesteps(T)
    scheduler.timesteps = scheduler.timesteps[3:]
    codes = scheduler.add_noise(clean, torch.full((3,), 3))
    assert (walk(scheduler, codes)[-1] < V).all()


def test_purity_draws_positions_by_their_largest_probability_and_sharpens():
    scheduler = make("absorbing", num_train_timesteps=3, sampling="purity", purity_scale=2.0)
    log_p0 = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1], [0.97, 0.01, 0.01, 0.01]]).double().log()
    num = 20_000
    sample = torch.full((num, 3, 1), V)
    output = scheduler.step(log_p0[:, None].expand(num, 3, 1, V), 3, sample)
    revealed = (output.prev_sample < V)[..., 0]
    assert (revealed.sum(1) == 1).all()
    purity = log_p0.exp().amax(-1)
    assert (revealed.double().mean(0) - purity / purity.sum()).abs().max() < 0.02
    codes, scores = scheduler.draw_codes(log_p0[0].expand(1000, V), grid(1000))
    torch.testing.assert_close(scores, log_p0[0, 0].expand(1000))
    torch.testing.assert_close(shares(codes)[:V], (1.8 * log_p0[0]).softmax(0), rtol=0, atol=2e-3)


def test_confidence_without_noise_reveals_the_likeliest_draws():
    scheduler = make("absorbing", sampling="confidence", confidence_temperature=0.0)
    scheduler.set_timesteps(2)
    sample = torch.full((3, 10, 2), V)
    log_p0 = random_log_p0(3, 10, 2)
    output = scheduler.step(log_p0, scheduler.timesteps[0], sample, torch.Generator().manual_seed(0))
    confidence = log_p0.gather(-1, output.pred_original_sample[..., None])[..., 0]
    revealed = output.prev_sample < V
    assert torch.equal(revealed.sum(1), torch.full((3, 2), 3))  # 10 cos(pi / 4) = 7.07 stay masked
    least = confidence.masked_fill(~revealed, math.inf).amin(1)
    assert (least > confidence.masked_fill(revealed, -math.inf).amax(1)).all()
    assert torch.equal(output.prev_sample[revealed], output.pred_original_sample[revealed])
    noisy = make("absorbing", sampling="confidence", confidence_temperature=50.0)
    noisy.set_timesteps(2)
    other = noisy.step(log_p0, noisy.timesteps[0], sample, torch.Generator().manual_seed(0))
    assert torch.equal(other.pred_original_sample, output.pred_original_sample)
    assert not torch.equal(other.prev_sample, output.prev_sample)


@pytest.mark.parametrize("sampling", ["ancestral", "purity", "confidence"])
def test_an_image_depends_on_its_own_generator_only(sampling):
    scheduler = make("paper", sampling=sampling)

    def sample(seeds: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return walk(scheduler, scheduler.initial_codes((len(seeds), 6, 2), generators), generators)[-1]

    together = sample([3, 4, 5])
    assert torch.equal(together, torch.cat([sample([seed]) for seed in (3, 4, 5)]))
    assert torch.equal(together[[2, 0]], sample([5, 3])) and not torch.equal(together[0], together[1])
    noisy = scheduler.add_noise(
        together, torch.tensor([4, 4, 4]), [torch.Generator().manual_seed(s) for s in (1, 2, 3)]
    )
    alone = scheduler.add_noise(together[1:2], torch.tensor([4]), torch.Generator().manual_seed(2))
    assert torch.equal(noisy[1:2], alone)


# ---- Settings and errors --------------------------------------------------------------------------------------------


def test_settings_survive_saving(tmp_path):
    scheduler = make("paper", sampling="purity", purity_scale=3.0, auxiliary_weight=1e-3)
    scheduler.save_pretrained(tmp_path)
    assert (tmp_path / "scheduler_config.json").is_file()
    loaded = CodeDiffusionScheduler.from_pretrained(tmp_path)
    assert dict(loaded.config) | {"_use_default_values": 0} == dict(scheduler.config) | {"_use_default_values": 0}
    assert torch.equal(loaded.chain.replaced, scheduler.chain.replaced)
    changed = CodeDiffusionScheduler.from_config(loaded.config, sampling="confidence")
    assert changed.config.sampling == "confidence" and changed.config.purity_scale == 3.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebook_size": 0}, r"codebook_size must be an integer in \[1, 16,777,216\], got 0"),
        ({"num_train_timesteps": 1.5}, "num_train_timesteps must be an integer"),
        ({"transition": "mask"}, r"transition must be one of \('mask-uniform', 'absorbing'\), got 'mask'"),
        ({"sampling": None}, "sampling must be one of .* got None"),
        ({"purity_scale": -1.0}, "purity_scale must be a number in"),
        ({"confidence_temperature": math.nan}, "confidence_temperature must be a number in"),
        ({"auxiliary_weight": True}, "auxiliary_weight must be a number in"),
        ({"alpha_cum_start": 1.5}, "alpha_cum_start must be a number in"),
        ({"alpha_cum_end": 1.0}, "alpha_cum must fall and gamma_cum rise"),
        ({"gamma_cum_end": 1.0}, "alpha_cum must fall and gamma_cum rise, and stay below 1"),
        ({"alpha_cum_end": 0.1}, "must be at most 1 at start and end"),
        ({"alpha_cum_start": 0.5, "alpha_cum_end": 0.4, "gamma_cum_end": 0.6}, "replaced codes do not come back"),
    ],
)
def test_settings_without_a_chain_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CodeDiffusionScheduler(**{"codebook_size": V, **settings})


def test_one_timestep_is_enough():
    for kind in ("paper", "absorbing"):
        scheduler = make(kind, num_train_timesteps=1)
        assert scheduler.timesteps.tolist() == [1]
        assert (walk(scheduler, scheduler.initial_codes((2, 3, 1)))[-1] < V).all()


def test_wrong_arguments_are_named():
    scheduler = make(sampling="purity")
    codes, times = torch.zeros(2, 3, 1, dtype=torch.long), torch.tensor([1, 2])
    log_p0 = random_log_p0(2, 3, 1)
    kept = torch.ones(2, 3, 1, dtype=torch.bool)
    masked = torch.full_like(codes, V)
    nothing = torch.full_like(log_p0, math.nan)
    wrong = [
        (lambda: scheduler.set_timesteps(T + 1), r"num_inference_steps must be an integer in \[1, 6\], got 7"),
        (lambda: scheduler.set_timesteps(0), "num_inference_steps must be"),
        (lambda: scheduler.add_noise(codes + V, times), r"codes must be in \[0, 3\], got 4 to 4"),
        (lambda: scheduler.add_noise(codes.float(), times), "codes must be int64"),
        (lambda: scheduler.add_noise(codes, times - 1), r"timesteps must be in \[1, 6\], got 0"),
        (lambda: scheduler.add_noise(codes, times[:1]), r"timesteps must be int64 of shape \(2,\)"),
        (lambda: scheduler.add_noise(codes, times, [torch.Generator()]), "generator must be .* a list of 2, got 1"),
        (lambda: scheduler.add_noise(codes, times, 7), "generator must be a torch.Generator"),
        (lambda: scheduler.add_noise(codes, times, uniforms=torch.rand(2, 3)), "uniforms must have shape"),
        (lambda: scheduler.posterior(log_p0, codes, 2, 2), r"s must be before t, got s \[2\] and t \[2\]"),
        (lambda: scheduler.posterior(log_p0, codes, T + 1, 2), r"t must be in \[1, 6\], got 7"),
        (lambda: scheduler.posterior(log_p0[..., 1:], codes, 2, 1), r"log_p0 must have shape \(2, 3, 1, 4\)"),
        (lambda: scheduler.loss(log_p0, codes, codes[:1], times), "noisy_codes must have shape"),
        (lambda: scheduler.loss(log_p0, masked, codes, times), r"codes must be in \[0, 3\], got 4"),
        (lambda: scheduler.elbo(None, codes, torch.tensor(3)), r"timesteps must have shape \(n,\) or \(n, 2\)"),
        (lambda: scheduler.stratified_timesteps(0, 2), "num must be an integer in"),
        (lambda: scheduler.step(log_p0, 0, codes), "timestep must be one of the 6 .* from 6 down to 1, got 0"),
        (lambda: scheduler.step(log_p0[:1], 6, codes), r"model_output must have shape \(2, 3, 1, 4\)"),
        (lambda: scheduler.step(log_p0[:, 0], 6, codes[:, 0]), r"\(batch, positions, codebooks\), got \(2, 1\)"),
        (lambda: scheduler.step(log_p0, 6, codes + V + 1), r"sample must be in \[0, 4\], got 5"),
        (lambda: scheduler.step(nothing, 6, masked), "logits of image 0 are not finite at position 0"),
        (lambda: scheduler.step(log_p0, 6, masked, kept=kept), r"kept must not hold for codes that are \[MASK\]"),
        (lambda: scheduler.step(log_p0, 6, codes, kept=kept[:1]), "kept must have shape"),
        (lambda: scheduler.step(log_p0, 6, codes, kept=kept.long()), "kept must be bool, got torch.int64"),
        (lambda: scheduler.step_from_codes(codes, log_p0, 6, masked), "scores must have shape"),
        (lambda: TimestepSampler(4, decay=1.0), "decay must be a number in"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    assert scheduler.step(log_p0, 6, masked, return_dict=False)[0].shape == codes.shape
