# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Maps of digits: holes of drawn shapes, a search pixel by pixel, and what the real digits have."""

from collections import deque

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fqgan_hf.demo.digit_maps import BACKGROUND, HOLE, STROKE, STROKE_LEVEL, digit_maps, judge_maps
from fqgan_hf.evaluation.label_maps import mean_iou


NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def region(free: np.ndarray, start: tuple[int, int]) -> set[tuple[int, int]]:
    """The free pixels that paths of free neighbours join to one of them."""
    found, waiting = {start}, deque([start])
    while waiting:
        row, column = waiting.popleft()
        for down, right in NEIGHBOURS:
            place = (row + down, column + right)
            inside = all(0 <= index < size for index, size in zip(place, free.shape, strict=True))
            if inside and free[place] and place not in found:
                found.add(place)
                waiting.append(place)
    return found


def num_holes(label_map: np.ndarray) -> int:
    left, number = set(map(tuple, np.argwhere(label_map == HOLE).tolist())), 0
    while left:
        left -= region(label_map == HOLE, next(iter(left)))
        number += 1
    return number


def drawn(*ellipses: tuple[int, int, int, int], lines: tuple[tuple[int, ...], ...] = ()) -> Image.Image:
    """Rings within boxes, and lines: large, and made small for soft edges."""
    image = Image.new("L", (128, 128))
    pen = ImageDraw.Draw(image)
    for box in ellipses:
        pen.ellipse(box, outline=255, width=16)
    for points in lines:
        pen.line(points, fill=255, width=16)
    return image.resize((32, 32), Image.Resampling.BOX)


SHAPES = {
    "zero": (drawn((24, 8, 104, 120)), 1),
    "six": (drawn((28, 56, 100, 124), lines=((44, 70, 80, 4),)), 1),
    "eight": (drawn((32, 2, 96, 66), (28, 52, 100, 126)), 2),
    "nine": (drawn((28, 4, 100, 72), lines=((92, 40, 92, 124),)), 1),
    "seven": (drawn(lines=((20, 12, 108, 12), (104, 12, 48, 124))), 0),
    # Three sides of a box: only the picture's border closes it, which encloses nothing.
    "open": (drawn(lines=((20, 0, 20, 100), (20, 100, 108, 100), (108, 100, 108, 0))), 0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_holes_are_where_strokes_enclose_something(name):
    image, expected = SHAPES[name]
    (label_map,) = digit_maps(image)
    assert label_map.shape == (32, 32) and label_map.dtype == np.uint8
    assert num_holes(label_map) == expected
    pixels = np.asarray(image)
    assert (label_map[pixels > 128] == STROKE).all() and (label_map[pixels < 64] != STROKE).all()


def test_maps_are_those_of_a_search_pixel_by_pixel():
    """On noise, where every kind of corner and gap occurs: diagonal neighbours close a stroke."""
    images = np.random.default_rng(0).integers(0, 2, (20, 13, 11)).astype(np.uint8) * 255
    found = digit_maps(images)
    for pixels, label_map in zip(images, found, strict=True):
        free = np.pad(pixels <= 255 * STROKE_LEVEL, 1, constant_values=True)
        outside = region(free, (0, 0))
        for (row, column), label in np.ndenumerate(label_map):
            expected = BACKGROUND if (row + 1, column + 1) in outside else HOLE
            assert label == (expected if free[row + 1, column + 1] else STROKE)
    assert set(np.unique(found).tolist()) == {BACKGROUND, STROKE, HOLE}


def test_a_picture_without_ink_is_background():
    assert not digit_maps(np.full((2, 8, 8), 20, np.uint8)).any()


def test_real_digits_have_the_holes_of_their_class():
    pytest.importorskip("sklearn")
    from fqgan_hf.demo.digits import enlarge, load_digits

    digits = load_digits()
    maps = digit_maps([enlarge(digit) for digit in digits.held_out])
    holes = np.array([num_holes(label_map) for label_map in maps])
    expected = np.array([1, 0, 0, 0, 0, 0, 1, 0, 2, 1])[digits.held_out_labels]
    # Of the eights half: their rings are two or three pixels wide in 8x8. Some fours are closed at the top.
    assert np.mean(holes == expected) > 0.84
    assert np.mean(holes[digits.held_out_labels == 0] == 1) > 0.9


def test_pictures_are_judged_by_their_own_maps():
    images = [image for image, _ in SHAPES.values()]
    maps = digit_maps(images)
    own = judge_maps(images, maps)
    assert own == {"mean_iou": 1.0, "iou": {"background": 1.0, "stroke": 1.0, "hole": 1.0}}
    turned = np.roll(maps, 1, axis=0)
    other = judge_maps(images, turned)
    assert other["mean_iou"] == pytest.approx(mean_iou(turned, maps, 3)) and other["mean_iou"] < 0.7
    pictures = [Image.fromarray(label_map).convert("P") for label_map in turned]
    for given in (list(turned), [Image.fromarray(label_map) for label_map in turned], pictures):
        assert judge_maps(images, given) == other


def test_a_label_that_occurs_nowhere_has_no_iou():
    image, _ = SHAPES["seven"]
    assert judge_maps([image], digit_maps(image))["iou"] == {"background": 1.0, "stroke": 1.0, "hole": None}


def test_maps_that_do_not_belong_to_the_pictures_are_refused():
    images = [SHAPES["zero"][0], SHAPES["six"][0]]
    with pytest.raises(ValueError, match=r"maps must be 2 maps of 32 x 32 labels.* got 1 of shapes \[\(32, 32\)\]"):
        judge_maps(images, digit_maps(images)[:1])
    with pytest.raises(ValueError, match=r"got 2 of shapes \[\(16, 16\)\]"):
        judge_maps(images, digit_maps(images)[:, ::2, ::2])
    with pytest.raises(ValueError, match=r"labels in \[0, 2\]"):
        judge_maps(images, digit_maps(images) + 1)
