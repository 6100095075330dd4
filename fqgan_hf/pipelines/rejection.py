# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Rejection sampling: of many candidates, those are kept that a classifier is surest of; the "-re" rows of papers.

What is asked for, and which candidates are the best. The drawing is in `sample_candidates`.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fqgan_hf.hub.resolve import resolve_folder
from fqgan_hf.modeling.checkpoint_files import weight_files
from fqgan_hf.pipelines.labels import class_names, normalize_name
from fqgan_hf.pretrained import load_pretrained


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """
    How candidates are rejected.

    The candidates are the first `num_candidates` images that the same run would make without rejection. Of each class
    the best are kept, by the classifier's probability of the class asked for, as many as the run asks for.

    Args:
        keep_best (`float`): Share R of the candidates that are kept, in (0, 1].
        classifier (`str`): Its name or path; may change, since `classifier_sha256` says what it is.
        classifier_sha256 (`str`): Digest of its weights and its `preprocessor_config.json`.
        num_candidates (`int`): Images that are drawn: the number of kept ones / R, rounded up.
    """

    keep_best: float
    classifier: str
    classifier_sha256: str
    num_candidates: int

    @classmethod
    def describe(cls, keep_best: float | None, classifier: str | Path | None, num: int) -> "Rejection | None":
        """
        Of the options `keep_best` and `classifier` for `num` kept images; None where neither is given. The classifier
        is not looked at yet: `find_classifier` does that.

        Raises:
            ValueError: One is given without the other, or R is out of range.
        """
        if keep_best is None and classifier is None:
            return None
        if keep_best is None or classifier is None:
            raise ValueError(
                f"keep_best and classifier belong together, got keep_best {keep_best} and classifier {classifier}"
            )
        if not 0 < keep_best <= 1:
            raise ValueError(f"keep_best must be above 0 and at most 1, got {keep_best}")
        # By the decimal that was typed: 7 / 0.07 is above 100 in floats.
        drawn = math.ceil(num / Fraction(str(keep_best)))
        return cls(keep_best=float(keep_best), classifier=str(classifier), classifier_sha256="", num_candidates=drawn)

    @property
    def must_be_same(self) -> dict[str, Any]:
        """What a run that goes on must agree in; the number of candidates follows from it and the run."""
        return {"keep_best": self.keep_best, "classifier_sha256": self.classifier_sha256}


def find_classifier(name: str, num_classes: int, names: dict[int, str]) -> tuple[Path, list[Path]]:
    """
    The folder of a classifier, and the files that its scores follow from; nothing is loaded but its configuration.

    Args:
        name (`str`): A folder or a Hub id.
        num_classes (`int`): Of the generator.
        names (`dict[int, str]`): Names of the generator's classes, where it has some.

    Raises:
        ValueError: It is no image classifier, or its classes are not the generator's.
        FileNotFoundError: There is no such folder, or it holds no weights or no `preprocessor_config.json`.
    """
    from transformers import AutoConfig

    folder = resolve_folder(name)
    config = load_pretrained(AutoConfig, folder, "classifier")
    if not any("ForImageClassification" in kind for kind in config.architectures or ()):
        raise ValueError(
            f"classifier must be an image classifier, {name} is {config.architectures or 'something else'}"
        )
    _check_classes(class_names(config.id2label), config.num_labels, names, num_classes)
    processor = folder / "preprocessor_config.json"
    if not processor.is_file():
        raise FileNotFoundError(f"classifier {name} lacks its preprocessor_config.json")
    return folder, [*weight_files(folder, "model"), processor]


def _check_classes(theirs: dict[int, str], num_theirs: int, ours: dict[int, str], num_ours: int) -> None:
    """Raise `ValueError` unless each id means the same class to classifier and generator, as far as that shows."""
    if num_theirs != num_ours:
        raise ValueError(f"classifier must have the generator's {num_ours} classes, it has {num_theirs}")
    for i in sorted(theirs.keys() & ours.keys()):
        if not _parts(theirs[i]) & _parts(ours[i]):
            raise ValueError(
                f"classifier must have the generator's classes in their order: class {i} is {ours[i]!r} to the "
                f"generator and {theirs[i]!r} to the classifier"
            )


def _parts(name: str) -> set[str]:
    """The synonyms in a name: "tench, Tinca tinca" agrees with "tench"."""
    return {normalize_name(part) for part in name.split(",")}


def best_candidates(scores: np.ndarray, labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """
    The candidates that are kept: of each class the best, in the order in which they were drawn.

    Args:
        scores (`np.ndarray` of shape `(candidates,)`): Higher is better; of equal ones the first drawn is kept.
        labels (`np.ndarray` of shape `(candidates,)`): Class of each.
        wanted (`np.ndarray` of shape `(kept,)`): Class of each image to be kept; of no class more than there are.

    Returns:
        `np.ndarray` int64 of shape `(kept,)`: The candidate that becomes each of these images.
    """
    chosen = np.empty(len(wanted), dtype=np.int64)
    for label in np.unique(wanted):
        places, candidates = np.flatnonzero(wanted == label), np.flatnonzero(labels == label)
        best = candidates[np.argsort(-scores[candidates], kind="stable")[: len(places)]]
        chosen[places] = np.sort(best)
    return chosen
