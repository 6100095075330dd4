# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan evaluate`, `fqgan statistics` and `fqgan compare`: figures, protocols, and what is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch


pytest.importorskip("datasets")
pytest.importorskip("torchmetrics")

from fqgan_hf import FARPipeline, FQGANImageProcessor, load_metric
from fqgan_hf.cli import main
from fqgan_hf.evaluation.evaluate import Reference, evaluate_images, evaluate_tokenizer
from fqgan_hf.evaluation.image_sets import open_image_set
from fqgan_hf.evaluation.run import evaluate, write_statistics
from fqgan_hf.evaluation_results import load_result, titled_figures
from fqgan_hf.files import write_json
from fqgan_hf.hub.cards import CardInfo, render_card
from fqgan_hf.modeling.code_layout import grid_to_sequence


@pytest.fixture
def fails(capsys):
    """Runs the command and gives its one line on stderr."""

    def run(*words):
        assert main(list(map(str, words))) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    return run


def test_a_tokenizer(image_dir, images, network_dir, network, pipeline_dir, tmp_path, capsys):
    out = tmp_path / "result.json"
    words = ["evaluate", "--tokenizer", pipeline_dir, "--reference", image_dir, "--features", network_dir]
    words += ["--lpips", network_dir, "--batch_size", "7", "--out", out]
    assert main(list(map(str, words))) == 0
    result = load_result(out)
    model = FARPipeline.from_pretrained(str(pipeline_dir)).vqmodel
    reference = Reference.measure(images, network, resolution=16)
    figures = evaluate_tokenizer(model, reference, network, round_trip=True)
    for name in ("psnr", "frechet_distance", "usage", "entropy", "codes_kept", "joint_usage", "classifier_accuracy"):
        assert result["figures"][name] == pytest.approx(figures[name], rel=1e-2), name
    assert {"ssim", "l1", "l2", "lpips"} <= result["figures"].keys()
    assert result["kind"] == "reconstruction" and result["subject"]["fingerprint"] == model.fingerprint()
    assert result["protocol"]["reference"] == {
        "source": image_dir.name, "fingerprint": images.fingerprint, "num_images": 30, "resolution": 16,
    }  # fmt: skip
    assert result["protocol"]["network"]["weights_sha256"] == network.description["weights_sha256"]
    assert result["protocol"]["num_images"] == 30 and result["warnings"] == []
    parts = result["cost"]["parts"]
    assert {"reading", "network", "tokenizer", "similarities", "statistics"} == parts.keys()
    assert result["cost"]["network_share"] == pytest.approx(parts["network"] / result["cost"]["seconds"], abs=0.02)
    assert str(image_dir.parent) not in json.dumps({**result, "subject": None})
    assert "| PSNR, dB ↑ |" in capsys.readouterr().out


def test_the_figures_are_those_of_the_modules_of_evaluate(image_dir, images, network_dir, network, pipeline_dir):
    """The same reconstructions, judged by the modules that the library `evaluate` loads."""
    result = evaluate(image_dir, tokenizer=pipeline_dir, features=network_dir, batch_size=30)["figures"]
    reference = Reference.measure(images, network, resolution=16)
    processor = FQGANImageProcessor()
    with torch.no_grad():
        pixels = next(reference.batches(30, *clock_and_name()))[1]
        output = FARPipeline.from_pretrained(str(pipeline_dir)).vqmodel(pixels)
    pictures = [np.asarray(picture) for picture in processor.postprocess(output.sample)]
    originals = [np.asarray(picture) for picture in processor.postprocess(pixels)]
    for name in ("psnr", "ssim"):
        found = load_metric(name).compute(predictions=pictures, references=originals)
        assert result[name] == pytest.approx(found[name], rel=1e-6)
    ours, theirs = (network(processor.postprocess(x)).pooled.numpy() for x in (output.sample, pixels))
    found = load_metric("frechet_distance").compute(predictions=ours, references=theirs)
    assert result["frechet_distance"] == pytest.approx(found["frechet_distance"], rel=1e-4)
    found = load_metric("precision_recall").compute(predictions=ours, references=theirs)
    assert (result["precision"], result["recall"]) == (found["precision"], found["recall"])


def test_what_is_counted_of_codes(images, network, tmp_path):
    import tiny

    model = tiny.tokenizer(2)
    reference = Reference.measure(images, network, resolution=16)
    figures = evaluate_tokenizer(model, reference, network, round_trip=True, batch_size=30)
    with torch.no_grad():
        pixels = next(reference.batches(30, *clock_and_name()))[1]
        output = model(pixels)
        again = model.encode(output.sample.clamp(-1, 1)).codes
    assert figures["codes_kept"] == pytest.approx((again == output.codes).float().mean((0, 2, 3)).tolist())
    pairs = {tuple(pair) for pair in grid_to_sequence(output.codes).flatten(0, 1).tolist()}
    assert figures["joint_codes_used"] == len(pairs)
    assert figures["joint_usage"] == len(pairs) / min(30 * 16, 32**2)
    for k in range(2):
        shares = output.codes[:, k].flatten().bincount(minlength=32) / (30 * 16)
        assert figures["entropy"][k] == pytest.approx(
            float(-(shares * shares.clamp(min=1e-30).log2()).sum()), rel=1e-5
        )


