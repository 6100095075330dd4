# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Codes in one file: parquet, npz or safetensors; and one way to read these and the folders of a store.

    codes = open_codes("codes.npz")
    codes.manifest.tokenizer_fingerprint, codes.num_rows
    for rows in codes.batches(16): rows.ids, rows.grids

All forms have columns of the same names, one row per image:

    id          string
    label       int64
    codes       uint16 (N, K, h, w); flattened in parquet, and wherever the grids differ
    height      int32, and width: of each grid, where they differ

and three texts that say what they are: `extraction` (JSON: what the shards of a store have in common, the tokenizer's
fingerprint among it), `skipped` (JSON: ids of images that could not be read) and `tokenizer` (its name). In parquet
they are metadata with `fqgan_hf.` before the name, as in a shard, in npz arrays without dimensions, in safetensors
metadata, as the ids are there (JSON).

Shapes: N images, V views, K codebooks, h w grid.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save_file

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.store import shard_files
from fqgan_hf.failures import first_line
from fqgan_hf.files import MANIFEST, atomic_path, sha256


METADATA_PREFIX = "fqgan_hf."
TEXTS = ("extraction", "skipped", "tokenizer")


class CodeRows(NamedTuple):
    """Some rows; a grid of codes is `(V, K, h, w)`, uint16."""

    ids: list[str]
    labels: np.ndarray
    grids: Sequence[np.ndarray]


