# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan evaluate` of generators that read prompts and maps, and of diffusion, with tiny random models."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image


pytest.importorskip("datasets")
pytest.importorskip("torchmetrics")

from fqgan_hf.cli import main
from fqgan_hf.evaluation.image_sets import open_image_set
from fqgan_hf.evaluation.run import evaluate
from fqgan_hf.evaluation_results import load_result
from fqgan_hf.files import read_json

from .conftest import CLASSES


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Pipelines of a generator of each kind, and what they are given."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    classes = {"num_classes": 2, "id2label": dict(enumerate(CLASSES))}
    for name, conditions, settings in (
        ("text", ["text"], {"text": None, **classes}),  # settings of classes that nobody asks for
        ("map", ["map"], {}),
        ("both", ["class", "map"], classes),
        ("diffusion", ["class"], {"kind": "diffusion", **classes}),
    ):
        tiny.conditional_pipeline(*conditions, **settings).save_pretrained(str(folder / name))
    (folder / "prompts.txt").write_text("a red apple\nblue\n")
    (folder / "maps").mkdir()
    for number in range(3):
        label_map(number).save(folder / "maps" / f"{number}.png")
    return folder


def label_map(number):
    """A picture of 16 x 16 labels, another one for each number."""
    return Image.fromarray(np.random.default_rng(number).integers(5, size=(16, 16), dtype=np.uint8))


@pytest.fixture
def words(image_dir, network_dir, tmp_path):
    """Of the command, for 12 samples; the result is in result.json."""
    options = {"reference": image_dir, "features": network_dir, "num_samples": 12, "device": "cpu"}
    options |= {"samples_dir": tmp_path / "samples", "out": tmp_path / "result.json"}
    return ["evaluate", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


@pytest.fixture
def fails(capsys):
    """Runs the command and gives its one line on stderr."""

    def run(*argv):
        assert main(list(map(str, argv))) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    return run


def test_a_generator_that_reads_prompts(words, saved, tmp_path, capsys):
    argv = [*words, "--pipeline", saved / "text", "--prompts", saved / "prompts.txt", "--negative_prompt", "green"]
    assert main(list(map(str, argv))) == 0
    result, manifest = load_result(tmp_path / "result.json"), read_json(tmp_path / "samples" / "manifest.json")
    figures, subject = result["figures"], result["subject"]
    assert figures["frechet_distance"] > 0 and figures["num_images"] == 12
    assert figures["class_consistency"] is figures["code_likelihood"] is None
    assert subject["prompts"] == manifest["prompts"] and subject["prompts"]["number"] == 2
    assert subject["negative_prompt"] == "green" and not {"maps", "num_inference_steps"} & subject.keys()
    assert "class consistency" not in capsys.readouterr().out


def test_a_generator_that_reads_maps(words, saved, tmp_path, image_dir, network_dir):
    assert main([*words, "--pipeline", str(saved / "map"), "--maps", str(saved / "maps")]) == 0
    result, manifest = load_result(tmp_path / "result.json"), read_json(tmp_path / "samples" / "manifest.json")
    assert result["figures"]["frechet_distance"] > 0
    assert result["figures"]["class_consistency"] is result["figures"]["code_likelihood"] is None
    assert result["subject"]["maps"] == manifest["maps"] and manifest["maps"]["number"] == 3
    again = evaluate(
        image_dir, pipeline=saved / "map", maps=[label_map(number) for number in range(3)], features=network_dir,
        num_samples=12, samples_dir=tmp_path / "samples", device="cpu",
    )  # fmt: skip
    assert again["figures"] == result["figures"], "the same samples, which are there"
    assert again["subject"]["maps"] == result["subject"]["maps"]


def test_classes_are_judged_beside_maps(saved, tmp_path, image_dir, network_dir):
    result = evaluate(
        image_dir, pipeline=saved / "both", maps=[label_map(0)], features=network_dir, num_samples=12,
        samples_dir=tmp_path, device="cpu",
    )  # fmt: skip
    assert result["figures"]["class_consistency"] is not None
    assert result["figures"]["code_likelihood"] is None, "it would need maps of the held-out images"


def test_a_generator_by_diffusion(words, saved, tmp_path):
    assert main([*words, "--pipeline", str(saved / "diffusion"), "--steps", "3"]) == 0
    result = load_result(tmp_path / "result.json")
    assert result["figures"]["class_consistency"] is not None and result["figures"]["code_likelihood"] is None
    assert result["subject"]["num_inference_steps"] == 3
    assert open_image_set(tmp_path / "samples").label_names == CLASSES


def test_what_does_not_fit_is_found_before_the_reference_is_measured(words, saved, tmp_path, fails, monkeypatch):
    monkeypatch.setattr("fqgan_hf.evaluation.run.load_network", lambda *args: pytest.fail("a network was loaded"))

    def of(name, *argv):
        return fails(*words, "--pipeline", saved / name, *argv)

    prompts, maps = ["--prompts", saved / "prompts.txt"], ["--maps", saved / "maps"]
    assert "prompts must be given: this generator was trained for text" in of("text")
    assert "maps cannot be given: this generator was trained for text" in of("text", *prompts, *maps)
    assert "maps must be given: this generator was trained for map" in of("map")
    assert "negative_prompt cannot be given" in of("map", *maps, "--negative_prompt", "a")
    assert "num_inference_steps must be None" in of("map", *maps, "--steps", 3)
    assert "num_inference_steps must be in [1, 10], got 11" in of("diffusion", "--steps", 11)
    assert "prompts cannot be given: this generator was trained for class" in of("diffusion", *prompts)
    assert "--prompt_column needs --prompts" in of("text", "--prompt_column", "a")
    assert "there is no file" in of("text", "--prompts", saved / "absent.txt")
    Image.new("L", (16, 16), 5).save(tmp_path / "5.png")
    assert f"--maps: {tmp_path / '5.png'}: labels must be in [0, 4], got 5" in of("map", "--maps", tmp_path)
    line = fails(*words, "--tokenizer", saved / "map", *maps)
    assert "maps can be given with pipeline only, got tokenizer" in line
    assert not (tmp_path / "samples").exists()
