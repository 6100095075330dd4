# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Codebook usage, also over two processes, and the overlap of codebooks."""

import math
import subprocess
import sys

import pytest
import torch

from fqgan_hf.evaluation.codebooks import CodebookUsage, codebook_overlap


class TestCodebookUsage:
    def test_counts_per_codebook(self):
        usage = CodebookUsage(num_codebooks=2, codebook_size=4)
        codes = torch.tensor([[[[0, 0], [1, 3]], [[2, 2], [2, 2]]]])  # (1, 2, 2, 2)
        usage.update(codes)
        assert usage.counts.tolist() == [[2, 1, 0, 1], [0, 0, 4, 0]]
        assert usage.num_used.tolist() == [3, 1]
        assert usage.usage.tolist() == [0.75, 0.25]
        entropy = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
        assert usage.perplexity.tolist() == pytest.approx([math.exp(entropy), 1.0])
        assert usage.num_positions == 4

    def test_uniform_use_has_the_perplexity_of_the_codebook(self):
        usage = CodebookUsage(1, 16384).update(torch.arange(16384).view(4, 1, 64, 64))
        assert usage.perplexity.item() == pytest.approx(16384)
        assert usage.usage.item() == 1

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.uint16])
    def test_batches_of_any_size_type_and_shape(self, dtype):
        codes = torch.randint(0, 200, (9, 3, 5, 4))
        whole = CodebookUsage(3, 256).update(codes)
        parts = CodebookUsage(3, 256)
        for part in (codes[:1], codes[1:1], codes[1:6].flatten(2), codes[6:]):
            parts.update(part.to(dtype))
        assert torch.equal(parts.counts, whole.counts)
        assert whole.counts.dtype == torch.int64 and whole.counts.device.type == "cpu"
        for k in range(3):
            assert torch.equal(whole.counts[k], torch.bincount(codes[:, k].flatten(), minlength=256))

    def test_more_positions_than_a_16_bit_counter_holds(self):
        usage = CodebookUsage(1, 2)
        for _ in range(3):
            usage.update(torch.zeros(1, 1, 40_000, dtype=torch.int16))
        assert usage.counts.tolist() == [[120_000, 0]]

    def test_nothing_counted_yet(self):
        usage = CodebookUsage(2, 8)
        assert usage.num_used.tolist() == [0, 0]
        assert usage.usage.tolist() == [0, 0]
        assert usage.perplexity.tolist() == [0, 0]

    def test_merge_and_reset(self):
        first = CodebookUsage(1, 4).update(torch.tensor([[0, 1]]).unsqueeze(1))
        second = CodebookUsage(1, 4).update(torch.tensor([[1, 3]]).unsqueeze(1))
        assert first.merge(second).counts.tolist() == [[1, 2, 0, 1]]
        assert second.counts.tolist() == [[0, 1, 0, 1]]
        first.reset()
        assert first.counts.sum() == 0
        with pytest.raises(ValueError, match="other must count 1 codebooks of 4 codes, got 1 of 5"):
            first.merge(CodebookUsage(1, 5))

    def test_all_reduce_alone_changes_nothing(self):
        usage = CodebookUsage(1, 4).update(torch.tensor([[[0, 1]]]))
        assert usage.all_reduce().counts.tolist() == [[1, 1, 0, 0]]

    @pytest.mark.parametrize(
        ("codes", "message"),
        [
            (torch.tensor([[[0, 4]], [[1, 2]]]), r"codes must have shape \(B, 2, ...\), got \(2, 1, 2\)"),
            (torch.tensor([0, 1]), r"codes must have shape \(B, 2, ...\), got \(2,\)"),
            (torch.tensor([[[0], [4]]]), r"codes must be in \[0, 3\], got values in \[0, 4\]"),
            (torch.tensor([[[0], [-1]]]), r"codes must be in \[0, 3\], got values in \[-1, 0\]"),
            (torch.zeros(1, 2, 3), "codes must be of an integer type, got torch.float32"),
            (torch.zeros(1, 2, 3, dtype=torch.bool), "codes must be of an integer type, got torch.bool"),
            ([[0, 1]], "codes must be a torch tensor, got list"),
        ],
    )
    def test_bad_codes_are_refused_and_not_counted(self, codes, message):
        usage = CodebookUsage(2, 4)
        with pytest.raises(ValueError, match=message):
            usage.update(codes)
        assert usage.counts.sum() == 0

    @pytest.mark.parametrize(("num_codebooks", "codebook_size"), [(0, 4), (2, -1), (2, 4.0), (True, 4)])
    def test_bad_sizes(self, num_codebooks, codebook_size):
        with pytest.raises(ValueError, match="must be a positive integer"):
            CodebookUsage(num_codebooks, codebook_size)

    @pytest.mark.gpu
    def test_cuda(self):
        codes = torch.randint(0, 64, (4, 2, 8, 8))
        expected = CodebookUsage(2, 64).update(codes).counts
        assert torch.equal(CodebookUsage(2, 64).update(codes.cuda()).counts, expected)


