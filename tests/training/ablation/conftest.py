# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What all ablations are tested with: pictures, a judge, options of a call, and scripts that run in this process."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from transformers import RegNetConfig, RegNetForImageClassification, ViTImageProcessor

from fqgan_hf.processes import ScriptRunner


CLASSES = ["dark", "bright"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A folder with the splits train (24 pictures) and test (12), of two classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("data") / "shades"
    rng = np.random.default_rng(0)
    for split, number in (("train", 24), ("test", 12)):
        for i in range(number):
            name = CLASSES[i % 2]
            pixels = rng.integers(0, 120, (16, 16, 3)) + (130 if name == "bright" else 0)
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A tiny classifier with random weights, in the alphabetical class order of the folder."""
    torch.manual_seed(0)
    names = dict(enumerate(sorted(CLASSES)))
    config = RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8, id2label=names)
    folder = tmp_path_factory.mktemp("network") / "tiny-net"
    RegNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def words(dataset, network, cache_dir, tmp_path) -> list[str]:
    """Options of a call that do not depend on the table."""
    return [
        *("--dataset", str(dataset), "--feature_extractor", str(network), "--cache_dir", str(cache_dir)),
        *("--output_dir", str(tmp_path / "runs"), "--results_dir", str(tmp_path / "results")),
        *("--num_test_images", "10", "--batch_size", "4"),
    ]


@pytest.fixture
def in_this_process(monkeypatch) -> list[list[str]]:
    """The training scripts run here instead of in processes of their own; gives their command lines."""
    calls = []

    def run(self, script, words, log):
        calls.append([script, *words])
        try:
            importlib.import_module(f"fqgan_hf.training.{script}").main(words)
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()

    monkeypatch.setattr(ScriptRunner, "run", run)
    return calls
