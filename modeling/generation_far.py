# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling codes from FAR: guidance, per-codebook settings, reproducible draws, two loops with the same tokens.

The *position loop* runs a position's backbone pass and its K head steps inline. The *library loop* is transformers'
own `generate` over the flat sequence, one code a step; it is taken when logits processors, stopping criteria, a
streamer or scores are asked for. Both draw by inverting the cumulative distribution with uniform numbers that are
drawn before the first position, so an image's draws depend on nothing but its generator.

Shapes: B images, K codebooks, V codebook size, T positions, P positions of a given prefix.
"""

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
)
from transformers.utils import ModelOutput

from .code_sampling import SamplingPlan, SamplingSettings, plan_sampling, require_codes, select_codes
from .configuration_far import FARConfig


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


def place(input_ids: torch.Tensor, num_codebooks: int) -> tuple[int, int]:
    """Position and codebook of the code that follows a flat sequence."""
    return divmod(input_ids.shape[1] - 1, num_codebooks)


class GuidanceLogitsProcessor(LogitsProcessor):
    """uncond + s * (cond - uncond) with s by position and codebook: `(2 * B, V)` -> `(B, V)`."""

    def __init__(self, sampling: SamplingPlan):
        self.sampling = sampling

    def __call__(self, input_ids, scores):
        position, codebook = place(input_ids, len(self.sampling.warpers))
        conditional, unconditional = scores.chunk(2)
        return unconditional + self.sampling.weights[position, codebook] * (conditional - unconditional)


class PerCodebookLogitsWarper(LogitsProcessor):
    """The temperature, top-k and top-p of the codebook whose turn it is."""

    def __init__(self, sampling: SamplingPlan):
        self.sampling = sampling

    def __call__(self, input_ids, scores):
        return self.sampling.warpers[place(input_ids, len(self.sampling.warpers))[1]](input_ids, scores)


class SelectionLogitsProcessor(LogitsProcessor):
    """Makes the library's argmax choose what `select_codes` chooses; keeps the scores that it saw, when asked."""

    def __init__(self, sampling: SamplingPlan, keep_scores: bool):
        self.sampling = sampling
        self.scores = [] if keep_scores else None

    def __call__(self, input_ids, scores):
        if self.scores is not None:
            self.scores.append(scores)
        position, codebook = place(input_ids, len(self.sampling.warpers))
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
        sampling = plan_sampling(
            SamplingSettings(
                guidance_scale=setting("guidance_scale", guidance_scale, 1.0),
                temperature=setting("temperature", temperature, 1.0),
                top_k=setting("top_k", top_k, 0),
                top_p=setting("top_p", top_p, 1.0),
                do_sample=setting("do_sample", do_sample, True),
                guidance_schedule=guidance_schedule,
                guidance_power=guidance_power,
                guidance_interval=guidance_interval,
            ),
            config,
            batch_size=len(labels),
            generator=generator,
            device=self.device,
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
