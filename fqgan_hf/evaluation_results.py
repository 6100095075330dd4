# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The result file of `fqgan evaluate`: what its figures are called, and which results may stand side by side.

    {"format_version": 1, "kind": ..., "figures": {...}, "protocol": {...}, "subject": {...}, "environment": {...},
     "cost": {...}, "warnings": [...]}

Figures of two results compare if their protocols are equal: network, layer, preprocessing, reference images, numbers
of images, seeds of the choices. Names of files and folders do not count, their contents do. Nothing here needs torch.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fqgan_hf.files import read_json


FORMAT_VERSION = 1
INCEPTION = "inception-v3-compat"
# Of the protocol, what may differ: names, where a digest says what they stand for.
_NAMES = {"network.name", "network.class", "reference.source", "similarities.lpips.backbone"}

# Figures that a table shows: key, title with Inception, title with another network, digits, arrow.
_TITLES = (
    ("frechet_distance", "FID", "Frechet distance", 3, "↓"),
    ("spatial_frechet_distance", "sFID", "spatial Frechet distance", 3, "↓"),
    ("inception_score", "IS", "score of the classifier", 2, "↑"),
    ("precision", "precision", "precision", 4, "↑"),
    ("recall", "recall", "recall", 4, "↑"),
    ("psnr", "PSNR, dB", "PSNR, dB", 2, "↑"),
    ("ssim", "SSIM", "SSIM", 4, "↑"),
    ("lpips", "LPIPS", "LPIPS", 4, "↓"),
    ("l1", "L1", "L1", 4, "↓"),
    ("l2", "L2", "L2", 5, "↓"),
    ("classifier_accuracy", "classifier accuracy", "classifier accuracy", 4, "↑"),
    ("class_consistency", "class consistency", "class consistency", 4, "↑"),
    ("usage", "codebook usage", "codebook usage", 4, "↑"),
    ("perplexity", "perplexity", "perplexity", 1, "↑"),
    ("entropy", "entropy, bits", "entropy, bits", 3, "↑"),
    ("codes_kept", "codes kept", "codes kept", 4, "↑"),
    ("joint_usage", "joint usage", "joint usage", 4, "↑"),
    ("overlap", "codebook overlap", "codebook overlap", 4, "↓"),
    ("code_likelihood", "NLL of held-out codes, nats", "NLL of held-out codes, nats", 3, "↓"),
)


def load_result(path: str | Path) -> dict[str, Any]:
    """
    A result that `fqgan evaluate` wrote.

    Raises:
        ValueError: It is another file.
        FileNotFoundError: There is none.
    """
    result = read_json(Path(path))
    parts = ("figures", "protocol", "subject", "environment")
    if result.get("format_version") != FORMAT_VERSION or not all(isinstance(result.get(name), dict) for name in parts):
        raise ValueError(f"{path} must be a result of `fqgan evaluate` (format {FORMAT_VERSION})")
    return result


def titled_figures(result: dict[str, Any]) -> dict[str, float | list[float]]:
    """The figures of a result under the names that people know; an FID is called so only with Inception."""
    is_inception = result["protocol"]["network"]["name"] == INCEPTION
    prefix = "r" if result["kind"] == "reconstruction" else ""
    titles = {}
    for key, known, other, *_ in _TITLES:
        if (value := result["figures"].get(key)) is not None:
            title = (prefix if key == "frechet_distance" else "") + known if is_inception else other
            titles[title] = value
    return titles


def described_protocol(result: dict[str, Any]) -> str:
    """What the figures were measured on and by what, in a few words."""
    protocol = result["protocol"]
    reference, network = protocol["reference"], protocol["network"]["name"]
    size = f" at {reference['resolution']} pixels" if reference["resolution"] else ""
    subject = "reconstructions" if result["kind"] == "reconstruction" else "samples"
    count = f"{reference['num_images']:,} images" if reference["num_images"] else "the images"
    return f"{protocol['num_images']:,} {subject} beside {count} of {reference['source']}{size}, features of {network}"


def format_table(results: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """
    A Markdown table of results, a column each.

    Args:
        results (`Sequence[dict]`): Of one protocol.
        names (`Sequence[str]`): Heads of their columns.
    """
    is_inception = results[0]["protocol"]["network"]["name"] == INCEPTION
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for key, known, other, digits, arrow in _TITLES:
        values = [result["figures"].get(key) for result in results]
        if any(value is not None for value in values):
            cells = " | ".join(_cell(value, digits) for value in values)
            lines.append(f"| {known if is_inception else other} {arrow} | {cells} |")
    return "\n".join(lines)


def _cell(value: float | list[float] | None, digits: int) -> str:
    if value is None:
        return ""
    return ", ".join(f"{number:.{digits}f}" for number in (value if isinstance(value, list) else [value]))


def check_comparable(results: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """
    Raise `ValueError`, naming every field that differs, unless results have the same protocol.

    Args:
        results (`Sequence[dict]`): At least one.
        names (`Sequence[str]`): What they are called.
    """
    first = dict(_flat({"kind": results[0]["kind"], **results[0]["protocol"]}))
    for result, name in zip(results[1:], names[1:], strict=True):
        other = dict(_flat({"kind": result["kind"], **result["protocol"]}))
        differences = [
            f"{key} is {first.get(key)!r} in {names[0]} and {other.get(key)!r} in {name}"
            for key in sorted(first.keys() | other.keys())
            if key not in _NAMES and not _equal(first.get(key), other.get(key))
        ]
        if differences:
            raise ValueError(f"results of different protocols do not compare: {'; '.join(differences)}")


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` -> `("a.b", 1)`."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return one == other
