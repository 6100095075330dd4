# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A tiny folder of images, tiny configurations, and the scripts run in this process."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from transformers import BitImageProcessor, CLIPConfig, CLIPImageProcessor, CLIPModel, Dinov2Config, Dinov2Model

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.training.data.crops import CROPS


CLASSES = ("circle", "square", "stripes")
NUM_IMAGES = 24

TOKENIZER = {**tiny.TOKENIZER, "block_out_channels": [8, 16, 16], "norm_num_groups": 4}
GENERATOR = tiny.BACKBONE  # the codes tell the rest


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Each run in this process sets accelerate's shared state up anew."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """24 pictures of 20x24 pixels in three class folders."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :24]
    for i in range(NUM_IMAGES):
        name = CLASSES[i % 3]
        center, radius = rng.integers(6, 14, 2), rng.integers(3, 7)
        mask = {
            "circle": (y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2,
            "square": (abs(y - center[0]) < radius) & (abs(x - center[1]) < radius),
            "stripes": (x + center[0]) // radius % 2 == 0,
        }[name]
        pixels = np.where(mask[..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3)).astype(np.uint8)
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def tokenizer_config(tmp_path_factory) -> Callable[[int], Path]:
    """Path of a tiny tokenizer's config.json, by number of codebooks."""
    folder = tmp_path_factory.mktemp("tokenizers")

    def write(num_codebooks: int) -> Path:
        path = folder / f"{num_codebooks}.json"
        path.write_text(json.dumps({**TOKENIZER, "num_codebooks": num_codebooks}))
        return path

    return write


@pytest.fixture(scope="session")
def generator_config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("generator") / "config.json"
    path.write_text(json.dumps(GENERATOR))
    return path


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> Path:
    """Where `datasets` may write."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def tokenizer_options(image_folder, tokenizer_config, cache_dir) -> Callable[..., list[str]]:
    """Command line of a six-step tokenizer training with every loss switched on; keywords change options."""

    def make(output_dir: Path, num_codebooks: int = 2, **changes) -> list[str]:
        options = {
            "train_data_dir": image_folder,
            "cache_dir": cache_dir,
            "model_config_name_or_path": tokenizer_config(num_codebooks),
            "output_dir": output_dir,
            "train_batch_size": 4,
            "max_train_steps": 6,
            "perceptual_weight": 0,
            "disc_start": 3,
            "disc_num_layers": 2,
            "disc_channels": 8,
            "logging_steps": 1,
            "learning_rate": 1e-3,
            **changes,
        }
        return to_words(options)

    return make


def to_words(options: dict) -> list[str]:
    return [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def to_command() -> Callable[[dict], list[str]]:
    """Options as command-line words."""
    return to_words


@pytest.fixture
def manifest() -> CodesManifest:
    """Of a store of ten rows in shards of four: three codebooks, two views, grids of 2x5."""
    return CodesManifest(
        tokenizer="t",
        tokenizer_fingerprint="f" * 64,
        num_codebooks=3,
        codebook_size=65536,
        grid=[2, 5],
        resolution=16,
        crop="flip",
        views=CROPS["flip"][0],
        source="s",
        shard_size=4,
        num_rows=10,
        id2label={"0": "a", "1": "b"},
    )


@pytest.fixture(scope="session")
def read_metrics() -> Callable[[Path], list[dict]]:
    def read(output_dir: Path) -> list[dict]:
        return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]

    return read


def save_vision_model(model, processor, folder: Path) -> str:
    for name, parameter in model.named_parameters():
        if "norm" in name:  # at 1 and 0 a forgotten or superfluous layer norm would go unnoticed
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> str:
    """A whole CLIP with random weights, as openai publishes it: two towers, 16 wide, 32x32 pixels."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = CLIPModel(
        CLIPConfig(vision_config={**tower, "image_size": 32, "patch_size": 8}, text_config={**tower, "vocab_size": 50})
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    return save_vision_model(model, processor, tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def tiny_dinov2(tmp_path_factory) -> str:
    """DINOv2 with random weights, 24 wide, 28x28 pixels."""
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=7
    )
    processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    return save_vision_model(Dinov2Model(config), processor, tmp_path_factory.mktemp("dinov2"))
