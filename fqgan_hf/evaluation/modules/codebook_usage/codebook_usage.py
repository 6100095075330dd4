# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Codebook usage as a module of `evaluate`: `fqgan_hf.evaluation.modules.load_metric("codebook_usage")`."""

import datasets
import evaluate
import torch

from fqgan_hf.evaluation.codebooks import CodebookUsage


_DESCRIPTION = """\
How much of each codebook a tokenizer uses: share of codes that occur, perplexity and entropy of their frequencies.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (array `(N, K, h, w)`): Codes of each image, as `model.encode(images).codes` gives them.
    codebook_size (`int`): V.

Returns:
    usage (`list[float]`): For each of the K codebooks, the share of its codes that occur, in [0, 1].
    perplexity (`list[float]`): In [1, V]; V for codes that occur equally often.
    entropy (`list[float]`): In nats, the logarithm of the perplexity.
    num_positions (`int`): Positions that were counted.

Examples:

    >>> from fqgan_hf.evaluation.modules import load_metric
    >>> codebook_usage = load_metric("codebook_usage")
    >>> codebook_usage.compute(predictions=[[[[0, 1]], [[5, 5]]]], codebook_size=8)["usage"]
    [0.25, 0.125]
"""

_CITATION = """\
@article{bai2024factorized,
  title={Factorized Visual Tokenization and Generation},
  author={Bai, Zechen and Gao, Jianxiong and Gao, Ziteng and Wang, Pichao and Zhang, Zheng and He, Tong and others},
  journal={arXiv preprint arXiv:2411.16681},
  year={2024}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CodebookUsageMetric(evaluate.Metric):
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
            reference_urls=["https://arxiv.org/abs/2411.16681"],
        )

    def _compute(self, predictions, codebook_size):
        usage = CodebookUsage(len(predictions[0]), codebook_size)
        for codes in predictions:  # one by one: the grids of images of different sizes differ
            usage.update(torch.tensor(codes)[None])
        return {
            "usage": usage.usage.tolist(),
            "perplexity": usage.perplexity.tolist(),
            "entropy": usage.perplexity.log().tolist(),
            "num_positions": usage.num_positions,
        }
