# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Numbered work in parts, each of which becomes one file: computed in full batches, shared with other processes."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from tqdm import tqdm


class Parts(NamedTuple):
    """
    What a run writes one after another.

    Args:
        ranges (`Sequence[range]`): Numbers of the images of each part.
        is_there (`Callable`): Whether a part, by its place in `ranges`, is complete.
        write (`Callable`): Writes a part, by its place, from its images: it appears complete or not at all.
    """

    ranges: Sequence[range]
    is_there: Callable[[int], bool]
    write: Callable[[int, list], None]

    @property
    def missing(self) -> list[int]:
        """Places of the parts that are still to be written."""
        return [number for number in range(len(self.ranges)) if not self.is_there(number)]

    def images(self, numbers: Iterable[int]) -> list[int]:
        """Numbers of the images of some parts."""
        return [i for number in numbers for i in self.ranges[number]]


def split_range(num: int, size: int) -> list[range]:
    """0 ... num - 1 in ranges of `size`; the last one may be shorter."""
    return [range(i, min(i + size, num)) for i in range(0, num, size)]


def fill_parts(
    parts: Parts,
    mine: Sequence[int],
    missing: Sequence[int],
    batches: Iterator[Sequence[Any]],
    description: str,
    show_progress: bool = True,
) -> None:
    """
    Write the parts of this process, then wait until those of the others are there.

    Args:
        parts ([`Parts`]): All of them.
        mine, missing (`Sequence[int]`): Places of those that this process is to write, and of all that are missing.
        batches (`Iterator`): The images of `mine` in their order, batch after batch, computed when it is asked for.
        description (`str`): What the progress bar says.
        show_progress (`bool`): A bar over all images; those of other processes count when their part is there.
    """
    others = set(missing) - set(mine)
    total = sum(map(len, parts.ranges))

    def arrived() -> int:
        """Images of other processes whose parts have appeared since the last call."""
        there = {number for number in others if parts.is_there(number)}
        others.difference_update(there)
        return len(parts.images(there))

    bar = tqdm(
        desc=description, unit="image", total=total, initial=total - len(parts.images(missing)), smoothing=0,
        disable=not show_progress,
    )  # fmt: skip
    with bar:

        def images() -> Iterator[Any]:
            for batch in batches:
                bar.update(len(batch) + arrived())
                yield from batch

        stream = images()
        for number in mine:
            parts.write(number, list(islice(stream, len(parts.ranges[number]))))
        while others:
            time.sleep(0.2)
            bar.update(arrived())


def full_batches(
    compute: Callable[[list[int]], Iterable[Sequence[Any]]], indices: Sequence[int], batch_size: int
) -> Iterator[Sequence[Any]]:
    """
    Results for `indices` in their order, computed in batches of one shape: graphs and sums stay the same.

    Args:
        compute (`Callable`): Gives batches of `batch_size` results for numbers that fill these. The last batch repeats
            its last number, and what it gives for that is dropped.
        indices (`Sequence[int]`): Numbers of images.
        batch_size (`int`): Images at a time.
    """
    if not indices:
        return
    remaining = len(indices)
    for batch in compute([*indices, *[indices[-1]] * (-remaining % batch_size)]):
        yield batch[:remaining]
        remaining -= batch_size