class CodeFile:
    """
    The rows of one file.

    Args:
        path (`Path`): Parquet, npz or safetensors.

    Attributes:
        manifest ([`CodesManifest`]): What they are; says nothing of shards.
        num_rows (`int`): How many there are.

    Raises:
        ValueError: It is damaged, or does not say which tokenizer made its codes.
    """

    path: Path
    manifest: CodesManifest
    num_rows: int

    def batches(self, batch_size: int) -> Iterator[CodeRows]:
        """
        The rows in order, `batch_size` at a time.

        Raises:
            ValueError: The file is damaged, or a code is of no codebook.
        """
        raise NotImplementedError

    def _grids(self, values: np.ndarray, sizes: Sequence[tuple[int, int]] | None) -> Sequence[np.ndarray]:
        """Flattened codes as grids `(V, K, h, w)` of these sizes, or without them of the manifest's."""
        manifest = self.manifest
        if values.dtype != np.uint16:
            raise ValueError(f"codes must be uint16, got {values.dtype}")
        if values.size and values.max() >= manifest.codebook_size:
            raise ValueError(f"codes must be in [0, {manifest.codebook_size - 1}], got {values.max()}")
        if manifest.grid is not None:
            return values.reshape(-1, *manifest.shape)
        ends = self._ends(sizes)
        if ends[-1] != values.size or min((side for size in sizes for side in size), default=1) < 1:
            raise ValueError(f"{values.size} codes do not fill their grids")
        parts = np.split(values, ends[1:-1])
        kinds = (len(manifest.views), manifest.num_codebooks)
        return [part.reshape(*kinds, *size) for part, size in zip(parts, sizes, strict=False)]

    def _ends(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Where each grid of these sizes ends, after a 0."""
        depth = len(self.manifest.views) * self.manifest.num_codebooks
        return list(accumulate((depth * height * width for height, width in sizes), initial=0))


class ParquetCodes(CodeFile):
    """A parquet file: one file of codes, or a shard of a store. Read row group by row group."""

    def __init__(self, path: Path):
        self.path = path
        with _named_damage(path):
            metadata = pq.read_metadata(path)
        texts = {name: (metadata.metadata or {}).get(f"{METADATA_PREFIX}{name}".encode()) for name in TEXTS}
        self.manifest = _manifest_of(texts, path)
        self.num_rows = metadata.num_rows

    def batches(self, batch_size: int) -> Iterator[CodeRows]:
        columns = ["id", "label", "codes", *(() if self.manifest.grid else ("height", "width"))]
        with _named_damage(self.path), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size, columns=columns):
                yield self._rows(batch)

    def _rows(self, batch: pa.RecordBatch) -> CodeRows:
        values = batch.column("codes").flatten().to_numpy()
        sizes = None
        if self.manifest.grid is None:
            sizes = list(zip(*(batch.column(name).to_pylist() for name in ("height", "width")), strict=True))
        rows = CodeRows(batch.column("id").to_pylist(), batch.column("label").to_numpy(), self._grids(values, sizes))
        if any(column.null_count for column in batch.columns) or len(rows.grids) != len(rows.ids):
            raise ValueError("rows lack values")
        return rows


class ArrayCodes(CodeFile):
    """A file of arrays, npz or safetensors, held in memory."""

    def __init__(self, path: Path):
        self.path = path
        with _named_damage(path):
            texts, arrays = (_read_npz if path.suffix == ".npz" else _read_safetensors)(path)
        self.manifest = _manifest_of(texts, path)
        with _named_damage(path):
            self.ids, self.labels = [str(name) for name in arrays["id"]], arrays["label"]
            self.num_rows = len(self.ids)
            sizes = None
            if self.manifest.grid is None:
                sizes = list(zip(arrays["height"].tolist(), arrays["width"].tolist(), strict=True))
            self.grids = self._grids(arrays["codes"].reshape(-1), sizes)
            if not len(self.labels) == len(self.grids) == self.num_rows:
                raise ValueError("its columns have different lengths")

    def batches(self, batch_size: int) -> Iterator[CodeRows]:
        for start in range(0, self.num_rows, batch_size):
            part = slice(start, start + batch_size)
            yield CodeRows(self.ids[part], self.labels[part], self.grids[part])


class StoredCodes(CodeFile):
    """A folder with a manifest, as extract_codes and `fqgan encode` write it. Its rows are read shard by shard."""

    def __init__(self, path: Path):
        if not (path / MANIFEST).is_file():
            raise ValueError(
                f"{path} holds no {MANIFEST}: it is no folder of codes, or one that is not complete; then run the "
                "command that fills it again"
            )
        self.path = path
        self.manifest = CodesManifest.load(path, any_size=True)
        self.num_rows = sum(shard["rows"] for shard in self.manifest.shards)

    def batches(self, batch_size: int) -> Iterator[CodeRows]:
        for shard in self.manifest.shards:
            yield from ParquetCodes(self.path / shard["file"]).batches(batch_size)


def open_codes(path: str | Path) -> CodeFile:
    """
    Codes of any form: a file, or the folder of a store.

    Args:
        path (`str` or `Path`): In .parquet, .npz or .safetensors, or a folder with a manifest.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: It is something else, damaged, or does not say which tokenizer made its codes.
    """
    path = Path(path)
    if path.is_dir():
        return StoredCodes(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if path.suffix not in FORMATS:
        raise ValueError(f"codes are in {', '.join(FORMATS)} files and in folders, got {path}")
    return FORMATS[path.suffix].read(path)


def content_hash(codes: CodeFile) -> str:
    """
    SHA-256 of a file, or of those of a store.

    Raises:
        ValueError: A shard of the store is not what was written.
    """
    if not isinstance(codes, StoredCodes):
        return sha256(codes.path)
    shard_files(codes.path, codes.manifest, "codes")
    return codes.manifest.content_fingerprint()


def join_store(folder: Path, manifest: CodesManifest, path: Path) -> None:
    """
    Write the rows of a finished store into one file, which appears complete or not at all.

    Args:
        folder (`Path`): The store.
        manifest ([`CodesManifest`]): Its manifest.
        path (`Path`): The file; its ending says of which form. Parquet gets a row group for each shard, of which one
            is in memory at a time; the other forms need memory for all codes.
    """
    files = shard_files(folder, manifest, "out")
    with atomic_path(path) as temporary:
        FORMATS[path.suffix].join(temporary, files, manifest)


def _texts_of(manifest: CodesManifest) -> dict[str, str]:
    skipped = json.dumps(manifest.skipped)
    return {"extraction": manifest.identity().decode(), "skipped": skipped, "tokenizer": manifest.tokenizer}


def _manifest_of(texts: Mapping[str, str | bytes | None], path: Path) -> CodesManifest:
    """The manifest that the texts of a file are of."""
    if texts.get("extraction") is None:
        raise ValueError(f"{path} does not say which tokenizer made its codes: `fqgan encode` writes files that do")
    try:
        content, skipped = json.loads(texts["extraction"]), json.loads(texts.get("skipped") or "[]")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: extraction must be a JSON object, got {type(content).__name__}")
    tokenizer = texts.get("tokenizer") or b""
    tokenizer = tokenizer.decode(errors="replace") if isinstance(tokenizer, bytes) else tokenizer
    return CodesManifest.parse({**content, "tokenizer": tokenizer, "skipped": skipped}, path)


@contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is read becomes a `ValueError` that names it."""
    try:
        yield
    except Exception as error:  # zip files, parquet files and headers can be damaged in many ways
        raise ValueError(f"{path} is damaged, or holds no codes: {first_line(error)}") from error


# ---- The forms ----


def _join_parquet(path: Path, files: Sequence[Path], manifest: CodesManifest) -> None:
    schema = pq.read_schema(files[0])
    texts = {f"{METADATA_PREFIX}{name}": text for name, text in _texts_of(manifest).items()}
    with pq.ParquetWriter(path, schema.with_metadata(texts), compression="zstd") as writer:
        for file in files:
            writer.write_table(pq.read_table(file).replace_schema_metadata(texts))


def _columns(files: Sequence[Path], manifest: CodesManifest) -> dict[str, Any]:
    """All rows of shards: `id` (list), and arrays `label`, `codes` and where grids differ `height` and `width`."""
    rows = [rows for file in files for rows in ParquetCodes(file).batches(4096)]
    columns: dict[str, Any] = {"id": [name for part in rows for name in part.ids]}
    columns["label"] = np.concatenate([part.labels for part in rows])
    if manifest.grid is not None:
        codes = np.concatenate([part.grids for part in rows])
        columns["codes"] = codes[:, 0] if len(manifest.views) == 1 else codes
        return columns
    grids = [grid for part in rows for grid in part.grids]
    for axis, name in ((2, "height"), (3, "width")):
        columns[name] = np.array([grid.shape[axis] for grid in grids], np.int32)
    columns["codes"] = np.concatenate([grid.reshape(-1) for grid in grids])
    return columns


def _join_npz(path: Path, files: Sequence[Path], manifest: CodesManifest) -> None:
    texts = {name: np.array(text) for name, text in _texts_of(manifest).items()}
    columns = _columns(files, manifest)
    with open(path, "wb") as file:  # given a name, savez would add .npz to it
        np.savez(file, **{**columns, "id": np.array(columns["id"]), **texts})


def _read_npz(path: Path) -> tuple[dict[str, str | None], dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    texts = {name: str(arrays.pop(name)) if name in arrays else None for name in TEXTS}
    return texts, arrays


def _join_safetensors(path: Path, files: Sequence[Path], manifest: CodesManifest) -> None:
    columns = _columns(files, manifest)
    texts = {**_texts_of(manifest), "id": json.dumps(columns.pop("id"), ensure_ascii=False)}
    save_file({name: np.ascontiguousarray(column) for name, column in columns.items()}, path, metadata=texts)
    path.chmod(0o644)  # safetensors writes 0600, which another user could not read


def _read_safetensors(path: Path) -> tuple[dict[str, str | None], dict[str, Any]]:
    with safe_open(path, "numpy") as file:
        texts = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    return {name: texts.get(name) for name in TEXTS}, {**arrays, "id": json.loads(texts.get("id", "[]"))}


class Format(NamedTuple):
    """
    A form of a single file.

    Args:
        read (`Callable`): Opens it.
        join (`Callable`): Writes it from the shards of a store.
    """

    read: Callable[[Path], CodeFile]
    join: Callable[[Path, Sequence[Path], CodesManifest], None]


# By the ending of the file's name.
FORMATS = {
    ".parquet": Format(ParquetCodes, _join_parquet),
    ".npz": Format(ArrayCodes, _join_npz),
    ".safetensors": Format(ArrayCodes, _join_safetensors),
}
