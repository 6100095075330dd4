# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The codebook monitor: how well codebooks are utilized during training, and the revival of codes that are not used.

Shapes: B batch, K codebooks, V codebook size, d code dimension, h w grid, P positions of all processes.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from fqgan_hf.evaluation.codebooks import codebook_overlap
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.fqgan.loss_terms import remedies


@dataclass
class Utilization:
    """
    How the codebooks were utilized over a window of steps.

    Args:
        scalars (`dict[str, float]`): `usage/{k}` (share of the codes that occurred), `perplexity/{k}`, and for every
            two codebooks `overlap/{i}-{j}` (mutual information of the codes of the last batch, normalised and
            adjusted for chance).
        warnings (`list[str]`): A sentence for each figure beyond its threshold.
        unused (`torch.BoolTensor` of shape `(num_codebooks, codebook_size)`): Codes that did not occur.
    """

    scalars: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    unused: torch.Tensor | None = None


class CodebookMonitor(nn.Module):
    """
    Counts codes over a window of steps and all processes.

    It is a module so that checkpoints carry its counts; it has no parameters. Counting stays on the device and needs
    no communication; `synchronize` adds up the processes' counts, at the end of a window and before each checkpoint.

    Args:
        num_codebooks (`int`): K.
        codebook_size (`int`): V.
        min_usage (`float`): Warn below this share of the codes that could have occurred.
        min_perplexity (`float`): Warn below this perplexity, relative to the same number.
        max_overlap (`float`): Warn above this overlap between two codebooks.
        remedies (`str`): What helps a codebook that collapses, in words; see `loss_terms.remedies`.
    """

    def __init__(
        self,
        num_codebooks: int,
        codebook_size: int,
        min_usage: float = 0.1,
        min_perplexity: float = 0.02,
        max_overlap: float = 0.9,
        remedies: str = remedies({}),
    ):
        super().__init__()
        self.min_usage = min_usage
        self.min_perplexity = min_perplexity
        self.max_overlap = max_overlap
        self.remedies = remedies
        counts = torch.zeros(num_codebooks, codebook_size, dtype=torch.int64)
        self.register_buffer("counts", counts)
        self.register_buffer("pending", counts.clone(), persistent=False)  # this process's, not yet in `counts`

    @torch.no_grad()
    def observe(self, codes: torch.Tensor) -> None:
        """Count the codes `(B, K, h, w)` of a batch."""
        codes = codes.transpose(0, 1).flatten(1)
        self.pending.scatter_add_(1, codes, torch.ones_like(codes))

    @torch.no_grad()
    def synchronize(self, accelerator: Accelerator) -> None:
        """Make `counts` those of all processes; every process calls this."""
        self.counts += accelerator.reduce(self.pending, "sum")
        self.pending.zero_()

    @torch.no_grad()
    def close_window(self, accelerator: Accelerator, codes: torch.Tensor) -> Utilization:
        """
        Report the utilization over the window and begin another; every process calls this.

        Args:
            accelerator (`Accelerator`): Of the run.
            codes (`torch.Tensor` of shape `(batch, num_codebooks, h, w)`): Of the last batch, for the overlap.
        """
        self.synchronize(accelerator)
        counts = self.counts.cpu().clone()
        self.counts.zero_()
        overlap = codebook_overlap(accelerator.gather(codes), adjusted=True)
        num_codebooks, size = counts.shape
        positions = int(counts[0].sum())
        possible = min(size, max(positions, 1))  # a short window cannot show every code
        num_used = (counts > 0).sum(1).tolist()
        frequencies = counts.double() / max(positions, 1)
        perplexities = torch.special.entr(frequencies).sum(1).exp().tolist()
        utilization = Utilization({}, unused=counts == 0)
        for k, (used, perplexity) in enumerate(zip(num_used, perplexities, strict=True)):
            utilization.scalars[f"usage/{k}"] = used / size
            utilization.scalars[f"perplexity/{k}"] = perplexity
            if used < self.min_usage * possible or perplexity < self.min_perplexity * possible:
                utilization.warnings.append(
                    f"codebook {k} collapses: {used} of {size} codes occurred at {positions} positions, "
                    f"perplexity {perplexity:.1f}. {self.remedies[0].upper()}{self.remedies[1:]}"
                )
        for i in range(num_codebooks):
            for j in range(i + 1, num_codebooks):
                utilization.scalars[f"overlap/{i}-{j}"] = value = overlap[i, j].item()
                if value > self.max_overlap:
                    utilization.warnings.append(
                        f"codebooks {i} and {j} are redundant: overlap {value:.2f}. A larger "
                        "--disentanglement_weight may help"
                    )
        return utilization


@torch.no_grad()
def revive_codes(
    accelerator: Accelerator,
    model: FQGANModel,
    optimizer: torch.optim.Optimizer,
    ema: EMAModel | None,
    unused: torch.Tensor,
    pixel_values: torch.Tensor,
    seed: tuple[int, ...],
) -> dict[str, float]:
    """
    Move unused codes to where the encoder's outputs for the current batch are, as SoundStream does.

    Every process calls this, and all of them move the same codes to the same places.

    Args:
        accelerator (`Accelerator`): Of the run.
        model (`FQGANModel`): Not wrapped.
        optimizer (`torch.optim.Optimizer`): Its Adam.
        ema (`EMAModel`, *optional*): Average of its weights.
        unused (`torch.BoolTensor` of shape `(num_codebooks, codebook_size)`): The same on all processes.
        pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): This process's part of the batch.
        seed (`tuple[int, ...]`): What the draw depends on: the run's seed and the step.

    Returns:
        `dict`: `revived/{k}`, the number of codes that moved.

    Source: arXiv 2107.03312, section III-C.
    """
    # The candidates: the encoder's outputs of the whole batch, the same on every process after `gather`, and of unit
    # length, as the lookup sees codes.
    with accelerator.autocast():
        latents = model.encode_features(pixel_values)  # (B, K, d, h, w)
    latents = accelerator.gather(latents.float().contiguous()).permute(1, 0, 3, 4, 2).flatten(1, 3)  # (K, P, d)
    latents = F.normalize(latents, dim=-1)
    # A CPU generator of its own: the draws are equal on all processes and in a resumed run, and disturb no others.
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))

    # What else of a code must not stay behind when it moves: Adam's moments, which would push it back along the
    # gradients of its old place, and its row in the averaged weights, which are validated and saved. Adam's step
    # counter is a scalar, and of another shape.
    embedding = model.quantizer.embedding  # (K, V, d)
    moments = [value for value in optimizer.state[embedding].values() if value.shape == embedding.shape]
    shadows = zip(ema.shadow_params, model.parameters(), strict=True) if ema is not None else ()
    averages = [shadow for shadow, parameter in shadows if parameter is embedding]

    scalars = {}
    for k, mask in enumerate(unused):
        # At most one code per position: two at the same place would again be told apart by nothing. Where there are
        # more unused codes than positions, a random choice of them moves, and the rest wait for the next window.
        codes, positions = mask.nonzero()[:, 0], torch.randperm(latents.shape[1], generator=generator)
        codes = codes[torch.randperm(len(codes), generator=generator)][: len(positions)].to(embedding.device)
        rows = latents[k, positions[: len(codes)].to(latents.device)]
        for moment in moments:
            moment[k, codes] = 0
        for weight in (embedding, *averages):
            weight[k, codes] = rows.to(weight.dtype)
        scalars[f"revived/{k}"] = float(len(codes))
    return scalars
