# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Codebook overlap as a module of `evaluate`: `fqgan_hf.evaluation.modules.load_metric("codebook_overlap")`."""

import datasets
import evaluate
import torch

from fqgan_hf.evaluation.codebooks import codebook_overlap


_DESCRIPTION = """\
How much the code of one codebook tells about that of another at the same position: normalised mutual information.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (array `(N, K, h, w)`): Codes of each image, as `model.encode(images).codes` gives them.
    adjusted (`bool`, defaults to `False`): Subtract what codes share by chance.
    seed (`int`, defaults to 0): Of the shuffle by which chance is measured.

Returns:
    overlap (`list[list[float]]`): K x K, symmetric: 0 for independent codebooks, 1 where each determines the other.

Examples:

    >>> from fqgan_hf.evaluation.modules import load_metric
    >>> codebook_overlap = load_metric("codebook_overlap")
    >>> codebook_overlap.compute(predictions=[[[[0, 1, 2, 3]], [[5, 5, 7, 7]]]])
    {'overlap': [[1.0, 0.6666666666666666], [0.6666666666666666, 1.0]]}
"""

_CITATION = """\
@article{vinh2010information,
  title={Information Theoretic Measures for Clusterings Comparison},
  author={Vinh, Nguyen Xuan and Epps, Julien and Bailey, James},
  journal={Journal of Machine Learning Research},
  year={2010}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CodebookOverlapMetric(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Sequence(datasets.Sequence(datasets.Value("int64")))),
                }
            ),
            reference_urls=["https://jmlr.org/papers/v11/vinh10a.html"],
        )

    def _compute(self, predictions, adjusted=False, seed=0):
        positions = torch.cat([torch.tensor(codes).flatten(1) for codes in predictions], dim=1)
        return {"overlap": codebook_overlap(positions[None], adjusted, seed).tolist()}