def clock_and_name():
    from fqgan_hf.evaluation.reference import Clock

    return Clock(), "test"


def test_a_pipeline_is_sampled_once(image_dir, images, network_dir, network, pipeline_dir, tmp_path):
    words = {"features": network_dir, "num_samples": 12, "samples_dir": tmp_path / "samples", "batch_size": 6}
    result = evaluate(image_dir, pipeline=pipeline_dir, resolution=16, **words)
    samples = open_image_set(tmp_path / "samples")
    figures = evaluate_images(samples, Reference.measure(images, network, resolution=16), network)
    assert figures["class_consistency"] is not None
    for name, value in figures.items():
        assert result["figures"][name] == pytest.approx(value), name
    with torch.no_grad():
        pipe = FARPipeline.from_pretrained(str(pipeline_dir))
        pixels, labels = next(Reference.measure(images, network, resolution=16).batches(30, *clock_and_name()))[1:]
        codes = grid_to_sequence(pipe.vqmodel.encode(pixels).codes)
        logits = pipe.transformer(class_labels=labels, codes=codes).logits.log_softmax(-1)
        expected = -logits.gather(-1, codes[..., None])[..., 0].mean((0, 1))
    assert result["figures"]["code_likelihood"] == pytest.approx(expected.tolist(), rel=1e-4)
    assert result["subject"]["seed"] == 0 and "weights_sha256" in result["subject"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    again = evaluate(image_dir, pipeline=pipeline_dir, resolution=16, **words)
    assert again["figures"] == result["figures"]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}


def test_statistics_stand_in_for_images(image_dir, network_dir, pipeline_dir, tmp_path, fails):
    words = ["--features", str(network_dir), "--resolution", "16"]
    assert main(["statistics", str(image_dir), *words, "--out", str(tmp_path / "s.npz")]) == 0
    with np.load(tmp_path / "s.npz", allow_pickle=False) as arrays:
        assert arrays["mu"].shape == (8,) and arrays["sigma"].shape == (8, 8) and arrays["count"] == 30
    found, direct = (
        evaluate(reference, samples=image_dir, features=network_dir, resolution=16)
        for reference in (tmp_path / "s.npz", image_dir)
    )
    assert found["figures"]["frechet_distance"] == pytest.approx(0, abs=1e-9)
    assert found["figures"]["precision"] is None and direct["figures"]["precision"] == 1.0
    assert found["protocol"]["reference"] == direct["protocol"]["reference"]
    words = ["--tokenizer", pipeline_dir, "--features", network_dir]
    line = fails("evaluate", *words, "--reference", tmp_path / "s.npz")
    assert "reference must be images, for a tokenizer to reconstruct, got statistics" in line


def test_statistics_of_another_network_are_refused(image_dir, network_dir, network, tmp_path):
    write_statistics(image_dir, tmp_path / "s.npz", network_dir)
    with np.load(tmp_path / "s.npz") as arrays:
        content = dict(arrays)
    other = json.loads(str(content["description"]))
    other["network"]["weights_sha256"] = "0" * 64
    np.savez(tmp_path / "other.npz", **{**content, "description": np.array(json.dumps(other))})
    with pytest.raises(ValueError, match="holds statistics of another network.*weights_sha256 differ"):
        evaluate(tmp_path / "other.npz", samples=image_dir, features=network_dir)
    np.savez(tmp_path / "wide.npz", mu=np.zeros(9), sigma=np.eye(9))
    with pytest.raises(ValueError, match="holds statistics of 9 features, the network 'network.*' gives 8"):
        evaluate(tmp_path / "wide.npz", samples=image_dir, features=network_dir)


def test_statistics_and_images_of_one_file(image_dir, images, network_dir, tmp_path):
    """ADM's reference batches: distances by the statistics, precision and recall by the images."""
    pixels = np.stack([np.asarray(images[i][0]) for i in range(30)])
    np.savez(tmp_path / "adm.npz", arr_0=pixels, mu=np.zeros(8), sigma=np.eye(8))
    result = evaluate(tmp_path / "adm.npz", samples=image_dir, features=network_dir)
    assert result["figures"]["frechet_distance"] > 1 and result["figures"]["precision"] == 1.0


