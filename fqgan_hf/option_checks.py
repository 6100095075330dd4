# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Options as dataclass fields, and what their values must satisfy. Importing this file is cheap."""

import contextlib
import math
import os
from dataclasses import field
from typing import Any


MAX_SEED = 2**32 - 1  # torch's generator on a CPU reads 32 bits, and numpy refuses more


def option(default: Any, description: str) -> Any:
    """A dataclass field with a default and the line that `--help` shows."""
    return field(default=default, metadata={"help": description})


def as_list(value: Any) -> list[Any]:
    """The values of an option that may take one or several."""
    return value if isinstance(value, list) else [value]


def _is_usable(text: str) -> bool:
    with contextlib.suppress(UnicodeEncodeError):  # half of a surrogate pair
        return bool(text) and b"\0" not in os.fsencode(text)
    return False


def check_values(arguments: Any) -> None:
    """Raise `ValueError` for a text that cannot name a file, and for a number that is not finite."""
    for name, value in vars(arguments).items():
        for item in as_list(value):
            if isinstance(item, str) and not _is_usable(item):
                raise ValueError(f"{name} must be a text that is not empty and can name a file, got {item!r}")
            if isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"{name} must be finite, got {item}")


def check_at_least(arguments: Any, minimum: int, *names: str) -> None:
    """Raise `ValueError` for the first named option that is set and below `minimum`."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_seed(name: str, seed: int) -> None:
    """Raise `ValueError` for a seed that some generator would truncate, so that it would equal another."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"{name} must be in [0, {MAX_SEED}], got {seed}")
