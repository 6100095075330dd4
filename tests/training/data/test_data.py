# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Data order and augmentation: functions of (seed, epoch, index), whatever process asks."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fqgan_hf.codes.crops import center_crop, to_pixel_values
from fqgan_hf.evaluation.image_batches import ProcessedImages
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.evaluation.images import BadImages, LabelledImages, load_images
from fqgan_hf.training.data.crops import random_crop
from fqgan_hf.training.data.datasets import AugmentedImages, EpochSampler, split_indices

from ..conftest import CLASSES


@pytest.fixture
def images(image_folder, cache_dir) -> LabelledImages:
    return load_images(ImageDataArguments(train_data_dir=str(image_folder), cache_dir=str(cache_dir)))


def test_folder(images):
    assert len(images) == 24
    assert images.label_names == ["circle", "square", "stripes"]
    names = [images.name(i) for i in range(24)]
    assert len(set(names)) == 24 and "circle/00.png" in names
    for i in (0, 9, 23):
        image, label = images[i]
        assert image.mode == "RGB" and image.size == (24, 20)
        assert images.name(i).startswith(images.label_names[label])


def test_local_dataset_with_splits(image_folder, cache_dir, tmp_path):
    paths = sorted(image_folder.rglob("*.png"))
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=CLASSES)})
    for split, part in (("train", paths[:20]), ("test", paths[20:])):
        columns = {
            "img": [{"bytes": path.read_bytes(), "path": None} for path in part],
            "kind": [CLASSES.index(path.parent.name) for path in part],
        }
        dataset = datasets.Dataset.from_dict(columns, features=features)
        dataset.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    arguments = ImageDataArguments(dataset_name=str(tmp_path), cache_dir=str(cache_dir))
    images = load_images(arguments)
    assert len(images) == 20 and images.label_names == ["circle", "square", "stripes"]
    assert images[3][0].size == (24, 20)
    assert images.name(3) == f"{tmp_path.name}/train/00000003"
    assert len(load_images(arguments, "test")) == 4
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train'\].*got 'dev'"):
        load_images(arguments, "dev")
    arguments.image_column = "kind"
    with pytest.raises(ValueError, match=r"image_column must be one of the image columns \['img'\], got 'kind'"):
        load_images(arguments)
    folder = ImageDataArguments(train_data_dir=str(tmp_path), cache_dir=str(cache_dir), max_train_samples=5)
    assert len(load_images(folder)) == 5


def test_unlabelled_folder_and_unreadable_image(cache_dir, tmp_path):
    for i in range(3):
        Image.new("L", (8, 8), i * 100).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    images = load_images(ImageDataArguments(train_data_dir=str(tmp_path), cache_dir=str(cache_dir)))
    assert images.label_names == ["unlabelled"]
    assert images[0][1] == 0
    with pytest.raises(ValueError, match=r"image '1\.png' cannot be read"):
        images[1]


def test_next_image_replaces_a_bad_one(image_folder, cache_dir, tmp_path):
    """By rule, not by chance: the next of those to train on, with the crop that the bad one would have had."""
    paths = sorted(image_folder.rglob("*.png"))
    for i in range(200):
        (tmp_path / f"{i:03d}.png").write_bytes(paths[i % 24].read_bytes())
    arguments = ImageDataArguments(train_data_dir=str(tmp_path), cache_dir=str(cache_dir), skip_bad_images=True)
    indices = [5, 8, 9, 30]
    whole = AugmentedImages(load_images(arguments), indices, 16, seed=0, use_center_crop=True, random_flip=False)
    pictures = [whole[(3, position)]["pixel_values"] for position in range(4)]
    for i in (8, 30):
        (tmp_path / f"{i:03d}.png").write_bytes(b"no image")
    arguments.output_dir = str(tmp_path.parent)
    images = load_images(arguments)
    damaged = AugmentedImages(images, indices, 16, seed=0, use_center_crop=True, random_flip=False)
    for position, replacement in enumerate([0, 2, 2, 0]):
        sample = damaged[(3, position)]
        assert torch.equal(sample["pixel_values"], pictures[replacement]), position
        assert sample["index"] == indices[position]
    assert (tmp_path.parent / "bad_images.txt").read_text() == "008.png\n030.png\n", "each named once"
    held_out = ProcessedImages(images, indices, lambda image: {"pixel_values": [to_pixel_values(image)]})
    assert torch.equal(held_out[1]["pixel_values"], held_out[2]["pixel_values"])
    (tmp_path / "009.png").unlink()
    with pytest.raises(ValueError, match=r"tolerates 1% .* got 3 of 200: 008\.png, 009\.png, 030\.png"):
        damaged[(0, 2)]


