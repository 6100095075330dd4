# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of what a generator makes, during its training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from fqgan_hf.evaluation.pictures import image_grid
from fqgan_hf.files import atomic_path
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.pipelines.inference import generate_batches


if TYPE_CHECKING:
    from fqgan_hf.training.far.arguments import GeneratorArguments

SAMPLES_PER_CLASS = 4
SHOWN_CLASSES = 8  # where none are asked for


def check_classes(classes: Sequence[int] | None, num_classes: int) -> list[int]:
    """The classes to show, by default some that are spread over all of them."""
    if classes is None:
        number = min(num_classes, SHOWN_CLASSES)
        return [i * num_classes // number for i in range(number)]
    for label in classes:
        if not 0 <= label < num_classes:
            raise ValueError(f"sample_classes must be in [0, {num_classes - 1}], got {label}")
    return list(classes)


@dataclass(frozen=True)
class SampleGrid:
    """
    A grid of generated images, one row per class: the same draws each time, so that pictures compare over the steps.

    Args:
        classes (`Sequence[int]`): Class ids.
        captions (`Sequence[str]`): Their names.
        settings (`SamplingSettings`): How codes are sampled.
        seed (`int`): Of the images, as `image_generator` has it.
        folder (`Path`): Where `step-{step}.png` goes.
    """

    classes: Sequence[int]
    captions: Sequence[str]
    settings: SamplingSettings
    seed: int
    folder: Path

    @classmethod
    def from_arguments(cls, args: "GeneratorArguments", config: PreTrainedConfig) -> "SampleGrid":
        """What `--sample_*` ask for, of a generator with this configuration."""
        classes = check_classes(args.sample_classes, config.num_classes)
        return cls(
            classes,
            [str(config.id2label.get(label, label)) for label in classes],
            SamplingSettings(guidance_scale=args.sample_guidance_scale),
            args.seed,
            Path(args.output_dir, "samples"),
        )

    def save(self, pipe: Any, step: int) -> None:
        """Generate the images by a pipeline, whose model is in evaluation mode, and write the picture."""
        labels = [label for label in self.classes for _ in range(SAMPLES_PER_CLASS)]
        (images,) = generate_batches(pipe, labels, seed=self.seed, batch_size=len(labels), settings=self.settings)
        rows = [images[i : i + SAMPLES_PER_CLASS] for i in range(0, len(images), SAMPLES_PER_CLASS)]
        with atomic_path(self.folder / f"step-{step:08d}.png") as temporary:
            image_grid(rows, row_captions=self.captions).save(temporary)
