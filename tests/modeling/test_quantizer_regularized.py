# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Regularized quantization against Algorithm 1 of the paper, written out in float64."""

import json
import math

import pytest
import tiny
import torch
import torch.nn.functional as F

from fqgan_hf import FQGANModel, optimize
from fqgan_hf.kernels.cpu_kernels import kernel_nearest, kernels_available
from fqgan_hf.modeling import quantizer_fqgan
from fqgan_hf.modeling.quantizer_fqgan import FactorizedQuantizer, nearest_by_cosine
from fqgan_hf.modeling.quantizer_regularized import DrawTokens, RegularizedQuantizer, gumbel_noise


LOGITS = {"linear": 6, "cosine": None}  # C = 6, or d


def make(num_codebooks: int = 2, linear_dim: int | None = 6, **settings) -> RegularizedQuantizer:
    """32 codes of 4 dimensions, with logits far enough apart to matter."""
    quantizer = RegularizedQuantizer(num_codebooks, 32, 4, linear_dim=linear_dim, **settings)
    if linear_dim is not None:
        torch.nn.init.normal_(quantizer.logit_weight)
        torch.nn.init.normal_(quantizer.logit_bias)
    return quantizer


def make_latents(quantizer: RegularizedQuantizer, batch: int = 3, height: int = 4, width: int = 5) -> torch.Tensor:
    return torch.randn(batch, quantizer.num_codebooks, quantizer.latent_dim, height, width)


def naive_logits(quantizer: RegularizedQuantizer, latents: torch.Tensor) -> torch.Tensor:
    """`(B, K, H, W, N)` in float64, as the formulas have them."""
    rows = latents.double().permute(0, 1, 3, 4, 2)
    if quantizer.logit_weight is not None:
        products = torch.einsum("bkhwc,knc->bkhwn", rows, quantizer.logit_weight.double())
        return products + quantizer.logit_bias.double()[None, :, None, None]
    codes = F.normalize(quantizer.embedding.double(), dim=-1)
    cosines = torch.einsum("bkhwc,knc->bkhwn", F.normalize(rows, dim=-1), codes)
    return quantizer.log_logit_scale.double().exp()[None, :, None, None, None] * cosines


# ---- Values ----


@pytest.mark.parametrize("num_codebooks", [1, 2, 3])
@pytest.mark.parametrize("kind", LOGITS)
def test_evaluation_takes_the_likeliest_code(kind, num_codebooks):
    quantizer = make(num_codebooks, LOGITS[kind]).eval()
    latents = make_latents(quantizer)
    expected = naive_logits(quantizer, latents).argmax(-1)
    with_gradient = quantizer(latents)
    with torch.no_grad():
        output = quantizer(latents)
    for found in (output, with_gradient, quantizer(latents, return_losses=True)):
        assert torch.equal(found.codes, expected)
        rows = quantizer.lookup(expected.transpose(0, 1).flatten(1)).unflatten(1, (3, 4, 5))
        torch.testing.assert_close(found.latents, rows.permute(1, 0, 4, 2, 3), rtol=0, atol=1e-7)
        assert found.sampling_distance is None


