# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A store of codes as a generator trains on it; see `fqgan_hf.codes.store` for what is in its files."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.evaluation.images import LabelledImages
from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.data.crops import CROPS, draw_caption, draw_view


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


def check_encodes_pictures(model: FQGANModel, tokenizer: str) -> None:
    """Raise `ValueError` for a tokenizer of label maps where one of pictures is needed; `tokenizer` is its name."""
    if model.config.num_labels is not None:
        raise ValueError(
            f"tokenizer must be one of pictures, {tokenizer!r} is one of label maps: --map_tokenizer takes it"
        )


class Column:
    """
    The rows of a column, which stays in the blocks that its file has it in.

    Args:
        blocks (`Sequence`): Arrays, each with some of the rows, in order.
    """

    def __init__(self, blocks: Sequence[Any]):
        self.blocks = blocks
        self.starts = list(accumulate(map(len, blocks[:-1]), initial=0))

    def __getitem__(self, row: int) -> Any:
        block = bisect_right(self.starts, row) - 1
        return self.blocks[block][row - self.starts[block]]


class CodeSequences(Dataset):
    """
    Codes as the generator takes them: `codes` `(T, K)`, `class_labels` and `index`; where the store has them also
    `map_codes` `(Tm, Km)`, of the same view, and `caption`, one of the row's texts.

    They stay as `datasets` keeps the shards: packed 16-bit numbers in a memory-mapped file, of which all processes and
    workers of a machine share one copy. Reading a sample copies that sample and nothing else.

    Args:
        rows (`datasets.Dataset`): From `load_rows`.
        manifest (`CodesManifest`): Of the same store.
        indices (`Sequence[int]`): Rows to use.
        seed (`int`, *optional*):
            Items are keyed by the (epoch, position) pairs of `EpochSampler`, and this seed, the epoch and the row
            choose the view and the caption. Without a seed items are keyed by position and give the first view and
            the first caption: for validation.
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
    def codes(self) -> Column:
        """Codes of each row, `(views, num_codebooks, height, width)`, uint16."""
        return self._grids("codes", self.manifest.shape)

    @cached_property
    def map_codes(self) -> Column:
        """Map codes of each row, of the same form; only where the store has them."""
        return self._grids("map", self.manifest.map_shape)

    @cached_property
    def captions(self) -> Column:
        """Captions of each row, as Arrow's lists; only where the store has them."""
        return Column(self.rows.data.column("caption").chunks)

    def _grids(self, column: str, shape: tuple[int, ...]) -> Column:
        blocks = self.rows.data.column(column).chunks
        return Column([block.flatten().to_numpy().reshape(-1, *shape) for block in blocks])

    def _place(self, key: tuple[int, int] | int) -> tuple[int, int, int]:
        """Row of a key, and the numbers of its view and of its caption."""
        if self.seed is None:
            return self.indices[key], 0, 0
        epoch, position = key
        index = self.indices[position]
        view = draw_view(self.seed, epoch, index, num_views=len(self.manifest.views))
        if not self.manifest.captions:
            return index, view, 0
        return index, view, draw_caption(self.seed, epoch, index, len(self.captions[index]))

    def __getitems__(self, keys: Sequence[tuple[int, int] | int]) -> list[dict[str, torch.Tensor | int | str]]:
        """A batch at once."""
        rows, views, texts = zip(*map(self._place, keys), strict=True)
        columns = {
            "codes": _sequences(self.codes, rows, views),
            "class_labels": [int(self.labels[row]) for row in rows],
            "index": rows,
        }
        if self.manifest.map is not None:
            columns["map_codes"] = _sequences(self.map_codes, rows, views)
        if self.manifest.captions:
            columns["caption"] = [self.captions[row][text].as_py() for row, text in zip(rows, texts, strict=True)]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, torch.Tensor | int | str]:
        return self.__getitems__([key])[0]


def _sequences(codes: Column, rows: Sequence[int], views: Sequence[int]) -> torch.Tensor:
    """Codes `(batch, positions, num_codebooks)` of one view of each row."""
    grids = np.stack([codes[row][view] for row, view in zip(rows, views, strict=True)])
    return grid_to_sequence(torch.from_numpy(grids.astype(np.int64)))
