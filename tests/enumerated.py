# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Discrete diffusion over so few codes that every distribution can be written out, in float64 and without drawing."""

import itertools

import torch

from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler


V, T = 4, 6  # codes and timesteps; [MASK] is state 4
KINDS = {
    "released": {},
    "paper": {"gamma_cum_end": 0.9},
    "much-uniform": {
        "alpha_cum_start": 0.8,
        "alpha_cum_end": 0.05,
        "gamma_cum_start": 0.05,
        "gamma_cum_end": 0.5,
    },
    "mask-only": {"alpha_cum_start": 0.9, "alpha_cum_end": 0.1, "gamma_cum_start": 0.1, "gamma_cum_end": 0.9},
    "absorbing": {"transition": "absorbing"},
}


def make(kind: str = "much-uniform", **settings) -> CodeDiffusionScheduler:
    return CodeDiffusionScheduler(**{"codebook_size": V, "num_train_timesteps": T, **KINDS[kind], **settings})


def cumulative(scheduler: CodeDiffusionScheduler) -> list[tuple[float, float]]:
    """alpha_bar and gamma_bar of t = 0, ..., T as the papers define them, straight from the configuration."""
    config, num = scheduler.config, scheduler.config.num_train_timesteps
    if config.transition == "absorbing":
        return [(1 - t / num, t / num) for t in range(num + 1)]
    places = [t / (num - 1) for t in range(num)]
    alpha = [config.alpha_cum_start + (config.alpha_cum_end - config.alpha_cum_start) * p for p in places]
    gamma = [config.gamma_cum_start + (config.gamma_cum_end - config.gamma_cum_start) * p for p in places]
    return [(1.0, 0.0), *zip(alpha, gamma, strict=True)]


def matrix(alpha: float, gamma: float, size: int) -> torch.Tensor:
    """Row: state before, column: state after; [MASK] last."""
    beta = (1 - alpha - gamma) / size
    rows = torch.full((size + 1, size + 1), beta, dtype=torch.float64)
    rows.diagonal().add_(alpha)
    rows[:, size], rows[size, :] = gamma, 0.0
    rows[size, size] = 1.0
    return rows


def between(scheduler: CodeDiffusionScheduler, s: int, t: int) -> torch.Tensor:
    """q(x_t | x_s) as the product of the steps' matrices."""
    cum, size = cumulative(scheduler), scheduler.mask_code
    product = torch.eye(size + 1, dtype=torch.float64)
    for step in range(s + 1, t + 1):
        alpha = cum[step][0] / cum[step - 1][0]
        gamma = 1 - (1 - cum[step][1]) / (1 - cum[step - 1][1])
        product = product @ matrix(alpha, gamma, size)
    return product


def given_original(scheduler: CodeDiffusionScheduler, s: int, t: int) -> torch.Tensor:
    """q(x_s | x_t, x_0) by Bayes, `[x_t, x_0, x_s]`; what cannot be stays where it is."""
    to_s, to_t, step = between(scheduler, 0, s), between(scheduler, 0, t), between(scheduler, s, t)
    size = scheduler.mask_code
    joint = step.T[:, None, :] * to_s[None, :size]  # q(x_t | x_s) q(x_s | x_0)
    total = to_t[:size].T[..., None]
    stays = torch.eye(size + 1, dtype=torch.float64)[:, None].expand_as(joint)
    return torch.where(total > 1e-14, joint / total, stays)


def random_log_p0(*shape: int) -> torch.Tensor:
    return (2 * torch.randn(*shape, V, dtype=torch.float64)).log_softmax(-1)


def grid(num: int) -> torch.Tensor:
    """Evenly spread "uniform" numbers: shares come out exactly, to 1 / num."""
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num


def shares(states: torch.Tensor, size: int = V) -> torch.Tensor:
    return torch.bincount(states.flatten(), minlength=size + 1).double() / states.numel()


def distance(p: torch.Tensor, q: torch.Tensor) -> float:
    """Total variation."""
    return 0.5 * (p - q).abs().sum().item()


class Enumerated:
    """A joint distribution of `num_sites` codes, and the exact p(x_0^i | x_t) of all its states."""

    def __init__(self, scheduler: CodeDiffusionScheduler, num_sites: int):
        self.scheduler, self.num_sites, self.size = scheduler, num_sites, scheduler.mask_code
        self.states = torch.cartesian_prod(*[torch.arange(self.size + 1)] * num_sites).view(-1, num_sites)
        self.clean = torch.cartesian_prod(*[torch.arange(self.size)] * num_sites).view(-1, num_sites)
        self.probs = (1.5 * torch.randn(len(self.clean), dtype=torch.float64)).softmax(0)

    def noise(self, t: int) -> torch.Tensor:
        """q(x_t | x_0), `[x_0, x_t]`, over all sites."""
        one_site = between(self.scheduler, 0, t)
        return one_site[self.clean[:, None], self.states[None]].prod(-1)

    def log_p0(self, t: int) -> torch.Tensor:
        """`[x_t, site, code]`; of what cannot be, something."""
        joint = (self.probs[:, None] * self.noise(t)).T
        total = joint.sum(-1, keepdim=True)
        joint = torch.where(total > 0, joint / total, 1.0 / len(self.clean))
        sites = [joint @ torch.eye(self.size).double()[self.clean[:, i]] for i in range(self.num_sites)]
        return torch.stack(sites, dim=1).log()

    def sampled(self, num_steps: int) -> torch.Tensor:
        """The distribution of clean codes that `num_steps` ancestral steps lead to, without drawing any."""
        self.scheduler.set_timesteps(num_steps)
        prior = between(self.scheduler, 0, self.scheduler.config.num_train_timesteps)[: self.size].mean(0)
        state = prior[self.states].prod(-1)
        for t, s in itertools.pairwise([*self.scheduler.timesteps.tolist(), 0]):
            log_step = self.scheduler.posterior(self.log_p0(t), self.states, t, s)  # [x_t, site, x_s]
            step = torch.stack([log_step[:, i].exp()[:, self.states[:, i]] for i in range(self.num_sites)]).prod(0)
            state = state @ step
        return state[(self.states < self.size).all(-1)]

    def bound(self) -> torch.Tensor:
        """Expected sum of the bound's terms, prior included, over all sites: exactly, not by drawing."""
        scheduler, total = self.scheduler, self.num_sites * self.scheduler.prior_bound
        clean, noisy = (
            x.flatten(0, 1)[:, None] for x in torch.broadcast_tensors(self.clean[:, None], self.states[None])
        )
        for t in range(1, scheduler.config.num_train_timesteps + 1):
            log_p0 = self.log_p0(t).expand(len(self.clean), -1, -1, -1).flatten(0, 1)[:, None]
            terms = scheduler.loss(log_p0, clean, noisy, torch.full((len(clean),), t)).codebook_losses.sum(-1)
            weights = (self.probs[:, None] * self.noise(t)).flatten()
            total = total + (weights * terms).sum() / scheduler.config.num_train_timesteps
        return total

    def entropy(self) -> torch.Tensor:
        return -torch.xlogy(self.probs, self.probs).sum()

    def marginals(self) -> list[torch.Tensor]:
        return [torch.eye(self.size).double()[self.clean[:, i]].T @ self.probs for i in range(self.num_sites)]
