# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The store of codes: what is written is read, shards are whole, and other extractions are refused."""

import dataclasses
import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fqgan_hf.codes.crops import to_pixel_values
from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.store import finish, load_rows, shard_name, write_shard
from fqgan_hf.files import sha256
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.data.codes import CodeSequences
from fqgan_hf.training.data.crops import CROPS, ten_crop
from fqgan_hf.training.extract_codes import main as extract_codes

from ..conftest import NUM_IMAGES, TOKENIZER


@pytest.fixture
def store(manifest, tmp_path) -> torch.Tensor:
    """Ten rows in shards of four; the codes."""
    codes = torch.randint(0, 65536, (10, *manifest.shape))
    codes[0].flatten()[:2] = torch.tensor([0, 65535])
    for number, start in enumerate(range(0, 10, 4)):
        part = codes[start : start + 4]
        ids = [f"image-{i}" for i in range(start, start + len(part))]
        write_shard(tmp_path / shard_name(number), manifest, ids, [i % 2 for i in range(len(part))], part)
    finish(tmp_path, manifest)
    return codes


def test_round_trip_in_16_bits(store, manifest, tmp_path, cache_dir):
    read = CodesManifest.load(tmp_path)
    assert read == manifest
    rows = load_rows(tmp_path, read, str(cache_dir))
    assert rows.features["codes"].feature.dtype == "uint16"
    assert rows["id"][:] == [f"image-{i}" for i in range(10)]
    sequences = CodeSequences(rows, read, range(10))
    order = [9, 0, 4, 3, 8, 7, 1, 2, 5, 6, 9]
    for i, item in zip(order, sequences.__getitems__(order), strict=True):
        # (views, K, h, w) of row i: the first view, positions first
        expected = store[i, 0].permute(1, 2, 0).reshape(10, 3)
        assert item["codes"].dtype == torch.int64 and torch.equal(item["codes"], expected)
        assert item["class_labels"] == i % 4 % 2 and item["index"] == i
    for block in sequences.codes.blocks:
        assert block.dtype == np.uint16 and not block.flags.owndata, "mapped, not copied"


def test_views_are_drawn_by_seed_epoch_and_row(store, manifest, tmp_path, cache_dir):
    sequences = CodeSequences(load_rows(tmp_path, manifest, str(cache_dir)), manifest, [3, 7], seed=1)
    views = {torch.equal(sequences[(epoch, 1)]["codes"], sequences[(0, 1)]["codes"]) for epoch in range(20)}
    assert views == {True, False}
    assert torch.equal(sequences[(5, 0)]["codes"], sequences[(5, 0)]["codes"])
    assert sequences[(0, 1)]["index"] == 7


def test_streams_with_datasets(store, tmp_path):
    stream = datasets.load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), split="train", streaming=True)
    row = next(iter(stream))
    assert row["id"] == "image-0" and np.array_equal(row["codes"], store[0].flatten())


def test_damage_is_noticed(store, manifest, tmp_path):
    path = tmp_path / shard_name(1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00001\.parquet is missing or was changed"):
        load_rows(tmp_path, manifest)
    path.unlink()
    with pytest.raises(ValueError, match=r"shard-00001\.parquet is missing or was changed"):
        load_rows(tmp_path, manifest)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a manifest of codes"):
        CodesManifest.load(tmp_path)


def test_the_name_of_a_store_is_no_pattern(store, manifest, tmp_path, cache_dir):
    """A folder that the name means as a pattern lies beside it, with other codes."""
    for name in ("codes [1]", "codes 1"):
        (tmp_path / name).mkdir()
    for path in [*tmp_path.glob("*.parquet"), tmp_path / "manifest.json"]:
        path.rename(tmp_path / "codes [1]" / path.name)
    others = torch.zeros(10, *manifest.shape, dtype=torch.int64)
    write_shard(tmp_path / "codes 1" / shard_name(0), manifest, [str(i) for i in range(10)], [0] * 10, others)
    folder = tmp_path / "codes [1]"
    rows = load_rows(folder, CodesManifest.load(folder), str(cache_dir))
    assert rows["id"][:] == [f"image-{i}" for i in range(10)]
    assert np.array_equal(rows[9]["codes"], store[9].flatten())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("id2label", {"0": "b", "1": "a"}, r"manifest\.json was changed, or is not that of shard-00000\.parquet"),
        ("grid", [5, 2], r"manifest\.json was changed"),
        ("grid", [5], r"manifest\.json is damaged: grid must be two whole numbers of at least 1, got list"),
        ("codebook_size", "65536", r"manifest\.json is damaged: codebook_size must be a whole number in \[1, 65536\]"),
        ("num_rows", 11, r"manifest\.json is damaged: num_rows is 11, and its shards hold 10"),
        ("shards", [{"file": "../a.parquet", "rows": 10, "sha256": ""}], r"manifest\.json is damaged: shards must be"),
        ("shards", [], r"manifest\.json is damaged: shards must be"),
        ("colour", "red", r"manifest\.json is not a manifest of codes: see colour"),
        ("format_version", 2, r"manifest\.json: format_version must be 1, got 2"),
    ],
)
def test_an_edited_manifest_is_refused(name, value, message, store, tmp_path, cache_dir):
    content = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**content, name: value}))
    with pytest.raises(ValueError, match=message):
        load_rows(tmp_path, CodesManifest.load(tmp_path), str(cache_dir))


