# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From images to the shards of a store, by any number of processes: what `fqgan encode` and extract_codes share.

Shapes: V views, K codebooks, H W pixels, h w grid.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm.auto import tqdm

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.store import finish, is_written, shard_name, write_shard
from fqgan_hf.evaluation.conditions import ImageConditions
from fqgan_hf.evaluation.images import BadImages, LabelledImages, UnreadableImageError, check_label
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


UNLABELLED = ["unlabelled"]  # what sets of images without classes have for their names

# An image -> the pixels of each of its views, (3, H, W) in [-1, 1]. Where images have conditions, it also takes
# `captions=`, and maps, of which label maps give labels (H, W), int64.
MakeViews = Callable[..., list[torch.Tensor]]


class Views(Dataset):
    """
    All views of each image in a range, with what else is stored of it.

    Args:
        images ([`LabelledImages`]): All of them.
        indices (`range`): The images to give.
        make_views (`Callable`): Cuts the views, those of the image and those of its map.
        bad ([`BadImages`], *optional*): Counts unreadable images. Without it the first one raises.
        conditions ([`ImageConditions`], *optional*): Captions and maps of `images`.
    """

    def __init__(
        self,
        images: LabelledImages,
        indices: range,
        make_views: MakeViews,
        bad: BadImages | None = None,
        conditions: ImageConditions | None = None,
    ):
        self.images = images
        self.indices = indices
        self.make_views = make_views
        self.bad = bad
        self.conditions = conditions

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """
        `views` `(V, 3, H, W)` in [-1, 1], `label`, `id` and `index`; `captions` and `map_views` where there are such.
        Of an unreadable image nothing but its name, as `skipped`.
        """
        index = self.indices[position]
        name = self.images.name(index)
        try:
            item = self._read(index, name)
        except UnreadableImageError as error:
            if self.bad is None:
                raise
            self.bad.add(name, error)
            return {"skipped": name}
        if self.images.label_names == UNLABELLED:
            item["label"] = 0  # some sets say -1
        check_label(item["label"], self.images.label_names, name)
        return {**item, "id": name, "index": index}

    def _read(self, index: int, name: str) -> dict[str, Any]:
        image, label = self.images[index]
        captions, map_image = self.conditions.read(index, image.size) if self.conditions else ([], None)
        options = {"captions": captions} if self.conditions else {}
        try:
            item = {"views": torch.stack(self.make_views(image, **options)), "label": label, "captions": captions}
            if map_image is not None:
                item["map_views"] = torch.stack(self.make_views(map_image, **options))
        except ValueError as error:
            raise UnreadableImageError(f"image {name!r} cannot be encoded: {error}") from error
        return item


def _collate(items: list[dict]) -> tuple[list[dict], list[str]]:
    """A batch for each size among the images that could be read, and the ids of those that could not."""
    by_size: dict[torch.Size, list[dict]] = {}
    for item in items:
        if "skipped" not in item:
            by_size.setdefault(item["views"].shape, []).append(item)
    batches = []
    for group in by_size.values():
        captions = [item.pop("captions") for item in group]  # of which images have different numbers
        batches.append({**default_collate(group), "captions": captions})
    return batches, [item["skipped"] for item in items if "skipped" in item]


class EncodedImage(NamedTuple):
    """
    A row of a store, with its place among all images. Codes are `(V, K, h, w)`; of maps, where there are maps, they
    have the map tokenizer's K, h and w.
    """

    index: int
    id: str
    label: int
    codes: torch.Tensor
    captions: list[str]
    map_codes: torch.Tensor | None


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


def _encode_map(model: FQGANModel, views: torch.Tensor) -> torch.Tensor:
    """The likeliest codes `(B, K, h, w)` of label maps `(B, H, W)`, or of pictures `(B, 3, H, W)`."""
    views = views.to(model.device)
    return (model.encode(views) if views.is_floating_point() else model.encode_labels(views)).codes


def _encode_batch(
    model: FQGANModel, map_model: FQGANModel | None, batch: dict, seed: int | None
) -> Iterator[EncodedImage]:
    """The rows of images `(B, V, 3, H, W)`. View by view: in memory are B images, whatever the number of views."""
    indices = batch["index"].tolist()
    grids = [
        _encode_view(model, pixel_values, seed, indices, view)
        for view, pixel_values in enumerate(batch["views"].unbind(1))
    ]
    codes = torch.stack(grids, dim=1).cpu()
    map_codes = [None] * len(indices)
    if map_model is not None:
        map_codes = torch.stack([_encode_map(map_model, view) for view in batch["map_views"].unbind(1)], dim=1).cpu()
    return map(EncodedImage, indices, batch["id"], batch["label"].tolist(), codes, batch["captions"], map_codes)


@torch.no_grad()
def encode_shard(
    model: FQGANModel,
    views: Views,
    seed: int | None,
    batch_size: int,
    num_workers: int,
    bar: tqdm,
    map_model: FQGANModel | None = None,
) -> tuple[list[EncodedImage], list[str]]:
    """
    Encode the images of one shard.

    Args:
        model ([`FQGANModel`]): On its device, in evaluation mode.
        views ([`Views`]): Of these images.
        seed (`int`, *optional*): Draw the codes, and from this; those of maps are the likeliest ones all the same.
        batch_size (`int`): Images at a time; those of a size together.
        num_workers (`int`): Processes that decode images.
        bar (`tqdm`): Counts them.
        map_model ([`FQGANModel`], *optional*): Encodes their maps.

    Returns:
        Rows in the order of the images, and the ids of images that could not be read.
    """
    rows, skipped = [], []
    for batches, unread in DataLoader(views, batch_size, num_workers=num_workers, collate_fn=_collate):
        encoded = [row for batch in batches for row in _encode_batch(model, map_model, batch, seed)]
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
    conditions: ImageConditions | None = None,
    map_model: FQGANModel | None = None,
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
        conditions ([`ImageConditions`], *optional*): The captions and maps that the manifest tells of.
        map_model ([`FQGANModel`], *optional*): The map tokenizer, as `model`.

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
            views = Views(images, indices, make_views, bad, conditions)
            rows, skipped = encode_shard(model, views, manifest.seed, batch_size, num_workers, bar, map_model)
            write_rows(path, manifest, rows, skipped)
    state.wait_for_everyone()
    if state.is_main_process:
        finish(folder, manifest)
    state.wait_for_everyone()


def write_rows(path: Path, manifest: CodesManifest, rows: list[EncodedImage], skipped: list[str]) -> None:
    """Write a shard from its rows: see `write_shard`."""
    codes: Any = [row.codes for row in rows]
    if manifest.grid is not None:
        codes = _stacked(codes, manifest.shape)
    conditions: dict[str, Any] = {}
    if manifest.captions:
        conditions["captions"] = [row.captions for row in rows]
    if manifest.map is not None:
        conditions["map_codes"] = _stacked([row.map_codes for row in rows], manifest.map_shape)
    write_shard(path, manifest, [row.id for row in rows], [row.label for row in rows], codes, skipped, **conditions)


def _stacked(codes: list[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """Codes `(images, *shape)`, even of no image at all."""
    return torch.stack(codes) if codes else torch.empty(0, *shape, dtype=torch.int64)
