# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan generate` and `fqgan sample` by prompts and maps, and edits, with tiny random models."""

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fqgan_hf import CodeDiffusionConfig, generate_images, load_pipeline, optimize, sample_to_folder
from fqgan_hf.cli import main
from fqgan_hf.hub.resolve import embedded_pipeline
from fqgan_hf.pipelines.generation_files import read_maps
from fqgan_hf.pipelines.sample_maps import SamplingMaps
from fqgan_hf.pipelines.sample_run import SamplingRun


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
    (folder / "many").mkdir()
    for name, number in (("b", 1), ("a", 0), ("c", 2)):
        label_map(number).save(folder / "many" / f"{name}.png")
    (folder / "many" / "notes.txt").write_text("not a map")
    (folder / "prompts.txt").write_text("a red apple\n\n  the small house \nblue\n")
    return folder


def label_map(number, num_labels=5):
    """A picture of 16 x 16 labels, another one for each number."""
    labels = np.random.default_rng(number).integers(num_labels, size=(16, 16), dtype=np.uint8)
    return Image.fromarray(labels)


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


def test_words_alone_need_no_model(tmp_path, monkeypatch, fails, capsys):
    """The small pipeline that comes with the package, with card and licences, makes the pictures and edits them."""
    monkeypatch.chdir(tmp_path)  # where there is no outputs/demo
    argv = ["generate", "--prompt", "red apple", "--seed", 0, "--device", "cpu"]
    assert fqgan(*argv, "--out", "first") == 0 and fqgan(*argv, "--out", "second") == 0
    first = picture("first/0_red_apple.png")
    assert first.shape == (64, 64, 3) and first.std() > 20
    assert np.array_equal(first, picture("second/0_red_apple.png"))
    assert fqgan(*argv, "--image", "first/0_red_apple.png", "--strength", 0.5, "--out", "third") == 0
    assert not np.array_equal(first, picture("third/0_red_apple.png"))
    assert "does not know" not in capsys.readouterr().err
    argv[2] = "red Xylograph apple"
    assert fqgan(*argv, "--out", "fourth") == 0
    assert "this model does not know: Xylograph\n" in capsys.readouterr().err
    assert "there is no folder outputs/demo/pipeline" in fails("generate", "--class_labels", 3, "--out", "no.png")
    folder = embedded_pipeline()
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 10e6
    assert {"README.md", "LICENSE-noto-emoji.txt", "LICENSE-unicode.txt"} <= set(os.listdir(folder))
    assert "_name_or_path" not in "".join(path.read_text() for path in folder.rglob("*.json"))  # of whoever made it


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
    assert "maps must be given: this generator was trained for text, map" in sample(*prompts, model="maps")
    assert "maps cannot be given: this generator was trained for text" in sample(*prompts, "--maps", saved / "many")
    assert "num_inference_steps must be None" in sample(*prompts, "--steps", 3)
    assert "num_inference_steps must be in [1, 10], got 11" in sample(*prompts, "--steps", 11, model="diffusion")
    assert "--prompt_column needs --prompts" in sample("--prompt_column", "a")
    assert "--map_column needs --maps" in sample("--map_column", "a")
    assert "there is no file" in sample("--prompts", saved / "absent.txt")
    assert not (tmp_path / "out" / "settings.json").exists()


# ---- Many images of maps ----


@pytest.fixture
def sample(saved, tmp_path):
    """Words of a command that samples from maps of a folder and prompts of a file."""
    words = {"--num": 5, "--seed": 3, "--batch_size": 2, "--shard_size": 2, "--steps": 4, "--device": "cpu",
             "--model": saved / "maps", "--prompts": saved / "prompts.txt", "--maps": saved / "many",
             "--output_dir": tmp_path / "out"}  # fmt: skip

    def make(**changes):
        changed = words | {f"--{name}": value for name, value in changes.items()}
        return ["sample", *(word for pair in changed.items() if pair[1] is not None for word in pair)]

    return make


def write_parquet(path, **columns):
    """Rows with pictures, as `datasets` writes them."""
    datasets = pytest.importorskip("datasets")
    features = {"caption": datasets.Value("string"), "map": datasets.Image()}
    features = datasets.Features({name: features.get(name, datasets.Image()) for name in columns})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)


def written(folder):
    """Pictures of PNG shards, in order."""
    return [picture(path) for path in sorted(folder.glob("shard-*/*.png"), key=lambda path: path.name)]


