# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Rejection sampling: kept is the best share of each class, whoever draws it and however often it is stopped."""

import csv
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import RegNetConfig, RegNetForImageClassification, ViTImageProcessor

from fqgan_hf.cli import main
from fqgan_hf.evaluation.features import FeatureNetwork
from fqgan_hf.pipelines.rejection import Rejection, best_candidates
from fqgan_hf.pipelines.sample import sample_to_folder


NAMES = {0: "tench, Tinca tinca", 1: "crane", 2: "golden retriever"}
RUN = {"num": 10, "shard_size": 4, "batch_size": 4, "device": "cpu"}


def save_classifier(folder, id2label=NAMES, seed=0):
    """A tiny classifier with opinions: its last layer is redrawn, so that probabilities differ."""
    torch.manual_seed(seed)
    config = RegNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], groups_width=8, id2label=id2label,
        label2id={name: i for i, name in id2label.items()},
    )  # fmt: skip
    model = RegNetForImageClassification(config)
    torch.nn.init.normal_(model.classifier[1].weight, std=3.0)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder with a tiny pipeline of three classes and a classifier of them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    tiny.pipeline(num_classes=3, num_hidden_layers=1, id2label=NAMES).save_pretrained(str(folder / "pipeline"))
    save_classifier(folder / "classifier")
    return folder


@pytest.fixture(scope="module")
def words(models):
    """The command's words for the best 10 of 25 images in shards of 4, with other options over them."""

    def make(folder, **changes):
        options = {"model": models / "pipeline", "classifier": models / "classifier", "keep_best": 0.4, **RUN}
        pairs = [(f"--{name}", str(value)) for name, value in {**options, **changes}.items() if value is not None]
        return ["sample", "--output_dir", str(folder), *(word for pair in pairs for word in pair)]

    return make


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    """What one process writes at one go; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "samples"
    assert main(words(folder)) == 0
    return folder


def rows(folder):
    """Lines of all metadata.csv, in order."""
    return [row for path in sorted(folder.glob("shard-*/metadata.csv")) for row in csv.DictReader(path.open())]


def pictures(folder):
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("shard-*/*.png"), key=lambda p: p.name)]


def content(folder):
    """SHA-256 of every file in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---- What is kept ----


