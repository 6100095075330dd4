# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Class labels -> images: a FAR generator with the FQGAN tokenizer that decodes its codes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import replace_example_docstring

from fqgan_hf.hub.registration import register_with_diffusers
from fqgan_hf.modeling.code_layout import grid_to_sequence, sequence_to_grid
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.labels import class_names, resolve_labels
from fqgan_hf.pipelines.pipeline_fqgan import SEQUENTIAL_OFFLOAD_MESSAGE


register_with_diffusers()

OUTPUT_TYPES = ("pil", "np", "pt", "codes")

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
        ```
"""


class FARPipeline(DiffusionPipeline):
    """
    Class-conditional image generation.

    Args:
        vqmodel ([`FQGANModel`]): Tokenizer; decodes the codes.
        transformer ([`FARForImageGeneration`]): Generator of codes by class.
        image_processor ([`FQGANImageProcessor`]): Makes images of the tokenizer's pixels.

    Raises:
        ValueError: If tokenizer and generator do not belong together; the message names what differs.
    """

    model_cpu_offload_seq = "transformer->vqmodel"
    _callback_tensor_inputs = ["codes"]

    def __init__(self, vqmodel: FQGANModel, transformer: FARForImageGeneration, image_processor: FQGANImageProcessor):
        super().__init__()
        _check_pair(vqmodel, transformer)
        self.register_modules(vqmodel=vqmodel, transformer=transformer, image_processor=image_processor)
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def interrupt(self) -> bool:
        """Whether generation stops after the current position; a callback sets `pipe._interrupt = True` for that."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Positions that the last call had to generate."""
        return self._num_timesteps

    def get_label_ids(self, class_labels: int | str | Sequence[int | str] | torch.Tensor) -> list[int]:
        """
        Class ids of labels given by id or by name; see [`~fqgan_hf.pipelines.labels.resolve_labels`].

        Raises:
            ValueError: For labels that are unknown, ambiguous, out of range or of the wrong type.
        """
        config = self.transformer.config
        return resolve_labels(class_labels, config.num_classes, class_names(config.id2label))

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | torch.Tensor,
        num_images_per_label: int = 1,
        guidance_scale: float | Sequence[float] = 2.0,
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
    ) -> ImagePipelineOutput | tuple:
        """
        Generate images of the given classes.

        `guidance_scale`, `temperature`, `top_k` and `top_p` take one value, or one for each codebook.

        Args:
            class_labels (`int`, `str`, `torch.Tensor` of shape `(labels,)`, or list of `int` and `str`):
                Class ids, or names where the model's configuration has them: "golden retriever", whatever the case,
                with spaces, underscores or hyphens. A bare string is one label.
            num_images_per_label (`int`, defaults to 1): Images of each label; they come one after another.
            guidance_scale (`float` or `Sequence[float]`, defaults to 2.0):
                Classifier-free guidance: the logits are `uncond + guidance_scale * (cond - uncond)`. At 1 no
                unconditional half is computed.
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
                What `callback_kwargs` holds. `codes` are those so far, `(images, positions, num_codebooks)`.

        Examples:

        Returns:
            [`ImagePipelineOutput`], or a tuple of the images alone.

        Raises:
            ValueError: For arguments that are out of range or do not fit, before any computation.
        """
        _check_pair(self.vqmodel, self.transformer)  # components can be replaced after construction
        self._check_inputs(num_images_per_label, output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        settings = SamplingSettings(
            guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p, do_sample=do_sample,
            guidance_schedule=guidance_schedule, guidance_power=guidance_power, guidance_interval=guidance_interval,
        )  # fmt: skip
        labels = self.get_label_ids(class_labels)
        prefix_codes = self._prepare_prefix(prefix_codes, len(labels))
        num_prefix = 0 if prefix_codes is None else prefix_codes.shape[1]

        self._interrupt = False
        self._num_timesteps = self.transformer.config.num_positions - num_prefix
        with self.progress_bar(total=self._num_timesteps) as progress_bar:

            def on_position(position: int, codes: torch.Tensor) -> bool:
                progress_bar.update()
                if callback_on_step_end is not None:
                    tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, codes)
                    returned = callback_on_step_end(self, position - num_prefix, position, tensors) or {}
                    _take_over(codes, returned.get("codes", codes), self.transformer.config.codebook_size)
                return self._interrupt

            codes = self.transformer.generate(
                class_labels=labels,
                generator=generator,
                prefix_codes=prefix_codes,
                num_return_sequences=num_images_per_label,
                callback_on_position=on_position,
                **settings.arguments(),
            )

        if output_type == "codes":
            images = self._to_grid(codes, fill=-1)
        else:
            images = self.image_processor.postprocess(self._decode(codes), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None):
        """Not supported: raises `NotImplementedError`."""
        raise NotImplementedError(SEQUENTIAL_OFFLOAD_MESSAGE)

    def _check_inputs(
        self, num_images_per_label: int, output_type: str, callback: Callable | None, tensor_inputs: Sequence[str]
    ) -> None:
        if (
            isinstance(num_images_per_label, bool)
            or not isinstance(num_images_per_label, int)
            or num_images_per_label < 1
        ):
            raise ValueError(f"num_images_per_label must be an integer of at least 1, got {num_images_per_label!r}")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {OUTPUT_TYPES}, got {output_type!r}")
        if callback is not None and not callable(callback):
            raise ValueError(f"callback_on_step_end must be callable, got {callback!r}")
        if isinstance(tensor_inputs, str) or any(name not in self._callback_tensor_inputs for name in tensor_inputs):
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be a list of names among {self._callback_tensor_inputs}, "
                f"got {tensor_inputs!r}"
            )

    def _prepare_prefix(self, prefix_codes: torch.Tensor | None, num_labels: int) -> torch.Tensor | None:
        """Prefix codes in either layout -> `(labels, positions, K)`, the generator's."""
        if prefix_codes is None:
            return None
        config = self.transformer.config
        if not isinstance(prefix_codes, torch.Tensor) or prefix_codes.ndim not in (3, 4):
            got = tuple(prefix_codes.shape) if isinstance(prefix_codes, torch.Tensor) else type(prefix_codes).__name__
            raise ValueError(
                f"prefix_codes must be a tensor of shape ({num_labels}, {config.num_codebooks}, rows, "
                f"{config.grid_width}) or ({num_labels}, positions, {config.num_codebooks}), got {got}"
            )
        if prefix_codes.ndim == 3:
            return prefix_codes
        if prefix_codes.shape[1] != config.num_codebooks or prefix_codes.shape[3] != config.grid_width:
            raise ValueError(
                f"prefix_codes must have shape ({num_labels}, {config.num_codebooks}, rows, {config.grid_width}): "
                f"whole rows from the top, got {tuple(prefix_codes.shape)}"
            )
        return grid_to_sequence(prefix_codes)

    def _to_grid(self, codes: torch.Tensor, fill: int) -> torch.Tensor:
        """Codes `(B, P, K)` of the first P positions -> whole grids `(B, K, h, w)`, with `fill` in the other cells."""
        config = self.transformer.config
        missing = config.num_positions - codes.shape[1]
        codes = torch.nn.functional.pad(codes, (0, 0, 0, missing), value=fill)
        return sequence_to_grid(codes, config.grid_height, config.grid_width)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(B, P, K)` of the first P positions -> pixels `(B, 3, H, W)` in about [-1, 1]."""
        grid = self._to_grid(codes, fill=0)
        num_positions = codes.shape[1]
        if num_positions == self.transformer.config.num_positions:
            return self.vqmodel.decode_codes(grid).sample
        # Interrupted: the mean code stands where there is none, as `decode_codes` does for a missing codebook.
        latents = self.vqmodel.codes_to_latents(grid)
        means = self.vqmodel.quantizer.normalized_codebooks().mean(1).flatten().to(latents.dtype)
        latents.flatten(2)[:, :, num_positions:] = means[:, None]
        return self.vqmodel.decode(latents, force_not_quantize=True).sample


def _check_pair(vqmodel: FQGANModel, transformer: FARForImageGeneration) -> None:
    """Raise `ValueError` if the generator's codes are not the tokenizer's, naming everything that differs."""
    tokenizer, generator = vqmodel.config, transformer.config
    size, factor = tokenizer.sample_size, vqmodel.downsample_factor
    grids = (size // factor, size // factor), (generator.grid_height, generator.grid_width)
    differences = [
        f"{name} {ours} and {theirs}"
        for name, ours, theirs in (
            ("num_codebooks", tokenizer.num_codebooks, generator.num_codebooks),
            ("codebook_size", tokenizer.codebook_size, generator.codebook_size),
            (f"grid (height, width; sample_size {size} / {factor})", *grids),
        )
        if ours != theirs
    ]
    if generator.tokenizer_fingerprint is not None:
        ours, theirs = vqmodel.fingerprint(), generator.tokenizer_fingerprint
        if ours != theirs:
            differences.append(f"fingerprint {ours[:16]}... and tokenizer_fingerprint {theirs[:16]}...")
    if differences:
        raise ValueError(
            "vqmodel and transformer do not belong together (vqmodel's value first): " + "; ".join(differences)
        )


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