@pytest.mark.parametrize("kind", LOGITS)
def test_training_gives_hard_rows_and_their_distance_to_the_likeliest(kind):
    quantizer = make(2, LOGITS[kind], mask_ratio=0.5).train()
    latents = make_latents(quantizer)
    output = quantizer(latents)
    likeliest = naive_logits(quantizer, latents).argmax(-1)
    rows = quantizer.lookup(output.codes.transpose(0, 1).flatten(1))
    best = quantizer.lookup(likeliest.transpose(0, 1).flatten(1))
    torch.testing.assert_close(output.latents.permute(1, 0, 3, 4, 2).flatten(1, 3), rows, rtol=0, atol=1e-7)
    expected = (rows - best).square().sum(dim=(0, 2)).view(3, 4, 5)
    torch.testing.assert_close(output.sampling_distance, expected)
    moved = (output.codes != likeliest).any(1)
    assert moved.any() and torch.equal(output.sampling_distance > 0, moved)
    assert not output.sampling_distance.requires_grad


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.4, 0.55, 1.0])
@pytest.mark.parametrize("shared", [True, False])
def test_the_number_of_stochastic_positions_is_exact_for_every_image(ratio, shared):
    quantizer = make(3, mask_ratio=ratio, mask_shared=shared)
    for positions in (1, 7, 64):
        places = quantizer._stochastic_rows(5, positions, torch.device("cpu"))
        count = round(ratio * positions)
        assert places.shape == (3, 5 * count)
        for rows in places:
            assert len(rows.unique()) == len(rows)
            assert torch.bincount(rows // positions, minlength=5).tolist() == [count] * 5
    if 0 < ratio < 1:
        assert all(torch.equal(places[0], other) for other in places[1:]) == shared
    first, second = (quantizer._stochastic_rows(2, 64, torch.device("cpu")) for _ in range(2))
    assert torch.equal(first.sort().values, second.sort().values) == (ratio in (0.0, 1.0))


@pytest.mark.parametrize("kind", LOGITS)
def test_samples_follow_the_softmax_of_the_logits(kind):
    quantizer = make(1, LOGITS[kind], mask_ratio=1.0).train()
    if kind == "linear":
        quantizer.logit_weight.data *= 0.3
    latents = make_latents(quantizer, 1, 1, 1).expand(-1, -1, -1, 100, 200)
    probabilities = naive_logits(quantizer, latents[..., :1, :1]).softmax(-1).flatten()
    generators = [torch.Generator().manual_seed(7)]
    for temperature in (1.0, 0.1):  # which changes no sample
        quantizer.set_temperatures(gumbel=temperature, softmax=1.0)
        for codes in (quantizer(latents).codes, quantizer.sample(latents, generators)):
            frequencies = torch.bincount(codes.flatten(), minlength=32).double() / codes.numel()
            assert (frequencies - probabilities).abs().sum() / 2 < 0.03  # 20,000 draws of 32 codes: about 0.012


def test_noise_is_gumbel():
    noise = gumbel_noise(torch.empty(200_000)).double()
    assert noise.mean() == pytest.approx(0.5772, abs=0.01) and noise.var() == pytest.approx(math.pi**2 / 6, abs=0.03)
    assert noise.isfinite().all()


# ---- Gradients ----


def reference(rows, weights, codebook, noise, places, temperatures):
    """Algorithm 1: X = onehot + soft - sg(soft), z = X E; for one codebook, in float64."""
    logits = rows @ weights.T
    is_sampled = torch.zeros(len(rows), 1, dtype=torch.bool)
    is_sampled[places] = True
    noisy = logits + torch.zeros_like(logits).index_add(0, places, noise)
    soft = torch.where(is_sampled, (noisy / temperatures[0]).softmax(-1), (logits / temperatures[1]).softmax(-1))
    hard = F.one_hot(noisy.argmax(-1), len(weights)).double()
    tokens = hard + soft - soft.detach()
    return tokens @ codebook, tokens.sum(0), noisy.argmax(-1), logits.argmax(-1)


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("num_places", [0, 9, 20])
def test_gradients_are_those_of_algorithm_1(temperatures, num_places):
    inputs = [torch.randn(*shape, dtype=torch.float64) for shape in ((20, 6), (32, 6), (32, 4))]
    places = torch.randperm(20)[:num_places]
    state = torch.get_rng_state()
    noise = gumbel_noise(torch.empty(num_places, 32, dtype=torch.float64))
    torch.set_rng_state(state)
    ours, theirs = ([tensor.clone().requires_grad_(True) for tensor in inputs] for _ in range(2))
    scales = [torch.tensor(value, dtype=torch.float64) for value in temperatures]
    found = DrawTokens.apply(*ours, places, *scales)
    expected = reference(*theirs, noise, places, scales)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    of_tokens, of_counts = torch.randn(20, 4, dtype=torch.float64), torch.randn(32, dtype=torch.float64)
    for tokens, counts in (found[:2], expected[:2]):
        ((tokens * of_tokens).sum() + (counts * of_counts).sum()).backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def kept_matrices(quantizer: FactorizedQuantizer, latents: torch.Tensor) -> int:
    """How many tensors of (positions, codes) elements a training step keeps for its backward pass."""
    positions, size = latents.shape[0] * latents.shape[3] * latents.shape[4], quantizer.codebook_size
    kept = {}

    def pack(tensor):
        if tensor.numel() == positions * size:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = quantizer(latents.requires_grad_(True), return_losses=True)
    assert output.latents.requires_grad
    return len(kept)


@pytest.mark.parametrize("kind", LOGITS)
def test_one_matrix_of_positions_and_codes_is_kept_for_each_codebook(kind):
    from fqgan_hf.training.fqgan.costs import MATRICES_KEPT

    quantizer = make(3, LOGITS[kind]).train()
    assert kept_matrices(quantizer, make_latents(quantizer)) == 3 * MATRICES_KEPT["sampled"] == 3
    nearest = FactorizedQuantizer(3, 32, 4)
    assert kept_matrices(nearest, torch.randn(3, 3, 4, 4, 5)) == 3 * MATRICES_KEPT["nearest"]


@pytest.mark.parametrize("kind", LOGITS)
def test_inference_holds_a_block_of_logits(kind, monkeypatch):
    quantizer = make(2, LOGITS[kind]).eval()
    latents = make_latents(quantizer, 8)
    with torch.no_grad():
        expected = quantizer(latents).codes
        monkeypatch.setattr(quantizer_fqgan, "LOOKUP_CHUNK_ELEMENTS_CPU", 5 * 32)
        blocks = []
        product = torch.mm
        monkeypatch.setattr(torch, "mm", lambda *args, out: blocks.append(out.shape) or product(*args, out=out))
        assert torch.equal(quantizer(latents).codes, expected)
    assert len(blocks) == 2 * 32 and max(shape[0] for shape in blocks) == 5


def test_every_parameter_learns():
    for linear_dim in LOGITS.values():
        quantizer = make(2, linear_dim).train()
        latents = make_latents(quantizer).requires_grad_(True)
        output = quantizer(latents, return_losses=True)
        (output.latents.square() * torch.randn_like(output.latents)).sum().backward(retain_graph=True)
        for name, tensor in (*quantizer.named_parameters(), ("latents", latents)):
            assert tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0, name
        sum(value.sum() for value in vars(output.losses).values()).backward()


def test_evaluation_has_a_gradient_where_it_is_asked_for():
    """As that of the nearest code: whoever puts a frozen tokenizer into another loss needs it."""
    quantizer = make(1).eval()
    latents = make_latents(quantizer).requires_grad_(True)
    quantizer(latents).latents.sum().backward()
    assert latents.grad.abs().sum() > 0


def test_cosine_tokens_are_committed_to_the_likeliest_code():
    """Not to the sampled one; each of the two terms moves its own side."""
    quantizer = make(2, None, mask_ratio=1.0).train()
    latents = make_latents(quantizer).requires_grad_(True)
    losses = quantizer(latents, return_losses=True).losses
    z = F.normalize(latents.detach().double().permute(0, 1, 3, 4, 2), dim=-1)
    codes = naive_logits(quantizer, latents.detach()).argmax(-1)
    codebooks = F.normalize(quantizer.embedding.detach().double(), dim=-1)
    for k in range(2):
        expected = (codebooks[k][codes[:, k]] - z[:, k]).square().mean().item()
        assert [losses.codebook[k].item(), losses.commitment[k].item()] == pytest.approx([expected] * 2, rel=1e-5)
    for loss, sides in ((losses.codebook, [True, False]), (losses.commitment, [False, True])):
        inputs, options = (quantizer.embedding, latents), {"retain_graph": True, "materialize_grads": True}
        assert [bool(moved.any()) for moved in torch.autograd.grad(loss.sum(), inputs, **options)] == sides


def test_the_scale_of_cosines_is_bounded():
    quantizer = make(1, None)
    quantizer.log_logit_scale.data.fill_(20.0)
    _, weights = quantizer.token_logits(torch.randn(1, 7, 4))
    torch.testing.assert_close(weights.norm(dim=-1), torch.full((1, 32), 100.0))


# ---- The prior ----


def test_the_prior_term_is_the_divergence_of_hard_frequencies():
    quantizer = make(2, mask_ratio=0.4).train()
    prior = torch.rand(2, 32, dtype=torch.float64) + 0.1
    prior = prior / prior.sum(-1, keepdim=True)
    for given in (None, prior, prior[0]):
        if given is not None:
            quantizer.set_prior(given)
        output = quantizer(make_latents(quantizer), return_losses=True)
        for k in range(2):
            post = torch.bincount(output.codes[:, k].flatten(), minlength=32).double() / 60
            of_codebook = torch.full((32,), 1 / 32) if given is None else given if given.ndim == 1 else given[k]
            expected = sum(p * math.log(p / q) for p, q in zip(post.tolist(), of_codebook.tolist(), strict=True) if p)
            assert output.losses.prior[k].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_prior_term_vanishes_where_codes_are_used_as_it_says():
    quantizer = make(1)
    counts = torch.full((1, 32), 5.0, requires_grad=True)
    value = quantizer._prior_divergence(counts)
    assert value.item() == pytest.approx(0, abs=1e-6)
    value.sum().backward()
    assert counts.grad.abs().max() < 1e-6


def test_the_gradient_of_the_prior_term_pushes_towards_it():
    """d KL / d p_n = log(p_n / prior_n), in float64 by differences; half an occurrence where there is none."""
    quantizer = make(1)
    counts = torch.randint(1, 50, (1, 32)).double()
    counts.requires_grad_(True)
    quantizer._prior_divergence(counts).sum().backward()

    def divergence(n: int, step: float) -> float:
        p = (counts.detach()[0] / counts.detach().sum()).clone()
        p[n] += step
        return (p * (p * 32).log()).sum().item()

    for n in (0, 11, 31):
        slope = (divergence(n, 1e-6) - divergence(n, -1e-6)) / 2e-6 - 1  # up to the constant 1
        assert counts.grad[0, n].item() * counts.detach().sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-4)
    unused = torch.tensor([[10.0] * 31 + [0.0]], requires_grad=True)
    quantizer._prior_divergence(unused).sum().backward()
    assert unused.grad[0, -1].item() * 310 == pytest.approx(math.log(0.5 / 310 * 32), rel=1e-4)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (torch.ones(31) / 31, r"prior must have shape \(32,\) or \(2, 32\), got \(31,\)"),
        (torch.tensor([1.0] + [0.0] * 31), "prior must be positive everywhere"),
        (torch.tensor([-0.1] + [1.1 / 31] * 31), "prior must be positive everywhere"),
        (torch.ones(32), "sum to 1"),
    ],
)
def test_bad_priors_are_named(prior, message):
    with pytest.raises(ValueError, match=message):
        make(2).set_prior(prior)