def test_the_best_of_each_class_are_kept(models, finished, tmp_path):
    """Against all 25 images of the run without rejection, scored and sorted one by one."""
    sample_to_folder(models / "pipeline", tmp_path / "all", **{**RUN, "num": 25})
    drawn, network = pictures(tmp_path / "all"), FeatureNetwork(models / "classifier")
    scores = [float(network([image]).probabilities[0, i % 3]) for i, image in enumerate(drawn)]
    assert max(scores) - min(scores) > 0.05  # it does choose
    kept = {}
    for label, number in ((0, 4), (1, 3), (2, 3)):  # of 9, 8 and 8 candidates
        ranked = sorted(range(label, 25, 3), key=lambda i: -scores[i])
        kept[label] = sorted(ranked[:number])
    expected = [kept[j % 3][j // 3] for j in range(10)]

    found = rows(finished)
    assert [int(row["candidate"]) for row in found] == expected
    assert [int(row["index"]) for row in found] == list(range(10))
    assert [int(row["label"]) for row in found] == [j % 3 for j in range(10)]
    np.testing.assert_allclose([float(row["score"]) for row in found], [scores[i] for i in expected], rtol=1e-4)
    # Decoded in other batches: a level more or less at a pixel, as between batches without rejection.
    distances = [
        np.abs(np.asarray(a, int) - np.asarray(drawn[i])) for a, i in zip(pictures(finished), expected, strict=True)
    ]
    assert np.max(distances) <= 1 and np.mean(np.array(distances) > 0) < 1e-3


def test_the_manifest_names_what_chose(models, finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    rejection = manifest["rejection"]
    digest = rejection.pop("classifier_sha256")
    assert rejection == {"keep_best": 0.4, "classifier": str(models / "classifier"), "num_candidates": 25}
    command = "sha256sum model.safetensors preprocessor_config.json | sha256sum"
    listing = subprocess.run(command, shell=True, cwd=models / "classifier", capture_output=True, text=True).stdout
    assert digest == listing.split()[0]
    assert sorted(path.name for path in finished.iterdir()) == [
        ".lock", "manifest.json", "shard-00000", "shard-00001", "shard-00002",
    ]  # fmt: skip


def test_all_of_them_are_the_images_without_rejection(models, words, tmp_path):
    assert main(words(tmp_path / "all", keep_best=1)) == 0
    sample_to_folder(models / "pipeline", tmp_path / "plain", **RUN)
    assert [int(row["candidate"]) for row in rows(tmp_path / "all")] == list(range(10))
    for a, b in zip(pictures(tmp_path / "all"), pictures(tmp_path / "plain"), strict=True):
        assert np.array_equal(a, b)
    manifest = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert "rejection" not in manifest and list(rows(tmp_path / "plain")[0]) == [
        "file_name", "index", "label", "class_name",
    ]  # fmt: skip


def test_best_candidates_by_brute_force():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 200).astype(np.float32)  # with ties
    labels, wanted = np.resize([2, 0, 2, 5], 200), np.resize([2, 0, 2, 5], 33)
    found = best_candidates(scores, labels, wanted)
    assert (labels[found] == wanted).all() and len(set(found)) == 33
    for label in (0, 2, 5):
        ranked = sorted(np.flatnonzero(labels == label), key=lambda i: (-scores[i], i))
        assert found[wanted == label].tolist() == sorted(ranked[: (wanted == label).sum()])


@pytest.mark.parametrize(("num", "keep_best", "drawn"), [(10, 0.4, 25), (7, 0.07, 100), (22, 0.1, 220), (3, 0.7, 5)])
def test_the_number_of_candidates_is_that_of_the_decimal(num, keep_best, drawn):
    assert Rejection.describe(keep_best, "x", num).num_candidates == drawn


@pytest.mark.parametrize("format_", ["npz", "parquet"])
def test_other_formats_tell_the_same(format_, words, finished, tmp_path):
    folder = tmp_path / format_
    assert main(words(folder, format=format_)) == 0
    if format_ == "npz":
        shards = [np.load(path) for path in sorted(folder.glob("*.npz"))]
        found = {name: np.concatenate([shard[name] for shard in shards]) for name in ("candidate", "score", "arr_1")}
        images = np.concatenate([shard["arr_0"] for shard in shards])
    else:
        table = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")).sort("index")
        found = {"candidate": table["candidate"], "score": table["score"], "arr_1": table["label"]}
        images = [np.asarray(image) for image in table["image"]]
    expected = rows(finished)
    assert list(found["candidate"]) == [int(row["candidate"]) for row in expected]
    assert np.array(found["score"], np.float32).tolist() == [np.float32(row["score"]) for row in expected]
    assert list(found["arr_1"]) == [int(row["label"]) for row in expected]
    assert all(np.array_equal(a, b) for a, b in zip(images, pictures(finished), strict=True))


# ---- Processes and interruptions ----


@pytest.mark.slow
def test_two_processes_write_what_one_writes(words, tmp_path):
    """With three files of candidates and one shard, so that a process has nothing left to do when that is written."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["-m", "fqgan_hf.cli", *words(tmp_path / "two", shard_size=12)]
    result = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("holds 10 images (seed 0), the best of 25\n") == 1
    assert main(words(tmp_path / "one", shard_size=12)) == 0
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_killed_and_started_again_equals_uninterrupted(words, tmp_path, capsys):
    options = {"num": 16, "keep_best": 0.2}
    out, parts = tmp_path / "killed", "killed/.candidates/*.npz"
    process = multiprocessing.get_context("fork").Process(target=main, args=(words(out, **options),))
    process.start()  # a fork: a new Python would import for longer than it draws
    while len(list(tmp_path.glob(parts))) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    there = {path: path.stat().st_mtime_ns for path in tmp_path.glob(parts)}
    assert 3 <= len(there) < 20 and not list(out.glob("shard-*"))
    (out / ".candidates" / ".part-00019.npz.abcd1234.tmp").mkdir()
    assert main(words(out, **options, seed=1)) == 1  # candidates bind as images do
    assert "holds images of other settings, choose another folder: seed was 0 and is now 1" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in there} == there

    assert main(words(out, **options)) == 0
    assert f"{4 * len(there)}/80 [" in capsys.readouterr().err
    assert main(words(tmp_path / "whole", **options)) == 0
    assert content(out) == content(tmp_path / "whole")


def test_stopped_between_shards_and_removed_shards(words, finished, tmp_path, monkeypatch):
    from fqgan_hf.pipelines import sample

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample, "close_folder", stop)
        assert main(words(tmp_path / "out")) == 130
    out = tmp_path / "out"
    assert len(list(out.glob(".candidates/*.npz"))) == 7
    (out / "shard-00001" / "metadata.csv").unlink()
    for path in (out / "shard-00001").iterdir():
        path.unlink()
    (out / "shard-00001").rmdir()
    assert main(words(out)) == 0
    assert content(out) == content(finished)


# ---- What is refused ----


@pytest.fixture
def fails(capsys):
    """Runs the command and gives its one line on stderr."""

    def run(argv, status=1):
        capsys.readouterr()
        try:
            code = main(argv)
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        assert code == status and captured.err.count("\n") == 1 and captured.out == "", captured.err
        return captured.err

    return run


def test_other_settings_in_the_same_folder_are_refused(models, words, finished, tmp_path, fails):
    before = content(finished)
    assert "rejection.keep_best was 0.4 and is now 0.5" in fails(words(finished, keep_best=0.5))
    line = fails(words(finished, num=12))
    assert "num was 10 and is now 12 (which images are best depends on it)" in line
    line = fails(words(finished, keep_best=None, classifier=None))
    assert "rejection was {'" in line and "and is now None" in line
    other = save_classifier(tmp_path / "other", seed=1)
    assert "rejection.classifier_sha256 was" in fails(words(finished, classifier=other))
    assert content(finished) == before
    assert main(words(finished, classifier=f"{models}/./classifier")) == 0  # by another name


def test_rejection_of_a_folder_without_it_is_refused(models, words, tmp_path, fails):
    sample_to_folder(models / "pipeline", tmp_path, **RUN)
    assert "rejection was None and is now {'" in fails(words(tmp_path))


def test_options_are_checked_before_anything_is_drawn(words, tmp_path, fails):
    out = tmp_path / "out"
    for value in (0, -0.5, 1.1, "nan"):
        assert "must be above 0 and at most 1" in fails(words(out, keep_best=value), status=2)
    assert "--keep_best and --classifier belong together" in fails(words(out, classifier=None))
    assert "--keep_best and --classifier belong together" in fails(words(out, keep_best=None))
    assert "num / keep_best must be at most 4,294,967,296" in fails(words(out, keep_best=1e-10))
    assert "there is no folder" in fails(words(out, classifier=tmp_path / "absent"))
    assert not out.exists()


def test_from_python_too(models, tmp_path):
    with pytest.raises(ValueError, match="keep_best and classifier belong together, got keep_best 0.5"):
        sample_to_folder(models / "pipeline", tmp_path / "out", **RUN, keep_best=0.5)
    with pytest.raises(ValueError, match="keep_best must be above 0 and at most 1, got 1.5"):
        sample_to_folder(models / "pipeline", tmp_path / "out", **RUN, keep_best=1.5, classifier=models / "classifier")
    assert not (tmp_path / "out").exists()


def test_classifiers_of_other_classes_are_refused(models, words, tmp_path, fails):
    out = tmp_path / "out"
    more = save_classifier(tmp_path / "more", {**NAMES, 3: "mole"})
    assert "classifier must have the generator's 3 classes, it has 4" in fails(words(out, classifier=more))
    order = save_classifier(tmp_path / "order", {0: "tench", 1: "Golden_Retriever", 2: "crane"})
    line = fails(words(out, classifier=order))
    assert "class 1 is 'crane' to the generator and 'Golden_Retriever' to the classifier" in line
    assert "classifier must be an image classifier" in fails(
        words(out, classifier=models / "pipeline" / "transformer")
    )
    same = save_classifier(tmp_path / "same")
    (same / "preprocessor_config.json").unlink()
    assert "lacks its preprocessor_config.json" in fails(words(out, classifier=same))
    (same / "model.safetensors").rename(same / "pytorch_model.bin")
    (same / "preprocessor_config.json").write_text("{}")
    assert "is a pickle, which is not loaded" in fails(words(out, classifier=same))
    assert not out.exists()


def test_classes_without_names_go_by_their_number(words, tmp_path):
    unnamed = save_classifier(tmp_path / "unnamed", {i: f"LABEL_{i}" for i in range(3)})
    assert main(words(tmp_path / "out", num=3, classifier=unnamed)) == 0
    synonyms = save_classifier(tmp_path / "synonyms", {0: "Tinca-tinca", 1: "crane", 2: "Golden_Retriever"})
    assert main(words(tmp_path / "out2", num=3, classifier=synonyms)) == 0


def test_damaged_candidates_are_named(words, tmp_path, capsys, monkeypatch):
    from fqgan_hf.pipelines import sample

    def stop(*arguments, **keywords):
        raise ValueError("stopped")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(sample, "write_shards", stop)
        assert main(words(out)) == 1
    path = out / ".candidates" / "part-00002.npz"
    path.write_bytes(path.read_bytes()[:-50])
    assert main(words(out)) == 1
    assert f"{path} is damaged" in capsys.readouterr().err
    path.unlink()
    assert main(words(out)) == 0
