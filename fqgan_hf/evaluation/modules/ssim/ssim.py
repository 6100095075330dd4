# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""SSIM as a module of `evaluate`: `fqgan_hf.evaluation.modules.load_metric("ssim")`."""

import datasets
import evaluate

from fqgan_hf.evaluation.modules.pictures import pixel_pairs, summary
from fqgan_hf.evaluation.similarity import ssim


_DESCRIPTION = """\
Structural similarity of reconstructions, averaged: Gaussian window of 11 x 11 pixels, RGB channels, data range 255.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of `PIL.Image.Image`, or of arrays `(H, W, 3)` of uint8): Reconstructions.
    references (list of the same): Originals, each of the size of its reconstruction.
    per_image (`bool`, defaults to `False`): Give the value of every image, too.

Returns:
    ssim (`float`): At most 1, which equal pictures have; higher is better.
    per_image (`list[float]`): With that option.

Examples:

    >>> from PIL import Image
    >>> from fqgan_hf.evaluation.modules import load_metric
    >>> ssim = load_metric("ssim")
    >>> black, white = Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16), "white")
    >>> result = ssim.compute(predictions=[black, white], references=[black, black], per_image=True)
    >>> [round(value, 4) for value in result["per_image"]]
    [1.0, 0.0001]
"""

_CITATION = """\
@article{wang2004image,
  title={Image Quality Assessment: From Error Visibility to Structural Similarity},
  author={Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.},
  journal={IEEE Transactions on Image Processing},
  year={2004}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SSIM(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Image(),
                    "references": datasets.Image(),
                }
            ),
            reference_urls=["https://doi.org/10.1109/TIP.2003.819861"],
        )

    def _compute(self, predictions, references, per_image=False):
        return summary("ssim", (ssim(*pair) for pair in pixel_pairs(predictions, references)), per_image)