def test_bad_images_are_counted_across_processes(tmp_path):
    """Two counters stand for two processes: neither has seen more than its share."""
    first, second = (BadImages(200, tmp_path / "bad.txt") for _ in range(2))
    error = ValueError("image cannot be read")
    first.add("a", error)
    first.add("a", error)
    second.add("a", error)
    second.add("b", error)
    with pytest.raises(ValueError, match="got 3 of 200: a, b, c"):
        first.add("c", error)


def test_data_arguments_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="exactly one of --train_data_dir and --dataset_name"):
        ImageDataArguments()
    with pytest.raises(FileNotFoundError, match="train_data_dir must be a folder, got '/nowhere'"):
        ImageDataArguments(train_data_dir="/nowhere")
    with pytest.raises(ValueError, match="resolution must be at least 1, got 0"):
        ImageDataArguments(dataset_name="x", resolution=0)
    with pytest.raises(ValueError, match="empty folder"):
        load_images(ImageDataArguments(train_data_dir=str(tmp_path)))


def test_sampler_is_a_permutation_cut_to_whole_steps():
    sampler = EpochSampler(num_samples=10, samples_per_step=4, seed=1)
    first = list(sampler)
    assert len(sampler) == len(first) == 8
    assert {epoch for epoch, _ in first} == {0}
    assert len({index for _, index in first}) == 8
    sampler.set_epoch(3)
    later = list(sampler)
    assert {epoch for epoch, _ in later} == {3}
    assert [i for _, i in later] != [i for _, i in first]
    assert later == list(sampler), "asking twice changes nothing"


def test_split_is_disjoint_and_repeatable():
    train, held_out = split_indices(50, 0.2, seed=5)
    assert len(held_out) == 10 and sorted(train + held_out) == list(range(50))
    assert split_indices(50, 0.2, seed=5) == (train, held_out)
    assert split_indices(50, 0.0, seed=5)[1] == []


def test_random_crop_protocol():
    image = Image.fromarray(np.arange(30 * 40, dtype=np.uint8).reshape(30, 40)).convert("RGB")
    sizes = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sizes.add(int(np.random.default_rng(seed).integers(16, 20, endpoint=True)))
        assert random_crop(image, 16, 1.25, rng).size == (16, 16)
    assert sizes == {16, 17, 18, 19, 20}, "short side from 1 to 1.25 times the crop"
    assert center_crop(image, 16).size == (16, 16)


def test_pixel_values():
    image = Image.new("RGB", (3, 2), (0, 255, 51))
    values = to_pixel_values(image)
    assert values.shape == (3, 2, 3) and values.dtype == torch.float32
    assert values[:, 0, 0].tolist() == pytest.approx([-1.0, 1.0, -0.6])


def test_augmentation_depends_on_seed_epoch_and_index_only(images):
    def crops(seed, epoch, num_workers=0):
        dataset = AugmentedImages(images, range(24), 16, seed)
        sampler = EpochSampler(24, 8, seed=0)
        sampler.set_epoch(epoch)
        loader = DataLoader(dataset, batch_size=8, sampler=sampler, num_workers=num_workers)
        batches = list(loader)
        order = torch.cat([batch["index"] for batch in batches]).argsort()
        return torch.cat([batch["pixel_values"] for batch in batches])[order]

    reference = crops(seed=0, epoch=0)
    torch.rand(100)  # the global generator does not matter
    assert torch.equal(reference, crops(seed=0, epoch=0, num_workers=2))
    assert not torch.equal(reference, crops(seed=0, epoch=1))
    assert not torch.equal(reference, crops(seed=1, epoch=0))


def test_flip_and_center_crop_options(images):
    plain = AugmentedImages(images, [0], 16, 0, use_center_crop=True, random_flip=False)
    assert all(torch.equal(plain[(epoch, 0)]["pixel_values"], plain[(0, 0)]["pixel_values"]) for epoch in range(5))
    flipped = AugmentedImages(images, [0], 16, 0, use_center_crop=True, random_flip=True)
    seen = {flipped[(epoch, 0)]["pixel_values"].numpy().tobytes() for epoch in range(20)}
    assert len(seen) == 2
