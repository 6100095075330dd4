# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Training of discrete diffusion over codes: its loss, its bound on held-out codes, and which timesteps to train on.

    timesteps, weights = sampler.sample(len(codes))
    noisy_codes = scheduler.add_noise(codes, timesteps)
    output = scheduler.loss(network(noisy_codes, timesteps).log_softmax(dim=-1), codes, noisy_codes, timesteps)
    (output.loss * weights).mean().backward()
    sampler.update(timesteps, output.codebook_losses.mean(dim=1))

Shapes: B batch, T positions, K codebooks, V codebook size. Where T counts timesteps the text says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput

from .code_diffusion_chain import MIN_LOG_PROB, CodeDiffusionChain, exact_device
from .code_diffusion_checks import Generators, check_codes, check_shape, checked_times
from .code_sampling import check_generator, draw_uniforms
from .configuration_checks import Setting, check_setting


@dataclass
class CodeDiffusionLoss(BaseOutput):
    """
    Output of `CodeDiffusionScheduler.loss`, in nats per position, means over the positions.

    Args:
        loss (`torch.Tensor` of shape `(B,)`): What to train on, the auxiliary term included; a mean over codebooks.
        codebook_losses (`torch.Tensor` of shape `(B, K)`):
            The term of the variational bound at this timestep, times the number of timesteps.
        auxiliary_losses (`torch.Tensor` of shape `(B, K)`): Cross-entropy of the clean codes, not weighted.
    """

    loss: torch.Tensor
    codebook_losses: torch.Tensor
    auxiliary_losses: torch.Tensor