@pytest.mark.parametrize(("gumbel", "softmax", "name"), [(0.0, 1.0, "gumbel"), (1.0, float("nan"), "softmax")])
def test_bad_temperatures_are_named(gumbel, softmax, name):
    with pytest.raises(ValueError, match=rf"{name}_temperature must be greater than 0"):
        make(1).set_temperatures(gumbel, softmax)


# ---- Precision, kernels, compilation ----


@pytest.mark.parametrize("kind", LOGITS)
def test_logits_are_computed_in_fp32(kind):
    quantizer = make(2, LOGITS[kind]).eval()
    latents = make_latents(quantizer)
    with torch.no_grad():
        expected = quantizer(latents).codes
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(quantizer(latents).codes, expected)
    output = quantizer.train()(latents.bfloat16(), return_losses=True)
    assert output.latents.dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in vars(output.losses).values())


@pytest.mark.skipif(not kernels_available(), reason="needs AVX-512 and a compiler")
@pytest.mark.parametrize("kind", LOGITS)
def test_optimize_gives_it_the_kernel_of_the_nearest_lookup(kind):
    model = tiny.tokenizer(2, quantizer_type="regularized", token_logits=kind)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = model.encode(images).codes
        assert model.quantizer.code_search is nearest_by_cosine
        optimize(model)
        assert model.quantizer.code_search is kernel_nearest
        assert (model.encode(images).codes == expected).float().mean() > 0.98  # convolutions round otherwise, too


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOGITS)
def test_compiled_training_is_the_same(kind):
    quantizer = make(2, LOGITS[kind]).train()
    compiled = torch.compile(quantizer)
    latents = make_latents(quantizer)
    results = []
    for call in (quantizer, compiled):
        quantizer.zero_grad()
        torch.manual_seed(3)
        with torch._inductor.config.patch(fallback_random=True):  # the same draws
            output = call(latents, return_losses=True)
        (output.latents.square().sum() + output.losses.prior.sum()).backward()
        results.append((output.codes, [parameter.grad.clone() for parameter in quantizer.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other)


# ---- In the tokenizer ----

TYPES = {
    "nearest": {},
    "gumbel": {"quantizer_type": "gumbel"},
    "linear": {"quantizer_type": "regularized"},
    "cosine": {"quantizer_type": "regularized", "token_logits": "cosine"},
}


@pytest.mark.parametrize("kind", ["gumbel", "linear", "cosine"])
def test_saved_and_loaded(kind, tmp_path):
    model = tiny.tokenizer(2, **TYPES[kind])
    model.quantizer.set_prior(torch.softmax(torch.randn(32), 0))
    model.quantizer.set_temperatures(0.3, 0.4)
    model.save_pretrained(tmp_path)
    loaded = FQGANModel.from_pretrained(str(tmp_path))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(loaded.encode(images).codes, model.encode(images).codes)
    quantizer = loaded.quantizer  # what belongs to a training is as at its beginning
    assert quantizer.gumbel_temperature == quantizer.softmax_temperature == 1
    torch.testing.assert_close(quantizer.log_prior, torch.full((2, 32), 1 / 32).log())
    assert quantizer.mask_ratio == (1.0 if kind == "gumbel" else 0.4)


def test_gumbel_samples_everywhere_whatever_the_ratio():
    quantizer = tiny.tokenizer(1, quantizer_type="gumbel", mask_ratio=0.1).quantizer
    assert quantizer._stochastic_rows(2, 16, torch.device("cpu")).sort().values.tolist() == [list(range(32))]


@pytest.mark.parametrize("saved", ["nearest", "linear", "cosine"])
@pytest.mark.parametrize("loaded", ["nearest", "linear", "cosine"])
def test_a_checkpoint_of_another_quantizer_is_refused(saved, loaded, tmp_path):
    tiny.tokenizer(2, **TYPES[saved]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"quantizer_type": "nearest", "token_logits": "linear", **TYPES[loaded]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if saved == loaded:
        FQGANModel.from_pretrained(str(tmp_path))
        return
    with pytest.raises(ValueError, match=r"is not a complete FQGANModel checkpoint|do not fit the configuration"):
        FQGANModel.from_pretrained(str(tmp_path))


def test_the_type_is_not_chosen_on_loading(tmp_path):
    tiny.tokenizer(1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="quantizer_type is the checkpoint's own and cannot be chosen, got 'gumbel'"):
        FQGANModel.from_pretrained(str(tmp_path), quantizer_type="gumbel")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantizer_type": "vq"}, r"quantizer_type must be one of nearest, gumbel, regularized, got 'vq'"),
        ({"token_logits": "dot"}, r"token_logits must be one of linear, cosine, got 'dot'"),
        ({"mask_ratio": 1.5}, r"mask_ratio must be a number in \[0.0, 1.0\], got 1.5"),
        ({"mask_ratio": "half"}, r"mask_ratio must be a number"),
        ({"mask_shared": 1}, r"mask_shared must be True or False, got 1"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny.tokenizer(1, **settings)


@pytest.mark.parametrize("kind", ["gumbel", "linear", "cosine"])
def test_codes_drawn_for_an_image_depend_on_its_generator_alone(kind):
    model = tiny.tokenizer(2, **TYPES[kind], mask_shared=False)
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    drawn = model.encode(images, generator=[torch.Generator().manual_seed(i) for i in range(4)])
    one_by_one = [model.encode(images[i : i + 1], generator=[torch.Generator().manual_seed(i)]) for i in range(4)]
    same = (drawn.codes == torch.cat([output.codes for output in one_by_one])).float().mean()
    assert same > 0.98  # convolutions of another batch may round otherwise
    likeliest = model.encode(images).codes
    changed = (drawn.codes != likeliest).float().mean()
    assert 0.02 < changed <= (1.0 if kind == "gumbel" else 0.4)
    torch.testing.assert_close(drawn.latents, model.codes_to_latents(drawn.codes))
    others = model.encode(images, generator=[torch.Generator().manual_seed(9 + i) for i in range(4)])
    assert not torch.equal(others.codes, drawn.codes)


def test_drawing_codes_is_refused_where_it_means_nothing():
    images, generators = torch.zeros(2, 3, 16, 16), [torch.Generator(), torch.Generator()]
    with pytest.raises(ValueError, match="generator must be None: a quantizer of type 'nearest' has no distribution"):
        tiny.tokenizer(1).encode(images, generator=generators)
    model = tiny.tokenizer(1, quantizer_type="regularized")
    for wrong in (generators[:1], generators[0]):
        with pytest.raises(ValueError, match="generator must be a list of 2, one an image"):
            model.encode(images, generator=wrong)
    with pytest.raises(ValueError, match="without return_losses"):
        model.encode(images, True, generator=generators)


def test_decoding_takes_codes_and_latents_as_ever():
    model = tiny.tokenizer(2, quantizer_type="regularized")
    encoded = model.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    pictures = [model.decode_codes(encoded.codes), model.decode(encoded.latents)]
    torch.testing.assert_close(pictures[0].sample, pictures[1].sample, rtol=1e-4, atol=1e-5)
    assert model(torch.zeros(1, 3, 16, 16), return_losses=True).commit_loss is None  # nothing to commit
