# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling codes from logits: settings, classifier-free guidance, reproducible draws. Shared by the generators.

    settings = SamplingSettings(guidance_scale=2.0, top_k=[600, 300])
    plan = plan_sampling(settings, config, batch_size=4, generator=generator, device=device)
    codes = select_codes(plan.warpers[k](None, logits), plan.uniforms[:, position, k])

A code is drawn by inverting the cumulative distribution at a uniform number. These numbers are drawn before the first
position, one for each image, position and codebook, so an image's draws depend on nothing but its generator.

Shapes: B images, K codebooks, V codebook size, T positions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from .configuration_checks import is_finite_number


GUIDANCE_SCHEDULES = ("constant", "linear", "power-cosine")

# Settings that take one value or one per codebook: what a value must be, and how that is said.
PER_CODEBOOK: dict[str, tuple[Callable[[float], bool], str]] = {
    "guidance_scale": (lambda value: value >= 0, "at least 0"),
    "temperature": (lambda value: value > 0, "above 0"),
    "top_k": (lambda value: value >= 0 and value == int(value), "integers >= 0"),
    "top_p": (lambda value: 0 < value <= 1, "in (0, 1]"),
}


class CodeGrid(Protocol):
    """What of a generator's configuration sampling reads."""

    num_positions: int
    num_codebooks: int
    codebook_size: int
    conditions: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """
    How codes are sampled; what pipelines, commands and evaluation pass on as one object.

    `guidance_scale`, `temperature`, `top_k` and `top_p` take one value, or one per codebook.

    Args:
        guidance_scale (`float` or `Sequence[float]`, defaults to 2.0):
            Classifier-free guidance: the logits are `uncond + guidance_scale * (cond - uncond)`. At 1 (everywhere) no
            unconditional half is computed. Of several conditions each may have its own:
            `{"text": 4.0, "map": 1.5}`; they then come in one after another, in the generator's order.
        temperature (`float` or `Sequence[float]`, defaults to 1.0): Divides the logits; above 0.
        top_k (`int` or `Sequence[int]`, defaults to 0): Sample among the k likeliest codes; 0 means all.
        top_p (`float` or `Sequence[float]`, defaults to 1.0):
            Sample among the likeliest codes that together have this probability; in (0, 1].
        do_sample (`bool`, defaults to `True`): `False` takes the likeliest code everywhere.
        guidance_schedule (`str`, defaults to `"constant"`):
            How guidance grows over the positions: `"constant"`, `"linear"` or `"power-cosine"`.
        guidance_power (`float`, defaults to 2.75): Exponent of `"power-cosine"`; above 0.
        guidance_interval (`tuple[float, float]`, defaults to `(0.0, 1.0)`):
            Share of the image, from the first to the last position, in which guidance acts.

    Raises:
        ValueError: For a value that is wrong whatever the number of codebooks; `per_codebook` finds the rest.
    """

    guidance_scale: float | Sequence[float] | Mapping[str, float | Sequence[float]] = 2.0
    temperature: float | Sequence[float] = 1.0
    top_k: int | Sequence[int] = 0
    top_p: float | Sequence[float] = 1.0
    do_sample: bool = True
    guidance_schedule: str = "constant"
    guidance_power: float = 2.75
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        for name in PER_CODEBOOK:
            value = getattr(self, name)
            if name == "guidance_scale" and isinstance(value, Mapping) and value:
                value = {condition: _checked(name, scale) for condition, scale in value.items()}
            else:
                value = _checked(name, value)
            object.__setattr__(self, name, value)
        if not isinstance(self.do_sample, bool):
            raise ValueError(f"do_sample must be True or False, got {self.do_sample!r}")
        if self.guidance_schedule not in GUIDANCE_SCHEDULES:
            raise ValueError(f"guidance_schedule must be one of {GUIDANCE_SCHEDULES}, got {self.guidance_schedule!r}")
        if not is_finite_number(self.guidance_power) or self.guidance_power <= 0:
            raise ValueError(f"guidance_power must be above 0, got {self.guidance_power!r}")
        interval = self.guidance_interval
        is_pair = isinstance(interval, (list, tuple)) and len(interval) == 2 and all(map(is_finite_number, interval))
        if not is_pair or not 0.0 <= interval[0] <= interval[1] <= 1.0:
            raise ValueError(f"guidance_interval must be (start, end) with 0 <= start <= end <= 1, got {interval}")
        object.__setattr__(self, "guidance_interval", tuple(interval))

    def per_codebook(self, num_codebooks: int) -> "SamplingSettings":
        """
        The same settings, with a tuple of `num_codebooks` values for each setting that takes one per codebook.

        Raises:
            ValueError: If one of them has another number of values.
        """
        spread = {}
        for name in PER_CODEBOOK:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                spread[name] = {key: _spread(name, scale, num_codebooks) for key, scale in value.items()}
            else:
                spread[name] = _spread(name, value, num_codebooks)
        return replace(self, **spread)

    def arguments(self) -> dict[str, Any]:
        """As the keyword arguments of a pipeline's call or of `generate`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _checked(name: str, value: Any) -> float | tuple[float, ...]:
    """One value or a tuple of them, each as `PER_CODEBOOK` wants it: equal settings compare equal."""
    is_valid, accepted = PER_CODEBOOK[name]
    values = value.tolist() if isinstance(value, torch.Tensor) else value
    values = tuple(values) if isinstance(values, (list, tuple)) else values
    listed = values if isinstance(values, tuple) else (values,)
    if not listed or not all(is_finite_number(v) and is_valid(v) for v in listed):
        raise ValueError(f"{name} must be one value or one per codebook, {accepted}, got {value!r}")
    return values


def _spread(name: str, value: float | tuple[float, ...], num_codebooks: int) -> tuple[float, ...]:
    """One value per codebook."""
    values = value if isinstance(value, tuple) else (value,) * num_codebooks
    if len(values) != num_codebooks:
        raise ValueError(
            f"{name} must be one value or {num_codebooks} values (one per codebook), {PER_CODEBOOK[name][1]}, "
            f"got {value}"
        )
    return values


@dataclass(frozen=True)
class SamplingPlan:
    """
    What one `generate` call settled on, checked and broadcast.

    Args:
        weights (`torch.Tensor` of shape `(scales, num_positions, num_codebooks)`, *optional*):
            From `guidance_weights`, for all conditions together or for each of them; None when no position is guided,
            and no unconditional half is computed.
        warpers (`list`): For each codebook its temperature, top-k and top-p, as the library's own warpers.
        uniforms (`torch.Tensor` of shape `(batch, num_positions, num_codebooks)`, *optional*):
            From `draw_uniforms`; None for greedy decoding.
        known_codes (`torch.LongTensor` of shape `(batch, num_positions, num_codebooks)`, *optional*):
            Codes that are given; -1 for those to generate.
    """

    weights: torch.Tensor | None
    warpers: list[LogitsProcessorList]
    uniforms: torch.Tensor | None
    known_codes: torch.Tensor | None = None

    @property
    def num_scales(self) -> int:
        """Guidance scales: 0 without guidance, 1 for all conditions together, else one per condition."""
        return 0 if self.weights is None else len(self.weights)


def plan_sampling(
    settings: SamplingSettings,
    config: CodeGrid,
    batch_size: int,
    generator: torch.Generator | list[torch.Generator] | None,
    device: torch.device,
) -> SamplingPlan:
    """
    Settle everything random or scheduled about one `generate` call before its first position.

    Args:
        settings (`SamplingSettings`): Not yet checked against the number of codebooks.
        config: The generator's, of which the size of the grid and of the codebooks is read.
        batch_size (`int`): Images.
        generator: One for the batch, one per image, or None for torch's own.
        device (`torch.device`): Where the model computes.

    Raises:
        ValueError: If `settings` do not fit the number of codebooks, or `generator` the batch.
    """
    settings = settings.per_codebook(config.num_codebooks)
    check_generator(generator, batch_size)
    weights = torch.stack(
        [
            guidance_weights(
                scale,
                config.num_positions,
                settings.guidance_schedule,
                settings.guidance_power,
                settings.guidance_interval,
            )
            for scale in _scales(settings.guidance_scale, config.conditions)
        ]
    )
    shape = (batch_size, config.num_positions, config.num_codebooks)
    return SamplingPlan(
        weights=None if (weights == 1.0).all() else weights.to(device),
        warpers=codebook_warpers(settings, config.codebook_size),
        uniforms=draw_uniforms(generator, shape, device) if settings.do_sample else None,
    )


def _scales(
    guidance_scale: tuple[float, ...] | Mapping[str, tuple[float, ...]], conditions: Sequence[str]
) -> list[tuple[float, ...]]:
    """The scale of all conditions together, or those of each in the generator's order where they differ."""
    if not isinstance(guidance_scale, Mapping):
        return [guidance_scale]
    if set(guidance_scale) != set(conditions):
        raise ValueError(
            f"guidance_scale must name each condition of the generator, {', '.join(conditions)}, "
            f"got {', '.join(map(str, guidance_scale))}"
        )
    scales = [guidance_scale[name] for name in conditions]
    return scales[:1] if len(set(scales)) == 1 else scales


