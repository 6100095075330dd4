# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Evaluation of tokenizers and generators: figures against direct computation, streaming, and the one call."""

import gc
import weakref

import numpy as np
import pytest
import tiny
import torch


pytest.importorskip("datasets")

from fqgan_hf import FQGANImageProcessor
from fqgan_hf.evaluation import evaluate as evaluation
from fqgan_hf.evaluation.evaluate import Reference, class_titles, evaluate_generator, evaluate_tokenizer
from fqgan_hf.evaluation.metrics import FeatureStatistics, frechet_distance
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.pipelines.inference import generate_images

from .conftest import CLASSES


SETTINGS = SamplingSettings(guidance_scale=1.5, top_k=16)


@pytest.fixture(scope="module")
def reference(images, network):
    return Reference.measure(images, network, resolution=16, batch_size=7)


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return tiny.pipeline(num_classes=2, id2label=dict(enumerate(CLASSES)))


def statistics(network, pictures):
    found = FeatureStatistics()
    found.update(network(pictures).pooled)
    return found


def distance(network, pictures, reference):
    found = statistics(network, pictures)
    return frechet_distance(found.mu, found.sigma, reference.statistics.pooled.mu, reference.statistics.pooled.sigma)


def test_the_reference_is_what_the_network_says_of_all_images(images, network, reference):
    pictures, labels = zip(*(images[i] for i in range(len(images))), strict=True)
    assert distance(network, pictures, reference) == pytest.approx(0, abs=1e-6)
    assert reference.accuracy == np.mean(network(pictures).predictions.numpy() == np.array(labels))
    assert Reference.measure(images, network, resolution=16, num_images=9).num_images == 9


@torch.no_grad()
def test_a_tokenizer_is_judged_by_its_reconstructions(images, network, reference):
    model = tiny.tokenizer(2)
    figures = evaluate_tokenizer(model, reference, network, batch_size=4, each_codebook=True)
    processor = FQGANImageProcessor(size=16)
    pictures, labels = zip(*(images[i] for i in range(len(images))), strict=True)
    pixels = processor(list(pictures))["pixel_values"]
    codes = model.encode(pixels).codes
    for codebooks, found in (
        (None, figures),
        ([0], figures["each_codebook"][0]),
        ([1], figures["each_codebook"][1]),
    ):
        sample = model.decode_codes(codes, codebooks=codebooks).sample
        predictions = network(processor.postprocess(sample)).predictions
        assert found["classifier_accuracy"] == np.mean(predictions.numpy() == np.array(labels))
    whole = processor.postprocess(model.decode_codes(codes).sample)
    # Sums of another shape are rounded otherwise, and some pixel to the next of 256 levels.
    assert figures["frechet_distance"] == pytest.approx(distance(network, whole, reference), rel=1e-2)
    assert figures["codes_used"] == [len(codes[:, k].unique()) for k in range(2)]
    other = evaluate_tokenizer(model, reference, network, batch_size=30)
    for name in ("psnr", "frechet_distance", "overlap"):  # whatever the batch size
        assert other[name] == pytest.approx(figures[name], rel=1e-2), name
    assert "each_codebook" not in other


def test_a_generator_is_judged_by_the_images_of_its_seed(network, reference, pipe):
    figures, shown = evaluate_generator(
        pipe, reference, network, num_images=13, seed=3, batch_size=5, settings=SETTINGS, num_shown=2
    )
    labels = [0, 1] * 6  # 13, rounded down to as many of each class
    pictures = generate_images(pipe, labels, seed=3, settings=SETTINGS)
    predictions = network(pictures).predictions.numpy()
    assert figures["num_images"] == 12
    assert figures["frechet_distance"] == pytest.approx(distance(network, pictures, reference), rel=1e-5)
    assert figures["class_consistency"] == pytest.approx(np.mean(predictions == labels))
    by_class = figures["class_consistency_by_class"]
    assert by_class == {
        name: pytest.approx(np.mean(predictions[np.array(labels) == i] == i)) for i, name in enumerate(CLASSES)
    }
    assert [len(row) for row in shown] == [2, 2]
    assert np.array_equal(np.asarray(shown[1][0]), np.asarray(pictures[1]))


def test_seeds_share_no_image(network, reference, pipe):
    """Seed 1 was seed 0, shifted by one image: figures over seeds 0, 1, 2 had nearly no spread."""
    zero, one = (
        evaluate_generator(pipe, reference, network, num_images=8, seed=seed, num_shown=4)[1] for seed in (0, 1)
    )
    first = {image.tobytes() for row in zero for image in row}
    assert len(first) == 8
    assert not first & {image.tobytes() for row in one for image in row}


def test_classes_that_the_network_does_not_know_are_not_judged(images, network, pipe, monkeypatch):
    monkeypatch.setattr(network, "label_names", ["cat", "dog"])
    reference = Reference.measure(images, network, resolution=16)
    assert reference.accuracy is None
    figures, _ = evaluate_generator(pipe, reference, network, num_images=2)
    assert figures["class_consistency"] is None and figures["class_consistency_by_class"] is None
    assert evaluate_tokenizer(tiny.tokenizer(1), reference, network)["classifier_accuracy"] is None


@pytest.mark.parametrize(
    ("id2label", "titles"),
    [
        ({}, ["0", "1", "2"]),
        ({0: "crane", 1: "dog", 2: "crane"}, ["crane (0)", "dog", "crane (2)"]),  # ImageNet's: a bird and a machine
        ({1: "dog"}, ["0", "dog", "2"]),
    ],
)
def test_each_class_has_a_title_of_its_own(id2label, titles):
    """Without names there was a KeyError, and of classes that share a name the last one stood for all."""
    assert class_titles(tiny.pipeline(num_classes=3, id2label=id2label).transformer.config) == titles


@pytest.mark.parametrize("id2label", [{0: "dark", 1: "bright"}, {0: "a", 1: "b", 2: "c"}])
def test_a_generator_of_other_classes_is_not_judged_by_class(id2label, network, reference):
    pipe = tiny.pipeline(num_classes=len(id2label), id2label=id2label)
    figures, _ = evaluate_generator(pipe, reference, network, num_images=6)
    assert figures["class_consistency"] is None and figures["class_consistency_by_class"] is None
    assert figures["frechet_distance"] > 0


def test_generated_images_are_let_go(network, reference, pipe, monkeypatch):
    """However many images are generated, those of one batch are there at a time."""
    seen, most = [], []

    def batches(*args, **kwargs):
        for batch in generate_batches(*args, **kwargs):
            gc.collect()
            seen.extend(map(weakref.ref, batch))
            most.append(sum(image() is not None for image in seen))
            yield batch
            del batch

    generate_batches = evaluation.generate_batches
    monkeypatch.setattr(evaluation, "generate_batches", batches)
    evaluate_generator(pipe, reference, network, num_images=24, batch_size=4)
    assert len(most) == 6 and max(most) <= 8  # a batch, and the one before it while it is replaced
