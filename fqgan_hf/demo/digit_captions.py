# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Captions of digits, computed from their pixels, and whether generated digits are what their captions say.

    boundaries = DigitBoundaries.measure(training_images, training_labels)
    captions = describe_digits(training_images, training_labels, boundaries)   # "a thin seven, slanted left", ...
    read_caption(captions[0][0])                                               # DigitCaption(7, 0, 0)
    judge_captions(generated_images, prompts, boundaries, judge)

Thickness and slant are said in thirds of the training digits *of the same class*. A seven leans to the right and a six
to the left by their shapes, and ones are made of thicker strokes than threes. In thirds of all digits 98 % of the
sevens would be "slanted right": the word would tell little that the class does not, and a generator that ignores it
would be right half of the time. In thirds of its class a digit is thin among its like, each word is true of one digit
in three, and a generator that ignores the words is right once in three times.

Shapes: N images, H W pixels.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from fqgan_hf.demo.digit_measures import Pictures, slant, stroke_thickness
from fqgan_hf.demo.digits import DIGIT_NAMES
from fqgan_hf.files import read_json, write_json


if TYPE_CHECKING:
    from fqgan_hf.evaluation.features import ImageNetwork


THICKNESS_WORDS = ("thin", "medium", "bold")
SLANT_WORDS = ("slanted left", "upright", "slanted right")
OTHER_WORDS = {"a", "in", "strokes"}
NO_THIRD = -1  # of a picture without ink

MEASURES = {"thickness": stroke_thickness, "slant": slant}
JUDGE_BATCH_SIZE = 250


class DigitCaption(NamedTuple):
    """
    What a caption says.

    Args:
        digit (`int`): 0 to 9.
        thickness (`int`, *optional*): 0 for thin, 1 for medium, 2 for bold; None if the caption does not say.
        slant (`int`, *optional*): 0 for slanted left, 1 for upright, 2 for slanted right; None likewise.
    """

    digit: int
    thickness: int | None = None
    slant: int | None = None

    def text(self) -> str:
        """The one way in which this library says it: "a thin seven, slanted left"."""
        thickness = "" if self.thickness is None else f"{THICKNESS_WORDS[self.thickness]} "
        slanted = "" if self.slant is None else f", {SLANT_WORDS[self.slant]}"
        return f"a {thickness}{DIGIT_NAMES[self.digit]}{slanted}"

    def phrasings(self) -> list[str]:
        """
        All captions of a digit of which thickness and slant are known: first `text`, then other words for the same,
        then those that say less. With the latter among what training draws from, "a seven" is a prompt as well.

        Raises:
            ValueError: One of them is None.
        """
        if None in self:
            raise ValueError(f"thickness and slant must be 0, 1 or 2, got {self.thickness} and {self.slant}")
        digit, thick, slanted = DIGIT_NAMES[self.digit], THICKNESS_WORDS[self.thickness], SLANT_WORDS[self.slant]
        others = [
            f"{digit}, {thick}, {slanted}",
            f"a {digit} in {thick} strokes, {slanted}",
            f"a {digit}, {slanted}, in {thick} strokes",
        ]
        less = [self._replace(slant=None), self._replace(thickness=None), DigitCaption(self.digit)]
        return [self.text(), *others, *(caption.text() for caption in less)]


def read_caption(text: str) -> DigitCaption:
    """
    What a caption says, in any of the phrasings.

    Args:
        text (`str`): A caption of a digit, in upper or lower case.

    Raises:
        ValueError: It names no digit or several, contradicts itself, or has words that no caption has.
    """
    rest, found = text.lower(), []
    for name, words in (("digit", DIGIT_NAMES), ("thickness", THICKNESS_WORDS), ("slant", SLANT_WORDS)):
        pattern = rf"\b({'|'.join(words)})\b"
        said = re.findall(pattern, rest)
        if len(said) > 1 or (name == "digit" and not said):
            raise ValueError(f"a caption must name one {name} of {', '.join(words)}, got {text!r}")
        found.append(words.index(said[0]) if said else None)
        rest = re.sub(pattern, " ", rest)
    if unknown := [word for word in re.findall(r"[^\s,]+", rest) if word not in OTHER_WORDS]:
        raise ValueError(f"a caption of a digit has no words like {', '.join(unknown)}, got {text!r}")
    return DigitCaption(*found)


