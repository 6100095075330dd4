# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The codebook monitor: what it counts, when it warns, and what it does to unused codes."""

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from fqgan_hf.evaluation.codebooks import CodebookUsage, codebook_overlap
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.fqgan.codebook_monitor import CodebookMonitor, revive_codes


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def test_a_window_is_what_analysis_says_of_its_codes(accelerator):
    monitor, usage = CodebookMonitor(2, 16), CodebookUsage(2, 16)
    for _ in range(3):
        codes = torch.randint(0, 9, (2, 2, 4, 4))
        monitor.observe(codes)
        usage.update(codes)
    utilization = monitor.close_window(accelerator, codes)
    for k in range(2):
        assert utilization.scalars[f"usage/{k}"] == pytest.approx(usage.usage[k].item())
        assert utilization.scalars[f"perplexity/{k}"] == pytest.approx(usage.perplexity[k].item())
    assert utilization.scalars["overlap/0-1"] == pytest.approx(codebook_overlap(codes, adjusted=True)[0, 1].item())
    assert torch.equal(utilization.unused, usage.counts == 0) and utilization.unused.any()
    assert utilization.warnings == []
    assert monitor.counts.sum() == monitor.pending.sum() == 0, "the next window begins empty"


def test_checkpoints_carry_what_was_synchronized(accelerator):
    monitor = CodebookMonitor(1, 4)
    monitor.observe(torch.tensor([[[[0, 1], [1, 3]]]]))
    monitor.synchronize(accelerator)
    assert list(monitor.state_dict()) == ["counts"]
    assert monitor.state_dict()["counts"].tolist() == [[1, 2, 0, 1]]
    monitor.synchronize(accelerator)
    assert monitor.counts.sum() == 4, "nothing is counted twice"


def test_warnings(accelerator):
    monitor = CodebookMonitor(3, 256, min_usage=0.1, min_perplexity=0.02)
    healthy = torch.randint(0, 256, (4, 1, 16, 16))
    lopsided = torch.where(torch.rand(4, 1, 16, 16) < 0.95, 0, healthy)  # many codes occur, one of them rules
    codes = torch.cat([healthy, torch.full_like(healthy, 7), lopsided], dim=1)
    monitor.observe(codes)
    first, second = monitor.close_window(accelerator, codes).warnings
    assert "codebook 1 collapses: 1 of 256 codes occurred at 1024 positions, perplexity 1.0" in first
    assert "codebook 2 collapses" in second

    monitor = CodebookMonitor(2, 256)
    monitor.observe(codes := torch.cat([healthy, 255 - healthy], dim=1))
    (warning,) = monitor.close_window(accelerator, codes).warnings
    assert "codebooks 0 and 1 are redundant: overlap 1.00" in warning


def test_few_positions_are_no_collapse(accelerator):
    monitor = CodebookMonitor(1, 16384)
    monitor.observe(codes := torch.randperm(16384)[:64].view(1, 1, 8, 8))
    assert monitor.close_window(accelerator, codes).warnings == []


@pytest.fixture
def trained(accelerator):
    """A tokenizer after one step, its optimizer and average."""
    model = FQGANModel(
        block_out_channels=(8, 16), layers_per_block=1, latent_channels=8, norm_num_groups=4, sample_size=8,
        codebook_size=32, codebook_dim=4, adapter_num_layers=1, adapter_num_heads=2,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    losses = model(images, return_losses=True).losses
    (losses.codebook.sum() + losses.entropy.sum()).backward()
    optimizer.step()
    return model, optimizer, EMAModel(model.parameters()), images


def test_unused_codes_go_where_the_encoder_is(trained, accelerator):
    model, optimizer, ema, images = trained
    embedding = model.quantizer.embedding
    before = embedding.detach().clone()
    unused = torch.zeros(2, 32, dtype=torch.bool)
    unused[0, :5] = True
    scalars = revive_codes(accelerator, model, optimizer, ema, unused, images, (0, 10))
    assert scalars == {"revived/0": 5, "revived/1": 0}
    assert torch.equal(embedding[~unused], before[~unused])
    with torch.no_grad():
        outputs = F.normalize(model.encode_features(images)[:, 0].permute(0, 2, 3, 1).flatten(0, 2), dim=-1)
        codes = model.encode(images).codes
    # By differences: cdist's usual way over products is off by 3e-4 for equal vectors.
    distances = torch.cdist(embedding[0, :5], outputs, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.min(1).values.max() < 1e-5
    assert set(range(5)) <= set(codes[:, 0].flatten().tolist()), "they are used at once"
    for name in ("exp_avg", "exp_avg_sq"):
        moments = optimizer.state[embedding][name]
        assert (moments[unused] == 0).all() and (moments[~unused] != 0).any()
    average = next(s for s, p in zip(ema.shadow_params, model.parameters(), strict=True) if p is embedding)
    assert torch.equal(average[unused], embedding[unused]) and torch.equal(average[~unused], before[~unused])


def test_the_draw_depends_on_the_seed_alone(trained, accelerator):
    model, optimizer, _, images = trained
    before = model.state_dict()["quantizer.embedding"].clone()
    unused = torch.ones(2, 32, dtype=torch.bool)
    results = []
    for seed in ((0, 10), (0, 10), (0, 11)):
        torch.rand(3)
        with torch.no_grad():
            model.quantizer.embedding.copy_(before)
        scalars = revive_codes(accelerator, model, optimizer, None, unused, images, seed)
        assert scalars == {"revived/0": 32, "revived/1": 32}
        results.append(model.quantizer.embedding.detach().clone())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_at_most_one_code_per_position(trained, accelerator):
    model, optimizer, _, images = trained
    unused = torch.ones(2, 32, dtype=torch.bool)
    scalars = revive_codes(accelerator, model, optimizer, None, unused, images[:1], (0, 0))
    assert scalars == {"revived/0": 16, "revived/1": 16}
    assert len(model.quantizer.embedding[0].detach().unique(dim=0)) == 32
