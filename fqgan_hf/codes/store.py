# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The store of codes: parquet shards and a manifest that says what they are.

    codes/manifest.json             tokenizer, K, codebook size, grid, views, classes, rows and SHA-256 of each shard
    codes/shard-00000.parquet       one row per image: id (string), label (int64), codes (fixed-size list of uint16)

`codes` holds the grids of all views of one image, `(views, num_codebooks, height, width)` in this order, flattened.
Where images keep their own size, it is a list of any length, and columns `height` and `width` (int32) give its grid.
Where the manifest says so, rows also have `caption`, a list of texts any of which describes the image, and `map`, the
codes of a map of it, laid out as `codes` are and of the same views.
Which images a shard holds depends on the data alone, not on how many processes write. A shard appears complete or not
at all, and the manifest comes last: without it the store is unfinished, and running the same command again completes
it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets.data_files import DataFilesList

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.evaluation.images import check_bad_share
from fqgan_hf.failures import first_line
from fqgan_hf.files import MANIFEST, atomic_path, sha256, write_json


EXTRACTION_KEY = b"fqgan_hf.extraction"
SKIPPED_KEY = b"fqgan_hf.skipped"


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


def write_shard(
    path: Path,
    manifest: CodesManifest,
    ids: Sequence[str],
    labels: Sequence[int],
    codes: torch.Tensor | Sequence[torch.Tensor],
    skipped: Sequence[str] = (),
    *,
    captions: Sequence[Sequence[str]] | None = None,
    map_codes: torch.Tensor | None = None,
) -> None:
    """
    Write one shard; `path` appears only when it is complete.

    Args:
        path (`Path`): Target.
        manifest (`CodesManifest`): Of the extraction.
        ids (`Sequence[str]`), labels (`Sequence[int]`): One per image.
        codes (`torch.Tensor` of shape `(images, views, num_codebooks, height, width)`): In [0, codebook_size). Where
            grids differ, a list of `(views, num_codebooks, height, width)`.
        skipped (`Sequence[str]`): Ids of images that belong here and could not be read.
        captions (`Sequence[Sequence[str]]`, *optional*): Of each image, where the manifest says that it has some.
        map_codes (`torch.Tensor` of shape `(images, views, map.num_codebooks, height, width)`, *optional*):
            In [0, map.codebook_size), where the manifest tells of map codes.

    Raises:
        ValueError: Something does not fit the manifest.
    """
    if manifest.captions is (captions is None) or (manifest.map is None) is not (map_codes is None):
        raise ValueError("captions and map_codes must be given where the manifest tells of them, and only there")
    if manifest.grid:
        columns = {"codes": _fixed_column("codes", codes, manifest.shape, manifest.codebook_size)}
    else:
        columns = _own_columns(manifest, codes)
    if captions is not None:
        columns["caption"] = pa.array([list(texts) for texts in captions], pa.list_(pa.string()))
    if map_codes is not None:
        columns["map"] = _fixed_column("map_codes", map_codes, manifest.map_shape, manifest.map.codebook_size)
    table = pa.table({"id": pa.array(ids, pa.string()), "label": pa.array(labels, pa.int64()), **columns})
    table = table.replace_schema_metadata(
        {EXTRACTION_KEY: manifest.identity(), SKIPPED_KEY: json.dumps(list(skipped)).encode()}
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _fixed_column(name: str, codes: torch.Tensor, shape: tuple[int, ...], codebook_size: int) -> pa.Array:
    """The column of codes `(images, *shape)` in [0, codebook_size) that all have one grid."""
    if codes.shape[1:] != shape or (len(codes) and not 0 <= codes.min() <= codes.max() < codebook_size):
        raise ValueError(
            f"{name} must have shape (images, {', '.join(map(str, shape))}) and lie in [0, {codebook_size - 1}], "
            f"got shape {tuple(codes.shape)}" + (f" in [{codes.min()}, {codes.max()}]" if codes.numel() else "")
        )
    values = pa.array(codes.cpu().numpy().astype(np.uint16).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, int(np.prod(shape)))


def _own_columns(manifest: CodesManifest, codes: Sequence[torch.Tensor]) -> dict[str, pa.Array]:
    """The columns of codes `(views, K, h, w)` of which each image has its own grid."""
    for grid in codes:
        if grid.shape[:2] != (len(manifest.views), manifest.num_codebooks) or not (
            grid.numel() and 0 <= grid.min() <= grid.max() < manifest.codebook_size
        ):
            raise ValueError(
                f"codes must have shape ({len(manifest.views)}, {manifest.num_codebooks}, height, width) and lie in "
                f"[0, {manifest.codebook_size - 1}], got shape {tuple(grid.shape)}"
            )
    rows = [grid.cpu().numpy().astype(np.uint16).reshape(-1) for grid in codes]
    return {
        "height": pa.array([grid.shape[2] for grid in codes], pa.int32()),
        "width": pa.array([grid.shape[3] for grid in codes], pa.int32()),
        "codes": pa.array(rows, pa.list_(pa.uint16())),
    }


def is_written(path: Path, manifest: CodesManifest, num_images: int, option: str = "output_dir") -> bool:
    """
    Whether a shard of this many images is there already, from a run that was stopped.

    Raises:
        ValueError: The file belongs to another extraction, or is damaged.
    """
    if not path.is_file():
        return False
    identity, num_rows, skipped = describe_shard(path, option)
    if identity != manifest.identity() or num_rows + len(skipped) != num_images:
        raise ValueError(
            f"{option} holds {path.name} of another extraction (other tokenizer, data, crops or draws): "
            "choose another folder or empty this one"
        )
    return True


def describe_shard(path: Path, option: str) -> tuple[bytes | None, int, list[str]]:
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
        _, num_rows, skipped = describe_shard(path, "output_dir")
        manifest.shards.append({"file": path.name, "rows": num_rows, "sha256": sha256(path)})
        manifest.skipped += skipped
    check_bad_share(set(manifest.skipped), manifest.num_rows)
    write_json(folder / MANIFEST, manifest.content())


def shard_files(folder: Path, manifest: CodesManifest, option: str = "codes_dir") -> list[Path]:
    """
    The files of a store, in order, after all of them were read to see that they are what was written.

    Raises:
        ValueError: A shard is missing, does not have the content that was written, or is of another extraction.
    """
    files, identity = [], manifest.identity()
    for shard in manifest.shards:
        path = folder / shard["file"]
        if not path.is_file() or sha256(path) != shard["sha256"]:
            raise ValueError(f"{option} {folder} is damaged: {shard['file']} is missing or was changed")
        found, num_rows, _ = describe_shard(path, option)
        if found != identity or num_rows != shard["rows"]:
            raise ValueError(
                f"{option} {folder} is damaged: {MANIFEST} was changed, or is not that of {shard['file']}"
            )
        files.append(path)
    return files


def load_rows(folder: str | Path, manifest: CodesManifest, cache_dir: str | None = None) -> datasets.Dataset:
    """
    All rows of a store whose images have one grid, in order.

    Raises:
        ValueError: See `shard_files`; or the shards cannot be read, or hold labels of no class.
    """
    folder = Path(folder).resolve()
    files = [str(path) for path in shard_files(folder, manifest)]
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
