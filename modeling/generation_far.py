# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling codes from FAR: two loops that give the same codes.

The *position loop* runs a position's backbone pass and its K head steps inline. The *library loop* is transformers'
own `generate` over the flat sequence, one code per step; it is taken when logits processors, stopping criteria, a
streamer or scores are asked for. Both draw as `code_sampling` does.

The prefix stands beside the codes in both: as embeddings `(B, P, D)` of which only the backbone takes notice. With
guidance the batch is doubled, conditional half first. The unconditional half sees the nulls of the conditions and the
same codes. With a scale for each of several conditions there are more such parts: see `guidance_prefix`.

Shapes: B images, K codebooks, V codebook size, T positions, P positions of the prefix, D hidden size. The flat
sequence is `[code 0 of token 0, code 1 of token 0, code 0 of token 1, ...]`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from .cache_far import FARCache
from .code_sampling import SamplingPlan, SamplingSettings, guide, plan_sampling, require_codes, select_codes
from .conditioning import Condition, ConditionInputs, Prefix, as_conditions, guidance_prefix
from .processors_far import (
    GuidanceLogitsProcessor,
    PerCodebookLogitsWarper,
    PositionCallbackCriteria,
    SelectionLogitsProcessor,
    checked_processors,
)


INTEGERS = (torch.long, torch.int)


@dataclass
class FARGenerateOutput(ModelOutput):
    """
    Output of `generate(..., return_dict_in_generate=True)`.

    Args:
        codes (`torch.LongTensor` of shape `(images, positions, num_codebooks)`): Complete positions.
        sequences (`torch.LongTensor` of shape `(images, number of codes)`):
            The flat sequence as the library's loop left it: the same codes one after another, and those of a last
            position that stopping criteria cut short. The condition is no part of it.
        scores, logits (`tuple[torch.Tensor]`, *optional*):
            With `output_scores` / `output_logits`: one `(images, codebook_size)` per code, after all processing / raw.
            Raw logits with guidance are those of the conditional batch followed by the unconditional one.
    """

    codes: torch.LongTensor | None = None
    sequences: torch.LongTensor | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    logits: tuple[torch.Tensor, ...] | None = None


