# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The demo's pictures: reconstructions, generated digits beside what they were generated for, and losses.

Shapes: N images, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fqgan_hf.demo.digits import DIGIT_NAMES, Digits, enlarge
from fqgan_hf.evaluation.pictures import image_grid
from fqgan_hf.files import atomic_path, read_metrics


if TYPE_CHECKING:
    from fqgan_hf.pipelines.pipeline_far import FARPipeline


CELL_SIZE = 64
MAP_COLORS = np.array([(0, 0, 0), (255, 255, 255), (230, 110, 30)], np.uint8)  # of background, stroke and hole


def reconstruction_picture(pipe: "FARPipeline", digits: Digits, tokenizer: dict[str, Any], real: float) -> Image.Image:
    """
    A held-out digit of each class in a column: original, both codebooks, each codebook alone.

    Args:
        pipe ([`FARPipeline`]): Its tokenizer reconstructs.
        digits ([`Digits`]): The first held-out one of each class is shown.
        tokenizer (`dict`):
            `tokenizer_figures`; each row says which share of all held-out digits the judge recognizes, and of a
            codebook alone what a linear probe makes of its codes.
        real (`float`): The judge's accuracy on the digits themselves.
    """
    from fqgan_hf import FQGANPipeline

    chosen = [digits.held_out[np.flatnonzero(digits.held_out_labels == label)[0]] for label in range(10)]
    results = FQGANPipeline(pipe.vqmodel, pipe.image_processor).reconstruct([enlarge(digit) for digit in chosen])
    rows = list(zip(*(result.pictures for result in results), strict=True))
    shares = [
        f"recognized: {real:.1%}",
        f"recognized: {tokenizer['classifier_accuracy']:.1%}",
        *(
            f"recognized: {figures['classifier_accuracy']:.1%}\nlinear probe: {figures['linear_probe_accuracy']:.1%}"
            for figures in tokenizer["each_codebook_alone"].values()
        ),
    ]
    captions = [f"{caption}\n{share}" for caption, share in zip(results[0].captions, shares, strict=True)]
    return image_grid(rows, row_captions=captions, min_cell_size=CELL_SIZE)


def sample_picture(shown: list[list[Image.Image]]) -> Image.Image:
    """The first generated digits of each class, one row per class, without selection."""
    return image_grid(shown, row_captions=DIGIT_NAMES, min_cell_size=CELL_SIZE)


def caption_picture(
    prompts: Sequence[str], images: Sequence[Image.Image], shown: Sequence[str], num_shown: int
) -> Image.Image:
    """
    Generated digits beside their captions.

    Args:
        prompts (`Sequence` of N `str`): What they were generated for.
        images (`Sequence` of N pictures): The digits.
        shown (`Sequence[str]`): Those of the captions that get a row.
        num_shown (`int`): Digits in a row, the first ones of their caption.
    """
    rows = [
        [image for prompt, image in zip(prompts, images, strict=True) if prompt == caption][:num_shown]
        for caption in shown
    ]
    return image_grid(rows, row_captions=shown, min_cell_size=CELL_SIZE)


def map_picture(
    maps: np.ndarray, generated: Sequence[Sequence[Image.Image]], real: Sequence[Image.Image]
) -> Image.Image:
    """
    Maps, what was generated for them, and the digits whose maps they are.

    Args:
        maps (`np.ndarray` of shape `(N, H, W)`): Labels, one row of the picture each.
        generated (`Sequence` of N sequences of pictures): As many for each map.
        real (`Sequence` of N pictures): The digits.
    """
    painted = [Image.fromarray(colors) for colors in MAP_COLORS[maps]]
    rows = [[first, *others, last] for first, others, last in zip(painted, generated, real, strict=True)]
    between = ["generated", *[""] * (len(generated[0]) - 1)]
    return image_grid(rows, column_captions=["map", *between, "real digit"], min_cell_size=CELL_SIZE)


def plot_losses(tokenizer: Path, generator: Path, names: list[str], path: Path) -> None:
    """The losses of both trainings, from their `metrics.jsonl`; `names` are those of the codebooks."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = [
        (left, tokenizer, "loss/reconstruction", "reconstruction (squared error)"),
        (left, tokenizer, "loss/disentanglement", "disentanglement"),
        *((left, tokenizer, f"loss/commitment/{k}", f"commitment, {name}") for k, name in enumerate(names)),
        *((left, tokenizer, f"loss/representation/{k}", f"representation, {name}") for k, name in enumerate(names)),
        *((right, generator, f"loss/{k}", f"{name} codes") for k, name in enumerate(names)),
        (right, generator, "validation/loss", "both, validation"),
    ]
    for axes, folder, name, label in curves:
        records = read_metrics(folder / "metrics.jsonl")
        points = [(record["step"], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 5 else None)
    left.set(title="tokenizer: unweighted losses", xlabel="step", yscale="log")
    right.set(title="generator: cross-entropy (nats per code)", xlabel="step")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
