# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The report as a whole: its numbers, its files, what it leaves out and what it refuses."""

import base64
import copy
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny
import torch
from PIL import Image


pytest.importorskip("datasets")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from fqgan_hf import FQGANImageProcessor
from fqgan_hf.commands import analyze as command
from fqgan_hf.evaluation.analysis_pictures import CodePatches, patch_grid
from fqgan_hf.evaluation.analysis_plots import images_plot
from fqgan_hf.evaluation.analysis_report import render_report
from fqgan_hf.evaluation.analyze import analyze
from fqgan_hf.evaluation.codebooks import codebook_overlap
from fqgan_hf.evaluation.evaluate import Reference, evaluate_tokenizer
from fqgan_hf.failures import OneLineParser


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, html):
        super().__init__()
        self.references, self.images, self.text, self.tags = [], [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.references += [attributes[name] for name in ("src", "href", "srcset", "data") if name in attributes]
        if tag == "img":
            self.images.append(attributes)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def options(cache_dir):
    return {"device": "cpu", "show_progress": False, "cache_dir": str(cache_dir)}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "dual"
    tiny.tokenizer(2, feature_dims=(None, 16)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def analysed(model_dir, image_dir, network_dir, options, tmp_path_factory):
    """Folder and result of an analysis of all 30 images."""
    folder = tmp_path_factory.mktemp("analysis")
    return folder, analyze(model_dir, image_dir, folder, features=network_dir, batch_size=8, **options)


@pytest.fixture(scope="module")
def single(image_dir, options, tmp_path_factory):
    """Of one codebook, and images without classes, in a folder with something else."""
    folder = tmp_path_factory.mktemp("single")
    pictures = folder / "pictures"
    pictures.mkdir()
    for path in sorted(image_dir.rglob("*.png"))[:8]:
        shutil.copy(path, pictures)
    tiny.tokenizer(1).save_pretrained(folder / "model")
    return folder / "out", analyze(folder / "model", pictures, folder / "out", num_shown=2, **options)


def test_numbers_are_those_of_the_evaluation(analysed, model_dir, images, network):
    from fqgan_hf import FQGANModel

    _, result = analysed
    model = FQGANModel.from_pretrained(model_dir).eval()
    reference = Reference.measure(images, network, resolution=16)
    figures = evaluate_tokenizer(model, reference, network, each_codebook=True)
    found = result["reconstruction"]
    for ours, theirs in zip(
        [found["all"], *found["each_codebook"]], [figures, *figures["each_codebook"]], strict=True
    ):
        assert ours["psnr"] == pytest.approx(theirs["psnr"], rel=1e-3)
        assert ours["classifier_accuracy"] == pytest.approx(theirs["classifier_accuracy"])
    assert found["originals"]["classifier_accuracy"] == pytest.approx(reference.accuracy)
    for name in ("codes_used", "usage", "perplexity", "entropy"):
        assert result["codes"][name] == pytest.approx(figures[name])
    assert result["model"]["codebooks"] == ["visual", "semantic"]
    assert result["model"]["fingerprint"] == model.fingerprint()
    assert result["left_out"] == {}


@torch.no_grad()
def test_patches_are_where_the_codes_are(analysed, model_dir, images):
    from fqgan_hf import FQGANModel

    _, result = analysed
    model = FQGANModel.from_pretrained(model_dir).eval()
    pixels = FQGANImageProcessor(size=16)([images[i][0] for i in range(30)])["pixel_values"]
    codes = model.encode(pixels).codes
    overlap = codebook_overlap(codes, adjusted=True)
    assert np.array(result["overlap"]) == pytest.approx(overlap.numpy(), abs=0.05)  # shuffled in another order
    for k, found in enumerate(result["patches"]):
        counts = codes[:, k].flatten().bincount(minlength=32)
        assert [patches["share"] for patches in found] == pytest.approx(
            (counts.sort(descending=True)[0][:8] / counts.sum()).tolist()[: len(found)]
        )
        assert result["codes"]["sorted_counts"][k] == [n for n in counts.sort(descending=True)[0].tolist() if n]
        for patches in found:
            assert patches["share"] == pytest.approx(counts[patches["code"]].item() / counts.sum().item())
            assert patches["closeness"] == sorted(patches["closeness"], reverse=True)
            places = patches["places"]
            assert all(codes[image, k, row, column] == patches["code"] for image, row, column in places)
            holding = int((codes[:, k] == patches["code"]).flatten(1).any(1).sum())
            assert len({image for image, *_ in places}) == len(places) == min(6, holding)


def test_the_report_needs_no_other_file(analysed):
    folder, result = analysed
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert [found for found in page.references if not found.startswith(("data:", "#"))] == []
    assert "url(" not in html and "@import" not in html and "<script" not in html
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [a for _, a in page.tags]
    assert "prefers-color-scheme: dark" in html
    embedded = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in page.images]
    files = {name: (folder / name).read_bytes() for name in result["figures"]}
    assert sorted(embedded) == sorted(files.values())
    assert sorted(path.name for path in (folder / "figures").iterdir()) == sorted(
        f"{name}.png"
        for name in ("reconstructions", "usage", "token-maps", "codes-tsne", "images-tsne-1", "images-tsne-2",
                     "patches-1", "patches-2")
    )  # fmt: skip
    for image, content in zip(page.images, embedded, strict=True):
        assert image["alt"]
        with Image.open(folder / "figures" / "usage.png") as usage:
            size = usage.size if content == files["figures/usage.png"] else None
        assert size in (None, (int(image["width"]), int(image["height"])))
    for k in range(2):
        assert f"{result['linear_probe']['accuracy'][k]:.1%}" in page.text
        assert f"{result['reconstruction']['each_codebook'][k]['psnr']:.2f}" in page.text
    assert f"visual {result['codes']['codes_used'][0]} of 32" in page.text and "Left out" not in page.text
    assert json.loads((folder / "analysis.json").read_text()) == json.loads(json.dumps(result))


def test_two_runs_write_the_same_bytes(analysed, model_dir, image_dir, network_dir, options, tmp_path):
    folder, _ = analysed
    analyze(model_dir, image_dir, tmp_path, features=network_dir, batch_size=8, **options)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(names) == 10
    assert [name for name in names if (folder / name).read_bytes() != (tmp_path / name).read_bytes()] == []


def test_one_codebook_and_no_classes_are_left_out_in_words(single):
    folder, result = single
    assert result["overlap"] is result["linear_probe"] is result["reconstruction"]["each_codebook"] is None
    assert result["images"]["num_classes"] is None and result["model"]["codebooks"] == ["codebook"]
    text = " ".join(Page((folder / "report.html").read_text(encoding="utf-8")).text.split())
    for reason in (
        "overlap, since there is one codebook, and nothing to compare it with",
        "reconstructions from each codebook alone, since there is one codebook",
        "linear probes, since the images have no classes",
        "accuracy of a classifier, since no classifier was given",
        "the maps of images, since there are fewer than 10 images",
    ):
        assert f"Left out: {reason}" in text
    assert "images-tsne-1" not in str(result["figures"])


def test_another_analysis_takes_the_place_of_the_first(analysed, image_dir, options, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(analysed[0], folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "figures" / "mine.png").write_bytes(b"mine")
    tiny.tokenizer(1).save_pretrained(tmp_path / "model")
    result = analyze(tmp_path / "model", image_dir, folder, num_images=12, num_shown=1, seed=5, **options)
    assert result["images"]["num_images"] == 12 and result["settings"]["seed"] == 5
    figures = {path.relative_to(folder).as_posix() for path in (folder / "figures").iterdir()}
    assert figures == {*result["figures"], "figures/mine.png"}
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "analysis.json").write_text("{")
    assert analyze(tmp_path / "model", image_dir, folder, num_images=3, num_shown=1, **options)["left_out"]
    assert json.loads((folder / "analysis.json").read_text())["images"]["num_images"] == 3


def test_names_are_text_in_the_page_and_in_plots(analysed):
    folder, result = analysed
    result = copy.deepcopy(result)
    result["images"]["source"] = "<script>alert(1)</script>"
    png = {name[8:-4]: (folder / name).read_bytes() for name in result["figures"]}
    page = Page(render_report(result, png))
    assert "script" not in [tag for tag, _ in page.tags]
    assert "<script>alert(1)</script>" in page.text
    figure = images_plot(np.random.rand(8, 2), np.arange(8) % 2, [0, 1], ["$_{", "_hidden, a long synonym of a class"])
    figure.canvas.draw()  # raises where a name is read as a formula
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [r"\$_{", " _hidden, a long syn…"]


@pytest.mark.parametrize(
    ("row", "column", "place"),  # in the positions shown: the middle but for an edge of the image
    [(0, 0, (0, 0)), (2, 3, (1, 1)), (5, 1, (2, 1)), (5, 5, (2, 2))],
)
def test_a_patch_is_outlined_in_its_place(row, column, place):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 200, (24, 24, 3), dtype=np.uint8))
    grid = patch_grid([CodePatches(3, 0.5, [(7, row, column)], [1.0])], {7: image}, factor=4)
    rows, columns = np.nonzero((np.asarray(grid) == (255, 45, 149)).all(-1))
    position = 88 / 3  # pixels
    left, top = grid.width - 6 - 88, rows.min() - place[0] * position
    assert columns.min() - left == pytest.approx(place[1] * position, abs=1)
    assert 5 <= top <= 20  # the caption's two lines may be higher than the patch
    for found in (rows, columns):
        assert found.max() - found.min() + 1 == pytest.approx(position, abs=1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"num_shown": 0}, "num_shown must be at least 1, got 0"),
        ({"seed": -1}, "seed must be in"),
        ({"resolution": 18}, "resolution must be divisible by 4, got 18"),
    ],
)
def test_bad_arguments_are_named(model_dir, image_dir, options, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        analyze(model_dir, image_dir, tmp_path / "out", **{**options, **changes})
    assert not (tmp_path / "out").exists()


def test_a_classifier_of_other_classes_is_refused(model_dir, network_dir, options, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "red").save(tmp_path / "data" / name / "a.png")
    with pytest.raises(ValueError, match=r"\['cat', 'dog'\], got .* of classes \['bright', 'dark'\]"):
        analyze(model_dir, tmp_path / "data", tmp_path / "out", features=network_dir, **options)


def run(*words):
    parser = OneLineParser()
    command.add_arguments(parser)
    arguments = parser.parse_args([str(word) for word in words])
    arguments.debug = False
    command.run(arguments)


def test_the_command_makes_the_report(model_dir, image_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    run("--model", model_dir, image_dir, "--output_dir", out, "--num_images", 9, "--device", "cpu")
    result = json.loads((out / "analysis.json").read_text())
    assert result["images"]["num_images"] == 9 and result["model"]["name"] == "dual"
    printed = capsys.readouterr().out
    assert f"visual: {result['codes']['codes_used'][0]} codes used of 32" in printed
    assert f"wrote {out / 'report.html'}" in printed


def test_the_command_refuses_before_it_loads_anything(model_dir, image_dir, tmp_path, capsys):
    out = ["--output_dir", tmp_path / "out"]
    with pytest.raises(SystemExit):
        run("--model", model_dir, *out)
    with pytest.raises(FileNotFoundError, match="images: there is no file or folder nowhere"):
        run("--model", model_dir, "nowhere", *out)
    with pytest.raises(FileNotFoundError):
        run("--model", tmp_path / "nowhere", image_dir, *out)
    assert not (tmp_path / "out").exists()
