# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The quantizer: lookup, gradients, losses, fingerprint."""

import pytest
import torch
import torch.nn.functional as F

from fqgan_hf.modeling import quantizer_fqgan
from fqgan_hf.modeling.quantizer_fqgan import FactorizedQuantizer, maps_to_rows, rows_to_maps


def brute_force_codes(quantizer, latents):
    """Nearest code by Euclidean distance between normalised vectors, one codebook at a time, in float64."""
    batch, num_codebooks, dim, height, width = latents.shape
    z = F.normalize(latents.double(), dim=2).permute(1, 0, 3, 4, 2).reshape(num_codebooks, -1, dim)
    distances = torch.cdist(z, F.normalize(quantizer.embedding.double(), dim=-1))
    return distances.argmin(-1).reshape(num_codebooks, batch, height, width).transpose(0, 1)


@pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
def test_lookup_is_the_nearest_code_on_the_unit_sphere(num_codebooks):
    quantizer = FactorizedQuantizer(num_codebooks, 64, 8)
    latents = 7.0 * torch.randn(2, num_codebooks, 8, 5, 3)
    output = quantizer(latents)
    quantized, to_both, codes = output.latents, output.codebook_latents, output.codes
    assert torch.equal(codes, brute_force_codes(quantizer, latents))
    assert output.losses is None
    for k in range(num_codebooks):
        rows = quantizer.normalized_codebooks()[k][codes[:, k]].permute(0, 3, 1, 2)
        assert torch.allclose(quantized[:, k], rows, atol=1e-6)
        assert torch.allclose(to_both[:, k], rows, atol=1e-6)


def test_chunked_lookup_gives_the_same_codes(monkeypatch):
    quantizer = FactorizedQuantizer(2, 64, 8)
    latents = torch.randn(3, 2, 8, 7, 5)
    whole = quantizer(latents).codes
    monkeypatch.setattr(quantizer_fqgan, "LOOKUP_CHUNK_ELEMENTS_CPU", 64 * 4)
    assert torch.equal(quantizer(latents).codes, whole)


@pytest.mark.parametrize("size", [64, 128, 1024, 1000])
def test_search_in_blocks_is_argmax_with_the_first_of_equal_values(size):
    ties = torch.randint(0, 5, (50, size)).float()
    ties[0, 17] = torch.inf
    ties[1, 23] = torch.nan
    ties[2] = -torch.inf
    assert torch.equal(quantizer_fqgan.argmax_of_rows(ties), ties.argmax(-1))


@pytest.mark.parametrize("codebook_size", [1000, 1024])
def test_lookup_follows_neither_layout_nor_changes_of_the_codebook(codebook_size):
    quantizer = FactorizedQuantizer(2, codebook_size, 8)
    latents = torch.randn(3, 2, 8, 7, 5)
    codes = quantizer(latents).codes
    assert torch.equal(codes, brute_force_codes(quantizer, latents))
    other_layout = latents.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert torch.equal(quantizer(other_layout).codes, codes)
    with torch.no_grad():  # as an optimizer does it
        quantizer.embedding.add_(torch.randn_like(quantizer.embedding))
    assert torch.equal(quantizer(latents).codes, brute_force_codes(quantizer, latents))
    quantizer.load_state_dict(FactorizedQuantizer(2, codebook_size, 8).state_dict())
    assert torch.equal(quantizer(latents).codes, brute_force_codes(quantizer, latents))


def test_lookup_stays_in_fp32_under_autocast_and_in_bf16():
    quantizer = FactorizedQuantizer(2, 4096, 8)
    latents = torch.randn(2, 2, 8, 16, 16).bfloat16()
    expected = quantizer(latents.float()).codes
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(latents).codes, expected)
    in_bf16 = (
        F.normalize(latents.permute(1, 0, 3, 4, 2).flatten(1, 3), dim=-1) @ quantizer.embedding.bfloat16().mT
    ).argmax(-1)
    assert (
        in_bf16.reshape(2, 2, 16, 16).transpose(0, 1) != expected
    ).any()  # why the lookup must not follow the dtype


