# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling codes from FAR: guidance, per-codebook settings, reproducible draws, two loops with the same tokens.

The *position loop* runs a position's backbone pass and its K head steps inline. The *library loop* is transformers'
own `generate` over the flat sequence, one code a step; it is taken when logits processors, stopping criteria, a
streamer or scores are asked for. Both draw by inverting the cumulative distribution with uniform numbers that are
drawn before the first position, so an image's draws depend on nothing but its generator.

Shapes: B images, K codebooks, V codebook size, T positions, P positions of a given prefix.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from transformers import (
    Cache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    StaticLayer,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import ModelOutput

from .configuration_far import FARConfig


GUIDANCE_SCHEDULES = ("constant", "linear", "power-cosine")

# The library's processors that look at one step's scores only. Others of the library count tokens over the flat
# sequence, where the same number means another code in each codebook, so they are refused.
ALLOWED_PROCESSORS = (
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TopHLogitsWarper",
    "MinPLogitsWarper",
    "TypicalLogitsWarper",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
)


class FARCache(Cache):
    """Static key/value storage of one `generate` call: `num_positions` slots a backbone layer, K a head layer.

    Slots are allocated once, at the first use; the head's are reused by every position.
    """

    def __init__(self, config: FARConfig):
        self.num_backbone_layers = config.num_hidden_layers
        num_head_layers = config.num_head_layers if config.head_type == "ar" else 0
        super().__init__(
            layers=[StaticLayer(config.num_positions) for _ in range(config.num_hidden_layers)]
            + [StaticLayer(config.num_codebooks) for _ in range(num_head_layers)]
        )
        self.num_positions = 0  # positions that the backbone layers hold
        self.num_steps = 0  # steps of the current position that the head layers hold
        self.hidden_state = None  # the backbone's state at the current position, (B, D)

    @property
    def backbone_layers(self) -> list[StaticLayer]:
        return self.layers[: self.num_backbone_layers]

    @property
    def head_layers(self) -> list[StaticLayer]:
        return self.layers[self.num_backbone_layers :]

    def reset(self) -> None:
        """Begin another image in the same storage."""
        super().reset()
        self.num_positions = self.num_steps = 0

    def start_position(self, hidden_state: torch.Tensor) -> None:
        """Begin the steps of a new position: the head's slots are free again."""
        self.hidden_state = hidden_state
        self.num_steps = 0
        for layer in self.head_layers:
            layer.cumulative_length.zero_()


@dataclass
class FARGenerateOutput(ModelOutput):
    """
    Output of `generate(..., return_dict_in_generate=True)`.

    Args:
        codes (`torch.LongTensor` of shape `(images, positions, num_codebooks)`): Complete positions.
        sequences (`torch.LongTensor` of shape `(images, 1 + codes)`): The flat sequence, class first.
        scores, logits (`tuple[torch.Tensor]`, *optional*):
            With `output_scores` / `output_logits`: one `(images, codebook_size)` a code, after all processing / raw.
            Raw logits with guidance are those of the conditional batch followed by the unconditional one.
    """

    codes: torch.LongTensor | None = None
    sequences: torch.LongTensor | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    logits: tuple[torch.Tensor, ...] | None = None


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
        scale: One scale a codebook.
        interval: Start and end as shares of the image, in [0, 1]; position t counts as (t + 0.5) / T.

    Returns:
        fp32 tensor of shape `(num_positions, num_codebooks)`.
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
    One code per row of `scores` `(B, V)`: the best one, or with `uniforms` `(B,)` the inverse of the cumulative
    distribution there. Codes of probability 0 (score -inf) are never chosen.

    A row that holds NaN or +inf, or nothing above -inf, gives `NO_CODE`: a mark rather than an error, since to look
    at it a GPU would have to be waited for. `require_codes` looks.
    """
    if uniforms is None:
        return scores.argmax(dim=-1).where(scores.amax(dim=-1).isfinite(), NO_CODE)  # NaN counts as largest
    probs = scores.float().softmax(dim=-1).to(uniforms.device)
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


@dataclass(frozen=True)
class Sampling:
    """What a `generate` call settled on, checked and broadcast; both loops read it.

    Args:
        weights: `guidance_weights`, or None when no position is guided (no unconditional half is computed then).
        warpers: For each codebook its temperature, top-k and top-p, as the library's own warpers.
        uniforms: `draw_uniforms`, or None for greedy decoding.
    """

    weights: torch.Tensor | None
    warpers: list[LogitsProcessorList]
    uniforms: torch.Tensor | None

    def place(self, input_ids: torch.Tensor) -> tuple[int, int]:
        """Position and codebook of the code that follows a flat sequence."""
        return divmod(input_ids.shape[1] - 1, len(self.warpers))


class GuidanceLogitsProcessor(LogitsProcessor):
    """uncond + s * (cond - uncond) with s by position and codebook: `(2 * B, V)` -> `(B, V)`."""

    def __init__(self, sampling: Sampling):
        self.sampling = sampling

    def __call__(self, input_ids, scores):
        position, codebook = self.sampling.place(input_ids)
        conditional, unconditional = scores.chunk(2)
        return unconditional + self.sampling.weights[position, codebook] * (conditional - unconditional)


class PerCodebookLogitsWarper(LogitsProcessor):
    """The temperature, top-k and top-p of the codebook whose turn it is."""

    def __init__(self, sampling: Sampling):
        self.sampling = sampling

    def __call__(self, input_ids, scores):
        return self.sampling.warpers[self.sampling.place(input_ids)[1]](input_ids, scores)


class SelectionLogitsProcessor(LogitsProcessor):
    """Makes the library's argmax choose what `select_codes` chooses; keeps the scores that it saw, when asked."""

    def __init__(self, sampling: Sampling, keep_scores: bool):
        self.sampling = sampling
        self.scores = [] if keep_scores else None

    def __call__(self, input_ids, scores):
        if self.scores is not None:
            self.scores.append(scores)
        position, codebook = self.sampling.place(input_ids)
        uniforms = None if self.sampling.uniforms is None else self.sampling.uniforms[:, position, codebook]
        chosen = select_codes(scores, uniforms)
        require_codes(chosen[:, None, None], position, codebook)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class PositionCallbackCriteria(StoppingCriteria):
    """Calls back after each complete position, and stops all images when the callback returns True."""

    def __init__(self, callback: Callable[[int, torch.Tensor], bool | None], num_codebooks: int):
        self.callback = callback
        self.num_codebooks = num_codebooks

    def __call__(self, input_ids, scores, **kwargs):
        position, step = divmod(input_ids.shape[1] - 1, self.num_codebooks)
        stop = False
        if step == 0:
            codes = input_ids[:, 1:].unflatten(1, (-1, self.num_codebooks))
            stop = bool(self.callback(position - 1, codes))
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)


