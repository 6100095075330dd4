# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The demo's conditions: what the data set says of digits, and how generated ones are judged."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image


pytest.importorskip("sklearn")
pytest.importorskip("datasets")

from fqgan_hf.demo.conditions import (
    CHANCE,
    CONDITIONS,
    MapCondition,
    TextCondition,
    balanced_captions,
    shown_captions,
)
from fqgan_hf.demo.digit_captions import describe_digits, read_caption
from fqgan_hf.demo.digit_maps import MAP_LABELS, digit_maps
from fqgan_hf.demo.digits import DIGIT_NAMES, enlarge, load_digits, write_dataset
from fqgan_hf.demo.examination import Examination
from fqgan_hf.demo.pictures import MAP_COLORS, caption_picture, map_picture
from fqgan_hf.evaluation.conditions import ImageConditions
from fqgan_hf.evaluation.features import Features
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.evaluation.images import load_images
from fqgan_hf.evaluation.judging import SetStatistics
from fqgan_hf.evaluation.label_maps import mean_iou
from fqgan_hf.evaluation.reference import Reference
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.pipelines.inference import generate_images


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def text(digits):
    return TextCondition(digits)


def pictures_of(pixels):
    return [enlarge(digit) for digit in pixels]


# ---- What the data set says ----


def written(condition, digits, folder):
    """The held-out digits of a data set for this condition."""
    write_dataset(digits, folder, condition.columns)
    arguments = {"image_column": "image", "cache_dir": str(folder / "cache")}
    return load_images(ImageDataArguments(train_data_dir=str(folder / "held_out"), **arguments))


def test_captions_are_written_beside_the_pictures(digits, text, tmp_path):
    images = written(text, digits, tmp_path)
    assert set(images.dataset.column_names) == {"image", "label", "caption"}
    told = ImageConditions(images, caption_columns=["caption"])
    pictures = pictures_of(digits.held_out[:50])
    expected = describe_digits(pictures, digits.held_out_labels[:50], text.boundaries)
    assert [told.captions(index) for index in range(50)] == expected
    assert all(len(alternatives) > 1 for alternatives in expected)


def test_maps_are_written_beside_the_pictures(digits, tmp_path):
    images = written(MapCondition(digits), digits, tmp_path)
    assert set(images.dataset.column_names) == {"image", "label", "map"}
    told = ImageConditions(images, map_column="map", num_labels=len(MAP_LABELS))
    found = np.stack([np.asarray(told.map(index, (32, 32))) for index in range(50)])
    assert np.array_equal(found, digit_maps(pictures_of(digits.held_out[:50])))
    assert set(np.unique(found)) == {0, 1, 2}


def test_the_class_adds_nothing(digits, tmp_path):
    write_dataset(digits, tmp_path / "plain")
    write_dataset(digits, tmp_path / "class", CONDITIONS["class"](digits).columns)
    for split in ("train", "held_out"):
        plain, ours = (tmp_path / name / split / "00000.parquet" for name in ("plain", "class"))
        assert plain.read_bytes() == ours.read_bytes()


# ---- What is asked for ----


def test_captions_are_balanced_and_the_rest_follows_from_the_seed():
    counts = Counter(balanced_captions(500, seed=0))
    assert len(counts) == 90 and set(counts.values()) == {5, 6}
    assert balanced_captions(500, seed=0) == balanced_captions(500, seed=0)
    first, other = (balanced_captions(500, seed) for seed in (0, 1))
    assert first[:450] == other[:450] and first[450:] != other[450:]
    for name in ("digit", "thickness", "slant"):
        shares = np.array(list(Counter(getattr(caption, name) for caption in first[:450]).values())) / 450
        assert len(set(shares)) == 1


def test_captions_that_are_shown_are_generated_and_contradict_each_other():
    shown = shown_captions()
    assert set(shown) <= {caption.text() for caption in balanced_captions(100, seed=0)}
    for digit in range(10):
        first, second = (read_caption(caption) for caption in shown[2 * digit : 2 * digit + 2])
        assert first.digit == second.digit == digit
        assert {first.thickness, second.thickness} == {first.slant, second.slant} == {0, 2}


# ---- How generated digits are judged ----


