# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Thickness and slant of strokes that are known, as they were drawn."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fqgan_hf.demo.digit_measures import relative_ink, slant, stroke_thickness


SIZE = 32
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2


def picture(distance: np.ndarray, width: float, brightness: float = 1.0) -> Image.Image:
    """What lies within half a width of a curve, given the distance to it, with edges one pixel soft."""
    ink = np.clip(width / 2 - distance + 0.5, 0, 1) * brightness
    return Image.fromarray(np.rint(255 * ink).astype(np.uint8))


def line(degrees: float, width: float = 5, **options) -> Image.Image:
    """A stroke from the lower border to the upper one, leaning to the right by so many degrees."""
    angle = np.radians(degrees)
    return picture(np.abs(COLUMNS * np.cos(angle) + ROWS * np.sin(angle)), width, **options)


def ring(width: float, radius: float = 10) -> Image.Image:
    return picture(np.abs(np.hypot(ROWS, COLUMNS) - radius), width)


def test_thickness_of_a_ring_is_the_width_of_its_stroke():
    widths = np.array([3.0, 4, 5, 6, 8])
    measured = stroke_thickness([ring(width) for width in widths])
    assert np.abs(measured - (widths - 1 / 3)).max() < 0.15  # soft edges lose a sixth of a pixel each when squared
    assert stroke_thickness(ring(5, radius=7)) == pytest.approx(stroke_thickness(ring(5, radius=11)), abs=0.1)


@pytest.mark.parametrize("degrees", [0, 20, -35])
def test_thickness_of_a_line_grows_with_its_width_at_any_angle(degrees):
    widths = np.array([3.0, 5, 7])
    measured = stroke_thickness([line(degrees, width) for width in widths])
    length = SIZE / np.cos(np.radians(degrees))
    assert np.abs(measured - (widths - 1 / 3) * length / (widths + length)).max() < 0.25  # its ends are edges as well
    assert np.diff(measured).min() > 1.3


@pytest.mark.parametrize("degrees", [-40, -15, -3, 0, 3, 15, 40])
def test_slant_is_the_angle_of_a_stroke(degrees):
    assert slant(line(degrees)) == pytest.approx(degrees, abs=1.2)
    assert slant(line(degrees).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == pytest.approx(-degrees, abs=1.2)


def test_neither_place_nor_brightness_changes_a_measure():
    here = np.zeros((SIZE, SIZE), np.uint8)
    here[4:20, 6:20] = np.asarray(line(12, 3))[8:24, 9:23]
    there = np.roll(here, (9, 5), axis=(0, 1))
    for measure in (stroke_thickness, slant):
        value = measure(line(12))
        assert measure(line(12, brightness=0.5)) == pytest.approx(value, rel=0.02)
        assert measure(there) == pytest.approx(measure(here))


def test_soft_edges_change_little():
    sharp = [line(degrees, width) for degrees in (-20, 0, 20) for width in (4, 5, 6, 7)]
    soft = [image.filter(ImageFilter.GaussianBlur(1)) for image in sharp]
    assert np.abs(slant(soft) - slant(sharp)).max() < 1
    assert np.abs(stroke_thickness(soft) / stroke_thickness(sharp) - 1).max() < 0.25
    # In order all the same: what is thicker stays thicker.
    assert np.diff(stroke_thickness(soft).reshape(3, 4)).min() > 0.5


def test_pictures_come_in_several_forms():
    images = [line(10), ring(4)]
    array = np.stack([np.asarray(image) for image in images])
    ink = relative_ink(images)
    assert ink.shape == (2, SIZE, SIZE) and ink.min() == 0 and ink.max() == 1
    assert np.array_equal(relative_ink([image.convert("RGB") for image in images]), ink)
    assert np.array_equal(relative_ink(array), ink)
    assert np.array_equal(relative_ink(array[1]), ink[1:])
    assert np.array_equal(relative_ink(images[1]), ink[1:])


def test_a_picture_without_ink_has_no_measures():
    noise = np.random.default_rng(0).integers(0, 40, (SIZE, SIZE)).astype(np.uint8)
    array = np.stack([np.zeros_like(noise), noise, np.asarray(ring(4))])
    for measure in (stroke_thickness, slant):
        assert np.isnan(measure(array)).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one picture"),
        ([Image.new("L", (8, 8)), Image.new("L", (8, 9))], r"of one size, got the sizes \[\(8, 8\), \(8, 9\)\]"),
        (["seven.png"], "images must hold PIL pictures, got str"),
        (np.zeros((2, 8, 8)), r"an array of uint8 of shape \(N, H, W\) .* got float64 of shape \(2, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"got uint8 of shape \(2, 8, 8, 3\)"),
        (np.zeros((0, 8, 8), np.uint8), r"got uint8 of shape \(0, 8, 8\)"),
    ],
)
def test_what_is_no_picture_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        slant(images)
