# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What codes have kept of their images: `fqgan encode --check`.

Shapes: B batch, K codebooks, H W pixels, h w grid.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from fqgan_hf.codes.code_files import CodeFile, CodeRows
from fqgan_hf.codes.shards import MakeViews
from fqgan_hf.evaluation.images import LabelledImages
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


@dataclass(frozen=True)
class RoundTrip:
    """
    Images beside what their codes decode to.

    Args:
        num_images (`int`): With codes.
        mean_psnr (`float`): Mean over the images, in dB, of 8-bit pictures.
        min_psnr (`float`), min_id (`str`): The worst image.
        codes_kept (`list[float]`): Of each codebook, the share of codes that encode(decode(codes)) gives again.
    """

    num_images: int
    mean_psnr: float
    min_psnr: float
    min_id: str
    codes_kept: list[float]


def by_grid(grids: Iterable[np.ndarray]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Code grids `(K, h, w)` that have one size together: their places, and codes `(B, K, h, w)`."""
    places: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)
    for place, grid in enumerate(grids):
        places[grid.shape].append((place, grid))
    for group in places.values():
        codes = np.stack([grid for _, grid in group]).astype(np.int64)
        yield [place for place, _ in group], torch.from_numpy(codes)


@torch.no_grad()
def check_round_trip(
    state: PartialState,
    model: FQGANModel,
    images: LabelledImages,
    make_views: MakeViews,
    codes: CodeFile,
    batch_size: int,
) -> RoundTrip:
    """
    Decode codes and compare them with the images that they were made of. All processes call it and share the work.

    Args:
        state (`PartialState`): Of this process.
        model ([`FQGANModel`]): The tokenizer that made the codes, on its device.
        images ([`LabelledImages`]): All of them, in the order in which they were encoded.
        make_views (`Callable`): Gives the pixels that were encoded; of one view.
        codes ([`CodeFile`]): Of these images.
        batch_size (`int`): Images at a time in each process.

    Raises:
        ValueError: The codes are of other images.
    """
    skipped = set(codes.manifest.skipped)
    kept = (i for i in range(len(images)) if not skipped or images.name(i) not in skipped)
    figures, num_kept, num_codes = [], torch.zeros(codes.manifest.num_codebooks, dtype=torch.long), 0
    bar = tqdm(desc="checking", unit="image", total=codes.num_rows, disable=not state.is_local_main_process)
    with bar:
        for number, rows in zip(count(), codes.batches(batch_size)):
            indices = list(islice(kept, len(rows.ids)))
            if number % state.num_processes == state.process_index:
                for place, value, again in _compare(model, images, make_views, indices, rows):
                    figures.append((value, rows.ids[place]))
                    num_kept += again.flatten(1).sum(1)
                    num_codes += again[0].numel()
            bar.update(len(rows.ids))
    everywhere = gather_object([(figures, num_kept, num_codes)])
    return _summary(everywhere)


def _compare(
    model: FQGANModel, images: LabelledImages, make_views: MakeViews, indices: list[int], rows: CodeRows
) -> Iterator[tuple[int, float, torch.Tensor]]:
    """Of each row: its place, PSNR in dB, and which of its codes `(K, h, w)` come again."""
    if [images.name(i) for i in indices] != rows.ids:
        raise ValueError(f"the codes are of other images: {rows.ids[0]!r} is not where it was")
    for places, codes in by_grid(grid[0] for grid in rows.grids):
        pixel_values = torch.stack([make_views(images[indices[place]][0])[0] for place in places])
        sample = model.decode_codes(codes.to(model.device)).sample
        again = model.encode(sample.clamp(-1, 1)).codes.cpu() == codes
        yield from zip(places, psnr(pixel_values, sample.float().cpu()).tolist(), again, strict=True)


def _summary(everywhere: list[tuple[list[tuple[float, str]], torch.Tensor, int]]) -> RoundTrip:
    """Of what all processes have measured; the order in which they did changes no figure."""
    figures = [figure for part, _, _ in everywhere for figure in part]
    worst, name = min(figures)
    num_codes = sum(number for _, _, number in everywhere)
    return RoundTrip(
        num_images=len(figures),
        mean_psnr=math.fsum(value for value, _ in figures) / len(figures),
        min_psnr=worst,
        min_id=name,
        codes_kept=(sum(kept for _, kept, _ in everywhere) / num_codes).tolist(),
    )
