# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Small stores of codes with captions and maps, in which the conditions determine the codes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tiny
import torch

from fqgan_hf.codes.manifest import CodesManifest, MapCodes
from fqgan_hf.codes.store import finish, shard_name, write_shard
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


CAPTIONS = ("a red apple", "a blue apple", "a red pear", "a blue pear")
SIZE, GRID = 8, (2, 2)  # codes in each codebook, and the grid of images and maps
TOKENIZER = {"codebook_size": SIZE, "sample_size": 8}


def make_tokenizer(folder: Path, **settings) -> FQGANModel:
    """A tokenizer of 2x2 grids of 2 x 8 codes, saved in a folder."""
    torch.manual_seed(len(settings))
    model = tiny.tokenizer(**{**TOKENIZER, **settings})
    model.save_pretrained(str(folder))
    return model


def write_store(
    folder: Path,
    codes: torch.Tensor,
    labels: Sequence[int],
    captions: Sequence[Sequence[str]] | None = None,
    map_codes: torch.Tensor | None = None,
    tokenizer: FQGANModel | None = None,
    map_tokenizer: FQGANModel | None = None,
    codebook_size: int = SIZE,
) -> Path:
    """
    A store of two classes.

    Args:
        folder (`Path`): Where.
        codes (`torch.LongTensor` of shape `(images, K, h, w)`): One view each.
        labels (`Sequence[int]`): 0 or 1.
        captions (`Sequence[Sequence[str]]`, *optional*): Several of each image.
        map_codes (`torch.LongTensor` of shape `(images, Km, h, w)`, *optional*).
        tokenizer, map_tokenizer (`FQGANModel`, *optional*): Whose codes they are said to be.
        codebook_size (`int`): V, of images and maps.
    """
    fingerprint = "f" * 64 if tokenizer is None else tokenizer.fingerprint()
    manifest = CodesManifest(
        tokenizer="t", tokenizer_fingerprint=fingerprint, num_codebooks=codes.shape[1], codebook_size=codebook_size,
        grid=list(codes.shape[2:]), resolution=8, crop="plain", views=["plain"], source="s", shard_size=1000,
        num_rows=len(codes), id2label={"0": "apple", "1": "pear"},
    )  # fmt: skip
    maps = None
    if map_codes is not None:
        fingerprint = "e" * 64 if map_tokenizer is None else map_tokenizer.fingerprint()
        maps = MapCodes("m", fingerprint, map_codes.shape[1], codebook_size, list(map_codes.shape[2:]))
        map_codes = map_codes[:, None]
    if captions is not None or maps is not None:
        manifest = replace(manifest).with_conditions(captions is not None, maps, ["a"])
    folder.mkdir(parents=True, exist_ok=True)
    ids = [str(i) for i in range(len(codes))]
    write_shard(folder / shard_name(0), manifest, ids, labels, codes[:, None], captions=captions, map_codes=map_codes)
    finish(folder, manifest)
    return folder


def codes_of_captions() -> torch.Tensor:
    """The codes `(4, 2, 2, 2)` of the images that `CAPTIONS` describe."""
    return torch.randint(SIZE, (len(CAPTIONS), 2, *GRID), generator=torch.Generator().manual_seed(0))


def codes_of_maps(map_codes: torch.Tensor) -> torch.Tensor:
    """The codes `(B, 2, h, w)` of the images that have these maps `(B, 1, h, w)`: cell by cell."""
    return torch.cat([(map_codes + 3) % SIZE, (5 * map_codes) % SIZE], dim=1)


def write_captioned(folder: Path, tokenizer: FQGANModel | None = None) -> Path:
    """Thirty-two images with captions, each in two spellings."""
    rows = [i % len(CAPTIONS) for i in range(32)]
    captions = [(CAPTIONS[i], f"{CAPTIONS[i].upper()}.") for i in rows]
    return write_store(folder, codes_of_captions()[rows], [i // 2 for i in rows], captions, tokenizer=tokenizer)


def draw_maps(number: int, seed: int = 0) -> torch.Tensor:
    """Maps `(number, 1, 2, 2)` of few codes, so that few images tell what becomes of them."""
    return torch.randint(3, (number, 1, *GRID), generator=torch.Generator().manual_seed(seed))


def write_mapped(
    folder: Path, tokenizer: FQGANModel | None = None, map_tokenizer: FQGANModel | None = None, number: int = 128
) -> Path:
    """Images with maps, and a caption that says nothing."""
    maps = draw_maps(number)
    codes, labels, captions = codes_of_maps(maps), [i % 2 for i in range(number)], [["a thing"]] * number
    return write_store(folder, codes, labels, captions, maps, tokenizer, map_tokenizer)
