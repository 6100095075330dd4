# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Frechet distance as a module of `evaluate`: `fqgan_hf.evaluation.modules.load_metric("frechet_distance")`."""

import datasets
import evaluate

from fqgan_hf.evaluation.metrics import FeatureStatistics


_DESCRIPTION = """\
The Frechet distance between two sets of images, each taken for a Gaussian of the features that some network gives it:
``|mu1 - mu2|² + tr(S1 + S2 - 2 (S1 S2)^½)``. With the Inception features of ADM's protocol it is the FID.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (array `(N, D)`): Features of generated images, float32.
    references (array `(N, D)`): Features of as many real images, by the same network.

Returns:
    frechet_distance (`float`): At least 0; lower is better.

Examples:

    >>> from fqgan_hf.evaluation.modules import load_metric
    >>> frechet_distance = load_metric("frechet_distance")
    >>> frechet_distance.compute(predictions=[[1.0], [3.0]], references=[[2.0], [4.0]])
    {'frechet_distance': 1.0}
"""

_CITATION = """\
@inproceedings{heusel2017gans,
  title={{GANs} Trained by a Two Time-Scale Update Rule Converge to a Local {Nash} Equilibrium},
  author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
  booktitle={Advances in Neural Information Processing Systems},
  year={2017}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class FrechetDistance(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Sequence(datasets.Value("float32")),
                }
            ),
            reference_urls=["https://arxiv.org/abs/1706.08500"],
        )

    def _compute(self, predictions, references):
        ours = FeatureStatistics().update(predictions)
        theirs = FeatureStatistics().update(references)
        return {"frechet_distance": ours.distance(theirs)}
