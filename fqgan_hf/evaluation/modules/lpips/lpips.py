# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""LPIPS as a module of `evaluate`: `fqgan_hf.evaluation.modules.load_metric("lpips")`."""

import datasets
import evaluate

from fqgan_hf.evaluation.modules.pictures import pixel_pairs, summary
from fqgan_hf.evaluation.similarity import LPIPS


_DESCRIPTION = """\
Perceptual distance of reconstructions, averaged: the published LPIPS with VGG16, or the same formula without learned
weights over the hidden states of another vision network.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of `PIL.Image.Image`, or of arrays `(H, W, 3)` of uint8): Reconstructions.
    references (list of the same): Originals, each of the size of its reconstruction.
    per_image (`bool`, defaults to `False`): Give the value of every image, too.
    backbone (`str`, defaults to `"vgg"`): Or the Hub id or folder of a vision model of transformers.
    device (`str`, defaults to `"cpu"`): Where it computes.

Returns:
    lpips (`float`): At least 0, which equal pictures have; lower is better.
    network (`dict`): What the figure depends on: name, backbone and hash of all weights.
    per_image (`list[float]`): With that option.

Examples, of a `PIL.Image.Image` and the folder of a network:

    >>> from fqgan_hf.evaluation.modules import load_metric
    >>> lpips = load_metric("lpips")
    >>> lpips.compute(predictions=[picture], references=[picture], backbone=network)["lpips"]
    0.0
"""

_CITATION = """\
@inproceedings{zhang2018unreasonable,
  title={The Unreasonable Effectiveness of Deep Features as a Perceptual Metric},
  author={Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver},
  booktitle={Conference on Computer Vision and Pattern Recognition},
  year={2018}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class LPIPSMetric(evaluate.Metric):
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
            reference_urls=["https://arxiv.org/abs/1801.03924"],
        )

    def _compute(self, predictions, references, backbone="vgg", device="cpu", per_image=False):
        network = LPIPS(backbone, device)
        values = (network(*pair) for pair in pixel_pairs(predictions, references))
        return {**summary("lpips", values, per_image), "network": network.description}
