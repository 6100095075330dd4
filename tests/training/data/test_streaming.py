# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Streams: every image comes once a pass, the same again for the same settings, and from any step on."""

import io
import json
import shutil
import tarfile
from itertools import islice
from types import SimpleNamespace

import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.evaluation.images import load_images
from fqgan_hf.training.data.datasets import AugmentedImages
from fqgan_hf.training.data.streaming import StreamedSamples, StreamLoader
from fqgan_hf.training.train_fqgan import main as train_fqgan

from ..common.test_checkpointing import checkpoint_hashes


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """After each pass over parquet files `datasets` sleeps for seconds, until Arrow's threads are gone."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05, raising=False)


def picture(i: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (i, 0, 0)).save(file, format="png")
    return file.getvalue()


@pytest.fixture(scope="module")
def parquet_folder(tmp_path_factory):
    """120 pictures, whose red is their number, in four files."""
    folder = tmp_path_factory.mktemp("parquet")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])})
    for shard in range(4):
        numbers = range(30 * shard, 30 * shard + 30)
        columns = {
            "image": [{"bytes": picture(i), "path": f"{i}.png"} for i in numbers],
            "label": [i % 2 for i in numbers],
        }
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{shard}.parquet")
    return folder


def options(folder, cache_dir, **changes):
    arguments = ImageDataArguments(train_data_dir=str(folder), cache_dir=str(cache_dir))
    defaults = {"streaming": True, "streaming_samples": 120, "streaming_buffer_size": 20, "seed": 0}
    return SimpleNamespace(**{**vars(arguments), **defaults, "train_batch_size": 5, **changes})


def samples_of(args) -> AugmentedImages:
    return AugmentedImages(load_images(args), range(120), 16, args.seed, use_center_crop=True, random_flip=False)


def numbers(pixel_values: torch.Tensor) -> list[int]:
    return ((pixel_values[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_a_pass_shows_each_image_once(num_workers, num_processes, parquet_folder, cache_dir):
    """Processes and workers share the files; with three processes for four files, the images."""
    args = options(parquet_folder, cache_dir)
    seen = []
    for process in range(num_processes):
        samples = StreamedSamples(samples_of(args), args, process, num_processes, 0)
        loader = DataLoader(samples, batch_size=10, num_workers=num_workers)
        for batch in islice(loader, 120 // num_processes // 10):
            seen += numbers(batch["pixel_values"])
            assert batch["label"].tolist() == [i % 2 for i in numbers(batch["pixel_values"])]
    assert sorted(seen) == list(range(120))
    assert seen != sorted(seen)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_from_any_batch_on(num_workers, parquet_folder, cache_dir):
    """Also into the second pass, which has an order of its own."""
    args = options(parquet_folder, cache_dir)

    def batches(first, last):
        loader = StreamLoader(samples_of(args), args, num_workers)
        return [batch["pixel_values"] for batch in islice(loader.batches(first), last - first)]

    whole = batches(0, 34)
    passes = [sorted(sum(map(numbers, part), [])) for part in (whole[:24], whole[24:])]
    assert passes[0] == list(range(120)) and len(set(passes[1])) == 50
    assert not torch.equal(whole[0], whole[24])
    for first in (1, 26):
        assert all(torch.equal(*pair) for pair in zip(whole[first:], batches(first, 34), strict=True)), first


def test_a_bad_image_keeps_its_turn(parquet_folder, cache_dir, tmp_path):
    """The next one stands in; all others stay where they were, also for a run that begins behind."""
    args = options(parquet_folder, cache_dir, streaming_samples=400, skip_bad_images=True, output_dir=str(tmp_path))
    whole = [sample["pixel_values"] for sample in islice(StreamedSamples(samples_of(args), args, 0, 1, 0), 60)]
    bad = {numbers(whole[i][None])[0] for i in (10, 11, 40)}

    def damaged(num_skipped):
        samples = StreamedSamples(samples_of(args), args, 0, 1, num_skipped)
        decode = samples.images.decode

        def decode_damaged(row, position):
            if int(row["image"]["path"].split(".")[0]) in bad:
                row = {**row, "image": {"bytes": b"", "path": row["image"]["path"]}}
            return decode(row, position)

        samples.images.decode = decode_damaged
        return [sample["pixel_values"] for sample in islice(samples, 60 - num_skipped)]

    expected = [whole[{10: 12, 11: 12, 40: 41}.get(i, i)] for i in range(60)]
    for num_skipped in (0, 11):
        assert all(torch.equal(*pair) for pair in zip(expected[num_skipped:], damaged(num_skipped), strict=True))
    assert len((tmp_path / "bad_images.txt").read_text().splitlines()) == 3
    args.skip_bad_images = False
    with pytest.raises(ValueError, match=r"image '\d+\.png' cannot be read"):
        damaged(0)


def test_webdataset(cache_dir, tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for i in range(60 * shard, 60 * shard + 60):
                for name, content in ((f"{i:04d}.png", picture(i)), (f"{i:04d}.cls", b"1")):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    args = options(tmp_path, cache_dir)
    seen = [sample["pixel_values"] for sample in islice(StreamedSamples(samples_of(args), args, 0, 1, 0), 120)]
    assert sorted(numbers(torch.stack(seen))) == list(range(120))
    args.streaming = False
    images = load_images(args)
    assert len(images) == 120 and images.label_names == ["1"]


def test_what_cannot_be_streamed(parquet_folder, cache_dir, tokenizer_options, tmp_path):
    with pytest.raises(ValueError, match="streaming_samples must be given: .* does not say how many images"):
        load_images(options(parquet_folder, cache_dir, streaming_samples=None))
    args = options(parquet_folder, cache_dir)
    with pytest.raises(ValueError, match="gives a worker nothing to do: it has 4 files"):
        list(islice(DataLoader(StreamedSamples(samples_of(args), args, 0, 1, 0), num_workers=5), 9))
    words = tokenizer_options(tmp_path, streaming=True, validation_fraction=0.1)
    with pytest.raises(ValueError, match="streaming excludes --max_train_samples and --validation_fraction"):
        train_fqgan(words)


def test_training_on_a_stream_resumes_exactly(parquet_folder, tokenizer_options, tmp_path):
    changes = {
        "train_data_dir": parquet_folder,
        "streaming": True,
        "streaming_samples": 120,
        "streaming_buffer_size": 20,
        "dataloader_num_workers": 2,
        "gradient_accumulation_steps": 3,
        "checkpointing_steps": 3,
        "use_ema": True,
    }
    train_fqgan(tokenizer_options(tmp_path / "whole", **changes))
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    changes["resume_from_checkpoint"] = "latest"
    train_fqgan(tokenizer_options(tmp_path / "resumed", **changes))
    whole, resumed = (checkpoint_hashes(tmp_path / name / "checkpoint-6") for name in ("whole", "resumed"))
    assert whole == resumed
    record = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["epoch"] == 0.6
    with pytest.raises(ValueError, match=r"streams was \[1, 2, 4\] and is now \[1, 0, 4\]"):
        train_fqgan(tokenizer_options(tmp_path / "resumed", **{**changes, "dataloader_num_workers": 0}))
