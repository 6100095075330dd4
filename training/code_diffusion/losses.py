# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The training loss of discrete diffusion: noise at a time that is drawn by importance, and the scheduler's loss.

Shapes: B batch, T positions, K codebooks, V codebook size. Where T counts timesteps the text says so.
"""

import torch
from accelerate.utils import gather

from fqgan_hf.modeling.code_diffusion_training import TimestepSampler
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler
from fqgan_hf.training.far.trainable import Inputs, TrainingLoss


class CodeDiffusionTrainingLoss:
    """
    Called by the training loop on each batch; see `TrainableGenerator.training_loss`.

    Args:
        scheduler (`CodeDiffusionScheduler`): Noise and loss.
        sampler (`TimestepSampler`): Draws the times, and is told the losses of all processes.
    """

    def __init__(self, scheduler: CodeDiffusionScheduler, sampler: TimestepSampler):
        self.scheduler = scheduler
        self.sampler = sampler

    def __call__(self, model: CodeDiffusionTransformer, codes: torch.Tensor, inputs: Inputs) -> TrainingLoss:
        """
        The loss of codes `(B, T, K)`, weighted so that its mean is that of times drawn uniformly.

        Besides the variational bound's terms of each codebook it logs `loss/auxiliary`, the cross-entropy of the clean
        codes, in nats, too.
        """
        # One in each of B equal parts of their distribution: as unbiased as B draws by themselves, and steadier.
        # Source: the low-discrepancy sampler of arXiv 2107.00630.
        uniforms = (torch.arange(len(codes)) + torch.rand((), dtype=torch.float64)) / len(codes)
        times, weights = (drawn.to(codes.device) for drawn in self.sampler.sample(len(codes), uniforms=uniforms))
        noisy_codes = self.scheduler.add_noise(codes, times)
        logits = model(codes=noisy_codes, timesteps=times, clean_codes=codes, **inputs).logits
        output = self.scheduler.loss(logits.float().log_softmax(dim=-1), codes, noisy_codes, times)
        bound, auxiliary = output.codebook_losses.detach(), output.auxiliary_losses.detach()
        self._tell_sampler(times, bound.mean(dim=1))
        return TrainingLoss(
            (output.loss * weights).mean(),
            (bound * weights[:, None]).mean(dim=0),
            {"loss/auxiliary": (auxiliary.mean(dim=1) * weights).mean()},
        )

    def _tell_sampler(self, times: torch.Tensor, losses: torch.Tensor) -> None:
        """Every process learns of the batches of all, in the same order: all draw from one distribution."""
        times, losses = gather(times).cpu(), gather(losses).cpu()
        finite = losses.isfinite()  # the others skip the step, too, and would stay in the means for good
        self.sampler.update(times[finite], losses[finite])
