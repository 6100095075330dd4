# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A small data set of pictures with captions, keywords and label maps."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image


NUM_LABELS = 5
COLORS = np.array([(255, 255, 255), (200, 30, 30), (30, 200, 30), (30, 30, 200), (20, 20, 20)], dtype=np.uint8)
CAPTIONS = ["a red box", "Left arrow", "bright copyright sign", "leftwards hand"]


def draw_labels(number: int, height: int = 16, width: int = 16) -> np.ndarray:
    """Labels `(height, width)`, uint8, of a drawing: two boxes on label 0, nowhere symmetric."""
    rng = np.random.default_rng(number)
    labels = np.zeros((height, width), dtype=np.uint8)
    for label in rng.permutation(np.arange(1, NUM_LABELS))[:2]:
        top, left = rng.integers(0, height - 5), rng.integers(0, width - 5)
        labels[top : top + rng.integers(3, 6), left : left + rng.integers(3, 6)] = label
    return labels


def cell(image: Image.Image) -> dict:
    """A cell of an image column."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


def palette_picture(labels: np.ndarray) -> Image.Image:
    """As drawing programs save label maps: with a palette of the labels' colours."""
    image = Image.fromarray(labels)
    image.putpalette(COLORS.tobytes())
    return image


def make_dataset(number: int = 24, **changes: list) -> datasets.Dataset:
    """Columns `image`, `map` (palette), `grey` (the same labels), `picture` (as `image`), `caption` and `keywords`."""
    labels = [draw_labels(i) for i in range(number)]
    columns = {
        "image": [cell(Image.fromarray(COLORS[one])) for one in labels],
        "map": [cell(palette_picture(one)) for one in labels],
        "grey": [cell(Image.fromarray(one)) for one in labels],
        "caption": [CAPTIONS[i % 4] for i in range(number)],
        "keywords": [["sign", CAPTIONS[i % 4], f"number {i}"] for i in range(number)],
        "label": [i % 2 for i in range(number)],
    }
    columns["picture"] = columns["image"]
    features = {name: datasets.Image() for name in ("image", "map", "grey", "picture")}
    features |= {"caption": datasets.Value("string"), "keywords": datasets.List(datasets.Value("string"))}
    features["label"] = datasets.ClassLabel(names=["even", "odd"])
    return datasets.Dataset.from_dict({**columns, **changes}, features=datasets.Features(features))


def write_dataset(folder: Path, number: int = 24, **changes: list) -> Path:
    """The data set in a parquet file of a folder, with some columns replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    make_dataset(number, **changes).to_parquet(folder / "data.parquet")
    return folder
