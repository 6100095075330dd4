# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The modules for `evaluate`: each against a direct computation, its documentation, and two processes."""

import doctest
import math
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import RegNetConfig, RegNetModel, ViTImageProcessor


pytest.importorskip("evaluate")

import evaluate

from fqgan_hf.evaluation import codebooks, metrics, precision_recall, similarity
from fqgan_hf.evaluation.modules import METRICS, load_metric, metric_path


@pytest.fixture(autouse=True, scope="module")
def caches(tmp_path_factory):
    """What `evaluate` keeps of inputs goes to a folder of its own, so that tests beside each other do not meet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path_factory.mktemp("metrics"))
        yield


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A tiny vision network."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("network")
    RegNetModel(RegNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], groups_width=8)).save_pretrained(
        folder
    )
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 5)).astype(np.float32), rng.normal(0.5, 2, size=(60, 5)).astype(np.float32)


@pytest.fixture
def pictures():
    """Reconstructions and originals of two sizes."""
    rng = np.random.default_rng(0)
    originals = [rng.integers(0, 256, (size, 20, 3)) for size in (16, 16, 24)]
    noisy = [np.clip(image + rng.integers(-30, 30, image.shape), 0, 255) for image in originals]
    return [[Image.fromarray(image.astype(np.uint8)) for image in images] for images in (noisy, originals)]


def pixels(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].double() / 127.5 - 1


# ---- Each figure ----


def test_all_have_a_test_here():
    assert METRICS == (
        "codebook_overlap", "codebook_usage", "frechet_distance", "inception_score", "lpips", "precision_recall",
        "psnr", "ssim",
    )  # fmt: skip


def test_frechet_distance(features):
    metric = load_metric("frechet_distance")
    for start in range(0, 60, 25):
        batch = slice(start, start + 25)
        metric.add_batch(predictions=features[0][batch], references=torch.from_numpy(features[1][batch]))
    (mu1, sigma1), (mu2, sigma2) = [(f.mean(0, np.float64), np.cov(f.astype(np.float64).T)) for f in features]
    assert metric.compute() == {
        "frechet_distance": pytest.approx(metrics.frechet_distance(mu1, sigma1, mu2, sigma2), rel=1e-9)
    }


def test_inception_score():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 50).astype(np.float32)
    expected = metrics.inception_score(probabilities, splits=5, seed=3)
    assert load_metric("inception_score").compute(predictions=probabilities, splits=5, seed=3) == {
        "inception_score": expected.mean, "inception_score_std": expected.std,
    }  # fmt: skip


def test_precision_recall(features):
    expected = precision_recall.precision_recall(features[1], features[0], k=2)
    assert expected.precision != expected.recall
    assert load_metric("precision_recall").compute(predictions=features[0], references=features[1], k=2) == {
        "precision": expected.precision, "recall": expected.recall,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_figures_of_pictures(name, pictures):
    function = {"psnr": metrics.psnr, "ssim": similarity.ssim}[name]
    expected = [function(pixels(original), pixels(noisy)).item() for noisy, original in zip(*pictures, strict=True)]
    result = load_metric(name).compute(predictions=pictures[0], references=pictures[1], per_image=True)
    assert result == {name: pytest.approx(np.mean(expected)), "per_image": pytest.approx(expected)}
    arrays = [[np.asarray(picture) for picture in side] for side in pictures]
    assert load_metric(name).compute(predictions=arrays[0], references=arrays[1]) == {name: result[name]}


def test_lpips(network, pictures):
    direct = similarity.LPIPS(network)
    expected = [direct(pixels(original), pixels(noisy)).item() for noisy, original in zip(*pictures, strict=True)]
    result = load_metric("lpips").compute(
        predictions=pictures[0], references=pictures[1], backbone=network, per_image=True
    )
    assert min(expected) > 0
    assert result == {
        "lpips": pytest.approx(np.mean(expected)),
        "per_image": pytest.approx(expected),
        "network": direct.description,
    }


def test_codebook_usage_of_mixed_grids():
    codes = [torch.randint(0, 9, (2, *grid)) for grid in ((4, 4), (2, 6))]
    usage = codebooks.CodebookUsage(2, 16)
    for image in codes:
        usage.update(image[None])
    result = load_metric("codebook_usage").compute(predictions=[c.numpy() for c in codes], codebook_size=16)
    assert result["usage"] == usage.usage.tolist() and result["num_positions"] == 28
    assert result["perplexity"] == usage.perplexity.tolist()
    frequencies = usage.counts[0] / 28
    entropy = -sum(p * math.log(p) for p in frequencies.tolist() if p)
    assert result["entropy"][0] == pytest.approx(entropy)


@pytest.mark.parametrize("adjusted", [False, True])
def test_codebook_overlap(adjusted):
    codes = torch.randint(0, 6, (5, 3, 4, 4))
    codes[:, 2] = codes[:, 0] // 2
    result = load_metric("codebook_overlap").compute(predictions=codes, adjusted=adjusted, seed=4)
    expected = codebooks.codebook_overlap(codes, adjusted, seed=4)
    if adjusted:  # chance is measured on positions in another order
        torch.testing.assert_close(torch.tensor(result["overlap"], dtype=torch.float64), expected, rtol=0, atol=0.2)
    else:
        torch.testing.assert_close(torch.tensor(result["overlap"], dtype=torch.float64), expected)


# ---- Similarities themselves ----


def test_ssim_by_its_definition():
    """One window of 11 x 11 in one channel, by the formula."""
    torch.manual_seed(0)
    original = torch.randint(0, 256, (2, 1, 11, 11)).double()
    other = (original + torch.randint(-40, 40, original.shape)).clamp(0, 255)
    line = torch.exp(-((torch.arange(11.0).double() - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    for a, b, value in zip(original, other, similarity.ssim(original / 127.5 - 1, other / 127.5 - 1), strict=True):
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        both = (window * (a - mean_a) * (b - mean_b)).sum()
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        expected = (2 * mean_a * mean_b + c1) * (2 * both + c2)
        expected /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_l1_and_l2_are_those_of_saved_pictures():
    original = torch.tensor([-1.0, 0.0, 0.5, 1.0]).view(1, 1, 2, 2)
    other = torch.tensor([-1.002, 0.1, 0.5, 0.0]).view(1, 1, 2, 2)  # levels 0, 140, 191, 128 against 0, 128, 191, 255
    assert similarity.l1(original, other).tolist() == pytest.approx([(12 + 127) / 255 / 4])
    assert similarity.l2(original, other).tolist() == pytest.approx([(12**2 + 127**2) / 255**2 / 4])


def test_lpips_of_a_network_is_the_formula(network, pictures):
    """Squared distance of unit vectors, mean over positions, then over hidden states; as in training."""
    from fqgan_hf.training.fqgan.perceptual import FeatureDistance

    lpips, training = similarity.LPIPS(network), FeatureDistance(network)
    noisy, original = (torch.cat([pixels(picture) for picture in side[:2]]) for side in pictures)
    values = lpips(original, noisy)
    assert values.shape == (2,) and values.dtype == torch.float64
    assert values.mean().item() == pytest.approx(training(original.float(), noisy.float()).item(), rel=1e-5)
    assert lpips(original, original).tolist() == [0, 0]
    for place in range(2):  # of each image, whatever stands beside it
        alone = lpips(original[place : place + 1], noisy[place : place + 1])
        assert values[place].item() == pytest.approx(alone.item(), rel=1e-5)


def test_lpips_with_vgg_is_that_of_the_package(pictures, monkeypatch):
    package = pytest.importorskip("lpips")
    from functools import partial

    monkeypatch.setattr(package, "LPIPS", partial(package.LPIPS, pnet_rand=True))  # no weights of VGG at hand
    lpips = similarity.LPIPS("vgg")
    noisy, original = (torch.cat([pixels(picture) for picture in side[:2]]) for side in pictures)
    with torch.no_grad():
        expected = lpips.network(original.float(), noisy.float()).flatten()
    assert lpips(original, noisy).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert lpips.description["backbone"] == "vgg" and len(lpips.description["weights_sha256"]) == 64
    with pytest.raises(ValueError, match="LPIPS with VGG needs images of at least 16 x 16 pixels"):
        lpips(original[..., :8], noisy[..., :8])


def test_what_is_no_pair_of_images_is_refused(network):
    image = torch.zeros(1, 3, 16, 16)
    for function in (similarity.ssim, similarity.l1, similarity.l2, similarity.LPIPS(network)):
        with pytest.raises(ValueError, match=r"same shape \(B, C, H, W\)"):
            function(image, image[..., :8])
        with pytest.raises(ValueError, match="original must lie in"):
            function(image + 2, image)
        with pytest.raises(ValueError, match="reconstruction must hold finite values"):
            function(image, image * torch.nan)
        with pytest.raises(ValueError, match="original must hold floats"):
            function(image.byte(), image)
        assert function(image[:0], image[:0]).shape == (0,)
    with pytest.raises(ValueError, match="ssim needs images of at least 11 x 11 pixels"):
        similarity.ssim(image[..., :8], image[..., :8])
    with pytest.raises(ValueError, match="original must have 3 channels for LPIPS, got 1"):
        similarity.LPIPS(network)(image[:, :1], image[:, :1])


def test_missing_weights_of_vgg_say_where_they_belong(monkeypatch, tmp_path):
    package = pytest.importorskip("lpips")

    def fail(**settings):
        raise OSError("no route to host")

    monkeypatch.setattr(package, "LPIPS", fail)
    with pytest.raises(OSError, match=r"no route to host\): put https://\S+vgg16-397923af.pth into \S+checkpoints"):
        similarity.LPIPS("vgg")


# ---- Documentation ----


@pytest.mark.parametrize("name", METRICS)
def test_each_is_documented(name, network):
    info = load_metric(name)
    assert info.description.strip() and info.citation.startswith("@")
    inputs, readme = info.inputs_description, Path(metric_path(name), "README.md").read_text()
    taken = [*info.features, *info._compute.__code__.co_varnames[1 : info._compute.__code__.co_argcount]]
    for argument in taken:
        assert re.search(rf"^ *{argument} \(", inputs, re.MULTILINE), argument
        assert f"- **{argument}** (" in readme
    for heading in ("Description", "How to use", "Inputs", "Output values", "Limitations", "Citation"):
        assert f"## {heading}\n" in readme
    example = doctest.DocTestParser().get_doctest(
        inputs, {"picture": Image.new("RGB", (16, 16), "red"), "network": network}, name, None, None
    )
    assert len(example.examples) >= 2
    report = []
    doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert report == []


def test_a_path_is_enough(features):
    metric = evaluate.load(metric_path("frechet_distance"))
    assert metric.compute(predictions=features[0], references=features[0])["frechet_distance"] < 1e-5


def test_refusals():
    with pytest.raises(ValueError, match="name must be one of codebook_overlap, .*, got 'fid'"):
        load_metric("fid")
    with pytest.raises(ValueError, match="keep_in_memory must be False"):
        load_metric("psnr", keep_in_memory=True)
    with pytest.raises(ValueError, match="Mismatch in the number of"):
        load_metric("frechet_distance").compute(predictions=[[1.0]], references=[[1.0], [2.0]])


# ---- Two processes ----


def worker(results, process, cache, features):
    """What each of two processes does with its part of the features."""
    metric = load_metric("frechet_distance", num_process=2, process_id=process, experiment_id="test", cache_dir=cache)
    ours = slice(0, 23) if process == 0 else slice(23, None)
    metric.add_batch(predictions=features[0][ours], references=features[1][ours])
    results.put((process, metric.compute()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_two_processes_give_the_figure_of_one(features, tmp_path):
    context = multiprocessing.get_context("fork")  # `evaluate` takes many seconds to import
    results = context.Queue()
    processes = [
        context.Process(target=worker, args=(results, i, str(tmp_path / "cache"), features), daemon=True)
        for i in range(2)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    alone = load_metric("frechet_distance").compute(predictions=features[0], references=features[1])
    assert found[0] == {"frechet_distance": pytest.approx(alone["frechet_distance"], rel=1e-9)}
    assert found[1] is None
