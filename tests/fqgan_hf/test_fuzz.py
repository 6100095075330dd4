# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Hostile command lines, images, model folders, checkpoints and kills, made by a fixed seed.

Whatever comes in, what comes out is a result or one line that says what is wrong with it; never another kind of
error, a file half written, or a wrong result. Each test makes so many attempts, in some seconds.
"""

import io
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file

from fqgan_hf import FARForImageGeneration, FQGANImageProcessor
from fqgan_hf.cli import main
from fqgan_hf.conversion import convert_checkpoint, load_published_state_dict, to_published_state_dict
from fqgan_hf.failures import MISTAKES
from fqgan_hf.modeling.image_processing_fqgan import load_image
from fqgan_hf.pipelines.inference import load_pipeline


# No word is among them that would be a good place to write to elsewhere.
HOSTILE_WORDS = [
    "", " ", "-1", "0", "1e9", "1e400", "nan", "inf", "-inf", "9" * 30, "9" * 5000, "0x10", "1_000", "١", "None",
    "null", "[]", "{}", "/dev/null", "/dev/full", "/proc/self/mem", "/dev/null/x", "a" * 300, "a\nb", "\u202e", "💥",
    "--", "-", "%s%n", "$(reboot)", "~", ".", "con", "a/b/c", "http://127.0.0.1:9/x", "*", "?", "[a]",
]  # fmt: skip
HOSTILE_VALUES = [
    None, True, False, -1, 0, 1, 2, 3, 0.5, -0.5, 1e308, float("nan"), float("inf"), 10**9, 10**20, 2**63, "", "x",
    "1", [], [1], [[1]], ["x"], {}, {"a": 1}, [0] * 100, "../x", 1.0, "é" * 10,
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny pipeline, a published checkpoint of its generator, and a photo."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    pipe = tiny.pipeline(
        num_classes=4, num_hidden_layers=1, id2label=dict(enumerate(["tench", "goldfish", "crane", "owl"]))
    )
    pipe.save_pretrained(str(folder / "pipeline"))
    torch.save({"model": to_published_state_dict(pipe.transformer), "steps": 7}, folder / "published.pt")
    Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(folder / "photo.png")
    return folder


def test_command_lines(saved, tmp_path, monkeypatch, capsys):
    """A good command with one to three hostile words in it."""
    rng = random.Random(1)
    place = tmp_path / "here" / "there"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    pipeline, photo = str(saved / "pipeline"), str(saved / "photo.png")
    good = [
        ["generate", "--model", pipeline, "--class_labels", "1", "--out", "a.png", "--seed", "1", "--top_k", "3",
         "--num_images_per_label", "1", "--batch_size", "2", "--guidance_scale", "2", "--temperature", "1"],
        ["reconstruct", photo, "--model", pipeline, "--out", "b.png", "--size", "16", "--device", "cpu"],
        ["sample", "--model", pipeline, "--num", "2", "--output_dir", "s", "--shard_size", "2", "--seed", "3",
         "--format", "npz", "--dtype", "float32", "--class_labels", "goldfish"],
        ["convert", str(saved / "published.pt"), "c", "--set", "num_attention_heads=2",
         "grid_height=4", "grid_width=4"],
        ["convert", "--to-original", pipeline + "/transformer", "d.pt"],
        ["info", pipeline],
    ]  # fmt: skip
    kept = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    statuses = []
    for _ in range(300):
        words = list(rng.choice(good))
        for _ in range(rng.randint(1, 3)):
            words[rng.randrange(1, len(words))] = rng.choice(HOSTILE_WORDS)
        started = time.monotonic()
        try:
            status = main(words)
        except SystemExit as exit_:
            status = exit_.code
        errors = capsys.readouterr().err.splitlines()
        statuses.append(status)
        assert status in (0, 1, 2), words
        assert time.monotonic() - started < 20, words
        if status:
            assert re.match(r"fqgan( \w+)?: error: ", errors[-1]), (words, errors)
            assert "--debug shows where" not in errors[-1], (words, errors)
        assert not any("Traceback" in line for line in errors)
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == kept
    assert sorted(os.listdir(tmp_path)) == ["here"] and os.listdir(tmp_path / "here") == ["there"]
    assert not list(place.rglob("*.tmp"))
    assert {0, 1, 2} == set(statuses)


def spoil(data: bytes, rng: random.Random, end: int | None = None) -> bytes:
    """Bytes flipped, cut off, doubled or replaced, in the first `end` of them."""
    data, end = bytearray(data), min(end or len(data), len(data))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(max(end, 1))
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x01"])
        elif kind == 2:
            del data[place : place + rng.randint(1, 64)]
        elif kind == 3:
            data[place:place] = data[place : place + 32]
        else:
            data = data[: max(place, 1)]
        end = min(end, len(data))
    return bytes(data)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "bmp", "webp", "ppm"])
def test_damaged_image_files(suffix, tmp_path):
    rng = random.Random(suffix)
    picture = Image.effect_mandelbrot((60, 40), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    path = tmp_path / f"a.{suffix}"
    picture.save(path)
    data = path.read_bytes()
    read = 0
    for _ in range(60):
        path.write_bytes(spoil(data, rng, end=rng.choice([64, 200, None])))
        try:
            image = load_image(path, max_pixels=1_000_000)
        except (ValueError, OSError) as error:
            assert "path_or_file" in str(error)
            continue
        assert image.mode == "RGB" and image.width * image.height <= 1_000_000
        read += 1
    assert read < 60


def test_hostile_arrays():
    processor, rng = FQGANImageProcessor(multiple_of=4, size=16), np.random.default_rng(0)
    dtypes = ["u1", "u2", "u4", "i1", "i4", "i8", "f2", "f4", "f8", "c8", "?", "O", "U3", "M8[s]", "V4", ">f4", ">u2"]
    shapes = [(), (0,), (3,), (16, 16), (0, 16), (16, 16, 3), (16, 16, 2), (3, 16, 16), (1, 1, 1), (2, 16, 16, 3)]
    results = 0
    for dtype in dtypes:
        for shape in shapes:
            values = rng.choice([0, 1, 0.5, 255, -1, np.nan, np.inf, 1e30], size=shape)
            with np.errstate(all="ignore"):
                try:
                    array = np.asarray(values).astype(dtype)
                except (ValueError, TypeError, OverflowError):
                    array = np.zeros(shape, dtype)
            for image in (array, np.matrix(array) if array.ndim == 2 else array, array[::-1] if array.ndim else array):
                try:
                    pixels = processor(image).pixel_values
                except ValueError as error:
                    assert "images" in str(error), (dtype, shape, error)
                    continue
                assert pixels.isfinite().all() and pixels.abs().max() <= 1
                results += 1
    assert results > 10


def changed_value(content, rng: random.Random):
    """JSON with one value replaced, one name misspelt, or one entry gone."""
    content = json.loads(json.dumps(content))
    owner = content
    while True:
        if isinstance(owner, list):
            index = rng.randrange(len(owner)) if owner else None
        else:
            index = rng.choice(sorted(owner)) if owner else None
        if index is None:
            return content
        if isinstance(owner[index], (dict, list)) and owner[index] and rng.random() < 0.5:
            owner = owner[index]
            continue
        kind = rng.random()
        if kind < 0.8:
            owner[index] = rng.choice(HOSTILE_VALUES)
        elif kind < 0.9 or isinstance(owner, list):
            del owner[index]
        else:
            owner[index[:-1]] = owner.pop(index)
        return content


def load_and_generate(folder):
    pipe = load_pipeline(folder, "cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe([1], generator=torch.Generator().manual_seed(0), output_type="codes").images


@pytest.mark.filterwarnings("ignore")
def test_damaged_configurations(saved, tmp_path):
    """The pipeline works as it did or says what is wrong: none becomes another model in silence."""
    rng = random.Random(2)
    expected = load_and_generate(saved / "pipeline")
    folder = shutil.copytree(saved / "pipeline", tmp_path / "pipeline")
    names = ["transformer/config.json", "vqmodel/config.json", "image_processor/preprocessor_config.json",
             "model_index.json", "transformer/generation_config.json"]  # fmt: skip
    outcomes = {"same": 0, "refused": 0, "other": 0}
    for _ in range(150):
        path = folder / rng.choice(names)
        before = path.read_text()
        content = changed_value(json.loads(before), rng)
        text = json.dumps(content)
        path.write_text(text if rng.random() < 0.9 else text[: rng.randrange(len(text))])
        try:
            codes = load_and_generate(folder)
        except MISTAKES as error:
            assert str(error) and "look at the" not in str(error), text
            outcomes["refused"] += 1
        else:
            same = codes.shape == expected.shape and torch.equal(codes, expected)
            outcomes["same" if same else "other"] += 1
            if not same:  # values that are another model's, and good ones
                assert re.search("rope_theta|rms_norm_eps|top_|temperature|head_type", text)
        path.write_text(before)
    assert outcomes["refused"] > 60 and outcomes["other"] < 15, outcomes


@pytest.mark.filterwarnings("ignore")
def test_damaged_weights(saved, tmp_path):
    """Headers, that is: which bits of a weight are right, nobody can know."""
    rng = random.Random(3)
    expected = load_and_generate(saved / "pipeline")
    folder = shutil.copytree(saved / "pipeline", tmp_path / "pipeline")
    paths = sorted(folder.glob("*/*.safetensors"))
    refused = 0
    for _ in range(80):
        path = rng.choice(paths)
        before = path.read_bytes()
        header = 8 + int.from_bytes(before[:8], "little")
        path.write_bytes(spoil(before, rng, end=header))
        try:
            codes = load_and_generate(folder)
        except MISTAKES as error:
            assert path.parent.name in str(error)
            refused += 1
        else:
            assert codes.shape == expected.shape
        path.write_bytes(before)
    assert refused > 60


def test_damaged_checkpoints(saved, tmp_path):
    """Either the very tensors come out, or nothing does."""
    rng = random.Random(4)
    data = (saved / "published.pt").read_bytes()
    expected = load_published_state_dict(saved / "published.pt")
    legacy = io.BytesIO()
    torch.save({"model": expected}, legacy, _use_new_zipfile_serialization=False)
    refused = 0
    for number in range(150):
        path = tmp_path / "a.pt"
        is_legacy = number % 5 == 0
        original = legacy.getvalue() if is_legacy else data
        path.write_bytes(spoil(original, rng, end=rng.choice([200, 2000, None])))
        try:
            state = load_published_state_dict(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        if not is_legacy:  # these have no checksums
            assert state.keys() == expected.keys()
            assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    assert refused > 80


def kill_during(function, delay: float) -> bool:
    """Run it in a process of its own that is killed; whether it was still running."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        function()
        os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_during_a_conversion(saved, tmp_path):
    """Fifty of them, over a folder that holds another model: it stays that, or is the new one, or loads as neither."""
    rng = random.Random(5)
    settings = {"num_attention_heads": 2, "grid_height": 4, "grid_width": 4}
    target = tmp_path / "model"
    old = {"norm.weight": torch.full((32,), 2.0)}
    state = load_published_state_dict(saved / "published.pt") | old
    torch.save(state, tmp_path / "other.pt")
    started = time.monotonic()
    convert_checkpoint(tmp_path / "other.pt", target, **settings)
    duration = time.monotonic() - started

    killed, incomplete = 0, 0
    for number in range(50):
        source = (saved / "published.pt", tmp_path / "other.pt")[number % 2]
        killed += kill_during(
            lambda source=source: convert_checkpoint(source, target, force=True, **settings),
            rng.uniform(0, 1.2 * duration),
        )
        if not (target / "config.json").exists():
            incomplete += 1
            with pytest.raises((OSError, ValueError)):
                FARForImageGeneration.from_pretrained(target)
            convert_checkpoint(tmp_path / "other.pt", target, force=True, **settings)
        weight = load_file(target / "model.safetensors")["norm.weight"]
        assert weight.unique().tolist() in ([1.0], [2.0])
        FARForImageGeneration.from_pretrained(target)
    assert killed > 20 and incomplete < 10, (killed, incomplete)
    convert_checkpoint(saved / "published.pt", target, force=True, **settings)
    assert FARForImageGeneration.from_pretrained(target).norm.weight.unique().tolist() == [1.0]


def test_names_that_are_no_names(tmp_path):
    """Paths with all that a shell or a glob would read something into."""
    from fqgan_hf.files import atomic_path, check_writable, write_json

    for name in ["a b", "[a]", "*", "?", "{a}", "a\nb", "é", "💥", "-rf", "$HOME", "a'b", 'a"b', "a\\b", ".a", "a."]:
        path = tmp_path / name / f"{name}.json"
        check_writable(path)
        write_json(path, {"a": 1})
        with atomic_path(path) as temporary:
            temporary.write_text("{}")
        assert os.listdir(path.parent) == [path.name] and Path(path).read_text() == "{}"
