# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Two tokenizers, and folders of pictures."""

import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fqgan_hf.cli import main
from fqgan_hf.codes.code_files import open_codes


BAR = re.compile(r"(encoding|decoding|checking): ")


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory):
    """Where `datasets` may write, here and in processes that tests start."""
    folder = str(tmp_path_factory.mktemp("datasets"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", folder)
        yield


def save_tokenizer(folder: Path, seed: int = 0, **settings) -> Path:
    """With codebooks far apart: as they are initialized, most images would have the same few codes."""
    torch.manual_seed(seed)
    model = tiny.tokenizer(**settings)
    torch.nn.init.normal_(model.quantizer.embedding)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("models") / "tokenizer")


@pytest.fixture(scope="session")
def other_tokenizer(tmp_path_factory) -> Path:
    """Of the same configuration, with other weights."""
    return save_tokenizer(tmp_path_factory.mktemp("models") / "other", seed=1)


def write_pictures(folder: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    """Smooth pictures of these sizes (width, height), by name."""
    rng = np.random.default_rng(0)
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """22 pictures of two classes, none of them square."""
    sizes = {f"{'ab'[i % 2]}/{i:02d}.png": (20 + i, 18) for i in range(22)}
    return write_pictures(tmp_path_factory.mktemp("pictures") / "set", sizes)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> Path:
    """Seven pictures of five sizes, not all of them multiples of 4."""
    sizes = [(16, 16), (24, 16), (16, 16), (33, 21), (16, 40), (27, 18), (8, 4)]
    return write_pictures(tmp_path_factory.mktemp("mixed") / "set", {f"{i}.png": size for i, size in enumerate(sizes)})


@pytest.fixture(scope="session")
def rows_of():
    """The grid `(views, K, h, w)` of each row of codes by its id, as it is read in batches of four."""

    def read(path: Path) -> dict[str, np.ndarray]:
        batches = open_codes(path).batches(4)
        return {name: grid for rows in batches for name, grid in zip(rows.ids, rows.grids, strict=True)}

    return read


@pytest.fixture
def fails(capsys):
    """Runs the command and gives its one line on stderr besides bars; the exit status must be the expected one."""

    def run(argv: list, status: int = 1) -> str:
        capsys.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        assert code == status, captured.err
        lines = [line for line in captured.err.replace("\r", "\n").splitlines() if line and not BAR.match(line)]
        assert len(lines) == 1, captured.err
        assert captured.out == ""
        return lines[0]

    return run
