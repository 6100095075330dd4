# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a pipeline is asked to generate images for -> what its generator reads: class labels, prompts and maps.

    request = read_conditions(config, map_vqmodel, prompt=["a red apple", "a house"])        # all checks, no work
    inputs, map_codes = request.encode(config, tokenizer, text_encoder, map_vqmodel, device)

Shapes: B rows, one per label, prompt or map; H W pixels of a map, Km hm wm its codebooks and its grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from fqgan_hf.modeling.code_layout import sequence_to_grid
from fqgan_hf.modeling.conditioning import ConditionInputs
from fqgan_hf.modeling.configuration_generator import GeneratorConfig
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.label_maps_fqgan import check_label_map
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.labels import class_names, resolve_labels
from fqgan_hf.pipelines.prompts import check_prompts, encode_prompts, warn_of_unknown_words


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# By condition of a generator, what a call may give for it; of several it takes one.
ARGUMENTS = {"class": ("class_labels",), "text": ("prompt",), "map": ("map_image", "map_codes")}
LABEL_MODES = ("1", "L", "P", "I", "I;16")  # pictures whose values are labels


@dataclass(frozen=True, kw_only=True)
class ConditionRequest:
    """
    What a call asks for: checked, and not yet encoded.

    Args:
        num_rows (`int`): B.
        class_labels (`list[int]`, *optional*).
        prompts, negative_prompts (`list[str]`, *optional*): B each.
        maps (`torch.Tensor`, *optional*): Label maps `(B, H, W)`, int64, or pixels `(B, 3, H, W)`.
        map_codes (`torch.LongTensor` of shape `(B, Km, hm, wm)`, *optional*): In place of maps.
    """

    num_rows: int
    class_labels: list[int] | None = None
    prompts: list[str] | None = None
    negative_prompts: list[str] | None = None
    maps: torch.Tensor | None = None
    map_codes: torch.Tensor | None = None

    def encode(
        self,
        config: GeneratorConfig,
        tokenizer: "PreTrainedTokenizerBase | None",
        text_encoder: "PreTrainedModel | None",
        map_vqmodel: FQGANModel | None,
        device: torch.device,
        num_images: int = 1,
    ) -> tuple[ConditionInputs, torch.Tensor | None]:
        """
        What the generator reads, each row `num_images` times.

        Args:
            config: The generator's.
            tokenizer, text_encoder, map_vqmodel: Of the pipeline.
            device: Where text encoder and map tokenizer compute.

        Returns:
            Class labels and text as `ConditionInputs`, and the map codes `(B, Km, hm, wm)`, or None, beside them: what
            of them a generator sees at a time is its pipeline's matter.
        """
        found: dict[str, torch.Tensor] = {}
        if self.class_labels is not None:
            found["class_labels"] = torch.tensor(self.class_labels)
        for name, argument, prompts in (
            ("text", "prompt", self.prompts),
            ("negative_text", "negative_prompt", self.negative_prompts),
        ):
            if prompts is not None:
                found[name], found[f"{name}_mask"] = encode_prompts(
                    prompts, tokenizer, text_encoder, config.num_text_tokens, device, argument
                )
        map_codes = self.map_codes
        if self.maps is not None:
            map_codes = _encode_maps(map_vqmodel, self.maps, device)
        found = {name: value.repeat_interleave(num_images, dim=0) for name, value in found.items()}
        if map_codes is not None:
            map_codes = map_codes.repeat_interleave(num_images, dim=0)
        return ConditionInputs(**found), map_codes


def read_conditions(
    config: GeneratorConfig,
    tokenizer: "PreTrainedTokenizerBase | None",
    text_encoder: "PreTrainedModel | None",
    map_vqmodel: FQGANModel | None,
    map_grid: tuple[int, int] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    **given: Any,
) -> ConditionRequest:
    """
    Check what a call gives, against the generator and against each other.

    Args:
        config: The generator's.
        tokenizer, text_encoder, map_vqmodel: Of the pipeline; needed for prompts and maps only.
        map_grid (`tuple[int, int]`, *optional*): Height and width of the map's codes, for maps.
        negative_prompt (`str` or `Sequence[str]`, *optional*): One for all rows, or one for each.
        **given: `class_labels`, `prompt`, `map_image` and `map_codes`, as pipelines take them; None for what is not
            given.

    Raises:
        ValueError: Something is missing, superfluous or wrong, or their numbers differ.
    """
    trained_for = f"this generator was trained for {', '.join(config.conditions)}"
    given = {name: value for name, value in given.items() if value is not None}
    known = [name for condition in config.conditions for name in ARGUMENTS[condition]]
    superfluous = [name for name in given if name not in known]
    if negative_prompt is not None and "text" not in config.conditions:
        superfluous.append("negative_prompt")
    if superfluous:
        raise ValueError(f"{superfluous[0]} cannot be given: {trained_for}")
    for condition in config.conditions:
        names = ARGUMENTS[condition]
        there = [name for name in names if name in given]
        if len(there) > 1:
            raise ValueError(f"only one of {' and '.join(names)} can be given")
        if not there:
            raise ValueError(f"{' or '.join(names)} must be given: {trained_for}")
    read: dict[str, Any] = {}
    if "class_labels" in given:
        read["class_labels"] = resolve_labels(given["class_labels"], config.num_classes, class_names(config.id2label))
    if "prompt" in given:
        _require_text_components(config, tokenizer, text_encoder)
        read["prompts"] = check_prompts(given["prompt"])
        warn_of_unknown_words(read["prompts"], tokenizer)
    if "map_image" in given:
        read["maps"] = _read_maps(given["map_image"], map_vqmodel, map_grid)
    if "map_codes" in given:
        read["map_codes"] = _read_map_codes(given["map_codes"], config, map_grid)
    num_rows = _number_of_rows(read, given)
    if negative_prompt is not None:
        read["negative_prompts"] = _spread(check_prompts(negative_prompt, "negative_prompt"), num_rows)
        warn_of_unknown_words(read["negative_prompts"], tokenizer, "negative_prompt")
    return ConditionRequest(num_rows=num_rows, **read)


