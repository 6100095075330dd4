# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Configurations as they come from elsewhere: values of the right type within bounds, and names that exist.

The bounds lie far above anything that was ever trained. They are there so that a `config.json` of a stranger cannot
ask for a model without end.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """What a setting accepts: whole numbers (`int`) or real ones (`float`), both ends included."""

    kind: type
    least: float
    most: float
    optional: bool = False

    def __str__(self) -> str:
        kind = "an integer" if self.kind is int else "a number"
        return f"{kind} in [{self.least:,}, {self.most:,}]" + (" or None" if self.optional else "")


def check_setting(name: str, value: Any, setting: Setting) -> int | float | None:
    """
    The value itself, an `int` as a `float` where real numbers are accepted.

    Raises:
        ValueError: It is of another type, not finite, or out of bounds.
    """
    if value is None and setting.optional:
        return None
    is_number = isinstance(value, (int, float) if setting.kind is float else int) and not isinstance(value, bool)
    if not is_number or not setting.least <= value <= setting.most:  # NaN lies nowhere
        raise ValueError(f"{name} must be {setting}, got {value!r:.80}")
    return float(value) if setting.kind is float else value


def check_names(given: Iterable[str], known: Iterable[str], owner: str) -> None:
    """
    Raise `ValueError` for a name that is nearly a setting's: a misspelt one would leave the setting at its default.

    Names that resemble none are let pass: the libraries keep more in a configuration than the model's settings.
    """
    known = set(known)
    for name in given:
        if name not in known and not name.startswith("_"):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if near:
                raise ValueError(f"{owner} has no setting {name}: did you mean {near[0]}?")


def check_label_names(id2label: Any) -> None:
    """Raise `ValueError` unless `id2label` maps class ids, or their digits as JSON has them, to names."""
    if id2label is None:
        return
    is_id = [isinstance(key, int) or (isinstance(key, str) and key.isdecimal()) for key in id2label]
    if not isinstance(id2label, Mapping) or not all(is_id) or not all(isinstance(v, str) for v in id2label.values()):
        raise ValueError(f"id2label must map class ids to names, got {id2label!r:.80}")


def is_finite_number(value: Any) -> bool:
    """Whether it is a real number, neither NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
