# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Which loss terms a tokenizer's quantizer has, and what they weigh. Importing this file is cheap.

A term's name is that of a field of the quantizer's losses (`FQGANLosses`, `LinearTokenLosses`, `CosineTokenLosses`).
The name joins the term, its default weight here, the option `--{name}_weight` and the log's `loss/{name}`.
"""

from collections.abc import Mapping
from typing import Any


ALWAYS = {"disentanglement": 0.1}
VECTOR = {"codebook": 1.0, "commitment": 0.25}
# The published weights, arXiv 2411.16681; of the prior, whose weight arXiv 2303.06424 does not give, one that cures a
# collapse (docs/results/regvq.md).
NEAREST = {**VECTOR, "entropy": 0.03, **ALWAYS}
PRIOR_WEIGHT = 0.01

# Why a quantizer lacks a term, and what has its place.
NO_VECTOR = "linear logits have no vector that could be committed to a code"
REASONS = {
    "entropy": "the prior term is already the entropy of the mean assignment, subtracted from log N: both would "
    "weigh it twice. Use --prior_weight",
    "codebook": NO_VECTOR,
    "commitment": NO_VECTOR,
    "prior": "the nearest code is no distribution. --entropy_weight spreads the codes there",
    "pcl": "no position is sampled, whose distance could weigh it. Use --contrastive_weight",
}


def default_weights(config: Mapping[str, Any]) -> dict[str, float]:
    """
    The terms of a quantizer with their default weights.

    Args:
        config (`Mapping`): Of the tokenizer; settings that it lacks have their defaults.
    """
    kind = config.get("quantizer_type", "nearest")
    if kind == "nearest":
        return NEAREST
    vector = VECTOR if config.get("token_logits", "linear") == "cosine" else {}
    return {**vector, "prior": PRIOR_WEIGHT if kind == "regularized" else 0.0, **ALWAYS}


def loss_weights(args: Any, config: Mapping[str, Any]) -> dict[str, float]:
    """
    The weight of each term that needs no other network: of the error on pixels, and of those of the quantizer.

    Args:
        args: Options `{term}_weight`, None for the default, `prior`, `pcl_weight` and `revive_dead_codes`.
        config (`Mapping`): Of the tokenizer.

    Raises:
        ValueError: An option gives weight to a term that the quantizer does not have, or asks for something else that
            it cannot do.
    """
    weights = default_weights(config)
    kind = config.get("quantizer_type", "nearest")
    logits = "" if kind == "nearest" else f" and {config.get('token_logits', 'linear')} logits"

    def refuse(option: str, value: Any, reason: str) -> None:
        raise ValueError(f"{option} must not be set for a quantizer of type {kind!r}{logits}, got {value}: {reason}")

    for term in ("codebook", "commitment", "entropy", "prior"):
        if term not in weights and getattr(args, f"{term}_weight"):
            refuse(f"{term}_weight", getattr(args, f"{term}_weight"), REASONS[term])
    if kind == "nearest" and args.pcl_weight > 0:
        refuse("pcl_weight", args.pcl_weight, REASONS["pcl"])
    if kind == "nearest" and args.prior is not None:
        refuse("prior", repr(args.prior), REASONS["prior"])
    if args.revive_dead_codes and "codebook" not in weights:
        refuse("revive_dead_codes", True, f"{NO_VECTOR}, so codes have no place to be moved to. Use --prior_weight")
    given = {term: getattr(args, f"{term}_weight") for term in weights}
    of_quantizer = {term: weights[term] if value is None else value for term, value in given.items()}
    return {"reconstruction": args.reconstruction_weight, **of_quantizer}


def remedies(config: Mapping[str, Any]) -> str:
    """What helps a codebook of this quantizer that collapses."""
    weights = default_weights(config)
    options = ["a larger --prior_weight"] if "prior" in weights else []
    options += ["a larger --entropy_weight"] if "entropy" in weights else []
    options += ["--revive_dead_codes"] if "codebook" in weights else []
    return f"{', '.join(options)} or a smaller --learning_rate may help"


def needs_perceptual(args: Any) -> bool:
    """Whether a loss with any weight needs the perceptual network."""
    return args.perceptual_weight > 0 or args.contrastive_weight > 0 or args.pcl_weight > 0
