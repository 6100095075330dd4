# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Markov chain of discrete diffusion: codes are masked or replaced step by step, and both directions are exact.

Each code takes its own way over the V codes and the state [MASK], which is V and is never left. Two tables hold the
whole chain, since masking and replacement are independent: at time t a code is unmasked with probability `unmasked[t]`
and, if so, was replaced by a uniform code with probability `replaced[t]`. In the papers' terms alpha_bar is
`unmasked * (1 - replaced)`, gamma_bar is `1 - unmasked`, and V * beta_bar is `unmasked * replaced`.

The sampler, the posterior and the loss rest on one fact. Given x_t and x_0, the state x_s of an earlier time s is
[MASK], x_t, x_0 or a uniform code, with four probabilities (`Outcomes`) that depend on s and t, on whether x_t is
[MASK], and on whether it is x_0.

Probabilities are float64 sums of positive terms, in which nothing cancels.

Shapes: `...` any shape of codes, beginning with the batch B where a time is given per image; V codebook size.
"""

import math
from typing import NamedTuple

import torch


# Log-probabilities end here, as in the published code: what is impossible costs much, but not infinitely much.
MIN_LOG_PROB = -70.0


class Outcomes(NamedTuple):
    """How a state comes about, as four probabilities that sum to 1."""

    mask: torch.Tensor
    current: torch.Tensor  # it is x_t
    original: torch.Tensor  # it is x_0
    uniform: torch.Tensor  # it is any code, each as likely


def exact_device(device: torch.device) -> torch.device:
    """Where float64 can be computed with: MPS has none."""
    return torch.device("cpu") if device.type == "mps" else device


class CodeDiffusionChain:
    """
    The chain by its two tables.

    Args:
        codebook_size (`int`): V.
        unmasked, replaced (`torch.Tensor` of shape `(num_timesteps + 1,)`):
            See above; float64, from time 0, where they are 1 and 0. Before the last time both are such that a code can
            still be the original one.
    """

    def __init__(self, codebook_size: int, unmasked: torch.Tensor, replaced: torch.Tensor):
        self.codebook_size = codebook_size
        self.unmasked = unmasked
        self.replaced = replaced
        self.has_uniform = bool((replaced > 0).any())

    @classmethod
    def absorbing(cls, codebook_size: int, num_timesteps: int) -> "CodeDiffusionChain":
        """At time t a share t / T of the codes is masked, and no code is replaced."""
        times = torch.arange(num_timesteps + 1, dtype=torch.float64)
        return cls(codebook_size, (num_timesteps - times) / num_timesteps, torch.zeros_like(times))

    @classmethod
    def mask_uniform(
        cls,
        codebook_size: int,
        num_timesteps: int,
        alpha_cum_start: float,
        alpha_cum_end: float,
        gamma_cum_start: float,
        gamma_cum_end: float,
    ) -> "CodeDiffusionChain":
        """
        Probabilities that a code is still itself (alpha) and that it is masked (gamma), linear over t = 1, ..., T.

        Raises:
            ValueError: No Markov chain has these probabilities.

        Source: arXiv 2111.14822, section 4.1.
        """
        # Rounded, since 1 - 0.99999 - 0.000009 is not quite 1e-6, nor 1 - 0.9 - 0.1 quite 0.
        start = round(1.0 - alpha_cum_start - gamma_cum_start, 15)
        end = round(1.0 - alpha_cum_end - gamma_cum_end, 15)
        given = f"alpha {alpha_cum_start} to {alpha_cum_end}, gamma {gamma_cum_start} to {gamma_cum_end}"
        if not (alpha_cum_end < alpha_cum_start and gamma_cum_start < gamma_cum_end < 1.0):
            raise ValueError(f"alpha_cum must fall and gamma_cum rise, and stay below 1, got {given}")
        if start < 0 or end < 0:
            raise ValueError(f"alpha_cum + gamma_cum must be at most 1 at start and end, got {given}")
        # Of the unmasked codes the replaced ones. The share changes in one direction only, so the ends say it all.
        if end / (1.0 - gamma_cum_end) < start / (1.0 - gamma_cum_start):
            raise ValueError(
                f"alpha_cum / (1 - gamma_cum) must not rise: replaced codes do not come back, got {given}"
            )
        one = torch.ones(1, dtype=torch.float64)
        progress = torch.arange(num_timesteps) / (one * num_timesteps - 1) if num_timesteps > 1 else one
        unmasked = 1.0 - (gamma_cum_start + (gamma_cum_end - gamma_cum_start) * progress)
        replaced = (start + (end - start) * progress) / unmasked
        return cls(codebook_size, torch.cat([one, unmasked]), torch.cat([0.0 * one, replaced]))

    def transition(self, s: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        What becomes of a code of time s until time t > s (or t = s = 0).

        Returns:
            Probabilities that it stays, that it is drawn anew from all codes, and that it is masked; their sum is 1.
        """
        unmasked, replaced = self.unmasked.to(s.device), self.replaced.to(s.device)
        survives = unmasked[t] / unmasked[s]
        redrawn = (replaced[t] - replaced[s]) / (1.0 - replaced[s])
        return survives * (1.0 - redrawn), survives * redrawn, (unmasked[s] - unmasked[t]) / unmasked[s]

    def forward_outcomes(self, t: torch.Tensor) -> Outcomes:
        """Of x_t given x_0."""
        keep, uniform, mask = self.transition(torch.zeros_like(t), t)
        return Outcomes(mask, torch.zeros_like(mask), keep, uniform)

    def reverse_outcomes(
        self, is_mask: torch.Tensor, agrees: torch.Tensor, t: torch.Tensor, s: torch.Tensor
    ) -> Outcomes:
        """
        Of x_s given x_t and x_0, from q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0), multiplied out.

        Args:
            is_mask (`torch.BoolTensor` of shape `(...)`): Whether x_t is [MASK].
            agrees (`torch.BoolTensor` of shape `(...)`): Whether x_t is x_0.
            t, s (`torch.LongTensor`, broadcast): s < t.
        """
        keep_s, uniform_s, mask_s = self.transition(torch.zeros_like(s), s)
        keep, uniform, mask = self.transition(s, t)
        weights = torch.stack(
            torch.broadcast_tensors(
                torch.where(is_mask, mask_s, 0.0),
                torch.where(is_mask, 0.0, keep * (uniform_s / self.codebook_size + keep_s * agrees)),
                torch.where(is_mask, mask, uniform / self.codebook_size) * keep_s,
                torch.where(is_mask, mask, uniform / self.codebook_size) * uniform_s,
            )
        )
        total = weights.sum(dim=0)
        # What x_0 makes impossible: an unmasked code, where none is replaced, that is not x_0 stays what it is.
        certain = torch.stack([torch.zeros_like(is_mask), ~is_mask, is_mask, torch.zeros_like(is_mask)]).double()
        return Outcomes(*torch.where(total == 0, certain, weights / total))

    def choose(
        self, outcomes: Outcomes, current: torch.Tensor, original: torch.Tensor, uniforms: torch.Tensor
    ) -> torch.Tensor:
        """
        States by one uniform number each.

        Args:
            outcomes (`Outcomes`): Broadcast to the others.
            current, original (`torch.LongTensor` of shape `(...)`): x_t and x_0.
            uniforms (`torch.Tensor` of shape `(...)`): In [0, 1), float64.
        """
        # A uniform code comes first, so that what rounding leaves of the unit interval falls to the original.
        within = uniforms / outcomes.uniform.clamp(min=1e-300) * self.codebook_size
        code = within.clamp(max=self.codebook_size - 1).long()
        masked = outcomes.uniform + outcomes.mask
        state = torch.where(uniforms < masked + outcomes.current, current, original)
        state = state.masked_fill(uniforms < masked, self.codebook_size)
        return torch.where(uniforms < outcomes.uniform, code, state)

    def posterior(self, p0: torch.Tensor, codes: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """
        p(x_s | x_t): the sum of q(x_s | x_t, x_0) p(x_0) over all x_0, in O(V).

        Args:
            p0 (`torch.Tensor` of shape `(..., V)`): p(x_0 | x_t), float64.
            codes (`torch.LongTensor` of shape `(...)`): x_t, in [0, V].
            t, s (`torch.LongTensor`, broadcast to `codes`): s < t.

        Returns:
            `torch.Tensor` of shape `(..., V + 1)`.
        """
        is_mask = codes == self.codebook_size
        same = self.reverse_outcomes(is_mask, torch.ones_like(is_mask), t, s)
        other = self.reverse_outcomes(is_mask, torch.zeros_like(is_mask), t, s)
        # Where x_t is [MASK], x_0 makes no difference, and any code may take the place of "its own".
        own_code = codes.masked_fill(is_mask, 0)[..., None]
        own = p0.gather(-1, own_code)[..., 0]
        rest = p0.scatter(-1, own_code, 0.0).sum(dim=-1)  # 1 - own would lose what is small
        uniform = (same.uniform * own + other.uniform * rest) / self.codebook_size
        own_state = (same.current + same.original) * own + other.current * rest + uniform
        states = (other.original[..., None] * p0 + uniform[..., None]).scatter(-1, own_code, own_state[..., None])
        return torch.cat([states, (same.mask * own + other.mask * rest)[..., None]], dim=-1)

    def divergence(
        self, log_p0: torch.Tensor, codes: torch.Tensor, noisy_codes: torch.Tensor, t: torch.Tensor, s: torch.Tensor
    ) -> torch.Tensor:
        """
        KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats; at s = 0 that is -log p(x_0 | x_t).

        Args:
            log_p0 (`torch.Tensor` of shape `(..., V)`): log p(x_0 | x_t), float64.
            codes, noisy_codes (`torch.LongTensor` of shape `(...)`): x_0 and x_t.
            t, s (`torch.LongTensor`, broadcast to the codes): s < t.

        Returns:
            `torch.Tensor` of shape `(...)`.
        """
        size, is_mask, agrees = self.codebook_size, noisy_codes == self.codebook_size, noisy_codes == codes
        true = self.reverse_outcomes(is_mask, agrees, t, s)
        if not self.has_uniform:  # a masked code is revealed or not; every other one stays
            revealed = log_p0.gather(-1, codes[..., None])[..., 0].clamp(min=MIN_LOG_PROB)
            return -revealed * (true.original * is_mask)
        # q takes three values over the codes: at x_0, at x_t and everywhere else. That of [MASK] is p's, too.
        differs = ~is_mask & ~agrees
        everywhere = true.uniform / size
        at_original = true.original + true.current * agrees + everywhere
        at_current = (true.current + everywhere) * differs
        negative_entropy = (
            torch.xlogy(at_original, at_original)
            + torch.xlogy(at_current, at_current)
            + (size - 1 - differs.long()) * torch.xlogy(everywhere, everywhere)
        )
        states = self.posterior(log_p0.exp(), noisy_codes, t, s)[..., :size]
        log_states = states.clamp(min=math.exp(MIN_LOG_PROB)).log()
        own_code = noisy_codes.masked_fill(is_mask, 0)[..., None]
        cross_entropy = (
            true.original * log_states.gather(-1, codes[..., None])[..., 0]
            + true.current * log_states.gather(-1, own_code)[..., 0]
            + true.uniform * log_states.mean(dim=-1)
        )
        return negative_entropy - cross_entropy

    def prior_divergence(self) -> float:
        """KL(q(x_T | x_0) || p(x_T)) in nats, the same for every x_0: p(x_T) is q averaged over a uniform x_0."""
        size, replaced, unmasked = self.codebook_size, self.replaced[-1], self.unmasked[-1]
        if unmasked == 0:
            return 0.0
        at_original, elsewhere = 1.0 - replaced + replaced / size, replaced / size
        terms = torch.xlogy(at_original, size * at_original) + (size - 1) * torch.xlogy(elsewhere, size * elsewhere)
        return float(unmasked * terms)
