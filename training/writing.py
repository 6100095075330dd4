# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Files that are complete or absent, and errors that say which file it was: a full disk by itself does not."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from fqgan_hf.failures import first_line
from fqgan_hf.files import atomic_path


@contextlib.contextmanager
def named_errors(path: str | Path) -> Iterator[None]:
    """An `OSError`, or what safetensors raises in its place, becomes one that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} could not be written: {first_line(error)}") from error


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """`atomic_path`, with `named_errors`."""
    with named_errors(path), atomic_path(path) as temporary:
        yield temporary