class CodeDiffusionLossMixin:
    """`loss` and `elbo` for a scheduler, whose `chain`, `config` and `add_noise` they use."""

    chain: CodeDiffusionChain

    def loss(
        self,
        log_p0: torch.Tensor,
        codes: torch.LongTensor,
        noisy_codes: torch.LongTensor,
        timesteps: torch.LongTensor,
    ) -> CodeDiffusionLoss:
        """
        The variational bound's term at one timestep of each image, plus the cross-entropy of the clean codes.

        With L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), at t = 1 the same as -log p(x_0 | x_1), the loss is
        T * (L_t + auxiliary_weight * (2 - t / T) * -log p(x_0 | x_t)), T being the number of timesteps and t in
        [1, T] (the published code, which counts from 0, has t - 1 in the weight). Both terms are of all codes, masked
        or not. For t drawn otherwise than uniformly, multiply with `TimestepSampler`'s weights.

        Args:
            log_p0 (`torch.Tensor` of shape `(B, T, K, V)`): log p(x_0 | x_t), normalized.
            codes, noisy_codes (`torch.LongTensor` of shape `(B, T, K)`): x_0, and x_t from `add_noise`.
            timesteps (`torch.LongTensor` of shape `(B,)`): t.

        Returns:
            [`CodeDiffusionLoss`]; computed in float64, returned in fp32 unless `log_p0` is float64.

        Source: arXiv 2111.14822, section 4.2; the weight 2 - t / T is that of its published code.
        """
        check_codes("codes", codes, self.chain.codebook_size - 1)
        check_codes("noisy_codes", noisy_codes, self.chain.codebook_size)
        check_shape("noisy_codes", noisy_codes, codes.shape)
        check_shape("log_p0", log_p0, (*codes.shape, self.chain.codebook_size))
        device, num_timesteps = exact_device(codes.device), self.config.num_train_timesteps
        time = checked_times("timesteps", timesteps, 1, num_timesteps, codes, device)
        exact, clean = log_p0.to(device).double(), codes.to(device)
        divergence = self.chain.divergence(exact, clean, noisy_codes.to(device), time, time - 1)
        bound = num_timesteps * divergence.mean(dim=1)
        auxiliary = -exact.gather(-1, clean[..., None])[..., 0].clamp(min=MIN_LOG_PROB).mean(dim=1)
        weight = self.config.auxiliary_weight * (2 * num_timesteps - time.flatten())
        total = bound.mean(dim=1) + weight * auxiliary.mean(dim=1)
        kind = {"device": log_p0.device, "dtype": torch.promote_types(log_p0.dtype, torch.float32)}
        return CodeDiffusionLoss(
            loss=total.to(**kind), codebook_losses=bound.to(**kind), auxiliary_losses=auxiliary.to(**kind)
        )

    @torch.no_grad()
    def elbo(
        self,
        log_p0: Callable[[torch.LongTensor, torch.LongTensor], torch.Tensor],
        codes: torch.LongTensor,
        timesteps: torch.LongTensor | None = None,
        generator: Generators = None,
    ) -> torch.Tensor:
        """
        Upper bound of -log p(codes), to be read against the cross-entropy of an autoregressive generator.

        The noise is drawn once per timestep, so this is an unbiased estimate of the bound.

        The bound holds for T ancestral steps in which all codes are drawn independently, so `log_p0` may depend on
        `noisy_codes` and `timesteps` alone. A factorized head that is given the true codes of a position's earlier
        codebooks sees codes that are still masked for its sampler: its values are too low to be a bound.

        Args:
            log_p0 (`Callable`): `(noisy_codes (B, T, K), timesteps (B,))` -> log p(x_0 | x_t), `(B, T, K, V)`.
            codes (`torch.LongTensor` of shape `(B, T, K)`): Held-out codes.
            timesteps (`torch.LongTensor` of shape `(n,)` or `(n, B)`, *optional*):
                Those to evaluate, for example `stratified_timesteps`, whose mean then stands for all; by default all.
            generator: As in `draw_uniforms`.

        Returns:
            `torch.Tensor` of shape `(B, K)`: nats per position, the prior's part included.
        """
        if timesteps is None:
            timesteps = torch.arange(1, self.config.num_train_timesteps + 1)
        if timesteps.ndim not in (1, 2) or len(timesteps) == 0:
            raise ValueError(f"timesteps must have shape (n,) or (n, {len(codes)}), got {tuple(timesteps.shape)}")
        timesteps = timesteps.to(codes.device)
        terms = []
        for time in timesteps if timesteps.ndim == 2 else timesteps[:, None].expand(-1, len(codes)):
            noisy_codes = self.add_noise(codes, time, generator)
            terms.append(self.loss(log_p0(noisy_codes, time), codes, noisy_codes, time).codebook_losses)
        return torch.stack(terms).mean(dim=0) + self.prior_bound

    def stratified_timesteps(self, num: int, batch_size: int, generator: Generators = None) -> torch.LongTensor:
        """
        One random timestep in each of `num` equal parts of the chain, for `elbo`.

        Args:
            num (`int`): In [1, T].
            batch_size (`int`): B.
            generator: As in `draw_uniforms`.

        Returns:
            `torch.LongTensor` of shape `(num, B)`, on the CPU.
        """
        num_timesteps = self.config.num_train_timesteps
        check_setting("num", num, Setting(int, 1, num_timesteps))
        check_generator(generator, batch_size)
        uniforms = draw_uniforms(generator, (batch_size, num, 1), torch.device("cpu"))[..., 0].T
        parts = torch.arange(num)[:, None] + uniforms
        return (parts * num_timesteps / num).long().clamp(max=num_timesteps - 1) + 1


