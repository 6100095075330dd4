# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The pass over images: every sum against the whole set at once, and the nearest patches by brute force."""

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F


pytest.importorskip("datasets")

from fqgan_hf import FQGANImageProcessor
from fqgan_hf.evaluation import analysis_survey
from fqgan_hf.evaluation.analysis_survey import NearestPatches, ShuffledImages, Survey, closeness_to_code
from fqgan_hf.evaluation.image_batches import image_batches
from fqgan_hf.evaluation.metrics import psnr


def surveyed(model, images, network=None, batch_size=7, **options):
    survey = Survey(model, network, **options)
    for batch in image_batches(images, resolution=16, batch_size=batch_size, multiple_of=4):
        survey.update(*batch)
    return survey


def whole(images):
    pictures, labels = zip(*(images[i] for i in range(len(images))), strict=True)
    return FQGANImageProcessor(size=16)(list(pictures))["pixel_values"], torch.tensor(labels)


def brute_force(codes, closeness, num_patches):
    """For each code the best position of each image, sorted."""
    found = {}
    for image, (grid, values) in enumerate(zip(codes.tolist(), closeness.tolist(), strict=True)):
        best = {}
        for position, (code, value) in enumerate(zip(grid, values, strict=True)):
            if code not in best or value > best[code][0]:
                best[code] = (value, image * len(grid) + position)
        for code, entry in best.items():
            found.setdefault(code, []).append(entry)
    return {code: sorted(entries, key=lambda e: (-e[0], e[1]))[:num_patches] for code, entries in found.items()}


@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_nearest_patches_are_those_of_all_images(batch_size):
    codes = torch.randint(0, 6, (30, 2, 3, 3))
    closeness = torch.rand(30, 2, 3, 3).mul(50).round()  # with ties
    nearest = NearestPatches(2, 8, 4)
    for start in range(0, 30, batch_size):
        batch = slice(start, start + batch_size)
        nearest.update(range(start, min(start + batch_size, 30)), codes[batch], closeness[batch])
    for k in range(2):
        expected = brute_force(codes[:, k].flatten(1), closeness[:, k].flatten(1), 4)
        for code in range(8):
            entries = expected.get(code, [])
            missing = 4 - len(entries)
            assert nearest.closeness[k, code].tolist() == [value for value, _ in entries] + [-np.inf] * missing
            assert nearest.places[k, code].tolist() == [place for _, place in entries] + [-1] * missing


@torch.no_grad()
@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_a_survey_in_batches_is_that_of_all_images(images, network, num_codebooks):
    model = tiny.tokenizer(num_codebooks)
    survey = surveyed(model, images, network, num_shown=9)
    pixels, labels = whole(images)
    codes = model.encode(pixels).codes
    assert torch.equal(survey.codes.long(), codes) and torch.equal(survey.labels, labels)
    selections = [None, [0], [1], [2]] if num_codebooks == 3 else [None]
    assert survey.selections == selections
    processor = FQGANImageProcessor()
    samples = [model.decode_codes(codes, codebooks=chosen).sample for chosen in selections]
    for found, sample in zip(survey.psnr, samples, strict=True):
        assert found == pytest.approx(psnr(pixels, sample).mean().item(), rel=1e-3)
    for found, shown in zip(survey.accuracy, [pixels, *samples], strict=True):
        assert found == np.mean((network(processor.postprocess(shown)).predictions == labels).numpy())
    for k in range(num_codebooks):
        assert survey.usage.counts[k].tolist() == codes[:, k].flatten().bincount(minlength=32).tolist()
    assert len(survey.shown) == 9
    for i, shown in enumerate(survey.shown):
        np.testing.assert_array_equal(shown.original, processor.postprocess(pixels[i : i + 1])[0])
        np.testing.assert_array_equal(shown.codes, codes[i])
        assert len(shown.reconstructions) == len(selections)
    closeness = closeness_to_code(model.quantizer, model.encode_features(pixels), codes)
    expected = brute_force(codes[:, 0].flatten(1), closeness[:, 0].flatten(1), 8)
    code = max(expected, key=lambda code: len(expected[code]))
    assert set(survey.nearest.places[0, code][: len(expected[code])]) == {place for _, place in expected[code]}


@torch.no_grad()
@pytest.mark.parametrize("token_logits", [None, "linear", "cosine"])
def test_the_nearest_code_of_a_latent_is_the_one_it_becomes(token_logits):
    settings = {} if token_logits is None else {"quantizer_type": "regularized", "token_logits": token_logits}
    model = tiny.tokenizer(2, **settings)
    latents = model.encode_features(torch.rand(3, 3, 16, 16) * 2 - 1)
    codes = model.quantizer(latents).codes
    found = closeness_to_code(model.quantizer, latents, codes)
    others = [closeness_to_code(model.quantizer, latents, torch.full_like(codes, code)) for code in range(32)]
    torch.testing.assert_close(found, torch.stack(others).amax(0))
    if token_logits is None:
        rows = model.quantizer.normalized_codebooks()[1][codes[0, 1]].permute(2, 0, 1)
        torch.testing.assert_close(found[0, 1], F.cosine_similarity(latents[0, 1], rows, dim=0))


def test_images_without_a_label_count_for_no_accuracy(images, network):
    pixels, labels = whole(images)
    survey = Survey(tiny.tokenizer(1), network)
    survey.update(range(30), pixels, torch.where(torch.arange(30) < 10, labels, -1))
    right = network(FQGANImageProcessor().postprocess(pixels[:10])).predictions == labels[:10]
    assert survey.accuracy[0] == right.double().mean().item()
    survey = Survey(tiny.tokenizer(1), network)
    survey.update(range(30), pixels, torch.full((30,), -1))
    assert survey.accuracy is None


def test_codes_are_kept_of_the_first_images_only(images, monkeypatch):
    monkeypatch.setattr(analysis_survey, "MAX_KEPT_POSITIONS", 16 * 10)
    survey = surveyed(tiny.tokenizer(2), images)
    assert survey.codes.shape == (10, 2, 4, 4) and len(survey.labels) == 10
    assert survey.num_images == 30 and survey.usage.num_positions == 30 * 16


def test_images_are_drawn_and_not_the_first_of_a_sorted_folder(images):
    chosen = ShuffledImages(images, 10, seed=3)
    assert len(chosen) == 10 == len(set(chosen.order))
    assert chosen.order != sorted(chosen.order)
    assert chosen.order == ShuffledImages(images, 10, seed=3).order != ShuffledImages(images, 10, seed=4).order
    assert sorted(ShuffledImages(images, 99).order) == list(range(30))
    (indices, pixels, labels), *_ = image_batches(chosen, resolution=16, batch_size=10)
    all_pixels, all_labels = whole(images)
    assert indices == list(range(10))
    assert torch.equal(pixels, all_pixels[chosen.order]) and torch.equal(labels, all_labels[chosen.order])
