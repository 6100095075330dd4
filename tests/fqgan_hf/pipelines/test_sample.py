# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan sample`: the same images whatever the batches, processes and interruptions; each format by its own reader."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
import tiny
import torch
from accelerate import PartialState
from PIL import Image

from fqgan_hf import (
    FARPipeline,
    SamplingSettings,
    generate_images,
)
from fqgan_hf.cli import main
from fqgan_hf.pipelines.sample import dealt_folder, sample_to_folder, write_shards
from fqgan_hf.pipelines.sample_run import SamplingRun


NAMES = {0: "tench, Tinca tinca", 1: "crane", 2: "golden retriever", 3: "crane"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Folder of a tiny pipeline of four classes."""
    torch.manual_seed(0)
    pipe = tiny.pipeline(num_classes=4, num_hidden_layers=1, id2label=NAMES)
    folder = tmp_path_factory.mktemp("models") / "pipeline"
    pipe.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def words(pipeline):
    """The command's words for 22 images in shards of 4, with other options over them."""

    def make(folder, **changes):
        options = {"model": pipeline, "num": 22, "shard_size": 4, "batch_size": 4, "device": "cpu", **changes}
        pairs = [(f"--{name}", *(value if isinstance(value, tuple) else (value,))) for name, value in options.items()]
        return ["sample", "--output_dir", str(folder), *(str(word) for pair in pairs for word in pair)]

    return make


def content(folder):
    """SHA-256 of every file in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def pixels(folder):
    """Images of PNG shards, in order."""
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("shard-*/*.png"), key=lambda path: path.name)]


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    """What one process writes at one go; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "samples"
    assert main(words(folder)) == 0
    return folder


@pytest.fixture
def reference(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "reference")


def same(images, others):
    """Which images are equal."""
    return [np.array_equal(a, b) for a, b in zip(images, others, strict=True)]


# ---- The images ----


def test_codes_do_not_depend_on_the_batch_size(words, reference, tmp_path):
    expected = pixels(reference)
    for batch_size in (1, 3):
        assert main(words(tmp_path / str(batch_size), batch_size=batch_size)) == 0
        images = pixels(tmp_path / str(batch_size))
        # Convolutions of another shape may add up in another order, which moves a pixel by one level at most (seen on
        # one processor: one entry of all these). Another code changes all of its pixels, by many levels.
        distances = np.abs(np.stack(images).astype(int) - np.stack(expected))
        assert distances.max() <= 1 and (distances > 0).mean() < 1e-3
    assert len({image.tobytes() for image in expected}) > 15  # and differ from one another


def test_an_image_follows_from_seed_and_index_alone(words, reference, tmp_path):
    expected = pixels(reference)[:6]
    assert main(words(tmp_path / "fewer", num=6)) == 0
    assert same(pixels(tmp_path / "fewer"), expected) == [True] * 6
    assert main(words(tmp_path / "other", num=6, seed=1)) == 0
    assert True not in same(pixels(tmp_path / "other"), expected)


def test_samples_are_what_generate_images_makes(pipeline, reference):
    """One seed rule: `fqgan sample --seed 0` and `fqgan generate --seed 0` agree."""
    pipe = FARPipeline.from_pretrained(str(pipeline))
    images = generate_images(pipe, [0, 1, 2, 3, 0], seed=0, batch_size=4)
    distances = np.abs(np.stack(images).astype(int) - np.stack(pixels(reference)[:5]))
    assert distances.max() <= 1 and (distances > 0).mean() < 1e-3


def test_from_python(pipeline, reference, tmp_path):
    """What the command does in one call."""
    run = sample_to_folder(pipeline, tmp_path / "out", num=22, shard_size=4, batch_size=4, device="cpu")
    assert (run.num, run.sampling, run.model) == (22, SamplingSettings(), str(pipeline))
    assert content(tmp_path / "out") == content(reference)
    again = sample_to_folder(pipeline, tmp_path / "out", num=22, shard_size=4, device="cpu", verify=True)
    assert again == run
    with pytest.raises(ValueError, match=r"sampling.top_k was 0 and is now 3"):
        sample_to_folder(
            pipeline, tmp_path / "out", num=22, shard_size=4, device="cpu", settings=SamplingSettings(top_k=3)
        )


def test_classes_come_in_turn(words, tmp_path):
    assert main(words(tmp_path / "all", num=24, format="npz")) == 0
    labels = np.concatenate([np.load(path)["arr_1"] for path in sorted((tmp_path / "all").glob("*.npz"))])
    assert labels.tolist() == [0, 1, 2, 3] * 6
    some = ("golden_retriever", 1, 2)
    assert main(words(tmp_path / "some", num=5, class_labels=some, format="npz", shard_size=5)) == 0
    assert np.load(tmp_path / "some" / "shard-00000.npz")["arr_1"].tolist() == [2, 1, 2, 2, 1]


def test_batches_are_full_whatever_the_shards(pipeline, tmp_path):
    pipe = FARPipeline.from_pretrained(str(pipeline))
    settings = SamplingSettings(guidance_scale=1.0)
    run = SamplingRun.describe(pipeline, num=22, settings=settings, format="npz", shard_size=4)
    sizes = []
    pipe.vqmodel.decoder.register_forward_hook(lambda module, arguments, output: sizes.append(len(output)))
    with dealt_folder(tmp_path, run, PartialState(cpu=True)) as (mine, missing):
        write_shards(pipe, run, tmp_path, mine, missing, batch_size=5, show_progress=False)
    assert sizes == [5, 5, 5, 5, 5]
    assert [len(np.load(tmp_path / f"shard-0000{i}.npz")["arr_0"]) for i in range(6)] == [4, 4, 4, 4, 4, 2]


def test_greedy_and_half_precision(words, tmp_path):
    for dtype in ("float32", "bfloat16"):
        assert main([*words(tmp_path / dtype, num=8, dtype=dtype), "--greedy"]) == 0
        images = pixels(tmp_path / dtype)
        assert same(images[:4], images[4:]) == [True] * 4  # no randomness: one image a class
    assert False in same(images, pixels(tmp_path / "float32"))


# ---- Processes and interruptions ----


def test_two_processes_write_what_one_writes(words, reference, tmp_path):
    """Two processes over gloo; `--multi_gpu` is the launcher's word for several, without GPUs too."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["-m", "fqgan_hf.cli", *words(tmp_path / "two")]
    result = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("holds 22 images (seed 0)") == 1
    assert content(tmp_path / "two") == content(reference)


def test_only_what_is_missing_is_dealt(pipeline, reference):
    run = SamplingRun.describe(pipeline, num=22, shard_size=4)
    for number in (0, 3, 4):
        shutil.rmtree(reference / f"shard-0000{number}")
    with (
        pytest.raises(KeyboardInterrupt),
        dealt_folder(reference, run, PartialState(cpu=True)) as d,
    ):
        assert d == ([0, 3, 4], [0, 3, 4])
        raise KeyboardInterrupt
    assert (reference / "settings.json").exists() and not (reference / "manifest.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_killed_and_started_again_equals_uninterrupted(words, tmp_path):
    options = {"num": 150, "format": "parquet"}
    command = [sys.executable, "-m", "fqgan_hf.cli", *words(tmp_path / "killed", **options)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while len(list((tmp_path / "killed").glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.parquet")}
    assert 3 <= len(there) < 38
    left = tmp_path / "killed" / ".shard-00037.parquet.abcd1234.tmp"
    left.mkdir()
    (left / "shard-00037.parquet").write_text("half of it")
    mine = tmp_path / "killed" / "shard-notes.tmp"
    mine.write_text("a user's")

    assert main(words(tmp_path / "killed", **options)) == 0
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert mine.read_text() == "a user's"
    mine.unlink()
    assert main(words(tmp_path / "whole", **options)) == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_what_is_missing_is_made_and_the_rest_counts_as_done(words, reference, capsys):
    before = content(reference)
    assert main(words(reference)) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{reference} holds 22 images (seed 0)\n"
    assert captured.err == ""  # nothing to do, no bar
    assert content(reference) == before
    (reference / "manifest.json").rename(reference / "settings.json")  # stopped just before the end
    assert main(words(reference)) == 0
    assert content(reference) == before
    for number in (1, 2):
        shutil.rmtree(reference / f"shard-0000{number}")
    assert main(words(reference)) == 0
    assert content(reference) == before
    shown = capsys.readouterr().err
    assert "14/22 [" in shown
    assert "22/22 [" in shown
    assert "image/s" in shown


# ---- The formats, by the programs that read them ----


def test_png_is_an_image_folder(words, reference, tmp_path):
    rows = datasets.load_dataset("imagefolder", data_dir=str(reference), split="train", cache_dir=str(tmp_path / "c"))
    rows = rows.sort("index")  # `datasets` takes the folders as the file system gives them
    assert list(rows["label"]) == [i % 4 for i in range(22)]
    assert list(rows["class_name"])[:3] == ["tench, Tinca tinca", "crane", "golden retriever"]
    assert same([np.asarray(image) for image in rows["image"]], pixels(reference)) == [True] * 22
    manifest = json.loads((reference / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4, 4, 4, 4, 2]
    command = "sha256sum * | sha256sum"
    listing = subprocess.run(command, shell=True, cwd=reference / "shard-00005", capture_output=True, text=True).stdout
    assert listing.split()[0] == manifest["shards"][5]["sha256"]


@pytest.mark.parametrize("format_", ["npz", "parquet"])
def test_other_formats_hold_the_same_images(format_, words, reference, tmp_path):
    folder = tmp_path / format_
    assert main(words(folder, format=format_)) == 0
    if format_ == "npz":
        shards = [np.load(path) for path in sorted(folder.glob("*.npz"))]
        images = np.concatenate([shard["arr_0"] for shard in shards])
        labels = np.concatenate([shard["arr_1"] for shard in shards]).tolist()
        assert images.dtype == np.uint8
        assert images.shape == (22, 16, 16, 3)
    else:
        rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        rows = rows.sort("index")
        images, labels = [np.asarray(image) for image in rows["image"]], list(rows["label"])
        assert rows.features["label"].names == ["tench, Tinca tinca", "crane (1)", "golden retriever", "crane (3)"]
    assert labels == [i % 4 for i in range(22)]
    assert same(images, pixels(reference)) == [True] * 22
    for shard in json.loads((folder / "manifest.json").read_text())["shards"]:
        assert hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]


# ---- What is refused ----


@pytest.fixture
def fails(capsys):
    """Runs the command and gives its one line on stderr; the exit status must be the expected one."""

    def run(argv, status=1):
        try:
            code = main(argv)
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        assert code == status, captured.err
        assert captured.err.count("\n") == 1, captured.err
        assert captured.out == ""
        return captured.err

    return run


@pytest.mark.parametrize(
    ("name", "value", "was"),
    [
        ("num", 21, "num was 22 and is now 21 (it may be raised)"),
        ("seed", 3, "seed was 0 and is now 3"),
        ("class_labels", (1, 2), "class_labels was [0, 1, 2, 3] and is now [1, 2]"),
        ("guidance_scale", (2, 1.5), "sampling.guidance_scale was 2.0 and is now [2.0, 1.5]"),
        ("dtype", "float16", "dtype was 'float32' and is now 'float16'"),
        ("format", "npz", "format was 'png' and is now 'npz'"),
        ("shard_size", 8, "shard_size was 4 and is now 8"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(name, value, was, words, finished, fails):
    before = content(finished)
    line = fails(words(finished, **{name: value}))
    assert line.strip().endswith(f"holds images of other settings, choose another folder: {was}")
    assert content(finished) == before


def test_other_weights_are_refused_and_another_name_is_not(words, reference, pipeline, tmp_path, fails, capsys):
    shutil.rmtree(reference / "shard-00003")
    assert main(words(reference, batch_size=3, model=f"{pipeline}/")) == 0
    capsys.readouterr()
    shutil.rmtree(reference / "shard-00003")
    pipe = FARPipeline.from_pretrained(str(pipeline))
    pipe.transformer.norm.weight.data.mul_(1.5)
    pipe.save_pretrained(str(tmp_path / "further"))
    assert "weights_sha256 was" in fails(words(reference, model=tmp_path / "further"))
    (reference / "manifest.json").unlink()
    assert "holds shards but no settings.json" in fails(words(reference))


def test_errors_come_before_the_model_is_loaded(words, pipeline, tmp_path, fails):
    empty = shutil.copytree(pipeline, tmp_path / "model", ignore=shutil.ignore_patterns("transformer/*.safetensors"))
    (empty / "transformer" / "model.safetensors").write_bytes(b"no weights")
    out = tmp_path / "out"
    assert "class_labels must be in [0, 3], got 4" in fails(words(out, model=empty, class_labels=4))
    assert "did you mean 'crane'" in fails(words(out, model=empty, class_labels="crame"))
    assert "must be at least 0, got -1" in fails(words(out, model=empty, seed=-1), status=2)
    assert "must be at least 1, got 0" in fails(words(out, num=0), status=2)
    assert "num must be at most 4,294,967,296, got 1" in fails(words(out, model=empty, num=10**20))
    assert "shard_size must be at least 20 for 2,000,000" in fails(words(out, model=empty, num=2_000_000))
    assert "must be at least 1, got 0" in fails(words(out, batch_size=0), status=2)
    assert "must be at least 1, got 0" in fails(words(out, shard_size=0), status=2)
    assert "must be above 0, got 0" in fails(words(out, temperature=0), status=2)
    assert "must be above 0 and at most 1, got nan" in fails(words(out, top_p="nan"), status=2)
    assert "must be at least 0, got inf" in fails(words(out, guidance_scale="inf"), status=2)
    assert "guidance_scale must be one value or 2" in fails(words(out, model=empty, guidance_scale=(1, 2, 3)))
    assert "--format" in fails(words(out, format="jpg"), status=2)
    assert "must be a FARPipeline" in fails(words(out, model=pipeline / "vqmodel"))
    assert "there is no folder" in fails(words(out, model=tmp_path / "absent"))
    assert not out.exists()
    out.touch()
    assert "output_dir must be a folder" in fails(words(out, model=empty))


def test_settings_that_made_no_image_bind_nobody(words, pipeline, tmp_path, capsys):
    pipe = FARPipeline.from_pretrained(str(pipeline))
    pipe.transformer.norm.weight.data.fill_(torch.nan)
    pipe.save_pretrained(str(tmp_path / "broken"))
    assert main(words(tmp_path / "out", model=tmp_path / "broken")) == 1
    assert "non-finite weights in norm.weight" in capsys.readouterr().err
    assert main(words(tmp_path / "out", num=4)) == 0
    assert len(pixels(tmp_path / "out")) == 4


# ---- Two runs in one folder, more images later, damage ----


def start(words):
    command = [sys.executable, "-m", "fqgan_hf.cli", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_runs_with_other_settings_one_is_refused(words, tmp_path):
    """Both succeeded: the manifest said one seed, the images were of the other."""
    runs = [start(words(tmp_path / "out", seed=seed, num=120)) for seed in (3, 4)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1], errors
    winner = 3 if runs[0].returncode == 0 else 4
    assert f"holds images of other settings, choose another folder: seed was {winner}" in errors[1 - runs.index(
        next(run for run in runs if run.returncode == 0)
    )]  # fmt: skip
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["seed"] == winner
    assert main(words(tmp_path / "alone", seed=winner, num=8)) == 0
    assert same(pixels(tmp_path / "alone"), pixels(tmp_path / "out")[:8]) == [True] * 8


def test_of_two_equal_runs_one_waits(words, reference, tmp_path):
    runs = [start(words(tmp_path / "out")) for _ in range(2)]
    for run in runs:
        output, errors = run.communicate(timeout=120)
        assert (run.returncode, output) == (0, f"{tmp_path / 'out'} holds 22 images (seed 0)\n"), errors
    assert content(tmp_path / "out") == content(reference)


@pytest.mark.parametrize("format_", ["png", "npz", "parquet"])
def test_more_images_can_be_added_later(format_, words, tmp_path):
    """The last shard was not full: it is made again, the others are not."""
    out = tmp_path / "out"
    assert main(words(out, num=10, format=format_)) == 0
    full = {path: path.stat().st_mtime_ns for path in sorted(out.glob("shard-*"))[:2]}
    assert main(words(out, num=15, format=format_)) == 0
    assert {path: path.stat().st_mtime_ns for path in full} == full
    assert main(words(tmp_path / "at once", num=15, format=format_)) == 0
    assert content(out) == content(tmp_path / "at once")


def test_adding_images_survives_being_killed(words, tmp_path):
    out = tmp_path / "out"
    assert main(words(out, num=10)) == 0
    run = start(words(out, num=120))
    while not (out / "shard-00004").exists():
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.01)
    run.kill()
    run.communicate()
    assert not (out / "manifest.json").exists()
    assert main(words(out, num=120)) == 0
    assert main(words(tmp_path / "at once", num=120)) == 0
    assert content(out) == content(tmp_path / "at once")


def test_changed_sizes_are_always_found(words, reference, fails):
    (reference / "shard-00002" / "00000008.png").write_bytes(b"another picture")
    before = content(reference)
    assert "is damaged, these shards are not what was written: shard-00002;" in fails(words(reference))
    assert content(reference) == before
    shutil.rmtree(reference / "shard-00002")
    assert main(words(reference)) == 0


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_verify_finds_a_flipped_bit(words, reference, fails, capsys):
    assert main([*words(reference), "--verify"]) == 0
    assert capsys.readouterr().out.endswith("(seed 0), with the content that was written\n")
    flip(reference / "shard-00003" / "00000012.png")
    assert main(words(reference)) == 0  # sizes tell nothing
    capsys.readouterr()
    assert "is damaged, these shards are not what was written: shard-00003;" in fails([*words(reference), "--verify"])
    # What is hashed anew is compared before: nothing damaged gets a fresh hash.
    shutil.rmtree(reference / "shard-00001")
    assert "not what was written: shard-00003" in fails(words(reference))


@pytest.mark.parametrize("format_", ["npz", "parquet"])
def test_truncated_shards_are_named(format_, words, tmp_path, fails, capsys):
    out = tmp_path / "out"
    assert main(words(out, format=format_)) == 0
    capsys.readouterr()
    path = out / f"shard-00001.{format_}"
    path.write_bytes(path.read_bytes()[:-50])
    assert f"{path} is damaged" in fails(words(out, format=format_))


@pytest.mark.parametrize("name", ["settings.json", "manifest.json"])
def test_files_of_somebody_else_are_left_alone(name, words, tmp_path, fails):
    (tmp_path / name).write_text('{"mine": 1}')
    assert f"holds a {name} that is not of `fqgan sample`" in fails(words(tmp_path))
    assert (tmp_path / name).read_text() == '{"mine": 1}'


@pytest.mark.parametrize("damage", ["{", '{"weights_sha256": "x"}', '{"weights_sha256": "x", "num": "a"}'])
def test_damaged_manifests_are_refused(damage, words, reference, fails):
    (reference / "manifest.json").write_text(damage)
    assert re.search("manifest.json is damaged|holds images of other settings", fails(words(reference)))
