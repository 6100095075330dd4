# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Codebook swap: the codes of some codebooks from one image, the others' from another; `fqgan mix`.

What a codebook holds shows in what moves with its codes: `FQGANPipeline.mix(a, b, take="semantic")` is image a but for
the semantic codes, which are b's.

Shapes: B batch, K codebooks, h w grid.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.evaluation.pictures import check_image_format, image_grid, save_image
from fqgan_hf.hub.facts import codebook_names
from fqgan_hf.pipelines.labels import normalize_name


if TYPE_CHECKING:
    import torch

    from fqgan_hf.pipelines.pipeline_fqgan import FQGANPipeline


def taken_codebooks(take: str | int | Sequence[str | int], names: Sequence[str], argument: str = "take") -> list[int]:
    """
    Codebooks by name or id.

    Args:
        take (`str`, `int` or a sequence of them):
            A name such as "semantic", which stands for all codebooks whose names begin with it: of a tokenizer with
            "semantic (mid)" and "semantic (high)" for both. Or an id, from 0. Case, hyphens and underscores make no
            difference.
        names (`Sequence[str]`): Of the tokenizer's codebooks; see [`~fqgan_hf.hub.facts.codebook_names`].
        argument (`str`): What errors call `take`.

    Returns:
        `list[int]`: Their ids, in order.

    Raises:
        ValueError: There is one codebook only; a name or id is unknown; none or all of them are taken.
    """
    if len(names) == 1:
        raise ValueError(
            f"{argument} must name some of several codebooks and leave others, and this tokenizer has one codebook"
        )
    wanted = [take] if isinstance(take, (str, int)) else list(take)
    taken = sorted({k for word in wanted for k in _matching(word, names, argument)})
    if not 0 < len(taken) < len(names):
        found = "none" if not taken else f"all {len(names)}"
        raise ValueError(f"{argument} must name some of the codebooks {_listed(names)} and leave others, got {found}")
    return taken


def _matching(word: str | int, names: Sequence[str], argument: str) -> list[int]:
    """Ids that a name or an id stands for."""
    if re.fullmatch(r"[+-]?[0-9]+", str(word)):
        found = [int(word)] if 0 <= int(word) < len(names) else []
    else:
        found = _beginning_with(normalize_name(str(word)), names)
    if not found or isinstance(word, bool):
        raise ValueError(f"{argument} must be names or ids of the codebooks {_listed(names)}, got {word!r}")
    return found


def _beginning_with(text: str, names: Sequence[str]) -> list[int]:
    """The codebook of a name, or those whose names begin with its words."""
    known = [normalize_name(name) for name in names]
    if text in known:
        return [known.index(text)]
    return [k for k, name in enumerate(known) if text and name.startswith(f"{text} ")]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{name!r} ({k})" for k, name in enumerate(names))


def mix_codes(codes_a: "torch.Tensor", codes_b: "torch.Tensor", taken: Sequence[int]) -> "torch.Tensor":
    """
    Codes of `a` with those of `b` in the codebooks `taken`.

    Args:
        codes_a, codes_b (`torch.LongTensor` of shape `(B, K, h, w)`): Of the same tokenizer.
        taken (`Sequence[int]`): Ids of codebooks.

    Raises:
        ValueError: Their shapes differ.
    """
    if codes_a.shape != codes_b.shape:
        one, other = (f"{len(codes)} of {codes.shape[2]} x {codes.shape[3]} codes" for codes in (codes_a, codes_b))
        raise ValueError(
            f"image_a and image_b must become equally many grids of one size, got {one} and {other}: "
            "a size scales and crops them to it"
        )
    mixed = codes_a.clone()
    mixed[:, list(taken)] = codes_b[:, list(taken)]
    return mixed


def mix_files(
    pipe: "FQGANPipeline",
    path_a: Path,
    path_b: Path,
    take: str | int | Sequence[str | int],
    out: Path,
    size: int | None = None,
) -> list[str]:
    """
    Swap codebooks between two picture files, both ways, and write a grid: originals, reconstructions, mixtures.

    Args:
        pipe ([`FQGANPipeline`]): The tokenizer, on its device.
        path_a, path_b (`Path`): Picture files. Each has a column of the grid.
        take (`str`, `int` or a sequence of them): What each gets from the other; see `taken_codebooks`.
        out (`Path`): The grid.
        size (`int`, *optional*): Scale and crop to this many pixels a side, in place of the image processor's size.

    Returns:
        `list[str]`: Names of the codebooks that were swapped.

    Raises:
        ValueError: See `taken_codebooks` and `mix_codes`; or a file cannot be read.
        OSError: `out` cannot be written.
    """
    from fqgan_hf.modeling.image_processing_fqgan import load_image

    config, most = pipe.vqmodel.config, pipe.image_processor.max_pixels
    names = codebook_names(config.num_codebooks, config.feature_dims)
    taken = taken_codebooks(take, names)
    a, b = (pipe.reconstruct(load_image(path, max_pixels=most), size)[0] for path in (path_a, path_b))
    mixtures = [mix_codes(a.codes, b.codes, taken), mix_codes(b.codes, a.codes, taken)]
    rows = [*zip(a.pictures[:2], b.pictures[:2], strict=True), [pipe.decode(codes).images[0] for codes in mixtures]]
    swapped = [names[k] for k in taken]
    captions = ["original", "reconstruction", f"{', '.join(swapped)} codes of the other"]
    grid = image_grid(rows, column_captions=[path_a.name, path_b.name], row_captions=captions, min_cell_size=128)
    check_image_format(out, grid)
    save_image(grid, out)
    return swapped