class Memory:
    """A network that has seen all digits, and of every other picture says that it is a zero."""

    device, description, label_names = torch.device("cpu"), {}, DIGIT_NAMES

    def __init__(self, pictures, labels):
        self.known = {picture.tobytes(): int(label) for picture, label in zip(pictures, labels, strict=True)}

    def __call__(self, images):
        seen = torch.stack(
            [torch.from_numpy(np.asarray(image, dtype=np.float32)[::8, ::8].flatten()) for image in images]
        )
        return Features(seen, torch.eye(10)[[self.known.get(image.tobytes(), 0) for image in images]])


class StandIn(Examination):
    """An examination in which a function generates, from what is given for an image to a picture."""

    def generate(self, given):
        (values,) = given.values()
        self.pipe.pictures.extend(self.pipe.make(value, index) for index, value in enumerate(values))
        return torch.arange(len(values))[:, None, None, None]

    def decode(self, codes):
        return [self.pipe.pictures[index] for index in codes.flatten().tolist()]

    def reconstruct(self, images):
        return images


@pytest.fixture(scope="module")
def examination(digits):
    """From a function that generates to an examination of it."""
    train, held_out = pictures_of(digits.train), pictures_of(digits.held_out)
    judge = Memory([*train, *held_out], [*digits.train_labels, *digits.held_out_labels])
    statistics = SetStatistics(len(held_out), DIGIT_NAMES)
    statistics.update(judge(held_out), list(range(len(held_out))), torch.from_numpy(digits.held_out_labels))
    reference = Reference(None, 32, len(held_out), statistics)
    transformer = SimpleNamespace(num_parameters=lambda: 7)

    def build(make, num_images):
        pipe = SimpleNamespace(pictures=[], make=make, transformer=transformer)
        return StandIn(pipe, reference, judge, num_images, 0, SamplingSettings())

    return build


@pytest.fixture(scope="module")
def by_caption(digits, text):
    """Training digits by their caption in full."""
    pictures = pictures_of(digits.train)
    found = {}
    for picture, (caption, *_) in zip(
        pictures, text.columns(pictures, digits.train_labels)["caption"][1], strict=True
    ):
        found.setdefault(caption, []).append(picture)
    return found


def test_a_generator_that_reads_captions_is_found_to_do_so(text, examination, by_caption):
    found = text.evaluate(examination(lambda prompt, index: by_caption[prompt][index % len(by_caption[prompt])], 500))
    for figures in (found.figures, found.figures["real_digits"], found.figures["reconstructions"]):
        assert [figures[name] for name in CHANCE] == [1, 1, 1]
    assert found.figures["condition"] == "text"
    assert found.figures["num_images"] == len(found.codes) == 500
    assert found.figures["class_consistency_by_class"] == dict.fromkeys(DIGIT_NAMES, 1)
    assert found.figures["frechet_distance"] > 0 and found.figures["parameters"] == 7


def test_a_generator_that_reads_the_digit_alone_is_right_by_chance(digits, text, examination):
    of_class = [pictures_of(digits.train[digits.train_labels == digit]) for digit in range(10)]

    def make(prompt, index):
        alternatives = of_class[read_caption(prompt).digit]
        return alternatives[7 * index % len(alternatives)]

    figures = text.evaluate(examination(make, 500)).figures
    assert figures["class_consistency"] == 1
    for name in ("thickness_consistency", "slant_consistency"):
        assert figures[name] == pytest.approx(CHANCE[name], abs=0.07)
    nothing = text.evaluate(examination(lambda prompt, index: of_class[0][index % 100], 500)).figures
    assert nothing["class_consistency"] == pytest.approx(CHANCE["class_consistency"], abs=0.01)


def test_a_generator_that_follows_maps_is_found_to_do_so(digits, examination):
    held_out = pictures_of(digits.held_out)
    found = MapCondition(digits).evaluate(examination(lambda label_map, index: held_out[index], 100))
    figures, maps = found.figures, digit_maps(held_out[:100])
    assert figures["mean_iou"] == figures["real_digits"]["mean_iou"] == figures["reconstructions"]["mean_iou"] == 1
    assert figures["class_consistency"] == figures["real_digits"]["class_consistency"] == 1
    assert figures["iou"] == dict.fromkeys(MAP_LABELS, 1)
    assert figures["num_images"] == len(found.codes) == 100  # those for the picture are not judged
    floor = mean_iou(maps, np.roll(maps, 1, axis=0), 3)
    assert figures["maps_of_other_digits"]["mean_iou"] == pytest.approx(floor) and floor < 0.7