class FARGenerationMixin(GenerationMixin):
    """`generate` for FAR."""

    @torch.no_grad()
    @apply_forward_hook
    def generate(
        self,
        class_labels: int | Sequence[int] | torch.Tensor,
        guidance_scale: float | Sequence[float] | None = None,
        temperature: float | Sequence[float] | None = None,
        top_k: int | Sequence[int] | None = None,
        top_p: float | Sequence[float] | None = None,
        do_sample: bool | None = None,
        guidance_schedule: str = "constant",
        guidance_power: float = 2.75,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | list[torch.Generator] | None = None,
        prefix_codes: torch.LongTensor | None = None,
        num_return_sequences: int | None = None,
        logits_processor: LogitsProcessorList | list[LogitsProcessor] | None = None,
        stopping_criteria: StoppingCriteriaList | list[StoppingCriteria] | None = None,
        streamer=None,
        callback_on_position: Callable[[int, torch.Tensor], bool | None] | None = None,
        generation_config: GenerationConfig | None = None,
        use_cache: bool = True,
        return_dict_in_generate: bool = False,
        output_scores: bool = False,
        output_logits: bool = False,
        **kwargs,
    ) -> torch.LongTensor | FARGenerateOutput:
        """
        Sample codes by class.

        `guidance_scale`, `temperature`, `top_k` and `top_p` take one value, or one for each codebook. What is left at
        None comes from `generation_config`, else from the model's own, else is: no guidance, temperature 1, no top-k,
        no top-p, sampling.

        Args:
            class_labels (`int`, list of `int` or `torch.LongTensor` of shape `(batch,)`): In [0, num_classes).
            guidance_scale: Classifier-free guidance; 1 (everywhere) computes no unconditional half.
            temperature: Above 0.
            top_k: Keep the k best codes; 0 keeps all.
            top_p: Keep the smallest set of codes of probability p; in (0, 1].
            do_sample (`bool`): False takes the best code.
            guidance_schedule: `"constant"`, `"linear"` or `"power-cosine"`, see `guidance_weights`.
            guidance_power: Power of `"power-cosine"`; 2.75 by default.
            guidance_interval: Share of the image in which guidance acts.
            generator: One `torch.Generator` for the batch, or a list with one an image; on any device. With a list an
                image's draws do not depend on what else is in the batch.
            prefix_codes (`torch.LongTensor` of shape `(batch, P, num_codebooks)`): First P positions to continue.
            num_return_sequences (`int`): Images a class label.
            logits_processor, stopping_criteria, streamer: The library's, over the flat sequence and one code a step;
                those that would mix up codebooks are refused.
            callback_on_position: Called as `f(position, codes so far)` after each position; True ends the generation.
            generation_config (`GenerationConfig`): Source of the values left at None.
            use_cache (`bool`): False recomputes everything at each code (slow; for checks).
            return_dict_in_generate, output_scores, output_logits (`bool`): See `FARGenerateOutput`.

        Returns:
            `torch.LongTensor` of codes `(images, positions, num_codebooks)`, or a `FARGenerateOutput`.

        Raises:
            ValueError: For arguments out of range or unsupported, before any computation; for logits that are not
                finite, after the position where they are (on a GPU after the last).
        """
        if kwargs:
            raise ValueError(
                f"generate() does not support {', '.join(sorted(kwargs))}: FAR samples one code after another "
                "(no beam search, no assistant model), for a fixed number of positions"
            )
        config = self.config
        settings = [c for c in (generation_config, getattr(self, "generation_config", None)) if c is not None]

        def setting(name, given, default):
            found = [given] + [getattr(c, name, None) for c in settings]
            return next((value for value in found if value is not None), default)

        num_images = setting("num_return_sequences", num_return_sequences, 1)
        labels = self._prepare_class_labels(class_labels).repeat_interleave(num_images)
        prefix = self._prepare_prefix(prefix_codes, num_images, len(labels))
        sampling = self._prepare_sampling(
            batch_size=len(labels),
            guidance_scale=setting("guidance_scale", guidance_scale, 1.0),
            temperature=setting("temperature", temperature, 1.0),
            top_k=setting("top_k", top_k, 0),
            top_p=setting("top_p", top_p, 1.0),
            do_sample=setting("do_sample", do_sample, True),
            schedule=guidance_schedule,
            power=guidance_power,
            interval=guidance_interval,
            generator=generator,
        )
        input_ids = torch.cat([labels[:, None], prefix.flatten(1)], dim=1)
        extras = logits_processor or stopping_criteria or streamer is not None
        if not (extras or return_dict_in_generate or output_scores or output_logits) and use_cache:
            return self._position_loop(labels, prefix, sampling, callback_on_position)

        processors = LogitsProcessorList(_checked_processors(logits_processor))
        if sampling.weights is not None:
            processors.insert(0, GuidanceLogitsProcessor(sampling))
        selection = SelectionLogitsProcessor(sampling, keep_scores=output_scores)
        processors.extend([PerCodebookLogitsWarper(sampling), selection])
        criteria = StoppingCriteriaList(stopping_criteria or [])
        if callback_on_position is not None:
            criteria.append(PositionCallbackCriteria(callback_on_position, config.num_codebooks))
        output = super().generate(
            input_ids,
            generation_config=GenerationConfig(
                do_sample=False,
                max_length=1 + config.num_positions * config.num_codebooks,
                use_cache=use_cache,
                disable_compile=True,
                return_dict_in_generate=True,
                output_logits=output_logits,
            ),
            logits_processor=processors,
            stopping_criteria=criteria,
            streamer=streamer,
            cache=FARCache(self.config) if use_cache else None,
            unconditional_batch=sampling.weights is not None,
        )
        flat = output.sequences[:, 1:]
        codes = flat[:, : flat.shape[1] // config.num_codebooks * config.num_codebooks]
        codes = codes.unflatten(1, (-1, config.num_codebooks))
        if not return_dict_in_generate:
            return codes
        scores = tuple(selection.scores) if output_scores else None
        return FARGenerateOutput(codes=codes, sequences=output.sequences, scores=scores, logits=output.logits)

    def compile(self, *args, **kwargs):
        """
        `torch.compile` the forward pass and the position step of `generate`, in place; arguments are torch's.

        One graph serves all positions. Key/value storage then stays allocated from call to call, one for each batch
        size, since CUDA graphs (`mode="reduce-overhead"`) are recorded for its addresses.
        """
        super().compile(*args, **kwargs)
        self._compiled_position_step = torch.compile(self._position_step, *args, **kwargs)
        self._compiled_caches = {}

    def _position_loop(self, labels, prefix, sampling, callback):
        """Position after position, with all K codes of a position in one step."""
        config = self.config
        batch_size, start = prefix.shape[:2]
        codes = labels.new_empty(batch_size, config.num_positions, config.num_codebooks)
        codes[:, :start] = prefix
        embeddings = self.class_embedding(labels)[:, None]
        if sampling.weights is not None:
            null_class = self.class_embedding(torch.full_like(labels, config.null_class_id))[:, None]
            embeddings = torch.cat([embeddings, null_class])
        if start:
            embeddings = torch.cat([embeddings, self._embed_for_both(prefix, sampling)], dim=1)
        compiled_step = getattr(self, "_compiled_position_step", None)
        cache = FARCache(config) if compiled_step is None else self._compiled_cache(embeddings)
        positions = torch.arange(config.num_positions, device=labels.device)
        num_checked = start
        for position in range(start, config.num_positions):
            if position == start:  # takes in class and prefix together, and allocates the cache
                codes[:, position] = self._position_step(embeddings, 0, positions[position], cache, sampling)
            elif compiled_step is None:
                codes[:, position] = self._position_step(embeddings, position, positions[position], cache, sampling)
            else:
                torch.compiler.cudagraph_mark_step_begin()
                codes[:, position] = compiled_step(
                    embeddings, positions[position], positions[position], cache, sampling
                )
            if callback is not None or codes.is_cpu or position == config.num_positions - 1:
                # Elsewhere to look means to wait for the device: once, at the end.
                require_codes(codes[:, num_checked : position + 1], num_checked)
                num_checked = position + 1
            if callback is not None and callback(position, codes[:, : position + 1]):
                return codes[:, : position + 1]
            embeddings = self._embed_for_both(codes[:, position : position + 1].clamp(min=0), sampling)
        return codes

    def _compiled_cache(self, embeddings: torch.Tensor) -> FARCache:
        """The storage that compiled steps on inputs like these use, emptied."""
        kind = embeddings.shape[0], embeddings.dtype, embeddings.device
        if kind not in self._compiled_caches:
            self._compiled_caches[kind] = FARCache(self.config)
        self._compiled_caches[kind].reset()
        return self._compiled_caches[kind]

    def _position_step(self, embeddings, start, position, cache, sampling):
        """
        The K codes `(B, K)` of one position: backbone pass, then K head steps inline.

        Guidance acts on the normalised head state: the output matrices are linear without bias, so that is the same
        as on the logits, at half the cost.

        Args:
            embeddings: `(B, S, D)`, or `(2 * B, S, D)` with the unconditional half; usually S = 1.
            start: See `backbone`.
            position: The position as a tensor of shape `()`, that of the last of the S embeddings.
        """
        cache.start_position(self.backbone(embeddings, start, cache)[:, -1])
        uniforms = None if sampling.uniforms is None else sampling.uniforms.index_select(1, position[None])[:, 0]
        weights = None if sampling.weights is None else sampling.weights.index_select(0, position[None])[0]
        rotary = self.head.rotary_embedding(embeddings.device)
        codes, code_embedding = [], None
        for k, lm_head in enumerate(self.lm_heads):
            state = self.norm(self.head.step(k, code_embedding, cache, rotary))
            if weights is not None:
                conditional, unconditional = state.float().chunk(2)
                state = (unconditional + weights[k] * (conditional - unconditional)).to(state.dtype)
            scores = sampling.warpers[k](None, lm_head(state).float())
            codes.append(select_codes(scores, None if uniforms is None else uniforms[:, k]))
            if k + 1 < self.config.num_codebooks:
                code_embedding = self.embed_codes(codes[k][:, None].clamp(min=0), k)[:, 0]
                if weights is not None:
                    code_embedding = torch.cat([code_embedding, code_embedding])
        return torch.stack(codes, dim=1)

    def _embed_for_both(self, codes, sampling):
        """Input embeddings of whole tokens; the unconditional half, if there is one, sees the same codes."""
        embeddings = self.embed_tokens(codes)
        return embeddings if sampling.weights is None else torch.cat([embeddings, embeddings])

    def prepare_inputs_for_generation(self, input_ids, cache=None, unconditional_batch=False, **kwargs):
        """The whole flat sequence: `forward` finds what the cache still lacks."""
        if unconditional_batch:
            unconditional = input_ids.clone()
            unconditional[:, 0] = self.config.null_class_id
            input_ids = torch.cat([input_ids, unconditional])
        return {"input_ids": input_ids, "cache": cache}

    def _prepare_class_labels(self, class_labels) -> torch.Tensor:
        num_classes = self.config.num_classes
        if not isinstance(class_labels, torch.Tensor):
            class_labels = [class_labels] if isinstance(class_labels, int) else list(class_labels)
            if not class_labels or any(isinstance(c, bool) or not isinstance(c, int) for c in class_labels):
                raise ValueError(f"class_labels must be a non-empty list of integers, got {class_labels}")
            class_labels = torch.tensor(class_labels)
        if class_labels.ndim != 1 or len(class_labels) == 0 or class_labels.dtype not in (torch.long, torch.int):
            raise ValueError(
                "class_labels must be integers of shape (batch,) with at least one, "
                f"got {class_labels.dtype} of shape {tuple(class_labels.shape)}"
            )
        wrong = class_labels[(class_labels < 0) | (class_labels >= num_classes)]
        if len(wrong):
            raise ValueError(f"class_labels must be in [0, {num_classes - 1}], got {wrong[0].item()}")
        return class_labels.to(self.device, torch.long)

    def _prepare_prefix(self, prefix_codes, num_images, batch_size) -> torch.Tensor:
        config = self.config
        if prefix_codes is None:
            return torch.empty(batch_size, 0, config.num_codebooks, dtype=torch.long, device=self.device)
        expected = f"({batch_size // num_images}, 0 to {config.num_positions - 1} positions, {config.num_codebooks})"
        if (
            prefix_codes.ndim != 3
            or prefix_codes.shape[0] * num_images != batch_size
            or prefix_codes.shape[1] >= config.num_positions
            or prefix_codes.shape[2] != config.num_codebooks
            or prefix_codes.dtype not in (torch.long, torch.int)
        ):
            raise ValueError(
                f"prefix_codes must be integers of shape {expected}, "
                f"got {prefix_codes.dtype} of shape {tuple(prefix_codes.shape)}"
            )
        if prefix_codes.numel() and (prefix_codes.min() < 0 or prefix_codes.max() >= config.codebook_size):
            raise ValueError(
                f"prefix_codes must be in [0, {config.codebook_size - 1}], "
                f"got {prefix_codes.min().item()} to {prefix_codes.max().item()}"
            )
        return prefix_codes.to(self.device, torch.long).repeat_interleave(num_images, dim=0)

    def _prepare_sampling(
        self, batch_size, guidance_scale, temperature, top_k, top_p, do_sample, schedule, power, interval, generator
    ) -> Sampling:
        config = self.config
        scales = _per_codebook("guidance_scale", guidance_scale, config.num_codebooks, lambda s: s >= 0, "at least 0")
        temperatures = _per_codebook("temperature", temperature, config.num_codebooks, lambda t: t > 0, "above 0")
        top_ks = _per_codebook("top_k", top_k, config.num_codebooks, lambda k: k >= 0 and k == int(k), "integers >= 0")
        top_ps = _per_codebook("top_p", top_p, config.num_codebooks, lambda p: 0 < p <= 1, "in (0, 1]")
        if schedule not in GUIDANCE_SCHEDULES:
            raise ValueError(f"guidance_schedule must be one of {GUIDANCE_SCHEDULES}, got {schedule!r}")
        if not (isinstance(power, (int, float)) and power > 0):
            raise ValueError(f"guidance_power must be above 0, got {power}")
        if len(interval) != 2 or not 0.0 <= interval[0] <= interval[1] <= 1.0:
            raise ValueError(f"guidance_interval must be (start, end) with 0 <= start <= end <= 1, got {interval}")
        generators = generator if isinstance(generator, list) else [generator]
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"generator must be one torch.Generator or a list of {batch_size}, got {len(generator)}")
        if any(g is not None and not isinstance(g, torch.Generator) for g in generators):
            raise ValueError(f"generator must be a torch.Generator or a list of them, got {generator!r}")

        weights = guidance_weights(scales, config.num_positions, schedule, power, interval)
        warpers = [LogitsProcessorList() for _ in range(config.num_codebooks)]
        for k, warper in enumerate(warpers):
            if temperatures[k] != 1.0:
                warper.append(TemperatureLogitsWarper(float(temperatures[k])))
            if 0 < top_ks[k] < config.codebook_size:
                warper.append(TopKLogitsWarper(int(top_ks[k])))
            if top_ps[k] < 1.0:
                warper.append(TopPLogitsWarper(float(top_ps[k])))
        shape = (batch_size, config.num_positions, config.num_codebooks)
        return Sampling(
            weights=None if (weights == 1.0).all() else weights.to(self.device),
            warpers=warpers,
            uniforms=draw_uniforms(generator, shape, self.device) if do_sample else None,
        )


def _per_codebook(
    name: str, value, num_codebooks: int, is_valid: Callable[[float], bool], accepted: str
) -> list[float]:
    values = value.tolist() if isinstance(value, torch.Tensor) else value
    values = list(values) if isinstance(values, (list, tuple)) else [values] * num_codebooks
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if len(values) != num_codebooks or not numbers or not all(is_valid(v) and math.isfinite(v) for v in values):
        raise ValueError(
            f"{name} must be one value or {num_codebooks} values (one a codebook), {accepted}, got {value}"
        )
    return values


def _checked_processors(processors) -> list[LogitsProcessor]:
    for processor in processors or []:
        kind = type(processor)
        if kind.__module__.startswith("transformers.") and kind.__name__ not in ALLOWED_PROCESSORS:
            raise ValueError(
                f"logits_processor {kind.__name__} is not supported: it reads token ids of the flat sequence, "
                "where a number means another code in each codebook; "
                f"accepted are {', '.join(ALLOWED_PROCESSORS)} and your own"
            )
    return list(processors or [])
