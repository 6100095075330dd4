# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Class labels by id or by name: what a person types -> the integers that the generator takes."""

import difflib
import numbers
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.files import read_json


if TYPE_CHECKING:
    import torch


def normalize_name(name: str) -> str:
    """A class name without the differences that nobody types the same: case, underscores, hyphens, runs of spaces."""
    return re.sub(r"[\s_\-]+", " ", name).strip().casefold()


def index_names(id2label: Mapping[int | str, str]) -> dict[str, list[int]]:
    """
    Map every normalised name to the ids that carry it.

    An entry like "tench, Tinca tinca" answers to each comma part and to the whole. A name that is some class's whole
    entry means that class even where another class lists it as a synonym ("maillot" beside "maillot, tank suit").

    Args:
        id2label (`Mapping`): Class id (an int, or its digits as JSON gives them) to name.

    Returns:
        `dict[str, list[int]]`: More than one id only where the names are truly ambiguous.
    """
    whole: dict[str, list[int]] = {}
    parts: dict[str, list[int]] = {}
    for key, entry in id2label.items():
        whole.setdefault(normalize_name(entry), []).append(int(key))
        for part in {normalize_name(part) for part in entry.split(",")} - {""}:
            parts.setdefault(part, []).append(int(key))
    return {**parts, **whole}


def class_names(id2label: Mapping[int | str, str] | None) -> dict[int, str]:
    """A configuration's names by class id, without those that transformers invents for a model that has none."""
    return {int(key): name for key, name in (id2label or {}).items() if name != f"LABEL_{key}"}


def parse_labels(words: Iterable[str]) -> list[int | str]:
    """Class labels as typed: "3" is an id; a class whose name is a number still answers to its id."""
    return [int(word) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", word) else word for word in words]


def read_labels(folder: Path, words: Iterable[str]) -> tuple[list[int], list[str]]:
    """
    Class ids of labels as typed, and their names as captions, from a pipeline's configuration alone.

    Args:
        folder (`Path`): A saved [`FARPipeline`].
        words (`Iterable[str]`): Ids or names.

    Raises:
        ValueError: For labels that the model does not have, or a configuration without classes.
    """
    path = folder / "transformer" / "config.json"
    config = read_json(path)
    num_classes, id2label = config.get("num_classes"), config.get("id2label")
    if not isinstance(num_classes, int) or not isinstance(id2label or {}, dict):
        raise ValueError(f"{path} must give num_classes and id2label")
    names = class_names(id2label)
    labels = resolve_labels(parse_labels(words), num_classes, names)
    return labels, [names.get(label, f"class {label}") for label in labels]


def resolve_labels(
    class_labels: "int | str | Iterable[int | str] | torch.Tensor",
    num_classes: int,
    id2label: Mapping[int | str, str] | None = None,
) -> list[int]:
    """
    Class ids from ids, names or a mixture of both.

    Args:
        class_labels (`int`, `str`, `torch.Tensor` or iterable of `int` and `str`):
            One label or several. A bare string is one label. Names ignore case, underscores and hyphens.
        num_classes (`int`): Ids must be in [0, num_classes - 1].
        id2label (`Mapping`, *optional*): Names of the classes; without it only ids are accepted.

    Returns:
        `list[int]`: One id per label, in the order given.

    Raises:
        ValueError:
            If a label is out of range, a float, a boolean, an unknown name (near misses are suggested) or a name that
            several classes share, or if there is no label at all.
    """
    if hasattr(class_labels, "tolist") and getattr(class_labels, "ndim", 0) > 0:  # a tensor or an array
        if class_labels.ndim > 1 or re.search("float|bool|complex", str(class_labels.dtype)):
            raise ValueError(
                f"class_labels as a tensor must hold integers in one dimension, "
                f"got {class_labels.dtype} of shape {tuple(class_labels.shape)}"
            )
        class_labels = class_labels.tolist()
    if isinstance(class_labels, (str, numbers.Number)) or getattr(class_labels, "ndim", None) == 0:
        class_labels = [class_labels]
    if isinstance(class_labels, Mapping) or not isinstance(class_labels, Iterable):
        raise ValueError(
            f"class_labels must be class ids or names: an int, a str or a list of them, got {class_labels!r}"
        )
    class_labels = list(class_labels)
    if not class_labels:
        raise ValueError("class_labels must hold at least one label, got an empty list")

    index = None
    ids = []
    for label in class_labels:
        if isinstance(label, str):
            index = index_names(id2label or {}) if index is None else index
            ids.append(_resolve_name(label, index, num_classes))
        else:
            ids.append(_check_id(label, num_classes))
    return ids


def _check_id(label: Any, num_classes: int) -> int:
    if getattr(label, "ndim", None) == 0:
        label = label.item()
    # numpy's booleans and floats are no numbers.Integral; Python's bool is one.
    if isinstance(label, bool) or not isinstance(label, numbers.Integral):
        raise ValueError(f"class_labels must be integers or names, got {label!r} of type {type(label).__name__}")
    if not 0 <= label < num_classes:
        raise ValueError(f"class_labels must be in [0, {num_classes - 1}], got {label}")
    return int(label)


def _resolve_name(label: str, index: dict[str, list[int]], num_classes: int) -> int:
    ids = index.get(normalize_name(label), [])
    if len(ids) == 1:
        # The names come from a file that anybody may have edited.
        return _check_id(ids[0], num_classes)
    if ids:
        raise ValueError(f"class_labels: {len(ids)} classes are named {label!r}: pass one of the ids {sorted(ids)}")
    if not index:
        raise ValueError(
            f"class_labels: this model has no class names (config.id2label), got {label!r}; "
            f"pass an id in [0, {num_classes - 1}]"
        )
    if label.strip().isdecimal():
        raise ValueError(f"class_labels: no class is named {label!r}; pass an id as an integer, not as a string")
    near = difflib.get_close_matches(normalize_name(label), index, n=3)
    hint = "; did you mean " + ", ".join(f"{name!r} ({index[name][0]})" for name in near) + "?" if near else ""
    raise ValueError(f"class_labels: no class is named {label!r}{hint or ' and no name comes near it'}")