def test_shards_of_another_extraction_are_refused(store, manifest, tmp_path, cache_dir):
    """With hashes that fit: what a shard says of itself is compared, too."""
    path = tmp_path / shard_name(1)
    codes = torch.zeros(4, *manifest.shape, dtype=torch.int64)
    write_shard(path, dataclasses.replace(manifest, resolution=32), list("abcd"), [0] * 4, codes)
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["shards"][1]["sha256"] = sha256(path)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json was changed, or is not that of shard-00001\.parquet"):
        load_rows(tmp_path, CodesManifest.load(tmp_path), str(cache_dir))


def test_labels_beyond_the_classes_are_refused(manifest, tmp_path, cache_dir):
    manifest = dataclasses.replace(manifest, num_rows=1)
    write_shard(tmp_path / shard_name(0), manifest, ["a"], [2], torch.zeros(1, *manifest.shape, dtype=torch.int64))
    finish(tmp_path, manifest)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\], got 2 to 2"):
        load_rows(tmp_path, manifest, str(cache_dir))


def test_codes_that_do_not_fit_are_refused(manifest, tmp_path):
    with pytest.raises(ValueError, match="codes must have shape"):
        write_shard(tmp_path / "x", manifest, ["a"], [0], torch.full((1, *manifest.shape), 65536))
    assert not list(tmp_path.iterdir())


def test_ten_crop_is_the_published_one():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8))
    crops = ten_crop(image, 256)
    assert len(crops) == len(CROPS["ten-crop"][0]) == 10
    scaled = image.resize((393, 281), Image.Resampling.LANCZOS)
    boxes = [(0, 0), (137, 0), (0, 25), (137, 25), (68, 12)]
    for crop, (left, top) in zip(crops, boxes, strict=False):
        assert np.array_equal(crop, scaled.crop((left, top, left + 256, top + 256)))
    assert np.array_equal(np.asarray(crops[9]), np.asarray(crops[4])[:, ::-1])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    model = FQGANModel(**TOKENIZER, num_codebooks=2)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def options(tokenizer, image_folder, cache_dir, to_command):
    def make(output_dir, **changes):
        values = {
            "train_data_dir": image_folder,
            "cache_dir": cache_dir,
            "tokenizer": tokenizer,
            "output_dir": output_dir,
        }
        return to_command({**values, "shard_size": 10, "batch_size": 3, **changes})

    return make


@pytest.mark.parametrize("crop", list(CROPS))
def test_extraction(crop, options, tokenizer, image_folder, tmp_path):
    extract_codes(options(tmp_path, crop=crop))
    manifest = CodesManifest.load(tmp_path)
    model = FQGANModel.from_pretrained(str(tokenizer))
    assert manifest.tokenizer_fingerprint == model.fingerprint()
    assert [shard["rows"] for shard in manifest.shards] == [10, 10, 4] and manifest.num_rows == NUM_IMAGES
    assert manifest.id2label == {"0": "circle", "1": "square", "2": "stripes"}
    rows = load_rows(tmp_path, manifest)
    assert len(set(rows["id"])) == NUM_IMAGES
    for i in (0, 13):
        views = CROPS[crop][1](Image.open(image_folder / rows[i]["id"]).convert("RGB"), 16)
        codes = model.eval().encode(torch.stack([to_pixel_values(view) for view in views])).codes
        assert np.array_equal(np.reshape(rows[i]["codes"], manifest.shape), codes)
        assert manifest.id2label[str(rows[i]["label"])] == rows[i]["id"].split("/")[0]


