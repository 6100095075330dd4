# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the pipelines of generators have in common: components, conditions, sizes, edits and decoding."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput

from fqgan_hf.hub.registration import LoadsItsKind
from fqgan_hf.modeling.code_sampling import SamplingSettings, check_generator, plan_sampling
from fqgan_hf.modeling.conditioning import ConditionInputs
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.components import check_components
from fqgan_hf.pipelines.conditions import ConditionRequest, read_conditions
from fqgan_hf.pipelines.editing import Edit, read_edit
from fqgan_hf.pipelines.labels import class_names, resolve_labels
from fqgan_hf.pipelines.pipeline_fqgan import SEQUENTIAL_OFFLOAD_MESSAGE


OUTPUT_TYPES = ("pil", "np", "pt", "codes")


class GeneratorPipeline(LoadsItsKind, DiffusionPipeline):
    """
    A generator of codes with the tokenizer that decodes them; see [`FARPipeline`] and [`CodeDiffusionPipeline`].

    `tokenizer`, `text_encoder` and `map_vqmodel` are optional: `model_index.json` names those that are there.
    """

    model_cpu_offload_seq = "text_encoder->map_vqmodel->transformer->vqmodel"
    _optional_components = ["tokenizer", "text_encoder", "map_vqmodel"]
    _callback_tensor_inputs = ["codes"]

    def __init__(self, **components: Any):
        super().__init__()
        check_components(**{name: part for name, part in components.items() if name != "image_processor"})
        self.register_modules(**components)
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def interrupt(self) -> bool:
        """Whether generation stops after the current step; a callback sets `pipe._interrupt = True` for that."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Steps of the last call."""
        return self._num_timesteps

    def get_label_ids(self, class_labels: int | str | Sequence[int | str] | torch.Tensor) -> list[int]:
        """
        Class ids of labels given by id or by name; see [`~fqgan_hf.pipelines.labels.resolve_labels`].

        Raises:
            ValueError: For labels that are unknown, ambiguous, out of range or of the wrong type.
        """
        config = self.transformer.config
        return resolve_labels(class_labels, config.num_classes, class_names(config.id2label))

    def to_json_string(self) -> str:
        """`model_index.json`; optional components that are not there go unmentioned."""
        content = json.loads(super().to_json_string())
        absent = [name for name in self._optional_components if content.get(name) == [None, None]]
        content = {name: value for name, value in content.items() if name not in absent}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None):
        """Not supported: raises `NotImplementedError`."""
        raise NotImplementedError(SEQUENTIAL_OFFLOAD_MESSAGE)

    # ---- What a call asks for ----

    def _check_components(self) -> None:
        """Components can be replaced after construction."""
        check_components(**{name: part for name, part in self.components.items() if name != "image_processor"})

    def _check_call(self, output_type: str, callback: Callable | None, tensor_inputs: Sequence[str]) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {OUTPUT_TYPES}, got {output_type!r}")
        if callback is not None and not callable(callback):
            raise ValueError(f"callback_on_step_end must be callable, got {callback!r}")
        if isinstance(tensor_inputs, str) or any(name not in self._callback_tensor_inputs for name in tensor_inputs):
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be a list of names among {self._callback_tensor_inputs}, "
                f"got {tensor_inputs!r}"
            )

    def _check_sampling(
        self,
        settings: SamplingSettings,
        generator: torch.Generator | list[torch.Generator] | None,
        batch_size: int,
    ) -> None:
        """Raise before texts and maps are encoded what a plan of the sampling would raise after it."""
        check_generator(generator, batch_size)
        plan_sampling(settings, self.transformer.config, 1, torch.Generator(), torch.device("cpu"))

    def _grid(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in codes of an image of this many pixels; by default as trained."""
        config, factor, sides = self.transformer.config, self.vqmodel.downsample_factor, []
        for name, side, trained in (("height", height, config.grid_height), ("width", width, config.grid_width)):
            is_integer = isinstance(side, int) and not isinstance(side, bool)
            if side is not None and (not is_integer or side < factor or side % factor):
                raise ValueError(f"{name} must be a multiple of {factor} pixels, got {side!r}")
            sides.append(trained if side is None else side // factor)
        return sides[0], sides[1]

    def _read_conditions(
        self, map_grid: tuple[int, int] | None, negative_prompt: str | Sequence[str] | None, **given: Any
    ) -> ConditionRequest:
        return read_conditions(
            self.transformer.config, self.tokenizer, self.text_encoder, self.map_vqmodel, map_grid, negative_prompt,
            **given,
        )  # fmt: skip

    def _encode_conditions(
        self, request: ConditionRequest, num_images: int
    ) -> tuple[ConditionInputs, torch.Tensor | None]:
        """Class labels and text, and map codes `(B, Km, hm, wm)` or None, each row `num_images` times."""
        return request.encode(
            self.transformer.config, self.tokenizer, self.text_encoder, self.map_vqmodel, self._execution_device,
            num_images,
        )  # fmt: skip

    def _read_edit(self, grid: tuple[int, int], num_rows: int, **given: Any) -> Edit | None:
        return read_edit(self.vqmodel, self.image_processor, grid, num_rows, **given)

    # ---- What comes out of it ----

    def _output(self, codes: torch.Tensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple:
        """Codes `(B, K, h, w)`, -1 where there is none, as the images that were asked for."""
        images = codes
        if output_type != "codes":
            images = self.image_processor.postprocess(decode_known(self.vqmodel, codes), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def decode_known(vqmodel: FQGANModel, codes: torch.Tensor) -> torch.Tensor:
    """
    Pixels `(B, 3, H, W)` of codes `(B, K, h, w)`, some of which may be missing: -1.

    For these the mean code of their codebook stands, as `decode_codes` does for a missing codebook.
    """
    is_missing = codes < 0
    if not is_missing.any():
        return vqmodel.decode_codes(codes).sample
    latents = vqmodel.codes_to_latents(codes.clamp(min=0)).unflatten(1, (codes.shape[1], -1))
    means = vqmodel.quantizer.normalized_codebooks().mean(1).to(latents.dtype)  # (K, d)
    latents = torch.where(is_missing.to(latents.device)[:, :, None], means[..., None, None], latents)
    return vqmodel.decode(latents.flatten(1, 2), force_not_quantize=True).sample


def number_of_images(num_images_per_label: int, num_images_per_prompt: int | None) -> int:
    """
    Images of each label, prompt or map.

    Raises:
        ValueError: It is no integer of at least 1, or both arguments are given and differ.
    """
    name, number = "num_images_per_label", num_images_per_label
    if num_images_per_prompt is not None:
        if num_images_per_label not in (1, num_images_per_prompt):
            raise ValueError(
                "num_images_per_label and num_images_per_prompt mean the same, got "
                f"{num_images_per_label} and {num_images_per_prompt}"
            )
        name, number = "num_images_per_prompt", num_images_per_prompt
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {number!r}")
    return number


GuidanceScale = float | Sequence[float] | Mapping[str, float | Sequence[float]]
