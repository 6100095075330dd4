# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Captions of digits: their words, the thirds that they stand for on the real digits, and who is judged how."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter


pytest.importorskip("sklearn")

from fqgan_hf.demo.digit_captions import (
    DigitBoundaries,
    DigitCaption,
    describe_digits,
    judge_captions,
    read_caption,
)
from fqgan_hf.demo.digit_measures import slant, stroke_thickness
from fqgan_hf.demo.digits import DIGIT_NAMES, enlarge, load_digits
from fqgan_hf.evaluation.features import Features


@pytest.fixture(scope="module")
def train():
    digits = load_digits()
    return [enlarge(digit) for digit in digits.train], digits.train_labels


@pytest.fixture(scope="module")
def held_out():
    digits = load_digits()
    return [enlarge(digit) for digit in digits.held_out], digits.held_out_labels


@pytest.fixture(scope="module")
def boundaries(train):
    return DigitBoundaries.measure(*train)


class Oracle:
    """A classifier that answers what it was told to, in order."""

    device, description = torch.device("cpu"), {}

    def __init__(self, answers, label_names=tuple(DIGIT_NAMES)):
        self.answers, self.label_names = list(answers), label_names

    def __call__(self, images):
        answers, self.answers = self.answers[: len(images)], self.answers[len(images) :]
        return Features(torch.zeros(len(images), 2), torch.eye(10)[answers])


# ---- Words ----


def test_captions_say_what_they_are_for():
    assert DigitCaption(7, 0, 0).text() == "a thin seven, slanted left"
    assert DigitCaption(0, 1, 1).text() == "a medium zero, upright"
    assert DigitCaption(3, 2, 2).phrasings() == [
        "a bold three, slanted right",
        "three, bold, slanted right",
        "a three in bold strokes, slanted right",
        "a three, slanted right, in bold strokes",
        "a bold three",
        "a three, slanted right",
        "a three",
    ]
    with pytest.raises(ValueError, match="thickness and slant must be 0, 1 or 2, got None and 1"):
        DigitCaption(3, None, 1).phrasings()


def test_every_phrasing_is_read_back():
    known = set()
    for values in product(range(10), range(3), range(3)):
        caption = DigitCaption(*values)
        *full, without_slant, without_thickness, digit_only = caption.phrasings()
        assert [read_caption(text) for text in full] == [caption] * 4
        assert read_caption(without_slant) == caption._replace(slant=None)
        assert read_caption(without_thickness) == caption._replace(thickness=None)
        assert read_caption(digit_only) == DigitCaption(values[0])
        known.update(full)
    assert len(known) == 10 * 3 * 3 * 4  # no text stands for two captions
    assert read_caption(" A Thin\nSEVEN ,slanted left") == DigitCaption(7, 0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name one digit of zero, one"),
        ("a thin stroke, upright", "must name one digit"),
        ("a seven or a nine", "must name one digit"),
        ("a thin bold seven", "must name one thickness of thin, medium, bold, got 'a thin bold seven'"),
        ("a seven, upright, slanted left", "must name one slant"),
        ("a seven, slanted", "no words like slanted"),
        ("a thin seventy", "must name one digit"),
        ("a red seven on blue", "no words like red, on, blue, got 'a red seven on blue'"),
    ],
)
def test_what_no_caption_says_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_caption(text)


# ---- Thirds of the real digits ----


def test_each_word_is_true_of_a_third_of_each_class(train, held_out, boundaries):
    images, labels = train
    for third in boundaries.thirds(images, labels).values():
        for digit in range(10):
            counts = np.bincount(third[labels == digit], minlength=3)
            assert len(counts) == 3 and np.ptp(counts) <= 1
    for third in boundaries.thirds(*held_out).values():
        assert np.abs(np.bincount(third, minlength=3) / len(third) - 1 / 3).max() < 0.05


def test_captions_are_of_the_class_and_of_the_measures(train, boundaries):
    images, labels = (part[:200] for part in train)
    captions = describe_digits(images, labels, boundaries)
    said = [read_caption(texts[0]) for texts in captions]
    assert [caption.digit for caption in said] == labels.tolist()
    assert [caption.phrasings() for caption in said] == captions
    for name, measure in (("thickness", stroke_thickness), ("slant", slant)):
        values, thirds = measure(images), np.array([getattr(caption, name) for caption in said])
        for digit in range(10):
            ordered = [values[(labels == digit) & (thirds == third)] for third in range(3)]
            assert ordered[0].max() < ordered[1].min() and ordered[1].max() < ordered[2].min()


def test_soft_edges_and_less_light_seldom_change_a_caption(train, boundaries):
    images, labels = train[0][::3], train[1][::3]
    before = boundaries.thirds(images, labels)
    for radius, least_thickness in ((0.5, 0.95), (1, 0.83)):
        soft = [image.filter(ImageFilter.GaussianBlur(radius)).point(lambda value: 0.9 * value) for image in images]
        after = boundaries.thirds(soft, labels)
        assert np.mean(after["thickness"] == before["thickness"]) > least_thickness
        assert np.mean(after["slant"] == before["slant"]) > 0.97


