# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of what a generator makes, during its training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fqgan_hf.evaluation.pictures import image_grid
from fqgan_hf.files import atomic_path
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.pipeline_far import FARPipeline


SAMPLES_PER_CLASS = 4
SHOWN_CLASSES = 8  # where none are asked for


def check_classes(classes: Sequence[int] | None, num_classes: int) -> list[int]:
    """The classes to show, by default some that are spread over all."""
    if classes is None:
        return (
            [i * num_classes // SHOWN_CLASSES for i in range(SHOWN_CLASSES)]
            if num_classes > 8
            else [*range(num_classes)]
        )
    for label in classes:
        if not 0 <= label < num_classes:
            raise ValueError(f"sample_classes must be in [0, {num_classes - 1}], got {label}")
    return list(classes)


def save_samples(
    model: FARForImageGeneration,
    tokenizer: FQGANModel,
    classes: Sequence[int],
    guidance_scale: float,
    seed: int,
    path: Path,
) -> None:
    """
    Write a grid of generated images, a row a class; the same draws each time, so that pictures compare over steps.

    Args:
        model (`FARForImageGeneration`): Not wrapped; in training mode again afterwards, if it was.
        tokenizer (`FQGANModel`): Whose codes the model makes.
        classes (`Sequence[int]`): Class ids.
        guidance_scale (`float`): Of classifier-free guidance.
        seed (`int`): Of the draws.
        path (`Path`): PNG to write.
    """
    training = model.training
    pipe = FARPipeline(tokenizer, model.eval(), FQGANImageProcessor())
    pipe.set_progress_bar_config(disable=True)
    # A hash, since the generator reads 32 bits: other seeds must not give the same pictures in another place.
    seeds = [
        int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        for number in range(len(classes) * SAMPLES_PER_CLASS)
    ]
    generators = [torch.Generator().manual_seed(number) for number in seeds]
    images = pipe(
        class_labels=list(classes),
        num_images_per_label=SAMPLES_PER_CLASS,
        guidance_scale=guidance_scale,
        generator=generators,
    ).images
    model.train(training)
    rows = [images[i : i + SAMPLES_PER_CLASS] for i in range(0, len(images), SAMPLES_PER_CLASS)]
    names = [str(model.config.id2label.get(label, label)) for label in classes]
    with atomic_path(path) as temporary:
        image_grid(rows, row_captions=names).save(temporary)
