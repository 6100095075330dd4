# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Regularized quantization (Reg-VQ, arXiv 2303.06424) for K codebooks: tokens drawn from a distribution over codes.

At every position the encoder gives logits over the N codes. The token is their argmax, or, at some positions of each
image while training, a sample by the Gumbel trick. Its value is the hard one-hot, its gradient that of a softmax
(Algorithm 1 of the paper). At evaluation it is the argmax everywhere.

Shapes: B batch, K codebooks, N codes in a codebook, d code dimension, P positions (P = B * T, T = H * W), M stochastic
positions, C width of the encoder's output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .quantizer_fqgan import (
    FactorizedQuantizer,
    QuantizerOutput,
    argmax_of_rows,
    codes_to_maps,
    disentanglement,
    maps_to_rows,
    rows_to_maps,
)


INITIAL_LOGIT_SCALE, MAX_LOGIT_SCALE = 10.0, 100.0


@dataclass
class LinearTokenLosses:
    """
    Loss terms where tokens come from linear logits, *unweighted*.

    Args:
        prior (`torch.Tensor` of shape `(num_codebooks,)`):
            KL(P_post || prior) in nats, at least 0; P_post is the mean of the one-hot tokens of the batch.
        disentanglement (`torch.Tensor` of shape `()`): As in `FQGANLosses`.

    Source: arXiv 2303.06424, "prior distribution regularization".
    """

    prior: torch.Tensor
    disentanglement: torch.Tensor


@dataclass
class CosineTokenLosses(LinearTokenLosses):
    """
    Loss terms where tokens come from cosine logits, *unweighted*: there is a vector, which can be committed.

    Args:
        codebook, commitment (`torch.Tensor` of shape `(num_codebooks,)`): As in `FQGANLosses`, to the likeliest code.
    """

    codebook: torch.Tensor
    commitment: torch.Tensor


