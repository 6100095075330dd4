# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The kinds of shards that `fqgan sample` writes: PNG folders, npz and parquet files."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Rows:
    """
    What stands beside the images of a shard.

    Args:
        indices (`Sequence[int]`): Of the images in their run.
        labels (`Sequence[int]`): Class id of each image.
        label_names (`Sequence[str]`): Name of every class, by id.
        columns (`Mapping[str, np.ndarray]`): What else there is about each image, by name.
    """

    indices: Sequence[int]
    labels: Sequence[int]
    label_names: Sequence[str]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def file_name(self, index: int) -> str:
        """Of the picture of an image."""
        return f"{index:08d}.png"


class Format(NamedTuple):
    """
    A kind of shard.

    Args:
        suffix (`str`): Ending of its name.
        keep (`Callable`): How an image is kept until its shard is full.
        write (`Callable`): Writes kept images, with their rows, to a path.
        count (`Callable`): Number of images that a path holds.
    """

    suffix: str
    keep: Callable[[Image.Image], Any]
    write: Callable[[Path, list, Rows], None]
    count: Callable[[Path], int]


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def _write_png(path: Path, images: list[bytes], rows: Rows) -> None:
    path.mkdir()
    for index, image in zip(rows.indices, images, strict=True):
        (path / rows.file_name(index)).write_bytes(image)
    with open(path / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_name", "index", "label", "class_name", *rows.columns])
        for index, label, *others in zip(rows.indices, rows.labels, *rows.columns.values(), strict=True):
            writer.writerow([rows.file_name(index), index, label, rows.label_names[label], *others])


def _write_npz(path: Path, images: list[np.ndarray], rows: Rows) -> None:
    with open(path, "wb") as file:  # given a name, savez would add .npz to it
        np.savez(file, arr_0=np.stack(images), arr_1=np.array(rows.labels, dtype=np.int64), **rows.columns)


def _write_parquet(path: Path, images: list[bytes], rows: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Value
    from datasets import Image as ImageFeature

    repeated = {name for name, count in Counter(rows.label_names).items() if count > 1}  # ClassLabel refuses them
    names = [f"{name} ({i})" if name in repeated else name for i, name in enumerate(rows.label_names)]
    kinds = {"image": ImageFeature(), "index": Value("int64"), "label": ClassLabel(names=names)}
    others = {name: Value("string" if v.dtype.kind == "U" else str(v.dtype)) for name, v in rows.columns.items()}
    schema = Features({**kinds, **others}).arrow_schema
    columns = {
        "image": [{"bytes": image, "path": rows.file_name(i)} for i, image in zip(rows.indices, images, strict=True)],
        "index": list(rows.indices),
        "label": list(rows.labels),
        **rows.columns,
    }
    # PNG is compressed already; small row groups let a reader take a part.
    pq.write_table(pa.table(columns, schema=schema), path, compression="none", row_group_size=100)


def _count_png(path: Path) -> int:
    return sum(1 for _ in path.glob("*.png"))


def _count_npz(path: Path) -> int:
    with np.load(path) as arrays:
        return len(arrays["arr_1"])


def _count_parquet(path: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


FORMATS = {
    "png": Format("", _to_png, _write_png, _count_png),
    "npz": Format(".npz", np.asarray, _write_npz, _count_npz),
    "parquet": Format(".parquet", _to_png, _write_parquet, _count_parquet),
}
