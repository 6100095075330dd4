# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The numbers of an analysis, from what a pass over the images has left.

Shapes: K codebooks, V codebook size, h w grid.
"""

from typing import Any

import numpy as np

from fqgan_hf.evaluation.analysis_numbers import MIN_PROBE_IMAGES_PER_CLASS, probe_codes
from fqgan_hf.evaluation.analysis_pictures import CodePatches
from fqgan_hf.evaluation.analysis_survey import ShuffledImages, Survey
from fqgan_hf.evaluation.codebooks import codebook_overlap
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


NUM_PATCH_CODES = 8  # most frequent codes of each codebook whose patches are shown


def measure(model: FQGANModel, survey: Survey, images: ShuffledImages, seed: int = 0) -> dict[str, Any]:
    """
    The numbers of an analysis; those of codebooks are lists with one entry per codebook.

    Args:
        model ([`FQGANModel`]), survey ([`Survey`]): Of all images.
        images ([`ShuffledImages`]): Which they were.
        seed (`int`): Of the probe's split and the shuffle that overlap is adjusted by.

    Returns:
        `dict`: `reconstruction`: `psnr` in dB and `classifier_accuracy`, of `originals`, `all` codebooks, and
        `each_codebook`. `codes`: `codes_used`, `usage`, `perplexity`, `entropy` in bits, and `sorted_counts` of the
        codes in use. `linear_probe`: see `ProbeResult`. `overlap`: see `codebook_overlap`. `patches`: of the most
        frequent codes `code`, `share` and `places` `[image, row, column]` with their `closeness`. `left_out`: for what
        is None, the reason.
    """
    counts, is_single = survey.usage.counts, model.config.num_codebooks == 1
    labels, has_classes = survey.labels, images.label_names != ["unlabelled"]
    probe = probe_codes(model, survey.codes, labels, seed) if has_classes else None
    left_out = {}
    if is_single:
        left_out["overlap"] = left_out["each_codebook"] = "there is one codebook, and nothing to compare it with"
    if probe is None:
        few = f"fewer than two classes have {MIN_PROBE_IMAGES_PER_CLASS} of the images"
        left_out["linear_probe"] = few if has_classes else "the images have no classes"
    if survey.accuracy is None:
        reason = "no classifier was given" if survey.network is None else "the images have no labels"
        left_out["classifier_accuracy"] = reason
    return {
        "reconstruction": _reconstruction(survey),
        "codes": {
            "codes_used": survey.usage.num_used.tolist(),
            "usage": survey.usage.usage.tolist(),
            "perplexity": survey.usage.perplexity.tolist(),
            "entropy": survey.usage.perplexity.clamp(min=1).log2().tolist(),
            "sorted_counts": [row[row > 0].sort(descending=True)[0].tolist() for row in counts],
        },
        "linear_probe": None if probe is None else vars(probe),
        "overlap": None if is_single else codebook_overlap(survey.codes, adjusted=True, seed=seed).tolist(),
        "patches": [
            [
                {**vars(code), "places": [[images.order[index], *place] for index, *place in code.places]}
                for code in codes
            ]
            for codes in frequent_codes(survey)
        ],
        "left_out": left_out,
    }


def _reconstruction(survey: Survey) -> dict[str, Any]:
    accuracy = survey.accuracy or [None] * (1 + len(survey.selections))
    figures = [
        {"psnr": psnr, "classifier_accuracy": share} for psnr, share in zip(survey.psnr, accuracy[1:], strict=True)
    ]
    return {
        "originals": {"classifier_accuracy": accuracy[0]},
        "all": figures[0],
        "each_codebook": figures[1:] or None,
    }


def frequent_codes(survey: Survey) -> list[list[CodePatches]]:
    """The most frequent codes of each codebook, and where images come nearest to them."""
    height, width = survey.grid

    def patches(k: int, code: int, share: float) -> CodePatches:
        flat = survey.nearest.places[k, code]
        flat = flat[flat >= 0]
        places = np.stack([flat // (height * width), flat // width % height, flat % width], axis=1)
        closeness = survey.nearest.closeness[k, code, : len(flat)]
        return CodePatches(code, share, list(map(tuple, places.tolist())), closeness.tolist())

    found = []
    for k, counts in enumerate(survey.usage.counts):
        order = counts.sort(descending=True, stable=True)[1][:NUM_PATCH_CODES].tolist()
        shares = (counts / counts.sum()).tolist()
        found.append([patches(k, code, shares[code]) for code in order if shares[code] > 0])
    return found
