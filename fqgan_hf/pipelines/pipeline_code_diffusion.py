# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Class labels, prompts or maps -> images by discrete diffusion over the codes of an FQGAN tokenizer.

    all codes [MASK] -> step: network -> x_0, codebook after codebook -> some codes are settled -> ... -> all codes

A step is one pass of the network, with the conditional and the unconditional half in one batch. What precedes the
image, the prefix, is embedded once per call.

Shapes: B images, T positions, K codebooks, V codebook size; V is also the state [MASK].
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ImagePipelineOutput
from diffusers.utils import replace_example_docstring
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fqgan_hf.hub.registration import register_with_diffusers
from fqgan_hf.modeling.code_layout import grid_to_sequence, sequence_to_grid
from fqgan_hf.modeling.code_sampling import SamplingPlan, SamplingSettings, plan_sampling, select_codes
from fqgan_hf.modeling.conditioning import ConditionInputs, Prefix, guidance_prefix
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer, DrawCodes
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler
from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline, GuidanceScale, number_of_images


register_with_diffusers()

DEFAULT_STEPS = 50

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import torch
        >>> from fqgan_hf import CodeDiffusionPipeline, CodeDiffusionScheduler

        >>> pipe = CodeDiffusionPipeline.from_pretrained("outputs/emoji-code-diffusion/pipeline")
        >>> pipe(prompt="a red apple", num_inference_steps=25, guidance_scale=3.0).images[0].save("apple.png")

        >>> # in-painting: white is generated anew; variations; the same layout with other details
        >>> repaired = pipe(prompt="a red apple", image=drawing, mask_image=mask).images[0]
        >>> similar = pipe(prompt="a red apple", image=drawing, strength=0.6).images[0]
        >>> variation = pipe(prompt="a red apple", image=drawing, keep_codebooks="semantic").images[0]

        >>> # in few steps by another sampler
        >>> pipe.scheduler = CodeDiffusionScheduler.from_config(pipe.scheduler.config, sampling="confidence")
        >>> pipe(prompt="a red apple", num_inference_steps=8).images[0]
        ```
"""


class CodeDiffusionPipeline(GeneratorPipeline):
    """
    Image generation by class, prompt or map, whatever the generator was trained for.

    Args:
        vqmodel ([`FQGANModel`]): Tokenizer; decodes the codes.
        transformer ([`CodeDiffusionTransformer`]): Tells the clean codes from noisy ones.
        scheduler ([`CodeDiffusionScheduler`]): The noise, and the way back from it.
        image_processor ([`FQGANImageProcessor`]): Makes images of the tokenizer's pixels.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Of texts, for prompts.
        text_encoder (`PreTrainedModel`, *optional*):
            Reads prompts; not where the generator has a text encoder of its own.
        map_vqmodel ([`FQGANModel`], *optional*): Tokenizer of the maps, for maps.

    Raises:
        ValueError: If components do not belong together; the message names what differs.
    """

    _callback_tensor_inputs = ["codes", "clean_codes"]

    def __init__(
        self,
        vqmodel: FQGANModel,
        transformer: CodeDiffusionTransformer,
        scheduler: CodeDiffusionScheduler,
        image_processor: FQGANImageProcessor,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder: PreTrainedModel | None = None,
        map_vqmodel: FQGANModel | None = None,
    ):
        super().__init__(
            vqmodel=vqmodel, transformer=transformer, scheduler=scheduler, image_processor=image_processor,
            tokenizer=tokenizer, text_encoder=text_encoder, map_vqmodel=map_vqmodel,
        )  # fmt: skip

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | torch.Tensor | None = None,
        num_images_per_label: int = 1,
        guidance_scale: GuidanceScale = 2.0,
        temperature: float | Sequence[float] = 1.0,
        top_k: int | Sequence[int] = 0,
        top_p: float | Sequence[float] = 1.0,
        do_sample: bool = True,
        guidance_schedule: str = "constant",
        guidance_power: float = 2.75,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("codes",),
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        map_image: Any = None,
        map_codes: torch.Tensor | None = None,
        num_images_per_prompt: int | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float = 1.0,
        keep_codebooks: str | int | Sequence[str | int] | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> ImagePipelineOutput | tuple:
        """
        Generate images for the conditions that the generator was trained for: of each, as many as there are images.

        `guidance_scale`, `temperature`, `top_k` and `top_p` take one value, or one for each codebook.

        Args:
            class_labels, num_images_per_label, num_images_per_prompt, prompt, negative_prompt, map_image, map_codes:
                What to generate, as [`FARPipeline`] takes it.
            guidance_scale (`float`, `Sequence[float]` or `dict`, defaults to 2.0):
                Classifier-free guidance on the log-probabilities of the clean codes,
                `uncond + guidance_scale * (cond - uncond)`. At 1 no unconditional half is computed. Of several
                conditions each may have its own: `{"text": 4.0, "map": 1.5}`.
            temperature, top_k, top_p (one value, or one for each codebook):
                Of the distribution of the clean codes. `top_p` is VQ-Diffusion's truncation rate (0.86 there).
            do_sample (`bool`, defaults to `True`):
                `False` takes the likeliest clean code everywhere; which codes are settled first is still random.
            guidance_schedule, guidance_power, guidance_interval:
                How guidance grows over the steps, and in which share of them it acts; see [`SamplingSettings`].
            generator (`torch.Generator` or list of them, *optional*):
                Makes the result repeatable. With a list, one per image, an image does not depend on the others.
            num_inference_steps (`int`, *optional*):
                Passes of the network, at most the scheduler's `num_train_timesteps`; 50 by default, or as many as
                these if they are fewer.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"codes"`; see [`FARPipeline`].
            return_dict (`bool`, defaults to `True`): Return an [`ImagePipelineOutput`] rather than a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called after each step as `callback(pipe, step, timestep, callback_kwargs)`. It may return a dictionary
                with other `codes` to go on from, and it may set `pipe._interrupt = True`: the image is then what the
                network took for the clean one.
            callback_on_step_end_tensor_inputs (`Sequence[str]`, defaults to `("codes",)`):
                What `callback_kwargs` holds, of shape `(images, positions, num_codebooks)`: `codes`, in which
                `codebook_size` is [MASK], and `clean_codes`, the clean image as this step drew it.
            image, mask_image, strength, keep_codebooks:
                What to edit of which image, as [`FARPipeline`] takes it; here everything that is kept is seen by all
                that is generated. `strength` is the share of the codes, of each codebook by itself, that is masked
                again. All steps are run whatever is kept.
            height, width (`int`, *optional*):
                In pixels; by default as trained. For other sizes the places of the cells are spread over those that
                the generator was trained on, the map being that of the whole image at its trained size. What the
                generator draws then keeps its number of cells only roughly: moderate changes of size or proportions
                work, twice the size seldom does.

        Examples:

        Returns:
            [`ImagePipelineOutput`], or a tuple of the images alone.

        Raises:
            ValueError: For arguments that are out of range or do not fit, before any computation.
        """
        self._check_components()
        self._check_call(output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        num_images = number_of_images(num_images_per_label, num_images_per_prompt)
        settings = SamplingSettings(
            guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p, do_sample=do_sample,
            guidance_schedule=guidance_schedule, guidance_power=guidance_power, guidance_interval=guidance_interval,
        )  # fmt: skip
        grid = self._grid(height, width)
        config = self.transformer.config
        map_grid = (config.map_grid_height, config.map_grid_width) if "map" in config.conditions else None
        request = self._read_conditions(
            map_grid, negative_prompt, class_labels=class_labels, prompt=prompt, map_image=map_image,
            map_codes=map_codes,
        )  # fmt: skip
        edit = self._read_edit(
            grid, request.num_rows, image=image, mask_image=mask_image, strength=strength,
            keep_codebooks=keep_codebooks,
        )  # fmt: skip
        batch_size = request.num_rows * num_images
        self._check_sampling(settings, generator, batch_size)
        device = self._execution_device
        self.scheduler.set_timesteps(self._number_of_steps(num_inference_steps), device)
        self._num_timesteps = len(self.scheduler.timesteps)
        self._interrupt = False

        inputs, map_codes = self._encode_conditions(request, num_images)
        if map_codes is not None:
            inputs = replace(inputs, map_codes=grid_to_sequence(map_codes))
        known = None
        if edit is not None:
            known = edit.known_codes(self.vqmodel, device, num_images, generator, per_codebook=True)
        bring_in(self.transformer)
        plan = self._plan(settings, device)
        prefix = self._prefix(inputs, batch_size, plan, device)
        shape = (batch_size, grid[0] * grid[1], config.num_codebooks)
        codes = self.scheduler.initial_codes(shape, generator, device)
        if known is not None:
            codes = torch.where(known >= 0, known, codes)
        denoising = Denoising(self.transformer, self.scheduler, plan, prefix, grid, known, do_sample)
        with self.progress_bar(total=self._num_timesteps) as progress_bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                codes, clean_codes = denoising.step(step, timestep, codes, generator)
                progress_bar.update()
                if callback_on_step_end is not None:
                    tensors = {"codes": codes, "clean_codes": clean_codes}
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    returned = callback_on_step_end(self, step, int(timestep), tensors) or {}
                    codes = _taken_over(codes, returned.get("codes", codes), known, config.codebook_size)
                if self._interrupt:
                    codes = clean_codes
                    break
        return self._output(sequence_to_grid(codes, *grid), output_type, return_dict)

    def _number_of_steps(self, num_inference_steps: int | None) -> int:
        if num_inference_steps is None:
            return min(DEFAULT_STEPS, self.scheduler.config.num_train_timesteps)
        return num_inference_steps

    def _plan(self, settings: SamplingSettings, device: torch.device) -> SamplingPlan:
        """Guidance by steps, where FAR has it by positions, and the warpers; nothing is drawn yet."""
        config = self.transformer.config
        steps = SimpleNamespace(
            num_positions=self._num_timesteps,
            num_codebooks=config.num_codebooks,
            codebook_size=config.codebook_size,
            conditions=config.conditions,
        )
        return plan_sampling(replace(settings, do_sample=False), steps, 1, None, device)

    def _prefix(self, inputs: ConditionInputs, batch_size: int, plan: SamplingPlan, device: torch.device) -> Prefix:
        """What precedes the images, for all parts of the batch that guidance compares."""
        arguments = {name: value.to(device) for name, value in inputs.arguments().items()}
        conditions = self.transformer.conditions_of(arguments, None, batch_size)
        prepared = [one.prepared(1, device, self.transformer.dtype) for one in conditions]
        return guidance_prefix(prepared, plan.num_scales)


class Denoising:
    """
    The steps of one call.

    Args:
        transformer, scheduler: Of the pipeline; the scheduler's timesteps are set.
        plan (`SamplingPlan`): Its weights by steps, `(scales, steps, K)`.
        prefix (`Prefix`): Of B rows, or `(scales + 1) * B` with guidance.
        grid (`tuple[int, int]`): Height and width, T in all.
        known (`torch.LongTensor` of shape `(B, T, K)`, *optional*): Codes that stay as they are; -1 elsewhere.
        do_sample (`bool`): False for the likeliest clean codes.
    """

    def __init__(
        self,
        transformer: CodeDiffusionTransformer,
        scheduler: CodeDiffusionScheduler,
        plan: SamplingPlan,
        prefix: Prefix,
        grid: tuple[int, int],
        known: torch.Tensor | None,
        do_sample: bool,
    ):
        self.transformer, self.scheduler, self.plan, self.prefix = transformer, scheduler, plan, prefix
        self.grid, self.known, self.do_sample = grid, known, do_sample
        self.is_guided = [] if plan.weights is None else (plan.weights != 1).any(2).any(0).tolist()
        # Where no code is ever replaced by another, one that is not masked is that of the clean image.
        self.is_settled = scheduler.config.sampling != "ancestral" or not scheduler.chain.has_uniform

    def step(
        self,
        index: int,
        timestep: torch.Tensor,
        codes: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes `(B, T, K)` after one step, and the clean ones as it drew them."""
        uniforms = self.scheduler.draw_uniforms(tuple(codes.shape), generator, codes.device)
        prefix, weights, num_parts = self.prefix, None, 1
        if self.is_guided and self.is_guided[index]:
            weights, num_parts = self.plan.weights[:, index], self.plan.num_scales + 1
        else:
            prefix = first_rows(prefix, len(codes))
        hidden_states = self.transformer.backbone(
            codes.repeat(num_parts, 1, 1), timestep.expand(num_parts * len(codes)), prefix, self.grid
        )
        clean_codes, scores = self.transformer.sample_codes(
            hidden_states, self._drawing(codes), uniforms[..., 0], self.plan.warpers, weights
        )
        kept = None if self.known is None else self.known >= 0
        output = self.scheduler.step_from_codes(
            clean_codes, scores, timestep, codes, uniforms=uniforms[..., 1], kept=kept
        )
        return output.prev_sample, output.pred_original_sample

    def _drawing(self, codes: torch.Tensor) -> DrawCodes:
        """How clean codes are drawn, codebook after codebook; those that are known are what later ones build on."""
        known = self.known
        if self.is_settled:
            known = codes.masked_fill(codes == self.transformer.mask_code, -1)
        by_codebook = iter([] if known is None else known.unbind(dim=2))

        def draw(log_p0: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if self.do_sample:
                drawn, scores = self.scheduler.draw_codes(log_p0, uniforms)
            else:
                drawn, scores = select_codes(log_p0, None), log_p0.amax(dim=-1)
            given = next(by_codebook, None)
            return (drawn if given is None else torch.where(given.flatten() >= 0, given.flatten(), drawn)), scores

        return draw


def first_rows(prefix: Prefix, number: int) -> Prefix:
    """The prefixes of the first rows of a batch."""
    mask = None if prefix.mask is None else prefix.mask[:number]
    return Prefix(prefix.embeddings[:number], prefix.places, mask)


def bring_in(module: torch.nn.Module) -> None:
    """Have an offloaded module brought to its device, as accelerate does before `forward`."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(module)


def _taken_over(
    codes: torch.Tensor, returned: torch.Tensor, known: torch.Tensor | None, codebook_size: int
) -> torch.Tensor:
    """A callback's codes `(B, T, K)` to go on from."""
    if returned is codes:
        return codes
    if returned.shape != codes.shape or returned.is_floating_point():
        raise ValueError(
            f"codes returned by callback_on_step_end must be integers of shape {tuple(codes.shape)}, got "
            f"{returned.dtype} of shape {tuple(returned.shape)}"
        )
    if returned.min() < 0 or returned.max() > codebook_size:
        raise ValueError(
            f"codes returned by callback_on_step_end must be in [0, {codebook_size}], got {returned.min().item()} to "
            f"{returned.max().item()}"
        )
    returned = returned.to(codes)
    return returned if known is None else torch.where(known >= 0, known, returned)
