# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The store of extracted codes: parquet shards and a manifest that says what they are.

    codes/manifest.json             tokenizer, K, codebook size, grid, views, classes, rows and SHA-256 of each shard
    codes/shard-00000.parquet       one row per image: id (string), label (int64), codes (fixed-size list of uint16)

`codes` holds the grids of all views of one image, `(views, num_codebooks, height, width)` in this order, flattened.
Which images a shard holds depends on the data alone, not on how many processes write. A shard appears complete or not
at all, and the manifest comes last: without it the extraction is not finished and can be run again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset

from fqgan_hf.files import MANIFEST, fsync, sha256, write_json
from fqgan_hf.modeling.modeling_far import grid_to_sequence
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.crops import CROPS, draw_view
from fqgan_hf.training.data import LabelledImages, check_bad_share


EXTRACTION_KEY = b"fqgan_hf.extraction"
SKIPPED_KEY = b"fqgan_hf.skipped"


@dataclass
class CodesManifest:
    """
    What a store of codes is.

    Args:
        tokenizer (`str`): Name or path of the tokenizer that made the codes.
        tokenizer_fingerprint (`str`): Its `fingerprint()`.
        num_codebooks, codebook_size (`int`): K and V.
        grid (`list[int]`): Height and width of the code grid.
        resolution (`int`): Side of the crops, in pixels.
        crop (`str`): `"plain"`, `"flip"` or `"ten-crop"`.
        views (`list[str]`): Name of each view of an image, in order.
        source (`str`): Where the images came from.
        shard_size (`int`): Images per shard.
        num_rows (`int`): Images in all, whether or not they could be read.
        id2label (`dict[str, str]`): Class id to name.
        shards (`list[dict]`): `file`, `rows` and `sha256` of each shard, in the order of the images.
        skipped (`list[str]`): Ids of the images that could not be read and have no row.
    """

    tokenizer: str
    tokenizer_fingerprint: str
    num_codebooks: int
    codebook_size: int
    grid: list[int]
    resolution: int
    crop: str
    views: list[str]
    source: str
    shard_size: int
    num_rows: int
    id2label: dict[str, str]
    shards: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    format_version: int = 1

    @classmethod
    def describe(
        cls, model: FQGANModel, tokenizer: str, images: LabelledImages, crop: str, resolution: int, shard_size: int = 0
    ) -> "CodesManifest":
        """Of the codes that a tokenizer gives for views of images, whether they are going to be stored or not."""
        return cls(
            tokenizer=tokenizer,
            tokenizer_fingerprint=model.fingerprint(),
            num_codebooks=model.config.num_codebooks,
            codebook_size=model.config.codebook_size,
            grid=list(model.grid_size(resolution, resolution)),
            resolution=resolution,
            crop=crop,
            views=CROPS[crop][0],
            source=images.source,
            shard_size=shard_size,
            num_rows=len(images),
            id2label={str(i): name for i, name in enumerate(images.label_names)},
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of one row's codes, `(views, num_codebooks, height, width)`."""
        return (len(self.views), self.num_codebooks, *self.grid)

    def identity(self) -> bytes:
        """What all shards of one extraction have in common; a shard carries it in its metadata."""
        content = asdict(self)
        del (
            content["shards"],
            content["skipped"],
            content["tokenizer"],
        )  # the fingerprint says which tokenizer; its path may change
        return json.dumps(content, sort_keys=True).encode()

    @classmethod
    def load(cls, folder: str | Path) -> "CodesManifest":
        """
        Read the manifest of `folder`.

        Raises:
            FileNotFoundError: There is none: no codes, or an extraction that has not ended.
            ValueError: Of another version, or damaged.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"codes_dir must be a folder written by extract_codes, got {str(folder)!r}: no {MANIFEST} "
                "(an extraction that was stopped continues when it is run again)"
            )
        try:
            manifest = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a manifest of codes: {error}") from error
        if manifest.format_version != 1:
            raise ValueError(f"{path}: format_version must be 1, got {manifest.format_version}")
        return manifest


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
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table, temporary, compression="zstd")
    fsync(temporary)
    temporary.replace(path)
    fsync(path.parent)


def is_written(path: Path, manifest: CodesManifest, num_images: int) -> bool:
    """
    Whether a shard of so many images is there already, from a run that was stopped.

    Raises:
        ValueError: The file belongs to another extraction.
    """
    if not path.is_file():
        return False
    metadata = pq.read_metadata(path)
    num_found = metadata.num_rows + len(skipped_in(path))
    if (metadata.metadata or {}).get(EXTRACTION_KEY) != manifest.identity() or num_found != num_images:
        raise ValueError(
            f"output_dir holds {path.name} of another extraction (other tokenizer, data or crops): "
            "choose another folder or empty this one"
        )
    return True


def skipped_in(path: Path) -> list[str]:
    """Ids of the images that a shard lacks because they could not be read."""
    return json.loads((pq.read_metadata(path).metadata or {}).get(SKIPPED_KEY, b"[]"))


def finish(folder: Path, manifest: CodesManifest) -> None:
    """
    Hash all shards and write the manifest, which makes the store valid.

    Raises:
        ValueError: More images were skipped than may be.
    """
    manifest.shards, manifest.skipped = [], []
    for path in sorted(folder.glob("shard-*.parquet")):
        rows = pq.read_metadata(path).num_rows
        manifest.shards.append({"file": path.name, "rows": rows, "sha256": sha256(path)})
        manifest.skipped += skipped_in(path)
    num_found = sum(shard["rows"] for shard in manifest.shards) + len(manifest.skipped)
    assert num_found == manifest.num_rows, "a shard is missing"
    check_bad_share(set(manifest.skipped), manifest.num_rows)
    write_json(folder / MANIFEST, asdict(manifest))


def load_rows(folder: str | Path, manifest: CodesManifest, cache_dir: str | None = None) -> datasets.Dataset:
    """
    All rows, in order.

    Raises:
        ValueError: A shard is missing or does not have the content that was written.
    """
    folder = Path(folder)
    for shard in manifest.shards:
        path = folder / shard["file"]
        if not path.is_file() or sha256(path) != shard["sha256"]:
            raise ValueError(f"codes_dir {folder} is damaged: {shard['file']} is missing or was changed")
    files = [str(folder / shard["file"]) for shard in manifest.shards]
    return datasets.load_dataset("parquet", data_files={"train": files}, split="train", cache_dir=cache_dir)


class CodeSequences(Dataset):
    """
    Codes as the generator takes them.

    They stay what `datasets` made of the shards: packed 16-bit numbers in a file that is mapped into memory, of which
    all processes and workers of a machine share one copy. A sample is copied from there, nothing else is read.

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