class RegularizedQuantizer(FactorizedQuantizer):
    """
    K codebooks of unit rows, as in `FactorizedQuantizer`, whose tokens are drawn rather than looked up.

    While training, the noise and the places of the stochastic positions come from torch's global generator.

    Args:
        num_codebooks, codebook_size, codebook_dim (`int`): K, N and d.
        linear_dim (`int`, *optional*):
            C: logits are a 1x1 convolution of the encoder's output. Without it they are cosines between the encoder's
            output, of length d, and the codes, times a learned scale of each codebook.
        mask_ratio (`float`): Share of the positions of an image that are stochastic, in [0, 1]; rounded to a count.
        mask_shared (`bool`): Whether these are the same positions for all codebooks.

    Attributes:
        gumbel_temperature, softmax_temperature (`torch.Tensor` of shape `()`):
            Of the gradient at stochastic and at other positions. They change no token.
        log_prior (`torch.Tensor` of shape `(num_codebooks, codebook_size)`): Uniform unless `set_prior` is called.
        pool_counts (`Callable`): Counts of codes `(K, N)` of this process -> of all processes. A training that runs in
            several sets it; gradients are then expected to be averaged over the processes.
    """

    def __init__(
        self,
        num_codebooks: int,
        codebook_size: int,
        codebook_dim: int,
        linear_dim: int | None = None,
        mask_ratio: float = 0.4,
        mask_shared: bool = True,
    ):
        super().__init__(num_codebooks, codebook_size, codebook_dim)
        self.mask_ratio = mask_ratio
        self.mask_shared = mask_shared
        self.pool_counts: Callable[[torch.Tensor], torch.Tensor] = own_counts
        if linear_dim is not None:
            bound = linear_dim**-0.5  # as `nn.Conv2d` begins
            self.logit_weight = nn.Parameter(torch.empty(num_codebooks, codebook_size, linear_dim))
            nn.init.uniform_(self.logit_weight, -bound, bound)
            self.logit_bias = nn.Parameter(torch.zeros(num_codebooks, codebook_size))
        else:
            self.register_parameter("logit_weight", None)
            self.log_logit_scale = nn.Parameter(torch.full((num_codebooks,), INITIAL_LOGIT_SCALE).log())
        # Of the training, not of the model: none of these is saved with it.
        self.register_buffer("gumbel_temperature", torch.ones(()), persistent=False)
        self.register_buffer("softmax_temperature", torch.ones(()), persistent=False)
        uniform = torch.full((num_codebooks, codebook_size), 1.0 / codebook_size).log()
        self.register_buffer("log_prior", uniform, persistent=False)

    @property
    def latent_dim(self) -> int:
        return self.codebook_dim if self.logit_weight is None else self.logit_weight.shape[-1]

    @torch.no_grad()
    def set_temperatures(self, gumbel: float, softmax: float) -> None:
        """Temperatures of the gradient from now on, both positive."""
        for name, value in (("gumbel", gumbel), ("softmax", softmax)):
            if not value > 0:
                raise ValueError(f"{name}_temperature must be greater than 0, got {value}")
        self.gumbel_temperature.fill_(gumbel)
        self.softmax_temperature.fill_(softmax)

    @torch.no_grad()
    def set_prior(self, prior: torch.Tensor) -> None:
        """
        The distribution that codes are regularized to.

        Args:
            prior (`torch.Tensor` of shape `(codebook_size,)` or `(num_codebooks, codebook_size)`): Probabilities.

        Raises:
            ValueError: Of another shape, not all positive, or not summing to 1.
        """
        shape = (self.num_codebooks, self.codebook_size)
        if tuple(prior.shape) not in (shape, shape[1:]):
            raise ValueError(f"prior must have shape {shape[1:]} or {shape}, got {tuple(prior.shape)}")
        prior = prior.double()
        if not (prior > 0).all() or not torch.allclose(prior.sum(-1), prior.new_ones(()), atol=1e-4):
            raise ValueError("prior must be positive everywhere and sum to 1: the KL to a code of prior 0 is infinite")
        self.log_prior.copy_(prior.log())

    def token_logits(
        self, latents: torch.Tensor, codebooks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        What the logits are the products of, in fp32.

        Args:
            latents (`torch.Tensor` of shape `(num_codebooks, positions, C)`): The encoder's output; C = d for cosines.
            codebooks (`torch.Tensor`, *optional*): `normalized_codebooks()`, when the caller already has it.

        Returns:
            `tuple`: rows `(K, P, C')` and weights `(K, N, C')`: the logits are `rows @ weights.mT`.
        """
        if self.logit_weight is not None:
            ones = latents.new_ones((), dtype=torch.float32).expand(*latents.shape[:2], 1)
            weights = torch.cat([self.logit_weight.float(), self.logit_bias.float()[..., None]], dim=-1)
            return torch.cat([latents.float(), ones], dim=-1), weights
        scale = self.log_logit_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)
        codebooks = self.normalized_codebooks() if codebooks is None else codebooks
        return F.normalize(latents.float(), dim=-1), scale[:, None, None] * codebooks

    def forward(self, latents: torch.Tensor, return_losses: bool = False) -> QuantizerOutput:
        """
        Quantize.

        Args:
            latents (`torch.Tensor` of shape `(batch, num_codebooks, C, height, width)`).
            return_losses (`bool`): Also compute the loss terms.
        """
        batch, _, _, height, width = latents.shape
        with torch.autocast(latents.device.type, enabled=False):
            codebooks = self.normalized_codebooks()
            rows, weights = self.token_logits(maps_to_rows(latents), codebooks)
            distance = losses = None
            has_gradient = torch.is_grad_enabled() and rows.requires_grad
            if self.training or return_losses or has_gradient:
                places = self._stochastic_rows(batch, height * width, latents.device) if self.training else None
                tokens, counts, codes, likeliest = self._draw(rows, weights, codebooks, places)
                if self.training:
                    moved = (tokens.detach() - self.lookup(likeliest).detach()).square().sum(dim=(0, 2))
                    distance = moved.view(batch, height, width)
                losses = self._losses(rows, tokens, counts, likeliest) if return_losses else None
            else:  # a block of logits at a time
                codes = self.code_search(rows.detach(), weights.detach())
                tokens = self.lookup(codes)
        maps = rows_to_maps(tokens, batch, height, width).to(latents.dtype)
        return QuantizerOutput(
            latents=maps,
            codebook_latents=maps,
            codes=codes_to_maps(codes, batch, height, width),
            losses=losses,
            sampling_distance=distance,
        )

    @torch.no_grad()
    def sample(self, latents: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """
        Codes as training draws them: samples at the share `mask_ratio` of the positions, the argmax elsewhere.

        Args:
            latents (`torch.Tensor` of shape `(batch, num_codebooks, C, height, width)`).
            generators (`Sequence[torch.Generator]`): One for each image, on any device.

        Returns:
            `torch.LongTensor` of shape `(batch, num_codebooks, height, width)`.
        """
        batch, _, _, height, width = latents.shape
        with torch.autocast(latents.device.type, enabled=False):
            rows, weights = self.token_logits(maps_to_rows(latents))
            codes = self.code_search(rows, weights).unflatten(1, (batch, -1))
            rows = rows.unflatten(1, (batch, -1))
            for i, generator in enumerate(generators):
                places = self._stochastic_rows(1, height * width, latents.device, generator)
                for k, chosen in enumerate(places):
                    logits = rows[k, i, chosen] @ weights[k].T
                    codes[k, i, chosen] = logits.add_(gumbel_noise(logits, generator)).argmax(-1)
        return codes_to_maps(codes, batch, height, width)

    def _stochastic_rows(
        self, batch: int, positions: int, device: torch.device, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Row numbers `(K, M)` of the stochastic positions: equally many of each image, at random places."""
        count = round(self.mask_ratio * positions)
        masks = 1 if self.mask_shared else self.num_codebooks
        drawn_on = device if generator is None else generator.device
        scores = torch.rand(masks, batch, positions, device=drawn_on, generator=generator).to(device)
        places = scores.topk(count, dim=-1).indices + positions * torch.arange(batch, device=device)[:, None]
        return places.flatten(1).expand(self.num_codebooks, -1)

    def _draw(
        self, rows: torch.Tensor, weights: torch.Tensor, codebooks: torch.Tensor, places: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Tokens `(K, P, d)`, counts `(K, N)`, codes and likeliest codes `(K, P)`; the first two with gradient."""
        temperatures = self.gumbel_temperature, self.softmax_temperature
        drawn = [
            DrawTokens.apply(rows[k], weights[k], codebooks[k], None if places is None else places[k], *temperatures)
            for k in range(self.num_codebooks)
        ]
        return [torch.stack(parts) for parts in zip(*drawn, strict=True)]

    def _losses(
        self, rows: torch.Tensor, tokens: torch.Tensor, counts: torch.Tensor, likeliest: torch.Tensor
    ) -> LinearTokenLosses:
        terms = {"prior": self._prior_divergence(counts), "disentanglement": disentanglement(tokens)}
        if self.logit_weight is not None:
            return LinearTokenLosses(**terms)
        best = self.lookup(likeliest)
        return CosineTokenLosses(
            **terms,
            codebook=(best - rows.detach()).square().mean(dim=(1, 2)),
            commitment=(best.detach() - rows).square().mean(dim=(1, 2)),
        )

    def _prior_divergence(self, counts: torch.Tensor) -> torch.Tensor:
        """KL(P_post || prior) of counts `(K, N)`, over all processes."""
        pooled = self.pool_counts(counts.detach())
        log_prior, total = self.log_prior.float(), pooled.sum(-1, keepdim=True)
        post = pooled / total
        value = (torch.xlogy(post, post) - post * log_prior).sum(-1)
        # d KL / d p_n = log(p_n / prior_n), up to a constant that no softmax can follow. It is infinite where a code
        # did not occur; such a code counts half an occurrence here (ours).
        slope = post.clamp(min=0.5 / total).log() - log_prior
        frequencies = counts / counts.detach().sum(-1, keepdim=True)
        return value + ((frequencies - frequencies.detach()) * slope).sum(-1)


class DrawTokens(torch.autograd.Function):
    """
    Tokens of one codebook: hard in the value, soft in the gradient, for which one matrix of shape (P, N) is kept.

    Source: arXiv 2303.06424, Algorithm 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weights: torch.Tensor,
        codebook: torch.Tensor,
        places: torch.Tensor | None,
        gumbel_temperature: torch.Tensor,
        softmax_temperature: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits are `rows (P, C) @ weights (N, C).T`; `places (M,)` are sampled. Tokens, counts, codes, likeliest."""
        logits = rows @ weights.T
        likeliest = argmax_of_rows(logits)
        codes, temperatures = likeliest.clone(), softmax_temperature.repeat(len(rows), 1)
        if places is not None and len(places):
            noisy = logits[places]
            noisy.add_(gumbel_noise(noisy))
            codes[places] = argmax_of_rows(noisy)
            logits[places] = noisy
            temperatures[places] = gumbel_temperature
        soft = torch.softmax(logits.div_(temperatures), dim=-1)
        counts = soft.new_zeros(len(weights)).index_add_(0, codes, soft.new_ones(len(codes)))
        ctx.save_for_backward(rows, weights, codebook, codes, temperatures, soft)
        ctx.mark_non_differentiable(codes, likeliest)
        return codebook[codes], counts, codes, likeliest

    @staticmethod
    def backward(ctx: Any, of_tokens: torch.Tensor, of_counts: torch.Tensor, *_: None) -> tuple:
        rows, weights, codebook, codes, temperatures, soft = ctx.saved_tensors
        of_codebook = torch.zeros_like(codebook).index_add_(0, codes, of_tokens)
        # To the one-hot token, and from there through the softmax.
        gradient = torch.addmm(of_counts, of_tokens, codebook.T)
        mean = torch.linalg.vecdot(gradient, soft)[:, None]
        gradient.sub_(mean).mul_(soft).div_(temperatures)
        return gradient @ weights, gradient.T @ rows, of_codebook, None, None, None


def own_counts(counts: torch.Tensor) -> torch.Tensor:
    """The counts of a training in one process."""
    return counts


def gumbel_noise(like: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Samples of the standard Gumbel distribution: minus the logarithm of exponential ones."""
    noise = torch.empty_like(like, device=like.device if generator is None else generator.device)
    noise = noise.exponential_(generator=generator).clamp_(min=torch.finfo(noise.dtype).tiny)
    return noise.log_().neg_().to(like.device)


def build_quantizer(config: Mapping[str, Any]) -> FactorizedQuantizer:
    """The quantizer of a tokenizer's configuration; see `FQGANModel`."""
    sizes = config["num_codebooks"], config["codebook_size"], config["codebook_dim"]
    if config["quantizer_type"] == "nearest":
        return FactorizedQuantizer(*sizes, config["entropy_temperature"])
    return RegularizedQuantizer(
        *sizes,
        linear_dim=config["latent_channels"] if config["token_logits"] == "linear" else None,
        mask_ratio=1.0 if config["quantizer_type"] == "gumbel" else config["mask_ratio"],
        mask_shared=config["mask_shared"],
    )