def _number_of_rows(read: dict[str, Any], given: dict[str, Any]) -> int:
    numbers = [len(value) for value in read.values()]
    if len(set(numbers)) > 1:
        raise ValueError(
            f"{', '.join(given)} must be equally many, one of each for every image, got {', '.join(map(str, numbers))}"
        )
    return numbers[0]


def _spread(prompts: list[str], num_rows: int) -> list[str]:
    if len(prompts) not in (1, num_rows):
        raise ValueError(f"negative_prompt must be one string or one per prompt, {num_rows}, got {len(prompts)}")
    return prompts * num_rows if len(prompts) == 1 else prompts


def _require_text_components(
    config: GeneratorConfig, tokenizer: "PreTrainedTokenizerBase | None", text_encoder: "PreTrainedModel | None"
) -> None:
    needed = {"tokenizer": tokenizer}
    if config.text_vocab_size is None:
        needed["text_encoder"] = text_encoder
    for name, component in needed.items():
        if component is None:
            raise ValueError(f"{name} must be a component of this pipeline for a prompt to be given, got None")


# ---- Maps -----------------------------------------------------------------------------------------------------------


def _read_maps(map_image: Any, map_vqmodel: FQGANModel | None, map_grid: tuple[int, int]) -> torch.Tensor:
    """Label maps `(B, H, W)` or pixels `(B, 3, H, W)` of maps of any kind."""
    if map_vqmodel is None:
        raise ValueError("map_vqmodel must be a component of this pipeline for a map_image to be given, got None")
    factor, num_labels = map_vqmodel.downsample_factor, map_vqmodel.config.num_labels
    height, width = (side * factor for side in map_grid)
    if num_labels is None:
        processor = FQGANImageProcessor(size={"height": height, "width": width}, multiple_of=factor)
        try:
            return processor(map_image)["pixel_values"]
        except ValueError as error:
            raise ValueError(f"map_image: {error}") from error
    maps = [_label_map(one) for one in _listed_maps(map_image)]
    for one in maps:
        if tuple(one.shape) != (height, width):
            got = f"{one.shape[1]} x {one.shape[0]}" if one.ndim == 2 else f"shape {tuple(one.shape)}"
            raise ValueError(f"map_image must be label maps of {width} x {height} pixels (width x height), got {got}")
    labels = torch.stack(maps)
    try:
        check_label_map(labels, num_labels)
    except ValueError as error:
        raise ValueError(str(error).replace("label_map", "map_image")) from error
    return labels


def _listed_maps(map_image: Any) -> Sequence[Any]:
    """Single maps: a batch is a list, or an array or tensor of three axes."""
    is_batch = isinstance(map_image, (list, tuple)) or getattr(map_image, "ndim", 2) == 3
    if is_batch and len(map_image) == 0:
        raise ValueError("map_image must hold at least one map, got none")
    return map_image if is_batch else [map_image]


def _label_map(one: Any) -> torch.Tensor:
    """One label map `(H, W)`, int64."""
    if isinstance(one, Image.Image):
        if one.mode not in LABEL_MODES:
            raise ValueError(
                f"map_image must be pictures whose values are labels (modes {', '.join(LABEL_MODES)}: palette or one "
                f"channel), got mode {one.mode}"
            )
        one = np.asarray(one)
    if isinstance(one, np.ndarray) and one.dtype.kind in "bui":
        one = torch.from_numpy(one.astype(np.int64))
    if not isinstance(one, torch.Tensor) or one.is_floating_point():
        got = one.dtype if hasattr(one, "dtype") else type(one).__name__
        raise ValueError(f"map_image must be PIL images, arrays or tensors of integer labels, got {got}")
    return one.cpu().long()


def _read_map_codes(map_codes: Any, config: GeneratorConfig, map_grid: tuple[int, int]) -> torch.Tensor:
    """Map codes in either layout -> `(B, Km, hm, wm)`."""
    (height, width), num_codebooks = map_grid, config.map_num_codebooks
    if isinstance(map_codes, torch.Tensor) and map_codes.ndim == 3 and map_codes.shape[1] == height * width:
        map_codes = sequence_to_grid(map_codes, height, width)
    is_tensor = isinstance(map_codes, torch.Tensor) and not map_codes.is_floating_point()
    if not is_tensor or map_codes.ndim != 4 or tuple(map_codes.shape[1:]) != (num_codebooks, height, width):
        got = f"{map_codes.dtype} of shape {tuple(map_codes.shape)}" if hasattr(map_codes, "shape") else map_codes
        raise ValueError(
            f"map_codes must be integers of shape (maps, {num_codebooks}, {height}, {width}) or (maps, "
            f"{height * width}, {num_codebooks}), got {got!s:.80}"
        )
    if len(map_codes) == 0:
        raise ValueError("map_codes must hold at least one map, got none")
    least, most = map_codes.min().item(), map_codes.max().item()
    if least < 0 or most >= config.map_codebook_size:
        raise ValueError(f"map_codes must be in [0, {config.map_codebook_size - 1}], got {least} to {most}")
    return map_codes.long()


def _encode_maps(map_vqmodel: FQGANModel, maps: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Codes `(B, Km, hm, wm)` of label maps or pixels."""
    if maps.ndim == 3:
        return map_vqmodel.encode_labels(maps.to(device)).codes
    return map_vqmodel.encode(maps.to(device, map_vqmodel.dtype)).codes
