# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Inception score as a module of `evaluate`: `fqgan_hf.evaluation.modules.load_metric("inception_score")`."""

import datasets
import evaluate

from fqgan_hf.evaluation.metrics import inception_score


_DESCRIPTION = """\
How surely a classifier sees one class in each image and many classes in all of them: the exponential of the mean
Kullback-Leibler divergence from an image's class distribution to that of its split.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (array `(N, C)`): Probabilities of the classes for each image, float32; rows sum to 1.
    splits (`int`, defaults to 10): Parts of the images over which the score is averaged.
    seed (`int`, defaults to 0): Of the shuffle before they are split.

Returns:
    inception_score (`float`): In [1, C]; higher is better.
    inception_score_std (`float`): Standard deviation over the splits.

Examples:

    >>> from fqgan_hf.evaluation.modules import load_metric
    >>> inception_score = load_metric("inception_score")
    >>> inception_score.compute(predictions=[[1.0, 0.0], [0.0, 1.0]] * 8, splits=1)
    {'inception_score': 2.0, 'inception_score_std': 0.0}
"""

_CITATION = """\
@inproceedings{salimans2016improved,
  title={Improved Techniques for Training {GANs}},
  author={Salimans, Tim and Goodfellow, Ian and Zaremba, Wojciech and Cheung, Vicki and Radford, Alec and Chen, Xi},
  booktitle={Advances in Neural Information Processing Systems},
  year={2016}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class InceptionScore(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                }
            ),
            reference_urls=["https://arxiv.org/abs/1606.03498"],
        )

    def _compute(self, predictions, splits=10, seed=0):
        score = inception_score(predictions, splits, seed)
        return {"inception_score": score.mean, "inception_score_std": score.std}
