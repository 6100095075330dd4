# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a tokenizer's codes are like: usage and perplexity of each codebook, overlap of two.

Shapes: B batch, K codebooks, V codebook size, C channels, H W pixels. Code grids are (B, K, h, w), the tokenizer's
order.
"""

import torch
import torch.distributed as dist


def _check_codes(codes, num_codebooks: int | None = None, codebook_size: int | None = None) -> torch.Tensor:
    """Integer codes (B, K, ...) -> int64 (K, N) on the CPU."""
    if not isinstance(codes, torch.Tensor):
        raise ValueError(f"codes must be a torch tensor, got {type(codes).__name__}")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes must be of an integer type, got {codes.dtype}")
    if codes.ndim < 2 or (num_codebooks is not None and codes.shape[1] != num_codebooks):
        expected = "K" if num_codebooks is None else num_codebooks
        raise ValueError(f"codes must have shape (B, {expected}, ...), got {tuple(codes.shape)}")
    codes = codes.detach().to("cpu", torch.int64).transpose(0, 1).flatten(1)
    if codes.numel():
        low, high = codes.aminmax()
        if low < 0 or (codebook_size is not None and high >= codebook_size):
            upper = "non-negative" if codebook_size is None else f"in [0, {codebook_size - 1}]"
            raise ValueError(f"codes must be {upper}, got values in [{low}, {high}]")
    return codes


class CodebookUsage:
    """Counts how often each code of each codebook occurs, over any number of batches, devices and processes.

    Example:

        usage = CodebookUsage(model.config.num_codebooks, model.config.codebook_size)
        for pixel_values in batches:
            usage.update(model.encode(pixel_values).codes)
        usage.all_reduce()
        print(usage.usage, usage.perplexity)

    Args:
        num_codebooks (`int`): K.
        codebook_size (`int`): V.

    Raises:
        ValueError: an argument is no positive integer.
    """

    def __init__(self, num_codebooks: int, codebook_size: int):
        for name, value in (("num_codebooks", num_codebooks), ("codebook_size", codebook_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.reset()

    def reset(self) -> None:
        """Forget everything counted, here and (after `all_reduce`) elsewhere."""
        # Kept apart so that `all_reduce` sends each count once, however often it is called.
        self._unshared = torch.zeros(self.num_codebooks, self.codebook_size, dtype=torch.int64)
        self._shared = torch.zeros_like(self._unshared)

    def update(self, codes: torch.Tensor) -> "CodebookUsage":
        """Count a batch.

        Args:
            codes (`torch.Tensor` of shape **(B, K, ...)**): codes in [0, V - 1], any integer type and device; B may be
                0.

        Returns:
            `CodebookUsage`: itself.

        Raises:
            ValueError: another shape or type, or a code out of range. Nothing is counted then.
        """
        codes = _check_codes(codes, self.num_codebooks, self.codebook_size)
        offsets = torch.arange(self.num_codebooks)[:, None] * self.codebook_size
        counts = torch.bincount((codes + offsets).flatten(), minlength=self._unshared.numel())
        self._unshared += counts.view_as(self._unshared)
        return self

    def merge(self, other: "CodebookUsage") -> "CodebookUsage":
        """Add the counts of `other`. Returns itself; raises `ValueError` unless K and V are the same."""
        if (self.num_codebooks, self.codebook_size) != (other.num_codebooks, other.codebook_size):
            raise ValueError(
                f"other must count {self.num_codebooks} codebooks of {self.codebook_size} codes, "
                f"got {other.num_codebooks} of {other.codebook_size}"
            )
        self._unshared += other._unshared
        self._shared += other._shared
        return self

    def all_reduce(self) -> "CodebookUsage":
        """Make every process's counts the sum over all of them; without `torch.distributed` initialised, do nothing.

        Every process must call it. Calling it again, or going on with `update` after it, counts nothing twice.

        Returns:
            `CodebookUsage`: itself.
        """
        if dist.is_available() and dist.is_initialized():
            counts = self._unshared
            if dist.get_backend() == "nccl":  # the one common backend that takes no CPU tensors
                counts = counts.to(torch.device("cuda", torch.cuda.current_device()))
            counts = counts.clone()
            dist.all_reduce(counts)
            self._shared += counts.cpu()
            self._unshared.zero_()
        return self

    @property
    def counts(self) -> torch.Tensor:
        """Occurrences of each code, int64 **(K, V)**."""
        return self._shared + self._unshared

    @property
    def num_positions(self) -> int:
        """Number of positions counted: each gives one code per codebook."""
        return int(self.counts[0].sum())

    @property
    def num_used(self) -> torch.Tensor:
        """Codes that occurred at least once, int64 **(K,)**."""
        return (self.counts > 0).sum(dim=1)

    @property
    def usage(self) -> torch.Tensor:
        """Share of the codebook that occurred at least once, float64 **(K,)** in [0, 1]."""
        return self.num_used.double() / self.codebook_size

    @property
    def perplexity(self) -> torch.Tensor:
        """Exponential of the entropy of the codes' frequencies, float64 **(K,)** in [1, V]; 0 before the first code.

        V for uniformly used codes, 1 when a single code is ever used.
        """
        counts = self.counts.double()
        totals = counts.sum(dim=1)
        frequencies = counts / totals.clamp(min=1)[:, None]
        return torch.where(totals > 0, torch.special.entr(frequencies).sum(dim=1).exp(), 0.0)

    def __repr__(self) -> str:
        used = ", ".join(str(int(number)) for number in self.num_used)
        return f"CodebookUsage({self.num_positions} positions; codes used of {self.codebook_size}: {used})"


def codebook_overlap(codes: torch.Tensor, adjusted: bool = False, seed: int = 0) -> torch.Tensor:
    """Normalised mutual information between every two codebooks: how much one's code tells about the other's.

    ``NMI(a, b) = I(a; b) / ((H(a) + H(b)) / 2)``: 0 for independent codes, 1 when each determines the other. Codes
    occur in few of their V x V pairs, so only pairs that occur are counted.

    With few positions per code, independent codebooks share much information by chance (65,536 positions over two
    codebooks of 16,384 uniformly used codes: NMI 0.86). `adjusted=True` subtracts what is left when the positions of
    one codebook are shuffled, from both parts of the fraction: chance level becomes 0 (within noise, so slightly
    negative values occur) and 1 stays 1.

    Args:
        codes (`torch.Tensor` of shape **(B, K, ...)**): any integer type and device, not empty, each at least 0.
        adjusted (`bool`, defaults to `False`): correct for chance.
        seed (`int`, defaults to 0): of that shuffle.

    Returns:
        `torch.Tensor` float64 **(K, K)**, symmetric, diagonal 1. A codebook that uses one code only shares nothing: 0.

    Raises:
        ValueError: another shape or type, negative or no codes.

    Source: Vinh, Epps & Bailey 2010, *Information Theoretic Measures for Clusterings Comparison* (NMI and AMI with the
    mean of the entropies; the expectation is by permutation here).
    """
    codes = _check_codes(codes)
    num_codebooks, num_positions = codes.shape
    if num_positions == 0:
        raise ValueError("codes must hold at least one position, got none")
    # Ranks among the codes that occur keep pair numbers small, however large the codes are.
    codes = torch.stack([row.unique(return_inverse=True)[1] for row in codes]) if num_codebooks else codes
    entropies = [_entropy(row) for row in codes]
    shuffle = torch.randperm(num_positions, generator=torch.Generator().manual_seed(seed))
    overlap = torch.eye(num_codebooks, dtype=torch.float64)
    for a in range(num_codebooks):
        for b in range(a):
            pairs = codes[a] * num_positions + codes[b]  # ranks are below num_positions
            information = entropies[a] + entropies[b] - _entropy(pairs)
            ceiling = (entropies[a] + entropies[b]) / 2
            if adjusted:
                shuffled_pairs = codes[a] * num_positions + codes[b][shuffle]
                chance = entropies[a] + entropies[b] - _entropy(shuffled_pairs)
                information, ceiling = information - chance, ceiling - chance
            # Nothing to share (or nothing beyond chance): 0 / 0 up to round-off.
            overlap[a, b] = overlap[b, a] = information / ceiling if ceiling > 1e-9 else 0.0
    return overlap if adjusted else overlap.clamp(0, 1)


def _entropy(symbols: torch.Tensor) -> float:
    """In nats, of the frequencies of the values in a 1-D tensor."""
    counts = symbols.unique(return_counts=True)[1].double()
    return float(torch.special.entr(counts / counts.sum()).sum())
