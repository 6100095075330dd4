# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The demo's data, and the two networks that know it."""

from dataclasses import replace

import numpy as np
import pytest
import torch


pytest.importorskip("sklearn")
pytest.importorskip("datasets")

from fqgan_hf.demo.digits import (
    DIGIT_NAMES,
    IMAGE_SIZE,
    JUDGE,
    NUM_HELD_OUT,
    TEACHER,
    enlarge,
    load_digits,
    train_network,
    write_dataset,
)
from fqgan_hf.evaluation.features import FeatureNetwork
from fqgan_hf.training.fqgan.teachers import Teacher


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_the_split_is_stratified_disjoint_and_always_the_same(digits):
    again = load_digits()
    assert np.array_equal(digits.train, again.train)
    assert len(digits.train) + len(digits.held_out) == 1797
    assert len(digits.held_out) == NUM_HELD_OUT
    train = {row.tobytes() for row in digits.train}
    assert not any(row.tobytes() in train for row in digits.held_out)
    shares = [np.bincount(labels) / len(labels) for labels in (digits.train_labels, digits.held_out_labels)]
    assert np.abs(shares[0] - shares[1]).max() < 0.005


def test_an_enlarged_digit_is_the_digit(digits):
    pixels = np.stack([np.asarray(enlarge(digit), dtype=float) for digit in digits.held_out])
    assert pixels.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE)
    small = pixels.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(-1, 64) * (16 / 255)
    error = np.abs(small - digits.held_out)
    assert error.mean() < 1  # of 17 levels: smoothing bleeds into the neighbours
    assert error.max() < 5


def test_the_dataset_on_disk_holds_pictures_and_labels(digits, tmp_path):
    import datasets

    write_dataset(digits, tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "held_out/00000.parquet",
        "train/00000.parquet",
    ]
    files = {"held_out": str(tmp_path / "held_out" / "*.parquet")}
    rows = datasets.load_dataset("parquet", data_files=files, split="held_out", cache_dir=str(tmp_path / "cache"))
    assert rows.features["label"].names == DIGIT_NAMES
    assert rows["label"][:] == digits.held_out_labels.tolist()
    assert np.array_equal(np.asarray(rows[3]["image"]), np.asarray(enlarge(digits.held_out[3])))


@pytest.mark.parametrize("recipe", [JUDGE, TEACHER], ids=["judge", "teacher"])
def test_a_network_knows_digits_that_it_has_not_seen(recipe, digits, tmp_path):
    train_network(replace(recipe, num_epochs=3), digits, tmp_path)
    network = FeatureNetwork(tmp_path)
    assert network.label_names == DIGIT_NAMES
    found = network([enlarge(digit) for digit in digits.held_out])
    assert found.pooled.shape == (NUM_HELD_OUT, recipe.hidden_sizes[-1])
    assert np.mean(found.predictions.numpy() == digits.held_out_labels) > 0.95
    # The same folder as a teacher: the same feature for the same picture, from pixels.
    pixels = torch.from_numpy(np.stack([np.asarray(enlarge(digit)) for digit in digits.held_out[:4]])).float()
    taught = Teacher(str(tmp_path))((pixels / 127.5 - 1)[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(taught, found.pooled[:4], atol=1e-4, rtol=1e-4)


def test_a_network_follows_from_its_recipe_alone(digits, tmp_path):
    recipe = replace(TEACHER, num_epochs=1)
    torch.manual_seed(5)
    train_network(recipe, digits, tmp_path / "first")
    state = torch.get_rng_state()
    torch.manual_seed(6)
    train_network(recipe, digits, tmp_path / "second")
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())  # and leaves torch's generator as it was
