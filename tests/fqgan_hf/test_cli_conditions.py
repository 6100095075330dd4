# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan generate` and `fqgan sample` by prompts and maps, and edits, with tiny random models."""

import csv
import json
import os

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fqgan_hf import generate_images, load_pipeline, optimize
from fqgan_hf.cli import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Generators that read prompts, one that reads maps, too, and pictures."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    tiny.conditional_pipeline("text", text=None).save_pretrained(str(folder / "far"))
    tiny.conditional_pipeline("text", kind="diffusion", text=None).save_pretrained(str(folder / "diffusion"))
    tiny.conditional_pipeline("text", "map", kind="diffusion", text=None).save_pretrained(str(folder / "maps"))
    tiny.conditional_pipeline("text", text="clip").save_pretrained(str(folder / "clip"))
    pixels = np.random.default_rng(0).integers(255, size=(16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    Image.fromarray((np.arange(16)[:, None] < 8).repeat(16, 1).astype(np.uint8) * 255).save(folder / "mask.png")
    Image.fromarray(pixels[..., 0] % 5).save(folder / "map.png")
    (folder / "prompts.txt").write_text("a red apple\n\n  the small house \nblue\n")
    return folder


def fqgan(*argv):
    return main([str(word) for word in argv])


def loaded(folder):
    """As commands load it."""
    return optimize(load_pipeline(folder, "cpu"), compile=False)


@pytest.fixture
def fails(capsys):
    def run(*argv):
        assert fqgan(*argv) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    return run


def picture(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize("kind", ["far", "diffusion"])
def test_generate_by_prompt(kind, saved, tmp_path):
    argv = ["generate", "--model", saved / kind, "--prompt", "a red apple", "The small house!", "--seed", 5,
            "--negative_prompt", "green", "--num_images_per_prompt", 2, "--device", "cpu"]  # fmt: skip
    assert fqgan(*argv, "--out", tmp_path / "out") == 0
    names = ["0_a_red_apple.png", "1_a_red_apple.png", "2_the_small_house.png", "3_the_small_house.png"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert fqgan(*argv, "--out", tmp_path / "grid.png") == 0
    prompts = [prompt for prompt in ("a red apple", "The small house!") for _ in range(2)]
    pipe = loaded(saved / kind)
    expected = generate_images(pipe, {"prompt": prompts}, seed=5, arguments={"negative_prompt": "green"})
    assert all(
        np.array_equal(picture(tmp_path / "out" / name), image) for name, image in zip(names, expected, strict=True)
    )


def test_generate_by_map_with_steps_and_a_scale_of_each(saved, tmp_path):
    argv = ["generate", "--model", saved / "maps", "--prompt", "a pear", "--map", saved / "map.png", "--seed", 1,
            "--steps", 3, "--guidance_scale", "text=3", "map=1.5", "--out", tmp_path / "out"]  # fmt: skip
    assert fqgan(*argv) == 0
    pipe = loaded(saved / "maps")
    image = pipe(
        prompt="a pear", map_image=Image.open(saved / "map.png"), guidance_scale={"text": 3.0, "map": 1.5},
        num_inference_steps=3, generator=[generator_of(1)],
    ).images[0]  # fmt: skip
    assert np.array_equal(picture(tmp_path / "out" / "0_a_pear.png"), image)


def generator_of(seed):
    from fqgan_hf.pipelines.inference import image_generator

    return image_generator(seed, 0)


def test_a_frozen_text_encoder(saved, tmp_path):
    argv = ["generate", "--model", saved / "clip", "--prompt", "a pear", "--seed", 1, "--out", tmp_path / "out"]
    assert fqgan(*argv) == 0
    pipe = loaded(saved / "clip")
    (image,) = pipe(prompt="a pear", generator=[generator_of(1)]).images
    assert np.array_equal(picture(tmp_path / "out" / "0_a_pear.png"), image)


def test_edits_and_sizes(saved, tmp_path):
    common = ["generate", "--model", saved / "diffusion", "--prompt", "blue", "--seed", 0, "--steps", 2]
    edit = ["--image", saved / "photo.png"]
    for name, argv in (
        ("mask", [*edit, "--mask", saved / "mask.png"]),
        ("strength", [*edit, "--strength", 0.5]),
        ("keep", [*edit, "--keep", 0]),
        ("size", ["--height", 24, "--width", 32]),
    ):
        assert fqgan(*common, *argv, "--out", tmp_path / name) == 0
    assert picture(tmp_path / "size" / "0_blue.png").shape == (24, 32, 3)
    pictures = [picture(tmp_path / name / "0_blue.png") for name in ("mask", "strength", "keep")]
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[1], pictures[2])


def test_what_does_not_fit_is_refused(saved, fails, tmp_path):
    def generate(*argv, model="far"):
        return fails("generate", "--model", saved / model, "--out", tmp_path / "x.png", *argv)

    assert "--class_labels cannot be given: this generator was trained for text" in generate("--class_labels", 1)
    assert "--prompt must be given: this generator was trained for text, map" in generate(
        "--map", saved / "map.png", model="maps"
    )
    assert "--steps cannot be given" in generate("--prompt", "a", "--steps", 3)
    assert "prompt must say something" in generate("--prompt", " ")
    assert "there is no file" in generate("--prompt", "a", "--image", saved / "absent.png")
    assert "--map: labels must be in [0, 4]" in generate("--prompt", "a", "--map", saved / "mask.png", model="maps")
    assert "image must be given with strength" in generate("--prompt", "a", "--strength", 0.5)
    assert "--image must be one file, or 3, got 2" in generate(
        "--prompt", "a", "b", "c", "--image", saved / "photo.png", saved / "mask.png"
    )
    assert "CONDITION=NUMBER once for each" in generate("--prompt", "a", "--guidance_scale", "text=3", 2)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("kind", ["far", "diffusion"])
def test_sample_from_prompts(kind, saved, tmp_path, fails, capsys):
    argv = ["sample", "--model", saved / kind, "--prompts", saved / "prompts.txt", "--seed", 3, "--batch_size", 4,
            "--shard_size", 4, "--negative_prompt", "green", "--device", "cpu", "--output_dir", tmp_path]  # fmt: skip
    argv += ["--steps", 4] if kind == "diffusion" else []
    assert fqgan(*argv, "--num", 4) == 0 and fqgan(*argv, "--num", 6) == 0, "more can be added"
    with open(tmp_path / "shard-00001" / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == ["the small house", "blue"]
    assert {row["class_name"] for row in rows} == {"unlabelled"}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["prompts"]["number"] == 3 and manifest["negative_prompt"] == "green"
    assert manifest.get("num_inference_steps") == (4 if kind == "diffusion" else None)
    arguments = {"negative_prompt": "green"} | ({"num_inference_steps": 4} if kind == "diffusion" else {})
    prompts = ["a red apple", "the small house", "blue"] * 2
    expected = generate_images(loaded(saved / kind), {"prompt": prompts}, seed=3, arguments=arguments)
    assert np.array_equal(picture(tmp_path / "shard-00001" / "00000005.png"), expected[5])
    (tmp_path / "other.txt").write_text("a pear\n")
    argv[4] = tmp_path / "other.txt"
    assert "prompts.number was 3 and is now 1" in fails(*argv, "--num", 6)


def test_prompts_of_a_parquet_file(saved, tmp_path, fails):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [["a pear", "pear"], ["blue"]], "n": [1, 2]}), tmp_path / "prompts.parquet")
    argv = ["sample", "--model", saved / "far", "--num", 2, "--format", "parquet", "--output_dir", tmp_path / "out",
            "--prompts", tmp_path / "prompts.parquet"]  # fmt: skip
    assert fqgan(*argv, "--prompt_column", "text") == 0
    assert pq.read_table(tmp_path / "out" / "shard-00000.parquet")["prompt"].to_pylist() == ["a pear", "blue"]
    assert "must have a column 'caption', it has text, n" in fails(*argv)
    assert "column 'n' of" in fails(*argv, "--prompt_column", "n")


def test_sampling_that_does_not_fit_is_refused(saved, tmp_path, fails):
    def sample(*argv, model="far"):
        return fails("sample", "--model", saved / model, "--num", 2, "--output_dir", tmp_path / "out", *argv)

    prompts = ["--prompts", saved / "prompts.txt"]
    assert "prompts must be given: this generator was trained for text" in sample()
    assert "class_labels cannot be given" in sample(*prompts, "--class_labels", 1)
    assert "many images of a generator that reads maps cannot be made yet" in sample(*prompts, model="maps")
    assert "num_inference_steps must be None" in sample(*prompts, "--steps", 3)
    assert "num_inference_steps must be in [1, 10], got 11" in sample(*prompts, "--steps", 11, model="diffusion")
    assert "--prompt_column needs --prompts" in sample("--prompt_column", "a")
    assert "there is no file" in sample("--prompts", saved / "absent.txt")
    assert not (tmp_path / "out" / "settings.json").exists()
