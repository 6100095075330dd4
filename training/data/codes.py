# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A store of codes as a generator trains on it; see `fqgan_hf.codes.store` for what is in its files."""

from collections.abc import Sequence
from functools import cached_property

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.evaluation.images import LabelledImages
from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.data.crops import CROPS, draw_view


def describe_codes(
    model: FQGANModel,
    tokenizer: str,
    images: LabelledImages,
    crop: str,
    resolution: int,
    shard_size: int = 0,
    seed: int | None = None,
) -> CodesManifest:
    """The manifest of the codes of training's views of images; see [`CodesManifest.describe`]."""
    return CodesManifest.describe(
        model,
        images,
        tokenizer=tokenizer,
        crop=crop,
        views=CROPS[crop][0],
        resolution=resolution,
        shard_size=shard_size,
        seed=seed,
    )


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