def test_stopped_extraction_goes_on(options, tmp_path, monkeypatch):
    extract_codes(options(tmp_path / "whole"))
    import fqgan_hf.codes.shards as script

    calls = []

    def stop_at_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write_shard(*args)

    monkeypatch.setattr(script, "write_shard", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        extract_codes(options(tmp_path / "stopped"))
    with pytest.raises(FileNotFoundError, match="continues when it is run again"):
        CodesManifest.load(tmp_path / "stopped")
    (tmp_path / "stopped" / "shard-00001.parquet.tmp").write_bytes(b"half a shard")
    monkeypatch.undo()
    before = (tmp_path / "stopped" / shard_name(0)).stat().st_mtime_ns
    extract_codes(options(tmp_path / "stopped"))
    assert (tmp_path / "stopped" / shard_name(0)).stat().st_mtime_ns == before, "written once"
    whole, resumed = (CodesManifest.load(tmp_path / name) for name in ("whole", "stopped"))
    assert whole.shards == resumed.shards


def write_many(folder, num_images, bad) -> None:
    """Pictures in one class folder, the numbers in `bad` damaged."""
    (folder / "a").mkdir(parents=True)
    for i in range(num_images):
        path = folder / "a" / f"{i:03d}.png"
        Image.new("RGB", (16, 16), (i, 2 * i % 256, 255 - i)).save(path)
        if i in bad:
            path.write_bytes(path.read_bytes()[:40])


def test_bad_images_have_no_row(options, tmp_path):
    """Listed in the manifest, whole shards and all; without the option the first one ends the run by name."""
    write_many(tmp_path / "images", 200, bad={7, 101})
    changes = {"train_data_dir": tmp_path / "images", "shard_size": 50}
    with pytest.raises(ValueError, match=r"image 'a/007\.png' cannot be read"):
        extract_codes(options(tmp_path / "codes", **changes))
    for workers in (0, 2):
        folder = tmp_path / f"codes-{workers}"
        extract_codes([*options(folder, **changes, dataloader_num_workers=workers), "--skip_bad_images"])
        manifest = CodesManifest.load(folder)
        assert manifest.skipped == ["a/007.png", "a/101.png"] and manifest.num_rows == 200
        assert [shard["rows"] for shard in manifest.shards] == [49, 50, 49, 50]
        rows = load_rows(folder, manifest)
        assert rows["id"][:] == [f"a/{i:03d}.png" for i in range(200) if i not in (7, 101)]
        (folder / "manifest.json").unlink()
        before = (folder / shard_name(2)).stat().st_mtime_ns
        extract_codes([*options(folder, **changes), "--skip_bad_images"])
        assert (folder / shard_name(2)).stat().st_mtime_ns == before, "a shard with a gap is complete"
        assert CodesManifest.load(folder) == manifest


def test_too_many_bad_images_end_the_extraction(options, tmp_path):
    write_many(tmp_path / "images", 100, bad={3, 98})
    with pytest.raises(ValueError, match=r"tolerates 1% of unreadable images, got 2 of 100: a/003\.png, a/098\.png"):
        extract_codes([*options(tmp_path / "codes", train_data_dir=tmp_path / "images"), "--skip_bad_images"])


def test_a_truncated_shard_is_named(options, tmp_path):
    extract_codes(options(tmp_path))
    path = tmp_path / shard_name(1)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"output_dir .* is damaged: shard-00001\.parquet is no whole parquet file"):
        extract_codes(options(tmp_path))
    path.unlink()
    extract_codes(options(tmp_path))
    assert CodesManifest.load(tmp_path).num_rows == NUM_IMAGES


def test_other_extraction_in_the_same_folder(options, tmp_path):
    extract_codes(options(tmp_path))
    with pytest.raises(ValueError, match=r"shard-00000\.parquet of another extraction"):
        extract_codes(options(tmp_path, crop="plain"))
    metadata = pq.read_metadata(tmp_path / shard_name(0)).metadata
    assert json.loads(metadata[b"fqgan_hf.extraction"])["crop"] == "flip"