class FARGenerationMixin(GenerationMixin):
    """`generate` for FAR."""

    @torch.no_grad()
    @apply_forward_hook
    def generate(
        self,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
        guidance_scale: float | Sequence[float] | Mapping[str, float | Sequence[float]] | None = None,
        temperature: float | Sequence[float] | None = None,
        top_k: int | Sequence[int] | None = None,
        top_p: float | Sequence[float] | None = None,
        do_sample: bool | None = None,
        guidance_schedule: str = "constant",
        guidance_power: float = 2.75,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | list[torch.Generator] | None = None,
        prefix_codes: torch.LongTensor | None = None,
        known_codes: torch.LongTensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.BoolTensor | None = None,
        negative_text: torch.Tensor | None = None,
        negative_text_mask: torch.BoolTensor | None = None,
        map_codes: torch.LongTensor | None = None,
        condition: Condition | Sequence[Condition] | None = None,
        num_return_sequences: int | None = None,
        logits_processor: LogitsProcessorList | list[LogitsProcessor] | None = None,
        stopping_criteria: StoppingCriteriaList | list[StoppingCriteria] | None = None,
        streamer: BaseStreamer | None = None,
        callback_on_position: Callable[[int, torch.Tensor], bool | None] | None = None,
        generation_config: GenerationConfig | None = None,
        use_cache: bool = True,
        return_dict_in_generate: bool = False,
        output_scores: bool = False,
        output_logits: bool = False,
        **kwargs: Any,
    ) -> torch.LongTensor | FARGenerateOutput:
        """
        Sample codes under the generator's conditions, usually a class.

        `guidance_scale`, `temperature`, `top_k` and `top_p` take one value, or one for each codebook. What is left at
        None comes from `generation_config`, else from the model's own, else is: no guidance, temperature 1, no top-k,
        no top-p, sampling.

        Args:
            class_labels (`int`, list of `int` or `torch.LongTensor` of shape `(batch,)`): In [0, num_classes).
            guidance_scale, temperature, top_k, top_p, do_sample, guidance_schedule, guidance_power, guidance_interval:
                See `SamplingSettings`.
            generator: One `torch.Generator` for the batch, or a list of one per image; on any device. With a list an
                image's draws do not depend on what else is in the batch.
            prefix_codes (`torch.LongTensor` of shape `(batch, positions, num_codebooks)`):
                First positions of an image to continue.
            known_codes (`torch.LongTensor` of shape `(batch, num_positions, num_codebooks)`):
                Codes that stay as they are, anywhere in an image, and -1 where codes are to be generated. What comes
                later in raster order is not seen by what comes before it.
            text, text_mask, negative_text, negative_text_mask, map_codes:
                See `embed_conditions`; as the configuration's `conditions` say.
            condition (`Condition` or sequence of them, *optional*):
                In place of these and `class_labels`; with guidance each needs its null.
            num_return_sequences (`int`): Images per row of the conditions.
            logits_processor, stopping_criteria, streamer: The library's, over the flat sequence and one code per step;
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

        def setting(name: str, given: Any, default: Any) -> Any:
            found = [given] + [getattr(c, name, None) for c in settings]
            return next((value for value in found if value is not None), default)

        # What is refused is refused before any computation, so the condition is embedded after all of this.
        processors = checked_processors(logits_processor)
        num_images = setting("num_return_sequences", num_return_sequences, 1)
        if class_labels is not None:
            class_labels = self._prepare_class_labels(class_labels)
        inputs = ConditionInputs(
            class_labels=class_labels, text=text, text_mask=text_mask, negative_text=negative_text,
            negative_text_mask=negative_text_mask, map_codes=map_codes,
        )  # fmt: skip
        batch_size = num_images * self._num_rows(inputs, condition)
        codes, known = self._prepare_codes(prefix_codes, known_codes, num_images, batch_size)
        plan = plan_sampling(
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
            batch_size=batch_size,
            generator=generator,
            device=self.device,
        )
        conditions = self._prepare_conditions(inputs, condition, num_images)
        if plan.num_scales and any(one.null is None for one in conditions):
            raise ValueError("condition must have a null where there is guidance")
        prefix = guidance_prefix(conditions, plan.num_scales)
        plan = replace(plan, known_codes=known)
        extras = processors or stopping_criteria or streamer is not None
        if not (extras or return_dict_in_generate or output_scores or output_logits) and use_cache:
            return self._position_loop(prefix, codes, plan, callback_on_position)

        # Guidance comes first, since it halves the batch; selection last, since it leaves one code possible. The
        # library is then asked for the best code, whatever `do_sample` says: its own draws would not be ours.
        selection = SelectionLogitsProcessor(plan, keep_scores=output_scores)
        guidance = [GuidanceLogitsProcessor(plan)] if plan.num_scales else []
        processors = LogitsProcessorList([*guidance, *processors, PerCodebookLogitsWarper(plan), selection])
        criteria = StoppingCriteriaList(stopping_criteria or [])
        if callback_on_position is not None:
            criteria.append(PositionCallbackCriteria(callback_on_position, config.num_codebooks))
        output = super().generate(
            codes.flatten(1),  # may be empty: the prefix is what the first code follows from
            generation_config=GenerationConfig(
                do_sample=False,
                max_length=config.num_positions * config.num_codebooks,
                use_cache=use_cache,
                disable_compile=True,
                return_dict_in_generate=True,
                output_logits=output_logits,
            ),
            logits_processor=processors,
            stopping_criteria=criteria,
            streamer=streamer,
            prefix=prefix,
            cache=FARCache(config, prefix.length) if use_cache else None,
        )
        flat = output.sequences
        # Stopping criteria look after every code, so the last position may be incomplete.
        codes = flat[:, : flat.shape[1] // config.num_codebooks * config.num_codebooks]
        codes = codes.unflatten(1, (-1, config.num_codebooks))
        if not return_dict_in_generate:
            return codes
        scores = tuple(selection.scores) if output_scores else None
        return FARGenerateOutput(codes=codes, sequences=output.sequences, scores=scores, logits=output.logits)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """
        `torch.compile` the forward pass and the position step of `generate`, in place; arguments are torch's.

        One graph serves all positions. Key/value storage then stays allocated from call to call, one for each batch
        size and length of prefix, since CUDA graphs (`mode="reduce-overhead"`) are recorded for its addresses.
        """
        super().compile(*args, **kwargs)
        self._compiled_position_step = torch.compile(self._position_step, *args, **kwargs)
        self._compiled_caches = {}

    def _position_loop(
        self,
        prefix: Prefix,
        first_codes: torch.Tensor,
        plan: SamplingPlan,
        callback: Callable[[int, torch.Tensor], bool | None] | None,
    ) -> torch.Tensor:
        """
        Position after position, with all K codes of a position in one step.

        Args:
            prefix: Of B rows, or `(scales + 1) * B` with guidance.
            first_codes: Codes `(B, positions given, K)`, none of them in the usual case.
        """
        config, device = self.config, first_codes.device
        batch_size, start = first_codes.shape[:2]
        codes = first_codes.new_empty(batch_size, config.num_positions, config.num_codebooks)
        codes[:, :start] = first_codes
        embeddings = prefix.embeddings
        if start:
            embeddings = torch.cat([embeddings, self._embed_for_all(first_codes, plan)], dim=1)
        compiled_step = getattr(self, "_compiled_position_step", None)
        cache = FARCache(config, prefix.length) if compiled_step is None else self._compiled_cache(prefix)
        first_slot = prefix.length - 1  # the one whose state predicts position 0
        positions = torch.arange(config.num_positions, device=device)
        slots = positions + first_slot
        num_checked = start
        for position in range(start, config.num_positions):
            if position == start:  # takes in condition and prefix together, and allocates the cache
                codes[:, position] = self._position_step(embeddings, 0, positions[position], prefix, cache, plan)
            elif compiled_step is None:
                slot = position + first_slot
                codes[:, position] = self._position_step(embeddings, slot, positions[position], prefix, cache, plan)
            else:
                torch.compiler.cudagraph_mark_step_begin()
                codes[:, position] = compiled_step(
                    embeddings, slots[position], positions[position], prefix, cache, plan
                )
            if callback is not None or codes.is_cpu or position == config.num_positions - 1:
                # Elsewhere to look means to wait for the device: once, at the end.
                require_codes(codes[:, num_checked : position + 1], num_checked)
                num_checked = position + 1
            if callback is not None and callback(position, codes[:, : position + 1]):
                return codes[:, : position + 1]
            # Read back from `codes`, since a callback may have changed the newest. NO_CODE is found at the latest at
            # the end; until then any code may stand for it.
            embeddings = self._embed_for_all(codes[:, position : position + 1].clamp(min=0), plan)
        return codes

    def _compiled_cache(self, prefix: Prefix) -> FARCache:
        """The storage that compiled steps under prefixes like this use, emptied."""
        kind = prefix.embeddings.shape, prefix.embeddings.dtype, prefix.embeddings.device
        if kind not in self._compiled_caches:
            self._compiled_caches[kind] = FARCache(self.config, prefix.length)
        self._compiled_caches[kind].reset()
        return self._compiled_caches[kind]

    def _position_step(
        self,
        embeddings: torch.Tensor,
        start: int | torch.Tensor,
        position: torch.Tensor,
        prefix: Prefix,
        cache: FARCache,
        plan: SamplingPlan,
    ) -> torch.Tensor:
        """
        The K codes `(B, K)` of one position: backbone pass, then K head steps inline.

        Guidance acts on the normalised head state: the output matrices are linear without bias, so that is the same
        as on the logits, at half the cost.

        Args:
            embeddings: `(B, S, D)`, or `((scales + 1) * B, S, D)` with guidance; usually S = 1.
            start: Slots of the cache that are filled; see `backbone` for what a tensor changes.
            position: The position to sample as a tensor of shape `()`, which is `index_select`ed with: a Python number
                would be a constant of the compiled graph, and there would be one graph per position.
            prefix: Of the whole call; its embeddings are not read here.
        """
        cache.start_position(self.backbone(embeddings, prefix, start, cache)[:, -1])
        uniforms, known = (
            None if table is None else table.index_select(1, position[None])[:, 0]
            for table in (plan.uniforms, plan.known_codes)
        )
        weights = None if plan.weights is None else plan.weights.index_select(1, position[None])[:, 0]
        rotary = self.head.rotary_embedding(embeddings.device)
        codes, code_embedding = [], None
        for k, lm_head in enumerate(self.lm_heads):
            state = self.norm(self.head.step(k, cache.hidden_state, code_embedding, cache.head_layers, rotary))
            if weights is not None:
                state = guide(state.float(), weights[:, k]).to(state.dtype)
            scores = plan.warpers[k](None, lm_head(state).float())
            chosen = select_codes(scores, None if uniforms is None else uniforms[:, k])
            codes.append(chosen if known is None else known[:, k].where(known[:, k] >= 0, chosen))
            if k + 1 < self.config.num_codebooks:
                code_embedding = self.embed_codes(codes[k][:, None].clamp(min=0), k)[:, 0]
                code_embedding = code_embedding.repeat(plan.num_scales + 1, 1)
        return torch.stack(codes, dim=1)

    def _embed_for_all(self, codes: torch.Tensor, plan: SamplingPlan) -> torch.Tensor:
        """Input embeddings of whole tokens; whatever the conditions, all parts of the batch see the same codes."""
        return self.embed_tokens(codes).repeat(plan.num_scales + 1, 1, 1)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, prefix: Prefix, cache: FARCache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The whole flat sequence, once per part of the prefix: `forward` finds what the cache still lacks."""
        return {
            "input_ids": input_ids.repeat(len(prefix.embeddings) // input_ids.shape[0], 1),
            "prefix": prefix,
            "cache": cache,
        }

    def _num_rows(self, inputs: ConditionInputs, condition: Condition | Sequence[Condition] | None) -> int:
        """Rows of the conditions, which are checked here and embedded later."""
        given = inputs.arguments()
        if condition is None:
            self.check_condition_inputs(None, **given)
            return len(next(iter(given.values())))
        if given:
            raise ValueError(f"condition takes the place of {', '.join(given)}: only one of them can be given")
        return len(as_conditions(condition, self.config.hidden_size, batch_size=None)[0].embeddings)

    def _prepare_conditions(
        self, inputs: ConditionInputs, condition: Condition | Sequence[Condition] | None, num_images: int
    ) -> list[Condition]:
        """The conditions, with rows for all images, on the model's device."""
        if condition is None:
            arguments = {name: value.to(self.device) for name, value in inputs.arguments().items()}
            conditions = self.embed_conditions(**arguments)
        else:
            conditions = as_conditions(condition, self.config.hidden_size, batch_size=None)
        return [one.prepared(num_images, self.device, self.dtype) for one in conditions]

    def _prepare_class_labels(self, class_labels: int | Sequence[int] | torch.Tensor) -> torch.Tensor:
        num_classes = self.config.num_classes
        if not isinstance(class_labels, torch.Tensor):
            class_labels = [class_labels] if isinstance(class_labels, int) else list(class_labels)
            if not class_labels or any(isinstance(c, bool) or not isinstance(c, int) for c in class_labels):
                raise ValueError(f"class_labels must be a non-empty list of integers, got {class_labels}")
            class_labels = torch.tensor(class_labels)
        if class_labels.ndim != 1 or len(class_labels) == 0 or class_labels.dtype not in INTEGERS:
            raise ValueError(
                "class_labels must be integers of shape (batch,) with at least one, "
                f"got {class_labels.dtype} of shape {tuple(class_labels.shape)}"
            )
        wrong = class_labels[(class_labels < 0) | (class_labels >= num_classes)]
        if len(wrong):
            raise ValueError(f"class_labels must be in [0, {num_classes - 1}], got {wrong[0].item()}")
        return class_labels.to(self.device, torch.long)

    def _prepare_codes(
        self,
        prefix_codes: torch.Tensor | None,
        known_codes: torch.Tensor | None,
        num_images: int,
        batch_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Codes that are given, for B images: those of the first positions, `(B, positions given, K)`, which are read in
        one pass, and if there are others all codes `(B, T, K)`, -1 for those to generate.
        """
        config, name, codes = self.config, "prefix_codes", prefix_codes
        least, fewest, most = 0, 0, config.num_positions - 1
        if known_codes is not None:
            if prefix_codes is not None:
                raise ValueError("only one of prefix_codes and known_codes can be given")
            name, codes, least, fewest, most = "known_codes", known_codes, -1, most + 1, most + 1
        if codes is None:
            return torch.empty(batch_size, 0, config.num_codebooks, dtype=torch.long, device=self.device), None
        is_wrong = codes.ndim != 3 or codes.shape[2] != config.num_codebooks or codes.dtype not in INTEGERS
        if is_wrong or codes.shape[0] * num_images != batch_size or not fewest <= codes.shape[1] <= most:
            number = str(most) if fewest == most else f"{fewest} to {most}"
            raise ValueError(
                f"{name} must be integers of shape ({batch_size // num_images}, {number} positions, "
                f"{config.num_codebooks}), got {codes.dtype} of shape {tuple(codes.shape)}"
            )
        if codes.numel() and (codes.min() < least or codes.max() >= config.codebook_size):
            raise ValueError(
                f"{name} must be in [{least}, {config.codebook_size - 1}], "
                f"got {codes.min().item()} to {codes.max().item()}"
            )
        codes = codes.to(self.device, torch.long).repeat_interleave(num_images, dim=0)
        if known_codes is None:
            return codes, None
        is_complete = (codes >= 0).all(2).all(0)  # (T,): whether a position is known of all images
        num_first = int(is_complete.long().cumprod(0).sum())
        if num_first == config.num_positions:
            raise ValueError("known_codes must be -1 where codes are to be generated, got none")
        return codes[:, :num_first], codes if (codes[:, num_first:] >= 0).any() else None
