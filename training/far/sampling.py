# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of what a generator makes, during its training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import PreTrainedConfig

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.evaluation.pictures import image_grid
from fqgan_hf.files import atomic_path
from fqgan_hf.modeling.code_layout import sequence_to_grid
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.inference import image_generator
from fqgan_hf.pretrained import load_pretrained
from fqgan_hf.training.fqgan.label_maps import paint


if TYPE_CHECKING:
    from fqgan_hf.training.far.arguments import GeneratorArguments

SAMPLES_PER_ROW = 4
SHOWN_ROWS = 8  # where none are asked for


def check_classes(classes: Sequence[int] | None, num_classes: int) -> list[int]:
    """The classes to show, by default some that are spread over all of them."""
    if classes is None:
        return _spread(num_classes)
    for label in classes:
        if not 0 <= label < num_classes:
            raise ValueError(f"sample_classes must be in [0, {num_classes - 1}], got {label}")
    return list(classes)


def _spread(number: int) -> list[int]:
    """Some of `number` things, spread over all of them."""
    shown = min(number, SHOWN_ROWS)
    return [i * number // shown for i in range(shown)]


@dataclass(frozen=True)
class SampleGrid:
    """
    A grid of generated images, one row per class, or per held-out image whose caption or map is the condition: the
    same draws each time, so that pictures compare over the steps.

    Args:
        rows (`dict`): By argument of a pipeline's call, a list of one value per row.
        captions (`Sequence[str]`): What stands beside the rows.
        guidance_scale (`float`): How strongly the conditions guide.
        seed (`int`): Of the images, as `image_generator` has it.
        folder (`Path`): Where `step-{step}.png` goes.
        maps (`Sequence[PIL.Image.Image]`): The map of each row, which is shown first; or none.
    """

    rows: dict[str, list[Any]]
    captions: Sequence[str]
    guidance_scale: float
    seed: int
    folder: Path
    maps: Sequence[Image.Image] = field(default_factory=list)

    @classmethod
    def from_arguments(
        cls,
        args: "GeneratorArguments",
        config: PreTrainedConfig,
        names: Sequence[str],
        held_out: Dataset,
        map_vqmodel: FQGANModel | None = None,
    ) -> "SampleGrid":
        """
        What `--sample_*` ask for.

        Args:
            args (`GeneratorArguments`): The run's.
            config: The generator's.
            names (`Sequence[str]`): Its conditions.
            held_out (`Dataset`): Held-out images, for other conditions than class.
            map_vqmodel (`FQGANModel`, *optional*): Decodes the maps.
        """
        scale, folder = args.sample_guidance_scale, Path(args.output_dir, "samples")
        if tuple(names) == ("class",):
            labels = check_classes(args.sample_classes, config.num_classes)
            return cls({"class_labels": labels}, _class_names(config, labels), scale, args.seed, folder)
        images = [] if args.sample_steps is None else [held_out[i] for i in _spread(len(held_out))]
        rows = {argument: [image[key] for image in images] for argument, key in _arguments(names).items()}
        captions = rows.get("prompt") or _class_names(config, [image["class_labels"] for image in images])
        maps: list[Image.Image] = []
        if map_vqmodel is not None and images:
            maps = decode_maps(map_vqmodel, torch.stack(rows["map_codes"]), config)
        return cls(rows, captions, scale, args.seed, folder, maps)

    def save(self, pipe: Any, step: int) -> None:
        """Generate the images by a pipeline, whose model is in evaluation mode, and write the picture."""
        repeated = {name: [v for v in values for _ in range(SAMPLES_PER_ROW)] for name, values in self.rows.items()}
        if "map_codes" in repeated:
            repeated["map_codes"] = torch.stack(repeated["map_codes"])
        number = len(self.captions) * SAMPLES_PER_ROW
        generators = [image_generator(self.seed, i) for i in range(number)]
        pipe.set_progress_bar_config(disable=True)
        images = pipe(**repeated, generator=generators, guidance_scale=self.guidance_scale).images
        rows = [images[i : i + SAMPLES_PER_ROW] for i in range(0, number, SAMPLES_PER_ROW)]
        if self.maps:
            rows = [[shown, *row] for shown, row in zip(self.maps, rows, strict=True)]
        with atomic_path(self.folder / f"step-{step:08d}.png") as temporary:
            image_grid(rows, row_captions=self.captions).save(temporary)


def load_map_tokenizer(name: str | None, manifest: CodesManifest) -> FQGANModel | None:
    """
    The tokenizer of the maps of some codes, to decode them; None if none is named.

    Args:
        name (`str`, *optional*): Its folder or Hub name, as `--map_tokenizer` has it.
        manifest (`CodesManifest`): Of the codes.

    Raises:
        ValueError: It cannot be loaded, or the maps were encoded by another one.
    """
    if name is None:
        return None
    with torch.random.fork_rng(devices=[]):  # its draws, for weights that are loaded over, are not the generator's
        map_vqmodel = load_pretrained(FQGANModel, name, "map_tokenizer").eval().requires_grad_(False)
    if map_vqmodel.fingerprint() != manifest.map.tokenizer_fingerprint:
        raise ValueError(
            f"map_tokenizer must be the one that encoded the maps, {manifest.map.tokenizer!r} with fingerprint "
            f"{manifest.map.tokenizer_fingerprint[:16]}..., got {name!r} with {map_vqmodel.fingerprint()[:16]}..."
        )
    return map_vqmodel


@torch.no_grad()
def decode_maps(map_vqmodel: FQGANModel, map_codes: torch.Tensor, config: PreTrainedConfig) -> list[Image.Image]:
    """Maps as pictures, from codes `(B, Pm, Km)` of a generator with this configuration."""
    grids = sequence_to_grid(map_codes, config.map_grid_height, config.map_grid_width)
    if map_vqmodel.config.num_labels is not None:
        return paint(map_vqmodel.decode_labels(grids), map_vqmodel.config.num_labels)
    return FQGANImageProcessor().postprocess(map_vqmodel.decode_codes(grids).sample, output_type="pil")


def _class_names(config: PreTrainedConfig, labels: Sequence[int]) -> list[str]:
    return [str(config.id2label.get(label, label)) for label in labels]


def _arguments(names: Sequence[str]) -> dict[str, str]:
    """Arguments of a pipeline's call for conditions, with the keys under which samples of the data have them."""
    known = {"class": "class_labels", "text": "caption", "map": "map_codes"}
    return {"prompt" if name == "text" else known[name]: known[name] for name in names}
