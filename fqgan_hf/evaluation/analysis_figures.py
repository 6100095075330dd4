# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""All pictures of an analysis, by the names of their files."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from fqgan_hf.evaluation import analysis_numbers as numbers
from fqgan_hf.evaluation import analysis_pictures as pictures
from fqgan_hf.evaluation import analysis_plots as plots
from fqgan_hf.evaluation.analysis_results import frequent_codes
from fqgan_hf.evaluation.analysis_survey import ShuffledImages, Survey
from fqgan_hf.evaluation.image_batches import ProcessedImages
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.reconstruction import reconstruction_captions


if TYPE_CHECKING:
    from matplotlib.figure import Figure


MIN_COLORED_IMAGES = 5  # of a class, to get a colour in the map of images


def draw(
    model: FQGANModel, survey: Survey, images: ShuffledImages, result: dict[str, Any], seed: int = 0
) -> dict[str, "Image.Image | Figure"]:
    """
    The pictures of an analysis, by the names of their files; what is left out is noted in `result["left_out"]`.

    Args:
        model, survey, images: See `measure`.
        result (`dict`): Of `measure`, with `model` and `images`.
        seed (`int`): Of t-SNE.
    """
    names, counts = result["model"]["codebooks"], survey.usage.counts
    drawn: dict[str, Any] = {
        "reconstructions": pictures.reconstruction_grid(survey.shown, reconstruction_captions(names)),
        "usage": plots.usage_plot(counts.numpy(), names),
        "token-maps": pictures.token_map_grid(survey.shown, _colors(model, counts), names),
    }
    vectors = numbers.used_code_vectors(model, counts, seed)
    points = numbers.tsne(np.concatenate(vectors), seed)
    if points is None:
        result["left_out"]["codes-tsne"] = f"fewer than {numbers.MIN_TSNE_POINTS} codes are in use"
    else:
        ends = np.cumsum([len(rows) for rows in vectors])[:-1]
        drawn["codes-tsne"] = plots.codes_plot(np.split(points, ends), names)
    drawn |= _image_maps(model, survey, images, result, seed)
    resolution, factor = result["images"]["resolution"], model.downsample_factor
    for k, codes in enumerate(frequent_codes(survey)):
        needed = {index for code in codes for index, *_ in code.places}
        drawn[f"patches-{k + 1}"] = pictures.patch_grid(codes, _read(images, needed, resolution, factor), factor)
    return drawn


def _image_maps(
    model: FQGANModel, survey: Survey, images: ShuffledImages, result: dict[str, Any], seed: int
) -> dict[str, "Figure"]:
    """Mean code vectors of images in the plane, for each codebook."""
    codes, labels = survey.codes[: numbers.MAX_TSNE_POINTS], survey.labels[: numbers.MAX_TSNE_POINTS].numpy()
    if len(codes) < numbers.MIN_TSNE_POINTS:
        result["left_out"]["images-tsne"] = f"there are fewer than {numbers.MIN_TSNE_POINTS} images"
        return {}
    classes = numbers.frequent_classes(labels, plots.MAX_CLASS_COLORS, MIN_COLORED_IMAGES)
    if len(classes) < 2:  # nothing to tell apart by colour
        classes = classes[:0]
        result["left_out"]["colors"] = f"fewer than two classes have {MIN_COLORED_IMAGES} of the images"
    titles = [images.label_names[label] for label in sorted(classes)]
    return {
        f"images-tsne-{k + 1}": plots.images_plot(numbers.tsne(vectors, seed), labels, sorted(classes), titles)
        for k, vectors in enumerate(numbers.mean_code_vectors(model, codes))
    }


def _colors(model: FQGANModel, counts: torch.Tensor) -> list[np.ndarray]:
    codebooks = model.quantizer.normalized_codebooks().detach().cpu().numpy()
    return [numbers.code_colors(rows, used) for rows, used in zip(codebooks, (counts > 0).numpy(), strict=True)]


def _read(images: ShuffledImages, indices: set[int], resolution: int, factor: int) -> dict[int, Image.Image]:
    """Some of the images once more, as the tokenizer saw them."""
    processor = FQGANImageProcessor(size=resolution, multiple_of=factor)
    processed = ProcessedImages(images, range(len(images)), processor)
    return {index: processor.postprocess(processed[index]["pixel_values"][None])[0] for index in sorted(indices)}
