# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Fixtures and settings that every test shares: offline, two threads, one seed."""

import os
from pathlib import Path


# Before any import of huggingface_hub, which reads it once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random  # noqa: E402
import sys  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402


REPOSITORY = Path(__file__).resolve().parent.parent

# For tests/tiny.py and tests/fakehub.py. At the end: tests/fqgan_hf must not hide the package of that name.
sys.path.append(str(REPOSITORY / "tests"))

# Models here are so small that a second thread costs more than it gives, far more on a busy machine.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs CUDA")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same state of the global generators."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of recorded fixtures and sample data: `../shared` beside the checkout, or $FQGAN_SHARED."""
    folder = Path(os.environ.get("FQGAN_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no folder of shared fixtures at {folder} (set FQGAN_SHARED)")
    return folder
