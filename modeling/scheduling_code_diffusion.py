# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Discrete diffusion over factorized codes: noise, losses and samplers (VQ-Diffusion, its improvement, and MaskGIT).

    scheduler.set_timesteps(25)
    codes = scheduler.initial_codes((batch, positions, num_codebooks), generator)
    for timestep in scheduler.timesteps:
        log_p0 = network(codes, timestep).log_softmax(dim=-1)
        codes = scheduler.step(log_p0, timestep, codes, generator).prev_sample

Codes are in [0, V), and V is the state [MASK], for each of the K codebooks of a position separately. Time runs from
T = `num_train_timesteps` (noise) to 0 (clean). The network's part is log p(x_0 | x_t), guidance and truncation
included; `code_diffusion_chain` has the mathematics.

Shapes: B batch, T positions, K codebooks, V codebook size. Where T counts timesteps the text says so.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput

from .code_diffusion_chain import MIN_LOG_PROB, CodeDiffusionChain, Outcomes, exact_device
from .code_diffusion_checks import Generators, check_codes, check_shape, checked_times
from .code_diffusion_training import CodeDiffusionLossMixin
from .code_sampling import check_generator, draw_uniforms, require_codes, select_codes
from .configuration_checks import Setting, check_setting


TRANSITIONS = ("mask-uniform", "absorbing")
SAMPLINGS = ("ancestral", "purity", "confidence")

SETTINGS = {
    "codebook_size": Setting(int, 1, 2**24),
    "num_train_timesteps": Setting(int, 1, 1_000_000),
    "alpha_cum_start": Setting(float, 0, 1),
    "alpha_cum_end": Setting(float, 0, 1),
    "gamma_cum_start": Setting(float, 0, 1),
    "gamma_cum_end": Setting(float, 0, 1),
    "purity_scale": Setting(float, 0, 1000),
    "confidence_temperature": Setting(float, 0, 1000),
    "auxiliary_weight": Setting(float, 0, 1000),
}


@dataclass
class CodeDiffusionSchedulerOutput(BaseOutput):
    """
    Output of `CodeDiffusionScheduler.step`.

    Args:
        prev_sample (`torch.LongTensor` of shape `(B, T, K)`): The codes at the next timestep, [MASK] among them.
        pred_original_sample (`torch.LongTensor` of shape `(B, T, K)`): The clean codes as this step drew them.
    """

    prev_sample: torch.LongTensor
    pred_original_sample: torch.LongTensor


