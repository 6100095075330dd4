# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""PSNR as a module of `evaluate`: `fqgan_hf.evaluation.modules.load_metric("psnr")`."""

import datasets
import evaluate

from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.evaluation.modules.pictures import pixel_pairs, summary


_DESCRIPTION = """\
Peak signal-to-noise ratio of reconstructions, ``10 log10(255² / mean squared error)`` of each picture, averaged.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of `PIL.Image.Image`, or of arrays `(H, W, 3)` of uint8): Reconstructions.
    references (list of the same): Originals, each of the size of its reconstruction.
    per_image (`bool`, defaults to `False`): Give the value of every image, too.

Returns:
    psnr (`float`): In dB, higher is better; infinite where a picture equals its original.
    per_image (`list[float]`): With that option.

Examples:

    >>> from PIL import Image
    >>> from fqgan_hf.evaluation.modules import load_metric
    >>> psnr = load_metric("psnr")
    >>> black, white = Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16), "white")
    >>> psnr.compute(predictions=[black], references=[white])
    {'psnr': 0.0}
"""

_CITATION = """\
@article{hore2010image,
  title={Image Quality Metrics: {PSNR} vs. {SSIM}},
  author={Hor{\\'e}, Alain and Ziou, Djemel},
  journal={International Conference on Pattern Recognition},
  year={2010}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PSNR(evaluate.Metric):
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
            reference_urls=["https://en.wikipedia.org/wiki/Peak_signal-to-noise_ratio"],
        )

    def _compute(self, predictions, references, per_image=False):
        return summary("psnr", (psnr(*pair) for pair in pixel_pairs(predictions, references)), per_image)
