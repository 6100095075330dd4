# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The store of extracted codes: parquet shards and a manifest that says what they are.

    codes/manifest.json             tokenizer, K, codebook size, grid, views, classes, rows and SHA-256 of each shard
    codes/shard-00000.parquet       one row per image: id (string), label (int64), codes (fixed-size list of uint16)

`codes` holds the grids of all views of one image, `(views, num_codebooks, height, width)` in this order, flattened.
Which images a shard holds depends on the data alone, not on how many processes write. A shard appears complete or not
at all, and the manifest comes last: without it the extraction is unfinished, and running it again completes it.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets.data_files import DataFilesList
from torch.utils.data import Dataset

from fqgan_hf.evaluation.images import check_bad_share
from fqgan_hf.failures import first_line
from fqgan_hf.files import MANIFEST, atomic_path, sha256, write_json
from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.training.data.codes_manifest import CodesManifest
from fqgan_hf.training.data.crops import draw_view


EXTRACTION_KEY = b"fqgan_hf.extraction"
SKIPPED_KEY = b"fqgan_hf.skipped"


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


def write_shard(
    path: Path,
    manifest: CodesManifest,
    ids: Sequence[str],
    labels: Sequence[int],
    codes: torch.Tensor,
    skipped: Sequence[str] = (),
) -> None:
    """
    Write one shard; `path` appears only when it is complete.

    Args:
        path (`Path`): Target.
        manifest (`CodesManifest`): Of the extraction.
        ids (`Sequence[str]`), labels (`Sequence[int]`): One per image.
        codes (`torch.Tensor` of shape `(images, views, num_codebooks, height, width)`): In [0, codebook_size).
        skipped (`Sequence[str]`): Ids of images that belong here and could not be read.
    """
    if codes.shape[1:] != manifest.shape or (
        len(codes) and not 0 <= codes.min() <= codes.max() < manifest.codebook_size
    ):
        raise ValueError(
            f"codes must have shape (images, {', '.join(map(str, manifest.shape))}) and lie in "
            f"[0, {manifest.codebook_size - 1}], got shape {tuple(codes.shape)} in [{codes.min()}, {codes.max()}]"
        )
    values = pa.array(codes.cpu().numpy().astype(np.uint16).reshape(-1))
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "label": pa.array(labels, pa.int64()),
            "codes": pa.FixedSizeListArray.from_arrays(values, int(np.prod(manifest.shape))),
        }
    ).replace_schema_metadata({EXTRACTION_KEY: manifest.identity(), SKIPPED_KEY: json.dumps(list(skipped)).encode()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def is_written(path: Path, manifest: CodesManifest, num_images: int) -> bool:
    """
    Whether a shard of this many images is there already, from a run that was stopped.

    Raises:
        ValueError: The file belongs to another extraction, or is damaged.
    """
    if not path.is_file():
        return False
    identity, num_rows, skipped = _describe(path, "output_dir")
    if identity != manifest.identity() or num_rows + len(skipped) != num_images:
        raise ValueError(
            f"output_dir holds {path.name} of another extraction (other tokenizer, data, crops or draws): "
            "choose another folder or empty this one"
        )
    return True


def _describe(path: Path, option: str) -> tuple[bytes | None, int, list[str]]:
    """Of a shard: the identity of its extraction, the number of rows, and the ids of the images that it lacks."""
    try:
        file = pq.read_metadata(path)
        metadata = file.metadata or {}
        skipped = json.loads(metadata.get(SKIPPED_KEY, b"[]"))
    except (ValueError, OSError, pa.ArrowException, RecursionError) as error:
        raise ValueError(
            f"{option} {path.parent} is damaged: {path.name} is no whole parquet file: {error}"
        ) from error
    return metadata.get(EXTRACTION_KEY), file.num_rows, skipped


def finish(folder: Path, manifest: CodesManifest) -> None:
    """
    Hash all shards and write the manifest, which makes the store valid.

    Raises:
        ValueError: A shard is missing, or more images were skipped than may be.
    """
    manifest.shards, manifest.skipped = [], []
    for number in range(-(-manifest.num_rows // manifest.shard_size)):
        path = folder / shard_name(number)
        if not path.is_file():
            raise FileNotFoundError(f"output_dir {folder}: {path.name} has disappeared, run the extraction again")
        _, num_rows, skipped = _describe(path, "output_dir")
        manifest.shards.append({"file": path.name, "rows": num_rows, "sha256": sha256(path)})
        manifest.skipped += skipped
    check_bad_share(set(manifest.skipped), manifest.num_rows)
    write_json(folder / MANIFEST, manifest.content())


def load_rows(folder: str | Path, manifest: CodesManifest, cache_dir: str | None = None) -> datasets.Dataset:
    """
    All rows, in order.

    Raises:
        ValueError: A shard is missing, does not have the content that was written, or is of another extraction.
    """
    folder = Path(folder).resolve()
    files, identity = [], manifest.identity()
    for shard in manifest.shards:
        path = folder / shard["file"]
        if not path.is_file() or sha256(path) != shard["sha256"]:
            raise ValueError(f"codes_dir {folder} is damaged: {shard['file']} is missing or was changed")
        found, num_rows, _ = _describe(path, "codes_dir")
        if found != identity or num_rows != shard["rows"]:
            raise ValueError(
                f"codes_dir {folder} is damaged: {MANIFEST} was changed, or is not that of {shard['file']}"
            )
        files.append(str(path))
    # As a finished list: names are read as patterns otherwise. The hashes tell whether what is cached is this.
    data_files = DataFilesList(files, [(shard["sha256"],) for shard in manifest.shards])
    try:
        rows = datasets.load_dataset("parquet", data_files={"train": data_files}, split="train", cache_dir=cache_dir)
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"codes_dir {folder} cannot be read: {reason}") from error
    labels = pc.min_max(rows.data.column("label")).as_py() if len(rows) else {"min": 0, "max": 0}
    if not 0 <= labels["min"] <= labels["max"] < len(manifest.id2label):
        raise ValueError(
            f"codes_dir {folder}: labels must be in [0, {len(manifest.id2label) - 1}], got {labels['min']} to "
            f"{labels['max']}"
        )
    return rows


class CodeSequences(Dataset):
    """
    Codes as the generator takes them.

    They stay as `datasets` keeps the shards: packed 16-bit numbers in a memory-mapped file, of which all processes and
    workers of a machine share one copy. Reading a sample copies that sample and nothing else.

    Args:
        rows (`datasets.Dataset`): From `load_rows`.
        manifest (`CodesManifest`): Of the same store.
        indices (`Sequence[int]`): Rows to use.
        seed (`int`, *optional*):
            Items are keyed by the (epoch, position) pairs of `EpochSampler`, and this seed, the epoch and the row
            choose the view. Without a seed items are keyed by position and give the first view: for validation.
    """

    def __init__(
        self, rows: datasets.Dataset, manifest: CodesManifest, indices: Sequence[int], seed: int | None = None
    ):
        self.rows = rows
        self.manifest = manifest
        self.indices = indices
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    # Made by the process that reads, not before: sent to a worker, an array would be a copy of the data.
    @cached_property
    def labels(self) -> np.ndarray:
        """Class ids of all rows."""
        return self.rows.data.column("label").to_numpy()

    @cached_property
    def blocks(self) -> list[np.ndarray]:
        """Codes of all rows, block after block of the file: `(rows, views, num_codebooks, height, width)`, uint16."""
        blocks = self.rows.data.column("codes").chunks
        return [block.flatten().to_numpy().reshape(-1, *self.manifest.shape) for block in blocks]

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each block."""
        return np.cumsum([0, *map(len, self.blocks[:-1])])

    def _place(self, key: tuple[int, int] | int) -> tuple[int, int]:
        """Row and view of a key."""
        if self.seed is None:
            return self.indices[key], 0
        epoch, position = key
        index = self.indices[position]
        return index, draw_view(self.seed, epoch, index, num_views=len(self.manifest.views))

    def __getitems__(self, keys: Sequence[tuple[int, int] | int]) -> list[dict[str, torch.Tensor | int]]:
        """A batch at once."""
        rows, views = zip(*(self._place(key) for key in keys), strict=True)
        blocks = np.searchsorted(self.starts, rows, side="right") - 1
        places = zip(blocks, rows - self.starts[blocks], views, strict=True)
        codes = np.stack([self.blocks[block][row, view] for block, row, view in places]).astype(np.int64)
        return [
            {"codes": sequence, "class_labels": int(self.labels[row]), "index": row}
            for sequence, row in zip(grid_to_sequence(torch.from_numpy(codes)), rows, strict=True)
        ]

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, torch.Tensor | int]:
        return self.__getitems__([key])[0]