@dataclass(frozen=True)
class DigitBoundaries:
    """
    Where the thirds of thickness and slant end, for each class.

    Args:
        thickness (`tuple` of ten pairs of `float`): In pixels, by `stroke_thickness`: thin up to the first number of a
            pair, bold above the second.
        slant (`tuple` of ten pairs of `float`): In degrees, by `slant`: slanted left up to the first, slanted right
            above the second.

    Raises:
        ValueError: Something else than ten pairs of finite numbers in ascending order.
    """

    thickness: tuple[tuple[float, float], ...]
    slant: tuple[tuple[float, float], ...]

    def __post_init__(self):
        for name, pairs in asdict(self).items():
            pairs = _as_pairs(name, pairs)
            object.__setattr__(self, name, pairs)

    @classmethod
    def measure(cls, images: Pictures, labels: Sequence[int] | np.ndarray) -> "DigitBoundaries":
        """
        The boundaries of training digits.

        Args:
            images (`Sequence[PIL.Image.Image]` or `np.ndarray` uint8 `(N, H, W)`): At least three of each class.
            labels (`Sequence[int]` or `np.ndarray` of shape `(N,)`): In [0, 9].

        Raises:
            ValueError: Pictures or labels are something else, or a picture has no ink.
        """
        measured, labels = _measure(images, labels)
        _refuse_blank(np.isnan(measured["thickness"]))
        counts = np.bincount(labels, minlength=len(DIGIT_NAMES))
        if counts.min() < 3:
            raise ValueError(f"labels must hold each digit at least 3 times, got {counts.tolist()} of 0 to 9")
        thirds = {
            name: tuple(
                tuple(np.quantile(values[labels == digit], (1 / 3, 2 / 3)).tolist())
                for digit in range(len(DIGIT_NAMES))
            )
            for name, values in measured.items()
        }
        return cls(**thirds)

    def thirds(self, images: Pictures, labels: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """
        The thirds in which pictures lie.

        Args:
            images: See `measure`; any number.
            labels: See `measure`: the class within whose thirds each picture is placed.

        Returns:
            `dict` of `np.ndarray` int64 `(N,)`: `thickness` and `slant`, each 0, 1 or 2; -1 for a picture without ink.

        Raises:
            ValueError: Pictures or labels are something else.
        """
        measured, labels = _measure(images, labels)
        return {name: self._third(name, values, labels) for name, values in measured.items()}

    def _third(self, name: str, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        ends = np.asarray(getattr(self, name))[labels]
        return np.where(np.isnan(values), NO_THIRD, (values[:, None] > ends).sum(axis=1))

    def save(self, path: str | Path) -> None:
        """Write them as JSON: under each measure, the pair of each digit by its name."""
        content = {name: dict(zip(DIGIT_NAMES, map(list, pairs), strict=True)) for name, pairs in asdict(self).items()}
        write_json(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> "DigitBoundaries":
        """
        Read what `save` has written.

        Raises:
            ValueError: The file holds something else.
            OSError: It cannot be read.
        """
        content = read_json(Path(path))
        try:
            return cls(**{name: tuple(content[name][digit] for digit in DIGIT_NAMES) for name in MEASURES})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must hold the boundaries of digits: {error}") from error


def describe_digits(
    images: Pictures, labels: Sequence[int] | np.ndarray, boundaries: DigitBoundaries
) -> list[list[str]]:
    """
    Captions of digits.

    Args:
        images (`Sequence[PIL.Image.Image]` or `np.ndarray` uint8 `(N, H, W)`): Digits.
        labels (`Sequence[int]` or `np.ndarray` of shape `(N,)`): Their classes, in [0, 9].
        boundaries ([`DigitBoundaries`]): Of the training digits.

    Returns:
        `list[list[str]]`: For each picture the alternatives of which training draws one; the first is the canonical
        one (see `DigitCaption`).

    Raises:
        ValueError: Pictures or labels are something else, or a picture has no ink.
    """
    thirds = boundaries.thirds(images, labels)
    _refuse_blank(thirds["thickness"] == NO_THIRD)
    said = zip(np.asarray(labels).tolist(), thirds["thickness"].tolist(), thirds["slant"].tolist(), strict=True)
    return [DigitCaption(*values).phrasings() for values in said]


def judge_captions(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    boundaries: DigitBoundaries,
    classifier: "ImageNetwork",
) -> dict[str, float | None]:
    """
    How well generated digits follow the captions that they were generated for.

    For a ceiling, give reconstructions of held-out digits and the captions of the originals: thirds have no gaps, so
    that what a tokenizer changes moves digits near a boundary across it. A generator that ignores the words reaches
    1/3 of thickness and slant. They are judged within the class that the caption names, whatever the classifier says.

    Args:
        images (`Sequence[PIL.Image.Image]`): Generated digits, of one size.
        captions (`Sequence[str]`): One for each, in any of the phrasings.
        boundaries ([`DigitBoundaries`]): Of the training digits.
        classifier ([`ImageNetwork`]): Its classes are the ten digits in order, as those of the demo's judge.

    Returns:
        `dict`: `class_consistency`, the share that is classified as the digit of its caption, and
        `thickness_consistency` and `slant_consistency`, the shares that lie in the third that their captions say; None
        if no caption says one.

    Raises:
        ValueError: The number of captions is another one, a caption cannot be read, or the classifier is another one.
    """
    if len(captions) != len(images):
        raise ValueError(f"captions must be one for each of {len(images)} images, got {len(captions)}")
    said = [read_caption(caption) for caption in captions]
    digits = np.array([caption.digit for caption in said])
    thirds = boundaries.thirds(images, digits)
    figures = {"class_consistency": float(np.mean(_predictions(images, classifier) == digits))}
    for name, found in thirds.items():
        asked = [getattr(caption, name) for caption in said]
        right = [third == wish for third, wish in zip(found.tolist(), asked, strict=True) if wish is not None]
        figures[f"{name}_consistency"] = float(np.mean(right)) if right else None
    return figures


def _predictions(images: Sequence[Image.Image], classifier: "ImageNetwork") -> np.ndarray:
    if classifier.label_names is None or len(classifier.label_names) != len(DIGIT_NAMES):
        raise ValueError(f"classifier must tell {len(DIGIT_NAMES)} digits apart, got classes {classifier.label_names}")
    batches = [images[start : start + JUDGE_BATCH_SIZE] for start in range(0, len(images), JUDGE_BATCH_SIZE)]
    return np.concatenate([classifier(batch).predictions.numpy() for batch in batches])


def _refuse_blank(is_blank: np.ndarray) -> None:
    if is_blank.any():
        raise ValueError(f"images must show digits, bright on dark, got no ink in image {is_blank.argmax()}")


def _measure(images: Pictures, labels: Sequence[int] | np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Thickness and slant `(N,)` of pictures, and their labels `(N,)`, checked."""
    measured = {name: measure(images) for name, measure in MEASURES.items()}
    labels, number = np.asarray(labels), len(measured["slant"])
    if labels.shape != (number,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be {number} integers, one for each image, got {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= len(DIGIT_NAMES):
        raise ValueError(f"labels must be in [0, {len(DIGIT_NAMES) - 1}], got {labels.min()} to {labels.max()}")
    return measured, labels


def _as_pairs(name: str, pairs: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    array = np.asarray(pairs, dtype=float)
    if array.shape != (len(DIGIT_NAMES), 2) or not np.isfinite(array).all() or (array[:, 0] > array[:, 1]).any():
        raise ValueError(f"{name} must be {len(DIGIT_NAMES)} pairs of finite numbers in ascending order, got {pairs}")
    return tuple(map(tuple, array.tolist()))