class TimestepSampler:
    """
    Timesteps for training, drawn more often where the loss is large: t with probability ~ sqrt(mean of L_t^2).

    Uniform until each timestep has been seen `min_count` times. A small share stays uniform, which bounds the weights.

    Args:
        num_timesteps (`int`): T.
        min_count (`int`, defaults to 10).
        decay (`float`, defaults to 0.9): Of the running mean, in [0, 0.9999].
        uniform_share (`float`, defaults to 0.01): In [1e-6, 1].

    Attributes:
        mean_squares (`torch.Tensor` of shape `(num_timesteps,)`): Running means of L_t^2, float64.
        counts (`torch.LongTensor` of shape `(num_timesteps,)`).

    Source: arXiv 2102.09672, section 3.3, in the form of VQ-Diffusion's published code. That replaces L_1 by L_2 and
    adds 1e-4 to the roots; here L_1 counts like the others.
    """

    def __init__(self, num_timesteps: int, min_count: int = 10, decay: float = 0.9, uniform_share: float = 0.01):
        check_setting("num_timesteps", num_timesteps, Setting(int, 1, 1_000_000))
        check_setting("min_count", min_count, Setting(int, 1, 1_000_000))
        check_setting("decay", decay, Setting(float, 0, 0.9999))
        check_setting("uniform_share", uniform_share, Setting(float, 1e-6, 1))
        self.min_count, self.decay, self.uniform_share = min_count, decay, uniform_share
        self.mean_squares = torch.zeros(num_timesteps, dtype=torch.float64)
        self.counts = torch.zeros(num_timesteps, dtype=torch.long)

    def probabilities(self) -> torch.Tensor:
        """p(t) of t = 1, ..., T, `(T,)` in float64."""
        uniform = torch.full_like(self.mean_squares, 1.0 / len(self.counts))
        roots = self.mean_squares.sqrt()
        if (self.counts < self.min_count).any() or roots.sum() == 0:
            return uniform
        return (1.0 - self.uniform_share) * roots / roots.sum() + self.uniform_share * uniform

    def sample(
        self, batch_size: int, generator: torch.Generator | None = None, uniforms: torch.Tensor | None = None
    ) -> tuple[torch.LongTensor, torch.Tensor]:
        """
        Draw timesteps.

        Args:
            batch_size (`int`): B.
            generator (`torch.Generator`, *optional*): On the CPU; not read with `uniforms`.
            uniforms (`torch.Tensor` of shape `(B,)`, *optional*): In [0, 1).

        Returns:
            Timesteps `(B,)` in [1, T], and weights 1 / (T p(t)) `(B,)` in fp32, which make the mean of a weighted loss
            that of uniform timesteps. Both on the CPU.
        """
        if uniforms is None:
            uniforms = torch.rand(batch_size, generator=generator, dtype=torch.float64)
        check_shape("uniforms", uniforms, (batch_size,))
        probs = self.probabilities()
        cumulative = probs.cumsum(dim=0)
        index = torch.searchsorted(cumulative, uniforms.double().cpu() * cumulative[-1], right=True)
        index = index.clamp(max=len(probs) - 1)
        return index + 1, (1.0 / (len(probs) * probs[index])).float()

    def update(self, timesteps: torch.LongTensor, losses: torch.Tensor) -> None:
        """
        Take in the losses of a batch; with several processes those of all, gathered by the caller in a fixed order.

        Args:
            timesteps (`torch.LongTensor` of shape `(n,)`): In [1, T].
            losses (`torch.Tensor` of shape `(n,)`):
                The bound's terms, not weighted: `output.codebook_losses.mean(dim=1)`.

        Raises:
            ValueError: A loss is not finite: it would stay in the means for good.
        """
        check_shape("losses", losses, timesteps.shape)
        if not losses.isfinite().all():
            raise ValueError(f"losses must be finite, got {losses.tolist()}")
        for time, loss in zip(timesteps.tolist(), losses.tolist(), strict=True):
            if not 1 <= time <= len(self.counts):
                raise ValueError(f"timesteps must be in [1, {len(self.counts)}], got {time}")
            decay = self.decay if self.counts[time - 1] else 0.0
            self.mean_squares[time - 1] = decay * self.mean_squares[time - 1] + (1.0 - decay) * loss**2
            self.counts[time - 1] += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The two tensors, copied."""
        return {"mean_squares": self.mean_squares.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Go on from a `state_dict`.

        Raises:
            ValueError: It is of another number of timesteps.
        """
        for name in ("mean_squares", "counts"):
            check_shape(name, state_dict[name], self.counts.shape)
        self.mean_squares = state_dict["mean_squares"].to("cpu", torch.float64, copy=True)
        self.counts = state_dict["counts"].to("cpu", torch.long, copy=True)
