# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From images to the shards of a store, by any number of processes: what `fqgan encode` and extract_codes share.

Shapes: V views, K codebooks, H W pixels, h w grid.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm.auto import tqdm

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.store import finish, is_written, shard_name, write_shard
from fqgan_hf.evaluation.images import BadImages, LabelledImages, UnreadableImageError, check_label
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


UNLABELLED = ["unlabelled"]  # what sets of images without classes have for their names

# An image -> the pixels of each of its views, (3, H, W) in [-1, 1].
MakeViews = Callable[[Image.Image], list[torch.Tensor]]


class Views(Dataset):
    """All views of each image in a range: `(V, 3, H, W)` in [-1, 1]."""

    def __init__(self, images: LabelledImages, indices: range, make_views: MakeViews, bad: BadImages | None = None):
        self.images = images
        self.indices = indices
        self.make_views = make_views
        self.bad = bad

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int | str]:
        index = self.indices[position]
        name = self.images.name(index)
        try:
            views, label = self._read(index, name)
        except UnreadableImageError as error:
            if self.bad is None:
                raise
            self.bad.add(name, error)
            return {"skipped": name}
        if self.images.label_names == UNLABELLED:
            label = 0  # some sets say -1
        check_label(label, self.images.label_names, name)
        return {"views": torch.stack(views), "label": label, "id": name, "index": index}

    def _read(self, index: int, name: str) -> tuple[list[torch.Tensor], int]:
        image, label = self.images[index]
        try:
            return self.make_views(image), label
        except ValueError as error:
            raise UnreadableImageError(f"image {name!r} cannot be encoded: {error}") from error


def _collate(items: list[dict]) -> tuple[list[dict], list[str]]:
    """A batch for each size among the images that could be read, and the ids of those that could not."""
    by_size: dict[torch.Size, list[dict]] = {}
    for item in items:
        if "skipped" not in item:
            by_size.setdefault(item["views"].shape, []).append(item)
    return [default_collate(group) for group in by_size.values()], [i["skipped"] for i in items if "skipped" in i]


class EncodedImage(NamedTuple):
    """A row of a store, with its place among all images; codes are `(V, K, h, w)`."""

    index: int
    id: str
    label: int
    codes: torch.Tensor


def draws_of(seed: int, index: int, view: int) -> torch.Generator:
    """
    The random numbers of one view of one image: those of no other, whatever is encoded along with it.

    Args:
        seed (`int`): Of the extraction.
        index (`int`): Number of the image among all.
        view (`int`): Number of the view.

    Returns:
        `torch.Generator`: On the CPU, so that all devices draw the same.
    """
    state = np.random.SeedSequence((seed, index, view)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def _encode_view(
    model: FQGANModel, pixel_values: torch.Tensor, seed: int | None, indices: list[int], view: int
) -> torch.Tensor:
    """Codes `(B, K, h, w)` of one view of some images `(B, 3, H, W)`: the likeliest ones, or with a seed drawn."""
    draws = None if seed is None else [draws_of(seed, index, view) for index in indices]
    return model.encode(pixel_values.to(model.device), generator=draws).codes


def _encode_batch(model: FQGANModel, batch: dict, seed: int | None) -> Iterator[EncodedImage]:
    """The rows of images `(B, V, 3, H, W)`. View by view: in memory are B images, whatever the number of views."""
    indices = batch["index"].tolist()
    grids = [
        _encode_view(model, pixel_values, seed, indices, view)
        for view, pixel_values in enumerate(batch["views"].unbind(1))
    ]
    codes = torch.stack(grids, dim=1).cpu()
    return map(EncodedImage, indices, batch["id"], batch["label"].tolist(), codes)


@torch.no_grad()
def encode_shard(
    model: FQGANModel, views: Views, seed: int | None, batch_size: int, num_workers: int, bar: tqdm
) -> tuple[list[EncodedImage], list[str]]:
    """
    Encode the images of one shard.

    Args:
        model ([`FQGANModel`]): On its device, in evaluation mode.
        views ([`Views`]): Of these images.
        seed (`int`, *optional*): Draw the codes, and from this.
        batch_size (`int`): Images at a time; those of a size together.
        num_workers (`int`): Processes that decode images.
        bar (`tqdm`): Counts them.

    Returns:
        Rows in the order of the images, and the ids of images that could not be read.
    """
    rows, skipped = [], []
    for batches, unread in DataLoader(views, batch_size, num_workers=num_workers, collate_fn=_collate):
        encoded = [row for batch in batches for row in _encode_batch(model, batch, seed)]
        rows += sorted(encoded, key=lambda row: row.index)
        skipped += unread
        bar.update(len(encoded) + len(unread))
    return rows, skipped


def fill_store(
    state: PartialState,
    model: FQGANModel,
    images: LabelledImages,
    make_views: MakeViews,
    folder: Path,
    manifest: CodesManifest,
    *,
    batch_size: int,
    num_workers: int = 0,
    bad: BadImages | None = None,
) -> None:
    """
    Write the shards that are missing of a store and then its manifest. All processes call it and share the work.

    Args:
        state (`PartialState`): Of this process.
        model ([`FQGANModel`]): On its device, in evaluation mode.
        images ([`LabelledImages`]): All of them.
        make_views (`Callable`): Gives the pixels of each view of an image.
        folder (`Path`): Of the store, which nobody else writes to.
        manifest ([`CodesManifest`]): What the store will hold. Gets the shards and the images that were skipped.
        batch_size (`int`): Images at a time in each process.
        num_workers (`int`): Processes that decode images, for each process.
        bad ([`BadImages`], *optional*): Counts unreadable images. Without it the first one raises.

    Raises:
        ValueError: `folder` holds codes of another extraction, or an image cannot be read or has no class.
    """
    size, total = manifest.shard_size, manifest.num_rows
    # Each process takes every n-th shard; which images a shard holds does not depend on n.
    shards = [range(start, min(start + size, total)) for start in range(0, total, size)]
    mine = list(enumerate(shards))[state.process_index :: state.num_processes]
    bar = tqdm(
        total=sum(len(indices) for _, indices in mine), desc="encoding", unit="image",
        disable=not state.is_local_main_process,
    )  # fmt: skip
    with bar:
        for number, indices in mine:
            path = folder / shard_name(number)
            if is_written(path, manifest, len(indices)):
                bar.update(len(indices))
                continue
            views = Views(images, indices, make_views, bad)
            rows, skipped = encode_shard(model, views, manifest.seed, batch_size, num_workers, bar)
            write_rows(path, manifest, rows, skipped)
    state.wait_for_everyone()
    if state.is_main_process:
        finish(folder, manifest)
    state.wait_for_everyone()


def write_rows(path: Path, manifest: CodesManifest, rows: list[EncodedImage], skipped: list[str]) -> None:
    """Write a shard from its rows: see `write_shard`."""
    codes = [row.codes for row in rows]
    if manifest.grid is not None:
        codes = torch.stack(codes) if codes else torch.empty(0, *manifest.shape, dtype=torch.int64)
    write_shard(path, manifest, [row.id for row in rows], [row.label for row in rows], codes, skipped)