def test_labels_of_an_npz_file_are_numbers_of_classes(image_dir, images, network_dir, network, tmp_path):
    pixels, labels = zip(*(images[i] for i in range(30)), strict=True)
    pixels = np.stack([np.asarray(picture) for picture in pixels])
    np.savez(tmp_path / "samples.npz", arr_0=pixels, arr_1=np.array(labels))
    result = evaluate(image_dir, samples=tmp_path / "samples.npz", features=network_dir)
    expected = Reference.measure(images, network, resolution=16).accuracy
    assert result["figures"]["class_consistency"] == pytest.approx(expected)
    np.savez(tmp_path / "samples.npz", arr_0=pixels, arr_1=np.arange(30) % 3)
    with pytest.raises(ValueError, match=r"must be classes of the network, in \[0, 1\], got 2"):
        evaluate(image_dir, samples=tmp_path / "samples.npz", features=network_dir)


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(image_dir, network_dir, pipeline_dir, tmp_path):
    words = ["evaluate", "--tokenizer", pipeline_dir, "--reference", image_dir, "--features", network_dir]
    words = [str(word) for word in [*words, "--batch_size", "4", "--device", "cpu", "--out"]]
    assert main([*words, str(tmp_path / "one.json")]) == 0
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["-m", "fqgan_hf.cli", *words, str(tmp_path / "two.json")]
    result = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    one, two = (load_result(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert two["environment"]["processes"] == 2
    assert two["protocol"] == one["protocol"]
    for name, value in one["figures"].items():
        expected = None if value is None else pytest.approx(value, rel=1e-6)
        assert two["figures"][name] == expected, name


def test_compare(image_dir, network_dir, pipeline_dir, tmp_path, capsys, fails):
    for name, number in (("a", 30), ("b", 30), ("c", 20)):
        words = ["evaluate", "--tokenizer", pipeline_dir, "--reference", image_dir, "--features", network_dir]
        assert main([str(word) for word in [*words, "--num_images", number, "--out", tmp_path / f"{name}.json"]]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    table = capsys.readouterr().out
    assert "| | a | b |" in table and "| Frechet distance ↓ |" in table and "FID" not in table
    line = fails("compare", tmp_path / "a.json", tmp_path / "c.json")
    assert "results of different protocols do not compare: num_images is 30 in a and 20 in c" in line
    assert "reference.num_images is 30 in a and 20 in c" in line
    (tmp_path / "d.json").write_text("{}")
    assert "must be a result of `fqgan evaluate`" in fails("compare", tmp_path / "d.json")


def test_an_fid_is_called_so_with_inception_only(image_dir, network_dir, pipeline_dir):
    result = evaluate(image_dir, tokenizer=pipeline_dir, features=network_dir)
    assert "Frechet distance" in titled_figures(result) and "rFID" not in titled_figures(result)
    result["protocol"]["network"]["name"] = "inception-v3-compat"
    assert titled_figures(result)["rFID"] == result["figures"]["frechet_distance"]


def test_the_model_card_reads_a_result(image_dir, network_dir, pipeline_dir, tmp_path):
    result = evaluate(image_dir, tokenizer=pipeline_dir, features=network_dir)
    write_json(tmp_path / "result.json", result)
    info = CardInfo.from_evaluation(tmp_path / "result.json", training="none at all")
    assert info.metrics["PSNR, dB"] == result["figures"]["psnr"]
    assert info.metrics["codebook usage (1)"] == result["figures"]["usage"][1]
    assert info.evaluation_dataset.startswith(f"30 reconstructions beside 30 images of {image_dir.name} at 16 pixels")
    card = render_card(FARPipeline.from_pretrained(str(pipeline_dir)).vqmodel, "user/model", info)
    assert f"Measured on {info.evaluation_dataset}:" in card and "| Frechet distance | " in card


def test_few_images_are_warned_of(image_dir, network_dir, pipeline_dir):
    result = evaluate(image_dir, tokenizer=pipeline_dir, features=network_dir, num_images=8)
    assert [warning[:62] for warning in result["warnings"]] == [
        "8 images are not more than the 8 features: their covariance is",
        "8 reference images are not more than the 8 features: their cov",
    ]


def test_mistakes_are_found_before_anything_is_loaded(image_dir, pipeline_dir, tmp_path, fails):
    common = ["evaluate", "--reference", image_dir]
    assert "is a generator and reads no images" in fails(*common, "--tokenizer", pipeline_dir / "transformer")
    assert "there is no file or folder /nowhere" in fails("evaluate", "--reference", "/nowhere", "--samples", "x")
    assert "--samples: there is no file or folder x" in fails(*common, "--samples", "x")
    words = [*common, "--samples", image_dir]
    assert "there is no file /nowhere.pth" in fails(*words, "--inception_weights", "/nowhere.pth")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails(*words, "--out", tmp_path / "file" / "x.json")
    assert "--out must end in .npz" in fails("statistics", image_dir, "--out", tmp_path / "x.json")
