# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Sets of images by name: every kind gives the pictures and labels that went in, and bad ones are refused by name."""

import pickle

import numpy as np
import pytest
from PIL import Image


pytest.importorskip("datasets")

from fqgan_hf.evaluation.image_batches import image_batches
from fqgan_hf.evaluation.image_sets import NpzImages, SampledImages, open_image_set
from fqgan_hf.pipelines.sample import sample_to_folder


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (9, 5, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_is_read_row_by_row(save, pixels, tmp_path):
    labels = np.arange(9) % 3
    save(tmp_path / "batch.npz", arr_0=pixels, arr_1=labels)
    images = open_image_set(tmp_path / "batch.npz")
    assert len(images) == 9 and images.label_names == ["0", "1", "2"]
    for index in (8, 0, 3):  # also backwards
        picture, label = images[index]
        assert np.array_equal(np.asarray(picture), pixels[index]) and label == labels[index]
    sent = pickle.loads(pickle.dumps(images))  # as to a worker
    assert np.array_equal(np.asarray(sent[4][0]), pixels[4])
    assert images.fingerprint == NpzImages(tmp_path / "batch.npz").fingerprint


def test_without_labels_no_image_has_a_class(pixels, tmp_path):
    np.savez(tmp_path / "batch.npz", pixels)
    assert [label for _, label in map(open_image_set(tmp_path / "batch.npz").__getitem__, range(9))] == [-1] * 9


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"arr_0": np.zeros((2, 4, 4, 3))},
            r"arr_0 must hold uint8 images \(N, H, W, 3\), got float64 \(2, 4, 4, 3\)",
        ),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"got uint8 \(2, 3, 4, 4\)"),
        ({"mu": np.zeros(3)}, "must be an .npz file with images in arr_0"),
        ({"arr_0": np.array([{}])}, "must be an .npz file with images in arr_0|got object"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.zeros(3, int)}, "arr_1 must hold 2 labels"),
    ],
)
def test_npz_files_of_another_kind_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "batch.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_image_set(tmp_path / "batch.npz")


def test_what_is_no_zip_is_refused(tmp_path):
    (tmp_path / "batch.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="batch.npz must be an .npz file with images"):
        open_image_set(tmp_path / "batch.npz")


@pytest.mark.parametrize("format", ["png", "npz", "parquet"])
def test_the_shards_of_fqgan_sample_are_read_in_their_order(format, pipeline_dir, tmp_path):
    for name, of_shard in (("whole", 7), ("shards", 3)):
        words = {"num": 7, "shard_size": of_shard, "batch_size": 7, "class_labels": [1, 0]}
        sample_to_folder(pipeline_dir, tmp_path / name, format="npz" if name == "whole" else format, **words)
    images = open_image_set(tmp_path / "shards")
    assert isinstance(images, SampledImages) and len(images) == 7
    assert images.label_names == ["bright", "dark"]
    expected = np.load(tmp_path / "whole" / "shard-00000.npz")["arr_0"]
    for index in range(7):
        found, label = images[index]
        assert np.array_equal(np.asarray(found), expected[index]) and label == 1 - index % 2


def test_a_sampling_run_that_has_not_ended_is_no_set(pipeline_dir, tmp_path):
    sample_to_folder(pipeline_dir, tmp_path, num=4, shard_size=2)
    (tmp_path / "manifest.json").rename(tmp_path / "settings.json")
    with pytest.raises(ValueError, match="is not complete: run the `fqgan sample` that fills it"):
        open_image_set(tmp_path)


def test_names_that_hold_no_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file or folder /nowhere"):
        open_image_set("/nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="must be a folder, an .npz file or a dataset with a split, got the file"):
        open_image_set(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold images, parquet or tar files, got the empty folder"):
        open_image_set(tmp_path / "empty")


def test_batches_keep_numbers_and_sizes(images):
    whole = [indices for indices, *_ in image_batches(images, resolution=None, batch_size=8)]
    assert sum(whole, []) == list(range(30))
    shares = [
        [indices for indices, *_ in image_batches(images, resolution=None, batch_size=8, share=(i, 2))] for i in (0, 1)
    ]
    assert shares == [whole[::2], whole[1::2]]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_images_of_different_sizes_need_a_resolution(batch_size, tmp_path, cache_dir):
    for size in (8, 12):
        Image.new("RGB", (size, 9)).save(tmp_path / f"{size:02d}.png")
    images = open_image_set(tmp_path, cache_dir=str(cache_dir))
    with pytest.raises(ValueError, match="images must all have one size, got 8 x 9 and 12 x 9"):
        list(image_batches(images, resolution=None, batch_size=batch_size))
    sizes = [pixels.shape[2:] for _, pixels, _ in image_batches(images, resolution=8, batch_size=batch_size)]
    assert sizes == [(8, 8)] * (2 if batch_size == 1 else 1)