# Each of two processes counts its own codes, shares, counts on, and shares again.
WORKER = """
import sys

import torch
import torch.distributed as dist

from fqgan_hf.evaluation.codebooks import CodebookUsage

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
usage = CodebookUsage(num_codebooks=2, codebook_size=6)
usage.update(torch.tensor([[[rank, 2], [3, 3]]]))
usage.all_reduce()
usage.all_reduce()
print(usage.counts.tolist())
usage.update(torch.tensor([[[5], [rank]]]))
usage.all_reduce()
print(usage.counts.tolist())
dist.destroy_process_group()
"""


def test_two_processes_share_their_counts_once(tmp_path):
    command = [sys.executable, "-c", WORKER]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path / "store")], **pipes) for rank in range(2)]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    first = [[1, 1, 2, 0, 0, 0], [0, 0, 0, 4, 0, 0]]
    second = [[1, 1, 2, 0, 0, 2], [1, 1, 0, 4, 0, 0]]
    for process, (output, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
        assert output.splitlines() == [str(first), str(second)]


class TestCodebookOverlap:
    def test_independent_copied_and_partly_shared_codes(self):
        torch.manual_seed(0)
        a, b = torch.randint(0, 8, (2, 50_000))
        permuted_copy = (a * 3 + 1) % 8
        mixed = torch.where(torch.rand(50_000) < 0.5, a, b)
        overlap = codebook_overlap(torch.stack([a, b, permuted_copy, mixed])[None])
        assert overlap.shape == (4, 4) and torch.equal(overlap, overlap.T)
        assert overlap.diagonal().tolist() == [1, 1, 1, 1]
        assert overlap[0, 1] < 1e-3
        assert overlap[0, 2] == pytest.approx(1, abs=1e-12)
        assert 0.05 < overlap[0, 3] < 0.5

    @pytest.mark.parametrize("adjusted", [False, True])
    def test_scikit_learn_agrees(self, adjusted):
        metrics = pytest.importorskip("sklearn.metrics")
        torch.manual_seed(1)
        a = torch.randint(0, 20, (3000,))
        b = torch.where(torch.rand(3000) < 0.4, a // 2, torch.randint(0, 30, (3000,)))
        score = metrics.adjusted_mutual_info_score if adjusted else metrics.normalized_mutual_info_score
        overlap = codebook_overlap(torch.stack([a, b]).view(1, 2, 50, 60), adjusted=adjusted)
        # The exact expectation over all shuffles against a single one.
        assert overlap[0, 1].item() == pytest.approx(score(a.numpy(), b.numpy()), abs=0.01 if adjusted else 1e-9)

    def test_adjustment_removes_the_overlap_by_chance(self):
        torch.manual_seed(2)
        codes = torch.randint(0, 16384, (64, 2, 16, 16))  # one position per code: nearly every pair is new
        assert codebook_overlap(codes)[0, 1] > 0.8
        assert codebook_overlap(codes, adjusted=True)[0, 1].abs() < 0.02
        codes[:, 1] = codes[:, 0].flip(0)[torch.arange(63, -1, -1)]  # the same codes under another path
        assert codebook_overlap(codes, adjusted=True)[0, 1] == pytest.approx(1)

    def test_adjustment_is_reproducible(self):
        codes = torch.randint(0, 50, (2, 2, 100))
        assert torch.equal(codebook_overlap(codes, True, seed=3), codebook_overlap(codes, True, seed=3))
        assert not torch.equal(codebook_overlap(codes, True, seed=3), codebook_overlap(codes, True, seed=4))

    def test_a_constant_codebook_shares_nothing(self):
        codes = torch.stack([torch.zeros(100, dtype=torch.int64), torch.arange(100)])[None]
        for adjusted in (False, True):
            assert codebook_overlap(codes, adjusted).tolist() == [[1, 0], [0, 1]]

    def test_large_codes_need_no_table_of_pairs(self):
        codes = torch.tensor([[[2**31, 0, 7], [5, 2**40, 5]]])
        assert 0 < codebook_overlap(codes)[0, 1] < 1

    def test_single_codebook_and_bad_codes(self):
        assert codebook_overlap(torch.zeros(2, 1, 4, dtype=torch.int64)).tolist() == [[1]]
        with pytest.raises(ValueError, match="at least one position"):
            codebook_overlap(torch.zeros(0, 2, 4, dtype=torch.int64))
        with pytest.raises(ValueError, match="codes must be non-negative"):
            codebook_overlap(torch.tensor([[[-1], [0]]]))
