# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Class labels, prompts or maps -> images: a FAR generator with the FQGAN tokenizer that decodes its codes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import ImagePipelineOutput
from diffusers.utils import replace_example_docstring
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fqgan_hf.hub.registration import register_with_diffusers
from fqgan_hf.modeling.code_layout import grid_to_sequence, sequence_to_grid
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.modeling.conditioning import ConditionInputs
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline, GuidanceScale, number_of_images
from fqgan_hf.pipelines.windows import Window, sliding_windows


register_with_diffusers()

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import torch
        >>> from fqgan_hf import FARPipeline

        >>> pipe = FARPipeline.from_pretrained("outputs/demo/pipeline")
        >>> pipe(class_labels=[7], guidance_scale=2.0).images[0].save("seven.png")

        >>> # by name where the model knows names; several images per label; one generator per image
        >>> generators = [torch.Generator().manual_seed(i) for i in range(4)]
        >>> labels = ["golden retriever", "tench"]
        >>> images = pipe(class_labels=labels, num_images_per_label=2, generator=generators).images

        >>> # the codes themselves, and another lower half for the same upper half of the image
        >>> codes = pipe(class_labels=[7], output_type="codes").images  # (1, num_codebooks, height, width)
        >>> other = pipe(class_labels=[7], prefix_codes=codes[:, :, : codes.shape[2] // 2]).images[0]

        >>> # in-painting: white is generated anew; the same layout with other details
        >>> repaired = pipe(class_labels=[7], image=photo, mask_image=mask).images[0]
        >>> variation = pipe(class_labels=[7], image=photo, keep_codebooks="semantic").images[0]

        >>> # where the generator was trained for prompts or maps
        >>> pipe(prompt="a red apple", negative_prompt="a green apple").images[0]
        >>> pipe(map_image=label_map, guidance_scale=1.0).images[0]
        ```
"""


class FARPipeline(GeneratorPipeline):
    """
    Image generation by class, prompt or map, whatever the generator was trained for.

    Args:
        vqmodel ([`FQGANModel`]): Tokenizer; decodes the codes.
        transformer ([`FARForImageGeneration`]): Generator of codes.
        image_processor ([`FQGANImageProcessor`]): Makes images of the tokenizer's pixels.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Of texts, for prompts.
        text_encoder (`PreTrainedModel`, *optional*):
            Reads prompts; not where the generator has a text encoder of its own.
        map_vqmodel ([`FQGANModel`], *optional*): Tokenizer of the maps, for maps.

    Raises:
        ValueError: If components do not belong together; the message names what differs.
    """

    def __init__(
        self,
        vqmodel: FQGANModel,
        transformer: FARForImageGeneration,
        image_processor: FQGANImageProcessor,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder: PreTrainedModel | None = None,
        map_vqmodel: FQGANModel | None = None,
    ):
        super().__init__(
            vqmodel=vqmodel, transformer=transformer, image_processor=image_processor, tokenizer=tokenizer,
            text_encoder=text_encoder, map_vqmodel=map_vqmodel,
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
        prefix_codes: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[["FARPipeline", int, int, dict[str, Any]], dict[str, Any] | None] | None = None,
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
            class_labels (`int`, `str`, `torch.Tensor` of shape `(labels,)`, or list of `int` and `str`):
                Class ids, or names where the model's configuration has them: "golden retriever", whatever the case,
                with spaces, underscores or hyphens. A bare string is one label.
            num_images_per_label (`int`, defaults to 1):
                Images of each label, prompt or map; they come one after another.
            guidance_scale (`float`, `Sequence[float]` or `dict`, defaults to 2.0):
                Classifier-free guidance: the logits are `uncond + guidance_scale * (cond - uncond)`. At 1 no
                unconditional half is computed. Of several conditions each may have its own:
                `{"text": 4.0, "map": 1.5}`.
            temperature (`float` or `Sequence[float]`, defaults to 1.0): Divides the logits; above 0.
            top_k (`int` or `Sequence[int]`, defaults to 0): Sample among the k likeliest codes; 0 means all.
            top_p (`float` or `Sequence[float]`, defaults to 1.0):
                Sample among the likeliest codes that together have this probability; in (0, 1].
            do_sample (`bool`, defaults to `True`): `False` takes the likeliest code everywhere.
            guidance_schedule (`str`, defaults to `"constant"`):
                How guidance grows over the positions: `"constant"`, `"linear"` or `"power-cosine"`.
            guidance_power (`float`, defaults to 2.75): Exponent of `"power-cosine"`.
            guidance_interval (`tuple[float, float]`, defaults to `(0.0, 1.0)`):
                Share of the image, from the first to the last position, in which guidance acts.
            generator (`torch.Generator` or list of them, *optional*):
                Makes the result repeatable. With a list, one per image, an image does not depend on the others.
            prefix_codes (`torch.LongTensor`, *optional*):
                The upper part of an image to continue, one per label: whole rows
                `(labels, num_codebooks, rows, width)` as a tokenizer gives them, or the first positions
                `(labels, positions, num_codebooks)`.
            output_type (`str`, defaults to `"pil"`):
                `"pil"`; `"np"`, an array `(images, height, width, 3)` in [0, 1]; `"pt"`, a tensor
                `(images, 3, height, width)` in [0, 1]; or `"codes"`, those of shape
                `(images, num_codebooks, height, width)`.
            return_dict (`bool`, defaults to `True`): Return an [`ImagePipelineOutput`] rather than a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called after each position as `callback(pipe, step, timestep, callback_kwargs)`: `step` counts the
                positions of this call, `timestep` is the position in raster order (they differ with `prefix_codes`).
                It may return a dictionary with other `codes`, of which the newest position is taken over, and it may
                set `pipe._interrupt = True`: the image is then decoded as it stands, with the mean of each codebook
                where nothing was generated (`"codes"` has -1 there).
            callback_on_step_end_tensor_inputs (`Sequence[str]`, defaults to `("codes",)`):
                What `callback_kwargs` holds. `codes` are those so far, `(images, positions, num_codebooks)`; in a
                larger image those of the current window.
            prompt (`str` or `Sequence[str]`, *optional*):
                What to show. One that is too long for the generator is cut, with a warning.
            negative_prompt (`str` or `Sequence[str]`, *optional*):
                What guidance leads away from, in place of no prompt: one for all, or one per prompt.
            map_image (*optional*):
                Label maps, where the map tokenizer is one of labels: PIL images whose values are labels (palette or
                one channel), or integer arrays or tensors `(height, width)`; one, or a list or batch of them, of the
                size of the images. Otherwise pictures, as [`FQGANImageProcessor`] takes them.
            map_codes (`torch.LongTensor`, *optional*):
                In place of maps their codes, `(maps, map codebooks, height, width)` as a tokenizer gives them.
            num_images_per_prompt (`int`, *optional*): Another name of `num_images_per_label`.
            image (*optional*):
                What to edit, as [`FQGANImageProcessor`] takes it, scaled and cut to the size of the output: one for
                all, or one per label, prompt or map. What is kept of it keeps its codes.
            mask_image (*optional*):
                Of the size of `image`: white where it is generated, black where it is kept. A cell of the code grid
                (a square of as many pixels as the tokenizer's downsampling factor) is generated if any of its pixels
                is white. For out-painting, put the image on a larger canvas and make the mask white around it.
            strength (`float`, defaults to 1.0):
                Share of the positions (of those under a mask, if there is one) that is generated; the others are
                kept. Which ones, `generator` says.
            keep_codebooks (`str`, `int` or list of them, *optional*):
                Codebooks whose codes are kept everywhere, by name ("visual", "semantic") or number.
            height, width (`int`, *optional*):
                In pixels; at least as trained, which they are by default. Windows of the trained size slide over
                a larger image, each half over what is there already. No window sees more than itself: textures and
                landscapes can be continued that way, a single object cannot be made larger.

        Codes are generated in raster order. What is kept further down or to the right was not seen by what was
        generated before it, and within a position a codebook sees those before it only.

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
        windows, map_grid = self._windows(grid)
        request = self._read_conditions(
            map_grid, negative_prompt, class_labels=class_labels, prompt=prompt, map_image=map_image,
            map_codes=map_codes,
        )  # fmt: skip
        edit = self._read_edit(
            grid, request.num_rows, image=image, mask_image=mask_image, strength=strength,
            keep_codebooks=keep_codebooks,
        )  # fmt: skip
        prefix_codes = self._prepare_prefix(prefix_codes, request.num_rows, edit is not None or len(windows) > 1)
        self._check_sampling(settings, generator, request.num_rows * num_images)

        inputs, map_codes = self._encode_conditions(request, num_images)
        device, config = self._execution_device, self.transformer.config
        codes = torch.full((request.num_rows * num_images, config.num_codebooks, *grid), -1, device=device)
        if prefix_codes is not None:
            prefix_codes = prefix_codes.to(device).repeat_interleave(num_images, dim=0)
            codes.flatten(2)[:, :, : prefix_codes.shape[1]] = prefix_codes.transpose(1, 2)
        if edit is not None:
            known = edit.known_codes(self.vqmodel, device, num_images, generator, per_codebook=False)
            codes = sequence_to_grid(known, *grid)

        self._interrupt = False
        self._num_timesteps = _num_steps(codes, windows)
        with self.progress_bar(total=self._num_timesteps) as progress_bar:
            step = 0

            def on_position(window: Window, position: int, codes: torch.Tensor) -> bool:
                nonlocal step
                progress_bar.update()
                if callback_on_step_end is not None:
                    row, column = divmod(position, window.width)
                    timestep = (window.top + row) * grid[1] + window.left + column
                    tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, codes)
                    returned = callback_on_step_end(self, step, timestep, tensors) or {}
                    _take_over(codes, returned.get("codes", codes), self.transformer.config.codebook_size)
                step += 1
                return self._interrupt

            for window in windows:
                if not self._interrupt:
                    self._fill(codes, window, inputs, map_codes, settings, generator, on_position)
        return self._output(codes, output_type, return_dict)

    def _windows(self, grid: tuple[int, int]) -> tuple[list[Window], tuple[int, int] | None]:
        """The windows of the trained size over a grid, and the grid of its map."""
        config = self.transformer.config
        trained = config.grid_height, config.grid_width
        factor = self.vqmodel.downsample_factor
        if "map" not in config.conditions:
            return sliding_windows(grid, trained, factor=factor), None
        map_trained = config.map_grid_height, config.map_grid_width
        windows = sliding_windows(grid, trained, map_trained, factor)
        height, width = (all * part // one for all, part, one in zip(grid, map_trained, trained, strict=True))
        return windows, (height, width)

    def _fill(
        self,
        codes: torch.Tensor,
        window: Window,
        inputs: ConditionInputs,
        map_codes: torch.Tensor | None,
        settings: SamplingSettings,
        generator: torch.Generator | list[torch.Generator] | None,
        on_position: Callable[[Window, int, torch.Tensor], bool],
    ) -> None:
        """Generate what is missing of the codes `(B, K, H, W)`, -1, in a window, in place."""
        config, part = self.transformer.config, window.cut(codes)
        known = grid_to_sequence(part)
        if (known >= 0).all():
            return
        if map_codes is not None:
            map_window = window.scaled((config.map_grid_height, config.map_grid_width))
            inputs = replace(inputs, map_codes=grid_to_sequence(map_window.cut(map_codes)))
        generated = self.transformer.generate(
            **inputs.arguments(),
            generator=generator,
            known_codes=known if (known >= 0).any() else None,
            callback_on_position=lambda position, so_far: on_position(window, position, so_far),
            **settings.arguments(),
        )
        known[:, : generated.shape[1]] = generated
        part.copy_(sequence_to_grid(known, window.height, window.width))

    def _prepare_prefix(self, prefix_codes: torch.Tensor | None, num_rows: int, is_other: bool) -> torch.Tensor | None:
        """Prefix codes in either layout -> `(rows, positions, K)`, the generator's."""
        if prefix_codes is None:
            return None
        if is_other:
            raise ValueError("prefix_codes cannot be given with image, nor for an image that is larger than trained")
        config = self.transformer.config
        if not isinstance(prefix_codes, torch.Tensor) or prefix_codes.ndim not in (3, 4):
            got = tuple(prefix_codes.shape) if isinstance(prefix_codes, torch.Tensor) else type(prefix_codes).__name__
            raise ValueError(
                f"prefix_codes must be a tensor of shape ({num_rows}, {config.num_codebooks}, rows, "
                f"{config.grid_width}) or ({num_rows}, positions, {config.num_codebooks}), got {got}"
            )
        if prefix_codes.ndim == 4:
            if prefix_codes.shape[1] != config.num_codebooks or prefix_codes.shape[3] != config.grid_width:
                raise ValueError(
                    f"prefix_codes must have shape ({num_rows}, {config.num_codebooks}, rows, {config.grid_width}): "
                    f"whole rows from the top, got {tuple(prefix_codes.shape)}"
                )
            prefix_codes = grid_to_sequence(prefix_codes)
        most = config.num_positions - 1
        is_fitting = prefix_codes.shape[::2] == (num_rows, config.num_codebooks) and prefix_codes.shape[1] <= most
        if not is_fitting or prefix_codes.dtype not in (torch.long, torch.int):
            raise ValueError(
                f"prefix_codes must be integers of shape ({num_rows}, 0 to {most} positions, {config.num_codebooks}), "
                f"got {prefix_codes.dtype} of shape {tuple(prefix_codes.shape)}"
            )
        if prefix_codes.numel() and (prefix_codes.min() < 0 or prefix_codes.max() >= config.codebook_size):
            raise ValueError(
                f"prefix_codes must be in [0, {config.codebook_size - 1}], got {prefix_codes.min().item()} to "
                f"{prefix_codes.max().item()}"
            )
        return prefix_codes


def _num_steps(codes: torch.Tensor, windows: Sequence[Window]) -> int:
    """Positions to generate: in each window those after the first ones that are known by then."""
    is_known, steps = (codes >= 0).all(1).all(0), 0
    for window in windows:
        part = window.cut(is_known)
        if not part.all():
            steps += part.numel() - int(part.flatten().long().cumprod(0).sum())
        part.fill_(True)
    return steps


def _take_over(codes: torch.Tensor, returned: torch.Tensor, codebook_size: int) -> None:
    """Write a callback's codes of the newest position into `codes` `(B, P, K)`, from which generation goes on."""
    if returned is codes:
        return
    if (
        returned.shape != codes.shape
        or returned.is_floating_point()
        or not torch.equal(returned[:, :-1], codes[:, :-1])
    ):
        raise ValueError(
            f"codes returned by callback_on_step_end must be integers of shape {tuple(codes.shape)} that differ from "
            "those given at the last position only: the earlier ones have already been read"
        )
    newest = returned[:, -1]
    if newest.min() < 0 or newest.max() >= codebook_size:
        raise ValueError(
            f"codes returned by callback_on_step_end must be in [0, {codebook_size - 1}], "
            f"got {newest.min().item()} to {newest.max().item()}"
        )
    codes[:, -1] = newest
