# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The variational bound of held-out codes under a discrete diffusion generator, whatever its head.

The bound is of -log p(codes) for the ancestral sampler of all timesteps. A step of it draws x_0 from the network and
x_s given x_0. With the factorized head the K codes of a position are drawn one after another, so that
p(x_s | x_t) is no product over the codebooks, and a head that were given the true earlier codes would know more than
x_s tells. What may be known of an earlier code is the state that it has at time s: the true one, in the bound. So for
each codebook in turn

    its x_s ~ q(x_s | x_t, the true x_0),        its x_0 ~ p(x_0 | x_t, x_0 of the earlier codes) q(x_s | x_t, x_0)

and the next codebook sees that x_0 in place of the true one. By Jensen's inequality the mean of the divergences is at
least that of the sampler. In the absorbing chain that comes to this: a code that is revealed by time s is the true one
to the next codebook, and any other is a guess.

Shapes: B batch, T positions, K codebooks, V codebook size. Where T counts timesteps the text says so.
"""

import torch
from torch.distributed.fsdp import FSDPModule

from fqgan_hf.modeling.code_diffusion_chain import CodeDiffusionChain, exact_device
from fqgan_hf.modeling.code_sampling import draw_uniforms, select_codes
from fqgan_hf.modeling.conditioning import Prefix, join_conditions
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler
from fqgan_hf.pipelines.inference import image_generator
from fqgan_hf.training.far.trainable import Inputs


NUM_TIMES = 10  # at which each image is looked at, one in each tenth of the chain
SEED = 0  # of the noise: the same at each validation, so that its figures compare


def held_out_bound(
    scheduler: CodeDiffusionScheduler,
    model: CodeDiffusionTransformer,
    codes: torch.Tensor,
    inputs: Inputs,
    index: torch.Tensor,
    num_times: int = NUM_TIMES,
) -> torch.Tensor:
    """
    An unbiased estimate of the bound of each image and codebook, `(B, K)`, in nats per position.

    Args:
        scheduler (`CodeDiffusionScheduler`), model (`CodeDiffusionTransformer`): The generator.
        codes (`torch.LongTensor` of shape `(B, T, K)`): Held-out codes.
        inputs (`dict`): Of the conditions.
        index (`torch.LongTensor` of shape `(B,)`): Numbers of the images, which their noise follows from.
        num_times (`int`): Timesteps of each image; at most all of them.
    """
    if isinstance(model, FSDPModule):  # parts of it are called here; outside its layers only its own call would gather
        model.unshard()
    generators = [image_generator(SEED, number) for number in index.tolist()]
    num_times = min(num_times, scheduler.config.num_train_timesteps)
    times = scheduler.stratified_timesteps(num_times, len(codes), generators)
    conditions = model.conditions_of(inputs, None, len(codes))
    prefix = join_conditions(conditions, [True] * len(conditions))

    def log_p0(noisy_codes: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return sequential_log_p0(scheduler.chain, model, codes, noisy_codes, timesteps, prefix, generators)

    bound = scheduler.elbo(log_p0, codes, times, generators)
    if isinstance(model, FSDPModule):
        model.reshard()
    return bound


def sequential_log_p0(
    chain: CodeDiffusionChain,
    model: CodeDiffusionTransformer,
    codes: torch.Tensor,
    noisy_codes: torch.Tensor,
    timesteps: torch.Tensor,
    prefix: Prefix,
    generators: list[torch.Generator],
) -> torch.Tensor:
    """
    log p(x_0 | x_t, earlier x_0) of each codebook, `(B, T, K, V)`, the earlier x_0 drawn as above.

    Args:
        chain (`CodeDiffusionChain`): The scheduler's.
        model (`CodeDiffusionTransformer`): The network.
        codes, noisy_codes (`torch.LongTensor` of shape `(B, T, K)`): x_0 and x_t.
        timesteps (`torch.LongTensor` of shape `(B,)`): t; s is t - 1.
        prefix (`Prefix`): The conditions.
        generators (`list[torch.Generator]`): One per image.
    """
    hidden_states = model.backbone(noisy_codes, timesteps, prefix)
    is_sequential = model.config.head_type == "ar"
    uniforms = draw_uniforms(generators, (*codes.shape[:2], 2 * codes.shape[2]), exact_device(codes.device))
    uniforms = uniforms.unflatten(2, (-1, 2))
    # Those of later codebooks are read by nobody: the head is causal.
    guessed, found = torch.zeros_like(codes), []
    for k, lm_head in enumerate(model.lm_heads):
        earlier = model.embed_codes(guessed[:, :, :-1]) if is_sequential else None
        states = model.norm(model.head(hidden_states, earlier)[:, :, k])
        log_probs = lm_head(states).float().log_softmax(dim=-1)
        found.append(log_probs)
        if is_sequential and k + 1 < len(model.lm_heads):
            guessed[:, :, k] = guess_codes(
                chain, log_probs, codes[:, :, k], noisy_codes[:, :, k], timesteps, uniforms[:, :, k]
            )
    return torch.stack(found, dim=2)


def guess_codes(
    chain: CodeDiffusionChain,
    log_p0: torch.Tensor,
    codes: torch.Tensor,
    noisy_codes: torch.Tensor,
    timesteps: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    """
    Draws of x_0 given x_t and x_s, where x_s is drawn given x_t and the true x_0.

    Args:
        log_p0 (`torch.Tensor` of shape `(B, T, V)`): log p(x_0 | x_t).
        codes, noisy_codes (`torch.LongTensor` of shape `(B, T)`): The true x_0, and x_t.
        timesteps (`torch.LongTensor` of shape `(B,)`): t; s is t - 1.
        uniforms (`torch.Tensor` of shape `(B, T, 2)`): In [0, 1), float64.

    Returns:
        `torch.LongTensor` of shape `(B, T)`.
    """
    device, time = uniforms.device, timesteps.to(uniforms.device)[:, None]
    clean, noisy = codes.to(device), noisy_codes.to(device)
    is_mask = noisy == chain.codebook_size
    outcomes = chain.reverse_outcomes(is_mask, noisy == clean, time, time - 1)
    earlier = chain.choose(outcomes, noisy, clean, uniforms[..., 0])
    scores = log_p0.to(device) + likelihood(chain, noisy, earlier, time, time - 1).log()
    guesses = select_codes(scores.flatten(0, 1), uniforms[..., 1].flatten()).view_as(codes)
    if not chain.has_uniform:  # a code that is not masked is the clean one, and the sampler knows it, too
        guesses = torch.where(is_mask, guesses, noisy)
    return guesses.to(codes.device)


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