def test_a_generator_that_ignores_maps_stays_at_the_floor(digits, examination):
    train = pictures_of(digits.train)
    figures = MapCondition(digits).evaluate(examination(lambda label_map, index: train[index], 360)).figures
    assert figures["mean_iou"] == pytest.approx(figures["maps_of_other_digits"]["mean_iou"], abs=0.03)
    assert figures["mean_iou"] < 0.7
    assert figures["class_consistency"] < 0.2


def test_a_digit_is_generated_for_the_map_of_each_held_out_one(digits, examination):
    asked = []

    def make(label_map, index):
        asked.append(np.asarray(label_map))
        return Image.fromarray(((asked[-1] == 1) * 255).astype(np.uint8))

    figures = MapCondition(digits).evaluate(examination(make, 100)).figures
    maps = digit_maps(pictures_of(digits.held_out[:100]))
    assert np.array_equal(np.stack(asked[:100]), maps)
    shown = [int(np.flatnonzero(digits.held_out_labels == digit)[0]) for digit in range(10)]
    assert np.array_equal(np.stack(asked[100:]), np.repeat(maps[shown], 4, axis=0))
    assert figures["mean_iou"] > 0.95  # strokes, drawn as they are asked for


# ---- A pipeline of real classes ----


@pytest.mark.parametrize(("condition", "given"), [("text", ["a red apple", "the house"]), ("map", None)])
def test_an_examination_sees_what_the_pipeline_gives(condition, given):
    pipe = tiny.conditional_pipeline(condition, text=None)
    if given is None:
        given = list(torch.randint(0, 5, (2, 16, 16)))
    given = {"prompt" if condition == "text" else "map_image": given}
    settings = SamplingSettings(guidance_scale=1.5)
    examination = Examination(pipe, None, None, 2, 3, settings)
    codes = examination.generate(given)
    assert codes.shape == (2, 2, 4, 4)
    expected = generate_images(pipe, given, seed=3, batch_size=250, settings=settings)
    for ours, theirs in zip(examination.decode(codes), expected, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    again = examination.reconstruct(expected)
    pixel_values = pipe.image_processor(expected)["pixel_values"]
    sample = pipe.vqmodel(pixel_values).sample
    assert np.array_equal(np.asarray(again[1]), np.asarray(pipe.image_processor.postprocess(sample.detach())[1]))


def test_a_map_tokenizer_is_judged_by_the_maps_that_come_back(digits):
    model = tiny.map_tokenizer(3, sample_size=32)
    figures = MapCondition(digits).map_tokenizer_figures(SimpleNamespace(map_vqmodel=model))
    maps = torch.from_numpy(digit_maps(pictures_of(digits.held_out))).long()
    with torch.no_grad():
        codes = model.encode_labels(maps).codes
        back = model.decode_labels(codes)
    assert figures["pixel_accuracy"] == pytest.approx((back == maps).double().mean().item())
    expected = []
    for label in range(3):
        ours, theirs = maps == label, back == label
        expected.append((ours & theirs).sum().item() / (ours | theirs).sum().item())
    assert list(figures["iou"].values()) == pytest.approx(expected)
    assert figures["mean_iou"] == pytest.approx(np.mean(expected))
    assert figures["codes_used"] == len(set(codes.flatten().tolist()))
    assert figures["grid"] == [8, 8]


# ---- Pictures and words ----


def areas(picture):
    """Pixels of each colour."""
    return {color: number for number, color in picture.getcolors(1_000_000)}


def test_a_row_of_the_picture_is_a_caption():
    shades = [Image.new("L", (32, 32), shade) for shade in (40, 80, 120, 160)]
    found = areas(caption_picture(["a", "b", "a", "a"], shades, ["a", "b"], 2))
    for shade in (40, 80, 120):
        assert found[shade, shade, shade] >= 64 * 64
    assert found.get((160, 160, 160), 0) < 64 * 64  # the third of its caption


def test_a_row_of_the_picture_is_a_map_with_its_digits():
    label_map = np.zeros((2, 32, 32), np.uint8)
    label_map[0, :16], label_map[1, 16:] = 1, 2
    generated = [[Image.new("L", (32, 32), 90)] * 3] * 2
    found = areas(map_picture(label_map, generated, [Image.new("L", (32, 32), 200)] * 2))
    for color in MAP_COLORS[1:]:
        assert found[tuple(color.tolist())] >= 64 * 32
    assert found[90, 90, 90] >= 2 * 3 * 64 * 64
    assert found[200, 200, 200] >= 2 * 64 * 64