def test_boundaries_keep_on_disk(boundaries, tmp_path):
    boundaries.save(tmp_path / "boundaries.json")
    assert DigitBoundaries.load(tmp_path / "boundaries.json") == boundaries
    content = json.loads((tmp_path / "boundaries.json").read_text())
    assert content["slant"]["seven"] == list(boundaries.slant[7])
    del content["slant"]["seven"]
    (tmp_path / "boundaries.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"boundaries.json must hold the boundaries of digits: 'seven'"):
        DigitBoundaries.load(tmp_path / "boundaries.json")
    content["slant"]["seven"] = [3.0, 2.0]
    (tmp_path / "boundaries.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="slant must be 10 pairs of finite numbers in ascending order"):
        DigitBoundaries.load(tmp_path / "boundaries.json")


def test_boundaries_need_labelled_digits_of_every_class(train, boundaries):
    images, labels = (part[:20] for part in train)
    blank = Image.new("L", images[0].size)
    for act, message in (
        (lambda: DigitBoundaries.measure(images, labels), "labels must hold each digit at least 3 times, got"),
        (lambda: describe_digits(images, labels[:3], boundaries), r"labels must be 20 integers.* of shape \(3,\)"),
        (lambda: describe_digits(images, labels / 1, boundaries), "labels must be 20 integers.*, got float64"),
        (lambda: describe_digits(images, labels + 5, boundaries), r"labels must be in \[0, 9\], got"),
        (lambda: describe_digits([*images, blank], [*labels, 0], boundaries), "got no ink in image 20"),
        (lambda: DigitBoundaries.measure([blank], [0]), "got no ink in image 0"),
        (lambda: DigitBoundaries(boundaries.slant[:9], boundaries.slant), "thickness must be 10 pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            act()


# ---- Judging ----


def test_digits_are_judged_by_their_captions(held_out, boundaries):
    images, labels = held_out
    captions = [texts[0] for texts in describe_digits(images, labels, boundaries)]
    perfect = {"class_consistency": 1.0, "thickness_consistency": 1.0, "slant_consistency": 1.0}
    assert judge_captions(images, captions, boundaries, Oracle(labels)) == perfect
    # A classifier that errs in one of ten, and captions with another slant for one of four.
    answers = [(label + 1) % 10 if i % 10 == 0 else label for i, label in enumerate(labels)]
    said = [read_caption(caption) for caption in captions]
    others = [
        caption._replace(slant=(caption.slant + 1) % 3) if i % 4 == 0 else caption for i, caption in enumerate(said)
    ]
    figures = judge_captions(images, [caption.text() for caption in others], boundaries, Oracle(answers))
    assert figures == pytest.approx(
        {"class_consistency": 0.9, "thickness_consistency": 1.0, "slant_consistency": 0.75}
    )


def test_digits_that_ignore_the_words_are_right_once_in_three_times(held_out, boundaries):
    images, labels = held_out
    random = np.random.default_rng(0)
    captions = [DigitCaption(label, *random.integers(0, 3, 2).tolist()).text() for label in labels.tolist()]
    figures = judge_captions(images, captions, boundaries, Oracle(labels))
    assert 0.27 < figures["thickness_consistency"] < 0.4 and 0.27 < figures["slant_consistency"] < 0.4


def test_what_a_caption_does_not_say_is_not_judged_and_no_ink_is_in_no_third(held_out, boundaries):
    images, labels = (part[:4] for part in held_out)
    said = [read_caption(texts[0]) for texts in describe_digits(images, labels, boundaries)]
    captions = [
        said[0].text(),
        said[1]._replace(slant=None).text(),
        DigitCaption(said[2].digit).text(),
        said[3].text(),
    ]
    images = [*images[:3], Image.new("RGB", images[0].size)]  # the last one failed
    images = [image.convert("RGB") for image in images]
    figures = judge_captions(images, captions, boundaries, Oracle(labels))
    assert figures == pytest.approx(
        {"class_consistency": 1.0, "thickness_consistency": 2 / 3, "slant_consistency": 1 / 2}
    )
    names = [DigitCaption(int(label)).text() for label in labels]
    figures = judge_captions(images, names, boundaries, Oracle(labels))
    assert figures["thickness_consistency"] is None and figures["slant_consistency"] is None


def test_what_cannot_be_judged_is_refused(held_out, boundaries):
    images, labels = (part[:4] for part in held_out)
    captions = [DigitCaption(int(label), 0, 0).text() for label in labels]
    for given, classifier, message in (
        (captions[:3], Oracle(labels), "captions must be one for each of 4 images, got 3"),
        ([*captions[:3], "an elephant"], Oracle(labels), "got 'an elephant'"),
        (captions, Oracle(labels, label_names=None), "classifier must tell 10 digits apart, got classes None"),
        (captions, Oracle(labels, label_names=["cat", "dog"]), r"got classes \['cat', 'dog'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            judge_captions(images, given, boundaries, classifier)
