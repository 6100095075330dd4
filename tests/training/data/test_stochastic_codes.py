# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`extract_codes --stochastic`: which draws an image gets, what the manifest says of them, and what is refused."""

import json

import numpy as np
import pytest
import torch

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.shards import draws_of
from fqgan_hf.codes.store import load_rows
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.extract_codes import main as extract_codes
from fqgan_hf.training.train_far import main as train_far

from ..conftest import NUM_IMAGES, TOKENIZER
from ..test_scripts import launch


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Folders of two tokenizers by their type, nearest and regularized."""
    folders = {}
    for kind in ("nearest", "regularized"):
        torch.manual_seed(0)
        folders[kind] = tmp_path_factory.mktemp(kind)
        FQGANModel(**TOKENIZER, num_codebooks=2, quantizer_type=kind).save_pretrained(str(folders[kind]))
    return folders


@pytest.fixture
def options(tokenizers, image_folder, cache_dir, to_command):
    def make(output_dir, kind="regularized", stochastic=True, **changes):
        values = {
            "train_data_dir": image_folder,
            "cache_dir": cache_dir,
            "tokenizer": tokenizers[kind],
            "output_dir": output_dir,
            "shard_size": 10,
            "batch_size": 3,
        }
        return [*to_command({**values, **changes}), *(["--stochastic"] if stochastic else [])]

    return make


def codes_in(folder, cache_dir) -> np.ndarray:
    """`(images, views, num_codebooks, height, width)`."""
    manifest = CodesManifest.load(folder)
    return np.reshape(load_rows(folder, manifest, str(cache_dir))["codes"][:], (-1, *manifest.shape))


def test_codes_depend_on_seed_image_and_view_alone(options, cache_dir, tmp_path):
    extract_codes(options(tmp_path / "a", batch_size=1))
    extract_codes(options(tmp_path / "b", batch_size=7, shard_size=4, dataloader_num_workers=2))
    extract_codes(options(tmp_path / "c", seed=1))
    extract_codes(options(tmp_path / "likeliest", stochastic=False))
    drawn = {name: codes_in(tmp_path / name, cache_dir) for name in ("a", "b", "c", "likeliest")}
    assert (drawn["a"] == drawn["b"]).mean() > 0.99  # convolutions of another batch may round otherwise
    assert not np.array_equal(drawn["a"], drawn["c"])
    # Six of 16 positions are drawn, the same in both codebooks; the rest have their likeliest code.
    moved = (drawn["a"] != drawn["likeliest"]).any(axis=2).reshape(NUM_IMAGES, 2, 16).sum(-1)
    assert moved.max() <= 6 and moved.mean() > 4
    assert not np.array_equal(moved[:, 0], moved[:, 1]), "the views of an image have their own draws"


def test_draws_follow_from_three_numbers():
    numbers = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    first = {torch.rand(1, generator=draws_of(*number)).item() for number in (*numbers, *numbers)}
    assert len(first) == 4


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(options, tmp_path):
    extract_codes(options(tmp_path / "codes-1"))
    launch(options(tmp_path / "codes-2"), 2, "extract_codes")
    manifests = [(tmp_path / f"codes-{n}" / "manifest.json").read_text() for n in (1, 2)]
    assert manifests[0] == manifests[1], "with the hashes of all shards"


def test_stopped_extraction_draws_the_same(options, tmp_path):
    extract_codes(options(tmp_path))
    before = CodesManifest.load(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "shard-00001.parquet").unlink()
    extract_codes(options(tmp_path))
    assert CodesManifest.load(tmp_path) == before


def test_manifest_says_how_codes_were_drawn(options, tmp_path):
    extract_codes(options(tmp_path / "drawn", seed=3))
    content = json.loads((tmp_path / "drawn" / "manifest.json").read_text())
    assert (content["stochastic"], content["seed"]) == (True, 3)
    extract_codes(options(tmp_path / "plain", stochastic=False))
    content = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert not {"stochastic", "seed"} & content.keys(), "stores of earlier versions have neither"
    manifest = CodesManifest.load(tmp_path / "plain")
    assert not manifest.stochastic and manifest.seed is None


def test_other_draws_in_the_same_folder_are_refused(options, tmp_path):
    extract_codes(options(tmp_path))
    for changes in ({"seed": 1}, {"stochastic": False}):
        with pytest.raises(ValueError, match=r"another extraction \(other tokenizer, data, crops or draws\)"):
            extract_codes(options(tmp_path, **changes))
    extract_codes(options(tmp_path, seed=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": None}, r"manifest\.json is damaged: seed must be there where stochastic is true, and only there"),
        ({"stochastic": False}, r"manifest\.json is damaged: seed must be there where stochastic is true"),
        ({"stochastic": 1}, r"manifest\.json is damaged: stochastic must be true or false, got 1"),
        ({"seed": -1}, r"manifest\.json is damaged: seed must be a whole number of at least 0, got -1"),
        ({"seed": 5}, r"manifest\.json was changed"),
        ({"stochastic": False, "seed": None}, r"manifest\.json was changed"),
    ],
)
def test_an_edited_manifest_is_refused(changes, message, options, cache_dir, tmp_path):
    extract_codes(options(tmp_path))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        load_rows(tmp_path, CodesManifest.load(tmp_path), str(cache_dir))


def test_what_cannot_be_drawn_is_refused(options, tmp_path):
    """Before an image is read: the folder of images holds none that could be."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0.png").write_bytes(b"no picture")
    changes = {"train_data_dir": tmp_path / "images"}
    with pytest.raises(ValueError, match="stochastic needs a tokenizer with a quantizer of type .*got 'nearest'"):
        extract_codes(options(tmp_path / "out", "nearest", **changes))
    for seed, message in ((3, "seed needs --stochastic"), (-1, r"seed must be in \[0, 4294967295\], got -1")):
        with pytest.raises(ValueError, match=message):
            extract_codes(options(tmp_path / "out", stochastic=False, seed=seed, **changes))
    assert not (tmp_path / "out").exists()


def test_a_generator_trains_on_drawn_codes(
    options, tokenizers, generator_config, cache_dir, to_command, read_metrics, capsys, tmp_path
):
    extract_codes(options(tmp_path / "codes"))
    capsys.readouterr()
    values = {
        "codes_dir": tmp_path / "codes",
        "tokenizer": tokenizers["regularized"],
        "cache_dir": cache_dir,
        "model_config_name_or_path": generator_config,
        "output_dir": tmp_path / "generator",
        "train_batch_size": 6,
        "max_train_steps": 2,
        "validation_fraction": 0.25,
        "validation_steps": 1,
        "logging_steps": 1,
    }
    train_far(to_command(values))
    model = FARForImageGeneration.from_pretrained(tmp_path / "generator")
    tokenizer = FQGANModel.from_pretrained(str(tokenizers["regularized"]))
    assert model.config.tokenizer_fingerprint == tokenizer.fingerprint()
    assert any("validation/loss" in record for record in read_metrics(tmp_path / "generator"))
    said = capsys.readouterr()
    assert "stochastic" not in said.out + said.err and "WARNING" not in said.out + said.err