def test_straight_through_reaches_the_encoder_and_only_losses_reach_the_codes():
    quantizer = FactorizedQuantizer(2, 16, 4)
    latents = torch.randn(1, 2, 4, 3, 3, requires_grad=True)
    quantized = quantizer(latents).latents
    direction = torch.randn_like(quantized)
    (quantized * direction).sum().backward()
    assert quantizer.embedding.grad is None or not quantizer.embedding.grad.any()
    gradient = latents.grad.clone()
    assert gradient.abs().sum() > 0
    latents.grad = None
    (quantizer(latents).codebook_latents * direction).sum().backward()
    assert torch.allclose(latents.grad, gradient)
    assert quantizer.embedding.grad.abs().sum() > 0


def test_losses_equal_their_definitions():
    quantizer = FactorizedQuantizer(3, 16, 4, entropy_temperature=0.5)
    latents = torch.randn(2, 3, 4, 3, 3)
    output = quantizer(latents, return_losses=True)
    quantized, losses = output.latents, output.losses
    z = F.normalize(latents, dim=2)
    for k in range(3):
        squared = (quantized[:, k] - z[:, k]).square().mean()
        assert torch.allclose(losses.codebook[k], squared, atol=1e-6)
        assert torch.allclose(losses.commitment[k], squared, atol=1e-6)
        flat = z[:, k].permute(0, 2, 3, 1).reshape(-1, 4)
        probs = (-torch.cdist(flat, quantizer.normalized_codebooks()[k]).square() / 0.5).softmax(-1)
        sample_entropy = -(probs * probs.log()).sum(-1).mean()
        mean = probs.mean(0)
        assert torch.allclose(losses.entropy[k], sample_entropy + (mean * (mean + 1e-5).log()).sum(), atol=1e-5)
    cosines = [(quantized[:, i] * quantized[:, j]).sum(1).square().mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert torch.allclose(losses.disentanglement, torch.stack(cosines).mean(), atol=1e-6)


def test_each_loss_moves_what_it_should():
    quantizer = FactorizedQuantizer(2, 16, 4)
    latents = torch.randn(2, 2, 4, 3, 3, requires_grad=True)

    def gradients(pick):
        losses = quantizer(latents, return_losses=True).losses
        grads = torch.autograd.grad(pick(losses), [latents, quantizer.embedding], allow_unused=True)
        return [g is not None and bool(g.abs().sum() > 0) for g in grads]

    assert gradients(lambda losses: losses.codebook.sum()) == [False, True]
    assert gradients(lambda losses: losses.commitment.sum()) == [True, False]
    assert gradients(lambda losses: losses.entropy.sum()) == [True, True]
    assert gradients(lambda losses: losses.disentanglement) == [True, True]


def test_one_codebook_has_nothing_to_disentangle():
    losses = FactorizedQuantizer(1, 16, 4)(torch.randn(1, 1, 4, 2, 2), return_losses=True).losses
    assert losses.disentanglement == 0.0


def test_rows_and_maps_convert_both_ways():
    maps = torch.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    rows = maps_to_rows(maps)
    assert torch.equal(rows[1, 30 + 6 * 2 + 3], maps[1, 1, :, 2, 3])  # second image, row 2, column 3
    assert torch.equal(rows_to_maps(rows, 2, 5, 6), maps)


def test_codebooks_start_on_the_unit_sphere():
    embedding = FactorizedQuantizer(2, 128, 8).embedding
    assert torch.allclose(embedding.norm(dim=-1), torch.ones(2, 128), atol=1e-6)


def test_fingerprint_survives_casts_and_tells_codebooks_apart():
    quantizer = FactorizedQuantizer(2, 64, 8)
    fingerprint = quantizer.fingerprint()
    for dtype in (torch.bfloat16, torch.float16):
        cast = FactorizedQuantizer(2, 64, 8)
        cast.load_state_dict(quantizer.state_dict())
        assert cast.to(dtype).fingerprint() == fingerprint
        assert cast.float().fingerprint() == fingerprint
    assert FactorizedQuantizer(2, 64, 8).fingerprint() != fingerprint
    flat = FactorizedQuantizer(1, 128, 8)
    flat.embedding.data = quantizer.embedding.data.reshape(1, 128, 8)
    assert flat.fingerprint() != fingerprint
