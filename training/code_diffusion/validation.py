# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The variational bound of held-out codes under a discrete diffusion generator, whatever its head.

The bound is of -log p(codes) for the ancestral sampler of all timesteps. A step of it draws x_0 from the network and
x_s given x_0. With the factorized head the K codes of a position are drawn one after another, so that p(x_s | x_t) is
no product over the codebooks, and a head that were given the true earlier codes would know more than x_s tells. In the
bound it is given guesses: for each codebook in turn

    its x_s ~ q(x_s | x_t, the true x_0),        its x_0 ~ p(x_0 | x_t, x_0 of the earlier codes) q(x_s | x_t, x_0)

and the next codebook sees that x_0 in place of the true one. In the absorbing chain that comes to this: a code that is
revealed by time s is the true one, and any other is a guess. The mean of p(x_s | x_t, guesses) over all guesses would
be the sampler's; that over some, weighted as importance sampling has it, is on average too small a likelihood by
Jensen's inequality, so the bound holds whatever their number, and is the tighter the more they are.

Shapes: B batch, T positions, K codebooks, V codebook size, M guesses. Where T counts timesteps the text says so.
"""

import math

import torch
from torch.distributed.fsdp import FSDPModule

from fqgan_hf.modeling.code_diffusion_chain import MIN_LOG_PROB, CodeDiffusionChain, exact_device
from fqgan_hf.modeling.code_sampling import draw_uniforms
from fqgan_hf.modeling.conditioning import join_conditions
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler
from fqgan_hf.pipelines.inference import image_generator
from fqgan_hf.training.far.trainable import Inputs


NUM_GUESSES = 8  # of the earlier codes of a position, for the factorized head: 1 is far from the limit, 8 is not
NUM_TIMES = 5  # at which each image is looked at, one in each fifth of the chain
SEED = 0  # of the noise: the same at each validation, so that its figures compare


def held_out_bound(
    scheduler: CodeDiffusionScheduler,
    model: CodeDiffusionTransformer,
    codes: torch.Tensor,
    inputs: Inputs,
    index: torch.Tensor,
    num_times: int = NUM_TIMES,
    num_guesses: int = NUM_GUESSES,
) -> torch.Tensor:
    """
    An estimate of the bound of each image and codebook, `(B, K)`, in nats per position.

    Args:
        scheduler (`CodeDiffusionScheduler`), model (`CodeDiffusionTransformer`): The generator.
        codes (`torch.LongTensor` of shape `(B, T, K)`): Held-out codes.
        inputs (`dict`): Of the conditions.
        index (`torch.LongTensor` of shape `(B,)`): Numbers of the images, which their noise follows from.
        num_times (`int`): Timesteps of each image; at most all of them. The estimate is unbiased for any number.
        num_guesses (`int`): M.
    """
    if isinstance(model, FSDPModule):  # parts of it are called here; outside its layers only its own call would gather
        model.unshard()
    generators = [image_generator(SEED, number) for number in index.tolist()]
    num_times = min(num_times, scheduler.config.num_train_timesteps)
    times = scheduler.stratified_timesteps(num_times, len(codes), generators)
    conditions = model.conditions_of(inputs, None, len(codes))
    prefix = join_conditions(conditions, [True] * len(conditions))

    def log_p0(noisy_codes: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        hidden_states = model.backbone(noisy_codes, timesteps, prefix)
        if model.config.head_type != "ar" or codes.shape[2] == 1:
            return torch.stack([_log_probs(model, hidden_states, None, k) for k in range(codes.shape[2])], dim=2)
        shape, device = (*codes.shape[:2], codes.shape[2] * (num_guesses + 1)), exact_device(codes.device)
        uniforms = draw_uniforms(generators, shape, device).unflatten(2, (-1, num_guesses + 1))
        earlier_codes = draw_earlier_codes(scheduler.chain, codes, noisy_codes, timesteps, uniforms[..., 0])
        states = noisy_codes, earlier_codes, timesteps
        return mean_log_p0(scheduler.chain, model, hidden_states, states, uniforms[..., 1:])

    bound = scheduler.elbo(log_p0, codes, times, generators)
    if isinstance(model, FSDPModule):
        model.reshard()
    return bound


def draw_earlier_codes(
    chain: CodeDiffusionChain,
    codes: torch.Tensor,
    noisy_codes: torch.Tensor,
    timesteps: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    """x_s of time t - 1 given x_t and the true x_0, `(B, T, K)`, by one uniform number each."""
    device, time = uniforms.device, timesteps.to(uniforms.device)[:, None, None]
    clean, noisy = codes.to(device), noisy_codes.to(device)
    outcomes = chain.reverse_outcomes(noisy == chain.codebook_size, noisy == clean, time, time - 1)
    return chain.choose(outcomes, noisy, clean, uniforms).to(codes.device)


def mean_log_p0(
    chain: CodeDiffusionChain,
    model: CodeDiffusionTransformer,
    hidden_states: torch.Tensor,
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    uniforms: torch.Tensor,
) -> torch.Tensor:
    """
    log of the mean p(x_0 | x_t, guesses of the earlier codes' x_0) of each codebook, `(B, T, K, V)`.

    Args:
        chain (`CodeDiffusionChain`): The scheduler's.
        model (`CodeDiffusionTransformer`): With a factorized head.
        hidden_states (`torch.Tensor` of shape `(B, T, D)`): Of its backbone.
        states (`tuple`): x_t and x_s `(B, T, K)`, and t `(B,)`; s is t - 1.
        uniforms (`torch.Tensor` of shape `(B, T, K, M)`): In [0, 1), float64.
    """
    noisy_codes, earlier_codes, timesteps = states
    num_codebooks, num_guesses = uniforms.shape[2:]
    guesses = noisy_codes.new_zeros(num_guesses, *noisy_codes.shape)
    log_weights = torch.zeros(num_guesses, *noisy_codes.shape[:2], device=noisy_codes.device)
    found = []
    for k in range(num_codebooks):
        total, shares = None, log_weights.log_softmax(dim=0)
        # One after another: a distribution of all codes is what takes the room here.
        for m in range(num_guesses if k else 1):
            # Codes of this and of later codebooks are read by nobody: the head is causal.
            log_probs = _log_probs(model, hidden_states, guesses[m], k)
            share = log_probs + shares[m, ..., None] if k else log_probs
            total = share if total is None else torch.logaddexp(total, share)
            if k + 1 < num_codebooks:
                these = slice(m, m + 1) if k else slice(None)  # before the first codebook all guesses are the same
                drawn, log_likelihood = guess_codes(
                    chain, log_probs, noisy_codes[:, :, k], earlier_codes[:, :, k], timesteps, uniforms[:, :, k, these]
                )
                guesses[these, :, :, k] = drawn.movedim(-1, 0).to(guesses.device)
                log_weights[these] += log_likelihood.to(log_weights)
        found.append(total)
    return torch.stack(found, dim=2)


def _log_probs(
    model: CodeDiffusionTransformer, hidden_states: torch.Tensor, guess: torch.Tensor | None, k: int
) -> torch.Tensor:
    """log p(x_0) of codebook k, `(B, T, V)`, given those before it in `guess` `(B, T, K)`."""
    earlier = None
    if model.config.head_type == "ar":
        given = hidden_states.new_zeros(*hidden_states.shape[:2], 0, dtype=torch.long) if guess is None else guess
        earlier = model.embed_codes(given[:, :, : model.config.num_codebooks - 1])
    states = model.norm(model.head(hidden_states, earlier)[:, :, k])
    return model.lm_heads[k](states).float().log_softmax(dim=-1)


def guess_codes(
    chain: CodeDiffusionChain,
    log_p0: torch.Tensor,
    noisy_codes: torch.Tensor,
    earlier_codes: torch.Tensor,
    timesteps: torch.Tensor,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Draws of x_0 given x_t and x_s.

    Args:
        log_p0 (`torch.Tensor` of shape `(B, T, V)`): log p(x_0 | x_t).
        noisy_codes, earlier_codes (`torch.LongTensor` of shape `(B, T)`): x_t and x_s.
        timesteps (`torch.LongTensor` of shape `(B,)`): t; s is t - 1.
        uniforms (`torch.Tensor` of shape `(B, T, n)`): In [0, 1), float64.

    Returns:
        Codes `(B, T, n)`, and log p(x_s | x_t) `(B, T)`, on the device of the uniform numbers.
    """
    device, time = uniforms.device, timesteps.to(uniforms.device)[:, None]
    noisy, earlier = noisy_codes.to(device), earlier_codes.to(device)
    probs = log_p0.to(device).double().exp() * likelihood(chain, noisy, earlier, time, time - 1)
    cumulative = probs.cumsum(dim=-1)
    total = cumulative[..., -1:]
    guesses = torch.searchsorted(cumulative, uniforms * total, right=True).clamp(max=chain.codebook_size - 1)
    if not chain.has_uniform:  # a code that is not masked is the clean one, and the sampler knows it, too
        guesses = torch.where((noisy == chain.codebook_size)[..., None], guesses, noisy[..., None])
    return guesses, total[..., 0].clamp(min=math.exp(MIN_LOG_PROB)).log()


def likelihood(
    chain: CodeDiffusionChain, noisy_codes: torch.Tensor, earlier_codes: torch.Tensor, t: torch.Tensor, s: torch.Tensor
) -> torch.Tensor:
    """
    q(x_s | x_t, x_0) for every x_0.

    Args:
        noisy_codes, earlier_codes (`torch.LongTensor` of shape `(...)`): x_t and x_s, in [0, V].
        t, s (`torch.LongTensor`, broadcast to the codes): s < t.

    Returns:
        `torch.Tensor` of shape `(..., V)`, float64.
    """
    size, was_mask, is_mask = (
        chain.codebook_size,
        noisy_codes == chain.codebook_size,
        earlier_codes == chain.codebook_size,
    )
    stays = (earlier_codes == noisy_codes) & ~was_mask

    def whatever_clean(agrees: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The part that does not ask whether x_s is x_0, and what is added where it is."""
        outcomes = chain.reverse_outcomes(was_mask, agrees, t, s)
        anything = torch.where(is_mask, outcomes.mask, outcomes.uniform / size) + outcomes.current * stays
        return anything, torch.where(is_mask, 0.0, outcomes.original)

    anything, original = whatever_clean(torch.zeros_like(was_mask))
    found = anything[..., None].expand(*anything.shape, size).clone()
    found.scatter_add_(-1, earlier_codes.masked_fill(is_mask, 0)[..., None], original[..., None])
    # Where x_t is [MASK] it makes no difference whether x_0 is x_t, and the value of any code is written again.
    own = noisy_codes.masked_fill(was_mask, 0)
    anything, original = whatever_clean(torch.ones_like(was_mask))
    return found.scatter(-1, own[..., None], (anything + original * (own == earlier_codes))[..., None])
