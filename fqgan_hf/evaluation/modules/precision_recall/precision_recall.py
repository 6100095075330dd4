# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Precision and recall as a module of `evaluate`: `fqgan_hf.evaluation.modules.load_metric("precision_recall")`."""

import datasets
import evaluate

from fqgan_hf.evaluation.precision_recall import precision_recall


_DESCRIPTION = """\
Improved precision and recall: the share of generated images that lie within the reach of a real one, and the share of
real images within the reach of a generated one. An image reaches to its k-th nearest neighbour in its own set.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (array `(N, D)`): Features of generated images, float32.
    references (array `(N, D)`): Features of as many real images, by the same network.
    k (`int`, defaults to 3): Which neighbour sets the reach.

Returns:
    precision (`float`): In [0, 1]: how many generated images look real.
    recall (`float`): In [0, 1]: how much of what is real is generated.

Examples:

    >>> from fqgan_hf.evaluation.modules import load_metric
    >>> precision_recall = load_metric("precision_recall")
    >>> precision_recall.compute(predictions=[[0.0], [1.0], [9.0]], references=[[0.0], [1.0], [2.0]], k=1)
    {'precision': 0.6666666666666666, 'recall': 1.0}
"""

_CITATION = """\
@inproceedings{kynkaanniemi2019improved,
  title={Improved Precision and Recall Metric for Assessing Generative Models},
  author={Kynk{\\"a}{\\"a}nniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo},
  booktitle={Advances in Neural Information Processing Systems},
  year={2019}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PrecisionRecall(evaluate.Metric):
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
            reference_urls=["https://arxiv.org/abs/1904.06991"],
        )

    def _compute(self, predictions, references, k=3):
        found = precision_recall(references, predictions, k)
        return {"precision": found.precision, "recall": found.recall}