def guide(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    Classifier-free guidance: from what is predicted without conditions towards what is predicted with them.

    Args:
        scores (`torch.Tensor` of shape `((scales + 1) * B, ...)`):
            Logits, or what they are a linear map of: under all conditions first, under none last.
        weights (`torch.Tensor` of shape `(scales,)`): 1 leaves what the next conditions say as it is.

    Returns:
        `torch.Tensor` of shape `(B, ...)`. Source: arXiv 2207.12598, equation 6; arXiv 2211.09800, equation 3.
    """
    *with_more, guided = parts = scores.chunk(len(weights) + 1)
    for weight, stronger, weaker in zip(weights, reversed(with_more), reversed(parts), strict=False):
        guided = guided + weight * (stronger - weaker)
    return guided


def codebook_warpers(settings: SamplingSettings, codebook_size: int) -> list[LogitsProcessorList]:
    """For each codebook of `settings.per_codebook(K)` the library's warpers, leaving out those without effect."""
    warpers = []
    for temperature, top_k, top_p in zip(settings.temperature, settings.top_k, settings.top_p, strict=True):
        warper = LogitsProcessorList()
        if temperature != 1.0:
            warper.append(TemperatureLogitsWarper(float(temperature)))
        if 0 < top_k < codebook_size:
            warper.append(TopKLogitsWarper(int(top_k)))
        if top_p < 1.0:
            warper.append(TopPLogitsWarper(float(top_p)))
        warpers.append(warper)
    return warpers


def guidance_weights(
    scale: Sequence[float],
    num_positions: int,
    schedule: str = "constant",
    power: float = 2.75,
    interval: tuple[float, float] = (0.0, 1.0),
) -> torch.Tensor:
    """
    Guidance scale of every position and codebook; 1 means none.

    With progress u = t / (T - 1), a scale s becomes 1 + (s - 1) * w(u), where w is 1 (`"constant"`), u (`"linear"`) or
    (1 - cos(pi * u^power)) / 2 (`"power-cosine"`); outside `interval` it is 1.

    Args:
        scale (`Sequence[float]`): One scale per codebook.
        num_positions (`int`): T.
        schedule (`str`): One of `GUIDANCE_SCHEDULES`.
        power (`float`): Exponent of `"power-cosine"`.
        interval (`tuple[float, float]`): Start and end as shares of the image, in [0, 1]; position t counts as
            (t + 0.5) / T.

    Returns:
        `torch.Tensor` of shape `(num_positions, num_codebooks)`, fp32.
    """
    progress = torch.linspace(0.0, 1.0, num_positions) if num_positions > 1 else torch.ones(1)
    if schedule == "constant":
        weight = torch.ones_like(progress)
    elif schedule == "linear":
        weight = progress
    else:
        weight = (1.0 - torch.cos(math.pi * progress**power)) / 2.0
    place = (torch.arange(num_positions) + 0.5) / num_positions
    weight = weight * ((place >= interval[0]) & (place <= interval[1]))
    return 1.0 + weight[:, None] * (torch.tensor(scale, dtype=torch.float32) - 1.0)


def draw_uniforms(
    generator: torch.Generator | list[torch.Generator] | None, shape: tuple[int, int, int], device: torch.device
) -> torch.Tensor:
    """Uniform float64 numbers in [0, 1) of `shape` (B, T, K); with a list, image i's come from generator i alone."""
    generators = generator if isinstance(generator, list) else [generator]
    shape = shape if len(generators) == 1 else (1, *shape[1:])
    # MPS has no float64: its generators draw fp32 numbers there, which are widened on the CPU.
    draws = [
        torch.rand(shape, generator=g, dtype=torch.float64, device="cpu" if g is None else g.device)
        if g is None or g.device.type != "mps"
        else torch.rand(shape, generator=g, device="mps").cpu().double()
        for g in generators
    ]
    return torch.cat([d.to("cpu" if device.type == "mps" else device) for d in draws])


# What `select_codes` gives where the scores are no distribution.
NO_CODE = -1


def select_codes(scores: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
    """
    One code per row of scores: the best one, or the inverse of the cumulative distribution at a uniform number.

    Codes of probability 0 (score -inf) are never chosen. A row that holds NaN or +inf, or nothing above -inf, gives
    `NO_CODE`: a mark rather than an error, since to look at it a GPU would have to be waited for. `require_codes`
    looks.

    Args:
        scores (`torch.Tensor` of shape `(B, V)`): Logits, processed.
        uniforms (`torch.Tensor` of shape `(B,)`, *optional*): In [0, 1), float64; None for the best code.

    Returns:
        `torch.LongTensor` of shape `(B,)`.
    """
    if uniforms is None:
        return scores.argmax(dim=-1).where(scores.amax(dim=-1).isfinite(), NO_CODE)  # NaN counts as largest
    probs = scores.float().softmax(dim=-1).to(uniforms.device)
    # In float64: an fp32 sum over 16384 codes would lose those in the tail.
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    codes = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
    codes = codes.clamp(max=scores.shape[-1] - 1).where(total.isfinite(), NO_CODE)
    return codes[:, 0].to(scores.device)


def require_codes(codes: torch.Tensor, first_position: int, first_codebook: int = 0) -> None:
    """
    Raise unless a code was found everywhere.

    Args:
        codes (`torch.LongTensor` of shape `(B, S, K)`): From `select_codes`, of the codes of S positions.
        first_position, first_codebook (`int`): Where they begin.

    Raises:
        ValueError: The scores of a code were not finite; the message says where.
    """
    missing = (codes == NO_CODE).nonzero()
    if len(missing):
        image, position, codebook = missing[missing[:, 1].argmin()].tolist()
        raise ValueError(
            f"the logits of image {image} are not finite at position {first_position + position}, codebook "
            f"{first_codebook + codebook}: guidance_scale is too large, or weights overflow in this dtype"
        )


def check_generator(generator: torch.Generator | list[torch.Generator] | None, batch_size: int) -> None:
    """Raise `ValueError` unless it is one generator for the batch, a list of one per image, or None."""
    generators = generator if isinstance(generator, list) else [generator]
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"generator must be one torch.Generator or a list of {batch_size}, got {len(generator)}")
    if any(g is not None and not isinstance(g, torch.Generator) for g in generators):
        raise ValueError(f"generator must be a torch.Generator or a list of them, got {generator!r}")