class CodeDiffusionScheduler(CodeDiffusionLossMixin, SchedulerMixin, ConfigMixin):
    """
    The noise of a `CodeDiffusionTransformer`'s training, and the ways back from it.

    Args:
        codebook_size (`int`): V, codes in each codebook; the state [MASK] is V.
        num_train_timesteps (`int`, defaults to 100): T, steps of the chain.
        transition (`str`, defaults to `"mask-uniform"`):
            `"mask-uniform"`: a code stays, is replaced by a uniform code, or is masked, by the four values below.
            `"absorbing"`: at time t a share t / T is masked and nothing is replaced.
        alpha_cum_start, alpha_cum_end (`float`, default to 0.99999 and 0.000009):
            Probability that a code is still itself at t = 1 and t = T, linear between. The uniform share is what the
            two probabilities leave.
        gamma_cum_start, gamma_cum_end (`float`, default to 0.000009 and 0.99999):
            Probability that it is masked. The defaults are those of the published code, which leave a uniform share of
            1e-6; the paper's text has `gamma_cum_end=0.9`, which leaves 0.1 at t = T.
        sampling (`str`, defaults to `"ancestral"`):
            `"ancestral"`: a draw from p(x_s | x_t). The others reveal a fixed number of masked codes at each step, per
            image and codebook, and never change them again: `"purity"` as many as the chain would, drawn by their
            largest probability; `"confidence"` by a cosine schedule, the most confident ones under annealed noise.
        purity_scale (`float`, defaults to 1.0): r: `"purity"` sharpens p(x_0) to its power 1 + r * purity.
        confidence_temperature (`float`, defaults to 4.5):
            Scale of the Gumbel noise on log confidence before the first step; it falls linearly to 0 at the last.
        auxiliary_weight (`float`, defaults to 5e-4): lambda, of the cross-entropy of the clean codes in `loss`.

    Attributes:
        timesteps (`torch.LongTensor` of shape `(num_inference_steps,)`): Descending from T, one per network call.

    Raises:
        ValueError: A setting is not accepted; the message names it.

    Source: arXiv 2111.14822 (the chain and its loss), 2205.16007 (purity), 2202.04200 (confidence).
    """

    order = 1
    _compatibles = []

    @register_to_config
    def __init__(
        self,
        codebook_size: int,
        num_train_timesteps: int = 100,
        transition: str = "mask-uniform",
        alpha_cum_start: float = 0.99999,
        alpha_cum_end: float = 0.000009,
        gamma_cum_start: float = 0.000009,
        gamma_cum_end: float = 0.99999,
        sampling: str = "ancestral",
        purity_scale: float = 1.0,
        confidence_temperature: float = 4.5,
        auxiliary_weight: float = 5e-4,
    ):
        for name, setting in SETTINGS.items():
            check_setting(name, self.config[name], setting)
        for name, value, accepted in (("transition", transition, TRANSITIONS), ("sampling", sampling, SAMPLINGS)):
            if value not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, got {value!r:.80}")
        if transition == "absorbing":
            self.chain = CodeDiffusionChain.absorbing(codebook_size, num_train_timesteps)
        else:
            cumulative = (alpha_cum_start, alpha_cum_end, gamma_cum_start, gamma_cum_end)
            self.chain = CodeDiffusionChain.mask_uniform(codebook_size, num_train_timesteps, *cumulative)
        self.set_timesteps(num_train_timesteps)

    @property
    def mask_code(self) -> int:
        """The state [MASK]: V."""
        return self.chain.codebook_size

    @property
    def prior_bound(self) -> float:
        """KL(q(x_T | x_0) || p(x_T)) in nats per code: what of the codes is left in the noise; see `initial_codes`."""
        return self.chain.prior_divergence()

    # ---- Timesteps ----

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """
        The timesteps of the network calls: T, then evenly down to the last, whose step leads to 0.

        For `"confidence"` they lie where the chain masks the share that the cosine schedule says, or as near as
        different timesteps can: a network that is told the time expects what belongs to it.

        Args:
            num_inference_steps (`int`): In [1, T].
            device: Where `timesteps` is to lie.

        Raises:
            ValueError: There are fewer timesteps than that.
        """
        num_timesteps = self.config.num_train_timesteps
        check_setting("num_inference_steps", num_inference_steps, Setting(int, 1, num_timesteps))
        self.num_inference_steps = num_inference_steps
        self._times = [num_timesteps]
        for index in range(1, num_inference_steps):
            share = 1.0 - index / num_inference_steps
            if self.config.sampling == "confidence":
                share = self._cosine(index)
            time = math.floor(share * num_timesteps + 0.5)
            self._times.append(max(min(time, self._times[-1] - 1), num_inference_steps - index))
        self.timesteps = torch.tensor(self._times, dtype=torch.long, device=device)

    def _cosine(self, index: int) -> float:
        """Share of masked codes before step `index` of the confidence schedule."""
        return math.cos(math.pi / 2 * index / self.num_inference_steps)

    def _place(self, timestep: int | torch.Tensor) -> tuple[int, int, int]:
        """Index of a step, its timestep and the next one."""
        time = int(timestep)
        if time not in self._times:
            span = f"from {self._times[0]} down to {self._times[-1]}"
            raise ValueError(f"timestep must be one of the {len(self._times)} of `timesteps`, {span}, got {time}")
        index = self._times.index(time)
        return index, time, [*self._times, 0][index + 1]

    # ---- Noise ----

    def draw_uniforms(self, shape: tuple[int, int, int], generator: Generators, device: torch.device) -> torch.Tensor:
        """
        The uniform numbers of one step: as many whatever the sampling and the state.

        Args:
            shape (`tuple`): (B, T, K).
            generator: One `torch.Generator`, a list of one per image, or None for torch's own.
            device (`torch.device`): Where the codes are.

        Returns:
            `torch.Tensor` of shape `(B, T, K, 2)`, float64 in [0, 1): for drawing x_0, and for x_s given x_0.
        """
        if len(shape) != 3:
            raise ValueError(f"codes must have shape (batch, positions, codebooks), got {tuple(shape)}")
        batch_size, num_positions, num_codebooks = shape
        check_generator(generator, batch_size)
        return draw_uniforms(generator, (batch_size, num_positions, 2 * num_codebooks), device).unflatten(2, (-1, 2))

    def initial_codes(
        self, shape: tuple[int, int, int], generator: Generators = None, device: str | torch.device = "cpu"
    ) -> torch.LongTensor:
        """
        Codes `(B, T, K)` to begin with: all [MASK], but for the uniform codes that `"ancestral"` expects at t = T.

        Args:
            shape (`tuple`): (B, T, K).
            generator: As in `draw_uniforms`; drawn from whether needed or not.
            device: Where the codes are to lie.
        """
        uniforms = self.draw_uniforms(shape, generator, torch.device(device))[..., 0]
        codes = torch.full(shape, self.mask_code, dtype=torch.long, device=uniforms.device)
        if self.config.sampling == "ancestral":
            mask = self.chain.forward_outcomes(torch.tensor(self.config.num_train_timesteps)).mask.to(uniforms.device)
            outcomes = Outcomes(mask, current=0.0 * mask, original=0.0 * mask, uniform=1.0 - mask)
            codes = self.chain.choose(outcomes, codes, codes, uniforms)
        return codes.to(device)

    def add_noise(
        self,
        codes: torch.LongTensor,
        timesteps: torch.LongTensor,
        generator: Generators = None,
        uniforms: torch.Tensor | None = None,
    ) -> torch.LongTensor:
        """
        x_t ~ q(x_t | x_0).

        Args:
            codes (`torch.LongTensor` of shape `(B, ...)`): In [0, V).
            timesteps (`torch.LongTensor` of shape `(B,)`): In [1, T].
            generator: As in `draw_uniforms`; not read with `uniforms`.
            uniforms (`torch.Tensor` of the shape of `codes`, *optional*): In [0, 1), float64.

        Returns:
            `torch.LongTensor` of the shape of `codes`, in [0, V].
        """
        check_codes("codes", codes, self.mask_code - 1)
        device, last = exact_device(codes.device), self.config.num_train_timesteps
        t = checked_times("timesteps", timesteps, 1, last, codes, device)
        if uniforms is None:
            check_generator(generator, len(codes))
            uniforms = draw_uniforms(generator, tuple(codes.shape), codes.device)
        check_shape("uniforms", uniforms, codes.shape)
        clean = codes.to(device)
        noisy = self.chain.choose(self.chain.forward_outcomes(t), clean, clean, uniforms.to(device))
        return noisy.to(codes.device)

    # ---- Back from the noise ----

    def posterior(
        self, log_p0: torch.Tensor, codes: torch.LongTensor, t: int | torch.Tensor, s: int | torch.Tensor
    ) -> torch.Tensor:
        """
        log p(x_s | x_t), the sum over all x_0 of q(x_s | x_t, x_0) p(x_0 | x_t); exact for any stride.

        Args:
            log_p0 (`torch.Tensor` of shape `(..., V)`): log p(x_0 | x_t), normalized.
            codes (`torch.LongTensor` of shape `(...)`): x_t, in [0, V].
            t, s (`int` or `torch.LongTensor` of shape `(B,)`): 0 <= s < t <= T.

        Returns:
            `torch.Tensor` of shape `(..., V + 1)`, float64, at least -70. Where no code is ever replaced, one that is
            not masked keeps its probability of 1, whatever `log_p0` says.

        Source: arXiv 2111.14822, sections 4.1 and 4.2.
        """
        check_codes("codes", codes, self.mask_code)
        check_shape("log_p0", log_p0, (*codes.shape, self.mask_code))
        device, last = exact_device(codes.device), self.config.num_train_timesteps
        t = checked_times("t", t, 1, last, codes, device)
        s = checked_times("s", s, 0, last - 1, codes, device)
        if not (s < t).all():
            raise ValueError(f"s must be before t, got s {s.flatten().tolist()} and t {t.flatten().tolist()}")
        probs = self.chain.posterior(log_p0.to(device).double().exp(), codes.to(device), t, s)
        return probs.clamp(min=math.exp(MIN_LOG_PROB)).log()

    def draw_codes(self, log_p0: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.LongTensor, torch.Tensor]:
        """
        x_0 as this sampling draws it, with the score by which `step_from_codes` decides what to keep.

        Args:
            log_p0 (`torch.Tensor` of shape `(..., V)`): log p(x_0 | x_t), normalized; guided and truncated.
            uniforms (`torch.Tensor` of shape `(...)`): The first half of `draw_uniforms`'.

        Returns:
            Codes `(...)`, -1 where `log_p0` is no distribution, which `step_from_codes` refuses. Scores `(...)`: the
            log-probability of the drawn code; for `"purity"` that of the likeliest code.
        """
        check_shape("uniforms", uniforms, log_p0.shape[:-1])
        log_purity, scores = log_p0.amax(dim=-1), log_p0
        if self.config.sampling == "purity":
            scores = log_p0 * (1.0 + self.config.purity_scale * log_purity.exp())[..., None]
        codes = select_codes(scores.flatten(0, -2), uniforms.flatten()).view(log_p0.shape[:-1])
        if self.config.sampling == "purity":
            return codes, log_purity
        return codes, log_p0.gather(-1, codes.clamp(min=0)[..., None])[..., 0]

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.LongTensor,
        generator: Generators = None,
        uniforms: torch.Tensor | None = None,
        kept: torch.BoolTensor | None = None,
        return_dict: bool = True,
    ) -> CodeDiffusionSchedulerOutput | tuple[torch.LongTensor, torch.LongTensor]:
        """
        From one timestep to the next: x_0 is drawn from the prediction, then x_s given x_0.

        For `"ancestral"` that is a draw from `posterior`, in two stages.

        Args:
            model_output (`torch.Tensor` of shape `(B, T, K, V)`):
                log p(x_0 | x_t), normalized; guided and truncated.
            timestep (`int` or `torch.Tensor` of shape `()`): One of `timesteps`.
            sample (`torch.LongTensor` of shape `(B, T, K)`): x_t, in [0, V].
            generator: As in `draw_uniforms`; not read with `uniforms`.
            uniforms (`torch.Tensor` of shape `(B, T, K, 2)`, *optional*): From `draw_uniforms`.
            kept (`torch.BoolTensor` of shape `(B, T, K)`, *optional*):
                Codes that are given: they stay as they are in `sample`, and numbers of codes are of the others.
            return_dict (`bool`): `False` gives the tuple `(prev_sample, pred_original_sample)`.

        Raises:
            ValueError: Something does not fit, or `model_output` is no distribution somewhere.
        """
        self._place(timestep)
        check_shape("model_output", model_output, (*sample.shape, self.mask_code))
        if uniforms is None:
            uniforms = self.draw_uniforms(tuple(sample.shape), generator, sample.device)
        check_shape("uniforms", uniforms, (*sample.shape, 2))
        codes, scores = self.draw_codes(model_output, uniforms[..., 0])
        return self.step_from_codes(
            codes, scores, timestep, sample, uniforms=uniforms[..., 1], kept=kept, return_dict=return_dict
        )

    def step_from_codes(
        self,
        pred_codes: torch.LongTensor,
        scores: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.LongTensor,
        generator: Generators = None,
        uniforms: torch.Tensor | None = None,
        kept: torch.BoolTensor | None = None,
        return_dict: bool = True,
    ) -> CodeDiffusionSchedulerOutput | tuple[torch.LongTensor, torch.LongTensor]:
        """
        The second half of `step`, for x_0 that were drawn elsewhere: by a head, one codebook after another.

        Args:
            pred_codes (`torch.LongTensor` of shape `(B, T, K)`): x_0, from `draw_codes`.
            scores (`torch.Tensor` of shape `(B, T, K)`): Its scores; `"ancestral"` does not read them.
            uniforms (`torch.Tensor` of shape `(B, T, K)`, *optional*): The second half of `draw_uniforms`'.
            timestep, sample, generator, kept, return_dict: As in `step`.
        """
        index, time, next_time = self._place(timestep)
        self._check_step(pred_codes, scores, sample, kept)
        if uniforms is None:
            uniforms = self.draw_uniforms(tuple(sample.shape), generator, sample.device)[..., 1]
        check_shape("uniforms", uniforms, sample.shape)
        device = uniforms.device  # has float64, which that of the codes may not have
        current, original = sample.to(device), pred_codes.to(device)
        is_mask = current == self.mask_code
        if self.config.sampling == "ancestral":
            t, s = torch.tensor(time, device=device), torch.tensor(next_time, device=device)
            outcomes = self.chain.reverse_outcomes(is_mask, current == original, t, s)
            following = self.chain.choose(outcomes, current, original, uniforms)
        else:
            num_free = torch.full_like(current[:, 0], current.shape[1])
            num_free = num_free if kept is None else (~kept.to(device)).sum(dim=1)
            revealed = self._revealed(is_mask, scores.to(uniforms), num_free, index, next_time, uniforms)
            following = torch.where(revealed, original, current)
        if self.config.sampling != "ancestral" or not self.chain.has_uniform:
            original = torch.where(is_mask, original, current)  # a code that is not masked will not change
        if kept is not None:
            following, original = (torch.where(kept.to(device), current, codes) for codes in (following, original))
        following, original = following.to(sample.device), original.to(sample.device)
        if not return_dict:
            return following, original
        return CodeDiffusionSchedulerOutput(prev_sample=following, pred_original_sample=original)

    def _revealed(
        self,
        is_mask: torch.Tensor,
        scores: torch.Tensor,
        num_free: torch.Tensor,
        index: int,
        next_time: int,
        uniforms: torch.Tensor,
    ) -> torch.Tensor:
        """
        Which masked codes a step reveals: those of the best scores under Gumbel noise.

        With noise of scale 1 on log weights that is a draw without replacement by these weights.

        Args:
            is_mask: `(B, T, K)`.
            num_free: Codes of each image and codebook that are to be generated, `(B, K)`.
        """
        if self.config.sampling == "purity":
            masked = 1.0 - self.chain.unmasked
            share, temperature = float(masked[next_time] / masked[-1]), 1.0
        else:
            share = self._cosine(index + 1)
            temperature = self.config.confidence_temperature * (1.0 - (index + 1) / self.num_inference_steps)
        num_left = (num_free * share + 1e-9).floor().long()  # 0.29 of 100 are 29, not 28
        num_revealed = (is_mask.sum(dim=1) - num_left).clamp(min=0)
        noise = -torch.log(-torch.log(uniforms.clamp(min=1e-300)))
        ranked = scores.clamp(min=MIN_LOG_PROB) + temperature * noise
        order = ranked.masked_fill(~is_mask, -math.inf).argsort(dim=1, descending=True)
        return is_mask & (order.argsort(dim=1) < num_revealed[:, None])

    def _check_step(
        self, pred_codes: torch.Tensor, scores: torch.Tensor, sample: torch.Tensor, kept: torch.Tensor | None
    ) -> None:
        if sample.ndim != 3:
            raise ValueError(f"sample must have shape (batch, positions, codebooks), got {tuple(sample.shape)}")
        check_codes("sample", sample, self.mask_code)
        check_shape("pred_codes", pred_codes, sample.shape)
        check_shape("scores", scores, sample.shape)
        require_codes(pred_codes, 0)
        if kept is None:
            return
        check_shape("kept", kept, sample.shape)
        if kept.dtype != torch.bool:
            raise ValueError(f"kept must be bool, got {kept.dtype}")
        if (kept & (sample == self.mask_code)).any():
            raise ValueError("kept must not hold for codes that are [MASK] in sample: there is nothing to keep")