def rows_of(folder):
    """Rows of their metadata."""
    found = []
    for path in sorted(folder.glob("shard-*/metadata.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            found += csv.DictReader(file)
    return found


def test_sample_from_a_folder_of_maps(sample, saved, tmp_path, fails):
    assert fqgan(*sample(num=2)) == 0 and fqgan(*sample()) == 0, "more can be added"
    given = {
        "prompt": ["a red apple", "the small house", "blue"] * 2,
        "map_image": [label_map(i % 3) for i in range(6)],
    }
    given = {name: values[:5] for name, values in given.items()}
    arguments = {"num_inference_steps": 4}
    expected = generate_images(loaded(saved / "maps"), given, seed=3, batch_size=2, arguments=arguments)
    found = written(tmp_path / "out")
    assert len(found) == 5 and all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    rows = rows_of(tmp_path / "out")
    assert [(row["prompt"], row["map"]) for row in rows[2:4]] == [("blue", "2"), ("a red apple", "0")]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["maps"].keys() == {"number", "sha256"} and manifest["maps"]["number"] == 3
    os.remove(tmp_path / "out" / "manifest.json")
    (tmp_path / "out" / "settings.json").write_text(json.dumps(manifest))
    shutil.rmtree(tmp_path / "out" / "shard-00001")
    assert fqgan(*sample()) == 0, "a run that was stopped goes on"
    assert all(np.array_equal(*pair) for pair in zip(written(tmp_path / "out"), expected, strict=True))
    (tmp_path / "other").mkdir()
    for number in (0, 1, 3):
        label_map(number).save(tmp_path / "other" / f"{number}.png")
    assert "maps.sha256 was" in fails(*sample(maps=tmp_path / "other"))


def test_maps_from_anywhere_are_the_same(saved, tmp_path):
    """A folder, a column and pictures from Python: one hash, and so one folder of samples."""
    maps = [label_map(number) for number in range(3)]
    write_parquet(tmp_path / "maps.parquet", seen=maps)
    config = CodeDiffusionConfig.from_pretrained(saved / "maps" / "transformer")
    palettes = [Image.frombytes("P", one.size, one.tobytes()) for one in maps]
    described = [
        SamplingMaps.describe(saved / "maps", config, given).described
        for given in (read_maps(saved / "many"), read_maps(tmp_path / "maps.parquet", "seen"), maps, palettes)
    ]
    assert described[1:] == described[:1] * 3
    assert SamplingMaps.describe(saved / "maps", config, maps[::-1]).sha256 != described[0]["sha256"]


def test_prompts_and_maps_of_one_parquet_file(sample, saved, tmp_path, fails):
    pq = pytest.importorskip("pyarrow.parquet")
    file, maps = tmp_path / "both.parquet", [label_map(number) for number in range(2)]
    write_parquet(file, caption=["a pear", "blue"], map=maps)
    assert fqgan(*sample(prompts=file, maps=file, num=3, format="parquet", shard_size=3)) == 0
    table = pq.read_table(tmp_path / "out" / "shard-00000.parquet")
    assert table["prompt"].to_pylist() == ["a pear", "blue", "a pear"] and table["map"].to_pylist() == [0, 1, 0]
    assert "must have a column 'seg', it has caption, map" in fails(*sample(maps=file, map_column="seg"))
    assert "--maps: column 'caption' of" in fails(*sample(maps=file, map_column="caption"))
    write_parquet(file, caption=["a pear", " "], map=maps)
    assert "must hold as many of both, got 1 and 2" in fails(*sample(prompts=file, maps=file))
    write_parquet(file, map=[maps[0], None])
    assert f"--maps: row 1 of {file} holds no map" in fails(*sample(maps=file))


@pytest.mark.parametrize("num_labels", [5, None], ids=["labels", "pictures"])
def test_maps_from_python(num_labels, tmp_path):
    torch.manual_seed(0)
    tiny.conditional_pipeline("class", "map", num_labels=num_labels).save_pretrained(str(tmp_path / "pipe"))
    maps = [label_map(number) if num_labels else label_map(number, 255) for number in range(3)]
    words = {"num": 4, "batch_size": 4, "class_labels": [1, 2], "device": "cpu"}
    run = sample_to_folder(tmp_path / "pipe", tmp_path / "out", maps=maps, **words)
    pipe = loaded(tmp_path / "pipe")
    given = {"class_labels": [1, 2, 1, 2], "map_image": [*maps, maps[0]]}
    expected = generate_images(pipe, given, seed=0, batch_size=4)
    assert all(np.array_equal(*pair) for pair in zip(written(tmp_path / "out"), expected, strict=True))
    candidates = run.rows(range(2), {"candidate": np.array([2, 3])})
    assert candidates.columns["map"].tolist() == [2, 0], "of what was drawn, not of the place that it took"


def test_maps_that_do_not_fit_are_refused(sample, saved, tmp_path, fails, monkeypatch):
    monkeypatch.setattr("fqgan_hf.pipelines.sample.load_pipeline", lambda *args: pytest.fail("a model was loaded"))
    folder = tmp_path / "maps"
    folder.mkdir()
    words = sample(maps=folder)
    assert f"--maps: {folder} holds no map" in fails(*words)
    label_map(0).save(folder / "0.png")
    for one, reason in (
        (label_map(1, 9), "labels must be in [0, 4], got 8"),
        (label_map(1).resize((8, 16)), "it must have 16 x 16 pixels (width x height)"),
        (label_map(1).convert("RGB"), "a label map must have one channel of 8 bits or a palette, got mode RGB"),
    ):
        one.save(folder / "1.png")
        assert f"--maps: {folder / '1.png'}: {reason}" in fails(*words)
    (folder / "1.png").write_bytes(b"no picture")
    assert f"--maps: {folder / '1.png'}: it must be a label map in a" in fails(*words)
    assert "--map_column can be chosen of a parquet file only" in fails(*words, "--map_column", "map")
    assert "--maps must be a folder of picture files or a .parquet file" in fails(*sample(maps=saved / "map.png"))
    assert "--maps: there is no file or folder /nowhere" in fails(*sample(maps="/nowhere"))
    words = {"num": 1, "prompts": ["a pear"]}
    for maps, reason in (
        ([], "maps must be a non-empty list of PIL images, got []"),
        (label_map(0), "maps must be a non-empty list of PIL images, got <PIL"),
        ([np.zeros((16, 16))], "maps must be PIL images, got array"),
        ([label_map(0), label_map(0, 9)], r"maps\[1\]: labels must be in \[0, 4\], got 8"),
        ([label_map(0).convert("RGB")], r"maps\[0\]: a label map must have one of the modes 1, L, P.*got mode RGB"),
        ([label_map(0).resize((4, 4))], r"maps\[0\]: it must have 16 x 16 pixels.*got 4 x 4"),
    ):
        reason = reason if "\\" in reason else re.escape(reason)
        with pytest.raises(ValueError, match=reason):
            sample_to_folder(saved / "maps", tmp_path / "out", maps=maps, **words)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_maps_that_are_pictures_may_have_any_size(saved, tmp_path):
    """As for the pipeline, which scales and crops them."""
    shutil.copytree(saved / "maps", tmp_path / "maps")
    shutil.rmtree(tmp_path / "maps" / "map_vqmodel")
    reads_pictures = tiny.map_tokenizer(None)
    reads_pictures.save_pretrained(tmp_path / "maps" / "map_vqmodel")
    config = tmp_path / "maps" / "transformer" / "config.json"
    fingerprint = {"map_tokenizer_fingerprint": reads_pictures.fingerprint()}
    config.write_text(json.dumps({**json.loads(config.read_text()), **fingerprint}))
    with Image.open(saved / "photo.png") as image:
        photo = image.convert("RGB").resize((40, 32))
    sample_to_folder(tmp_path / "maps", tmp_path / "out", num=1, seed=3, prompts=["a"], maps=[photo])
    (made,) = generate_images(loaded(tmp_path / "maps"), {"prompt": ["a"], "map_image": [photo]}, seed=3)
    (path,) = (tmp_path / "out").rglob("*.png")
    assert np.array_equal(picture(path), np.array(made.convert("RGB")))


def test_the_map_tokenizer_decides_about_the_images(saved, tmp_path):
    shutil.copytree(saved / "maps", tmp_path / "maps")
    words = {"num": 1, "prompts": ["a"], "maps": [label_map(0)]}
    before = SamplingRun.describe(tmp_path / "maps", **words).weights_sha256
    tiny.map_tokenizer(5).save_pretrained(tmp_path / "maps" / "map_vqmodel")
    assert SamplingRun.describe(tmp_path / "maps", **words).weights_sha256 != before
    shutil.rmtree(tmp_path / "maps" / "map_vqmodel")
    with pytest.raises(ValueError, match="map_vqmodel must be a component of the pipeline for maps to be given"):
        SamplingRun.describe(tmp_path / "maps", **words)
