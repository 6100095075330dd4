# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a generator trains on: a store of codes, or with --on_the_fly images that a tokenizer encodes as they arrive.

Both give the same codes for the same image, view by view: either can replace the other, unless the store's were drawn
(`extract_codes --stochastic`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.store import load_rows
from fqgan_hf.evaluation.images import LabelledImages, load_images
from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.data.codes import CodeSequences, check_encodes_pictures, describe_codes
from fqgan_hf.training.data.datasets import ImageViews, split_indices


if TYPE_CHECKING:
    from fqgan_hf.training.far.arguments import GeneratorArguments


@dataclass
class GeneratorData:
    """
    Codes to train on and codes to validate on.

    Args:
        manifest (`CodesManifest`): Says what the codes are.
        training (`Dataset`): Keyed by the pairs of `EpochSampler`.
        held_out (`Dataset`): Keyed by position.
        num_samples (`int`): Images to train on.
        fingerprint (`str`): What other data do not have.
        encoder (`FQGANModel`, *optional*): Encodes images on the fly; without it samples are codes.
    """

    manifest: CodesManifest
    training: Dataset
    held_out: Dataset
    num_samples: int
    fingerprint: str
    encoder: FQGANModel | None = None

    @property
    def source(self) -> str:
        """Where the images came from."""
        return self.manifest.source

    def captions(self) -> Iterator[str]:
        """All captions of the training images, one image after another; only where there is a store that has them."""
        for row in self.training.indices:
            yield from self.training.captions[row].as_py()

    @torch.no_grad()
    def codes_of(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Codes `(batch, positions, num_codebooks)` of a batch, in full precision as `extract_codes` makes them."""
        if self.encoder is None:
            return batch["codes"]
        return grid_to_sequence(self.encoder.encode(batch["pixel_values"]).codes)


def _load_codes(codes_dir: str, tokenizer_fingerprint: str | None) -> CodesManifest:
    """The manifest of a store of codes, which must come from the tokenizer with this fingerprint, if one is given."""
    manifest = CodesManifest.load(codes_dir)
    if tokenizer_fingerprint not in (None, manifest.tokenizer_fingerprint):
        raise ValueError(
            f"codes_dir {codes_dir} holds codes of another tokenizer: {manifest.tokenizer} with fingerprint "
            f"{manifest.tokenizer_fingerprint[:16]}... made them, expected {tokenizer_fingerprint[:16]}..."
        )
    return manifest


def stored_codes(args: "GeneratorArguments", tokenizer_fingerprint: str | None) -> GeneratorData:
    """Codes of `--codes_dir`, those held out of them or of `--validation_codes_dir`."""
    manifest = held_out_manifest = _load_codes(args.codes_dir, tokenizer_fingerprint)
    rows = held_out_rows = load_rows(args.codes_dir, manifest, args.cache_dir)
    num_rows = min(args.max_train_samples or len(rows), len(rows))
    indices, held_out = split_indices(num_rows, args.validation_fraction, args.seed)
    if args.validation_codes_dir is not None:
        held_out_manifest = _load_codes(args.validation_codes_dir, manifest.tokenizer_fingerprint)
        _check_same_maps(manifest, held_out_manifest, args.validation_codes_dir)
        held_out_rows = load_rows(args.validation_codes_dir, held_out_manifest, args.cache_dir)
        held_out = range(len(held_out_rows))
    return GeneratorData(
        manifest,
        CodeSequences(rows, manifest, indices, seed=args.seed),
        CodeSequences(held_out_rows, held_out_manifest, held_out[: args.max_validation_samples]),
        len(indices),
        manifest.content_fingerprint(),
    )


def _check_same_maps(manifest: CodesManifest, held_out_manifest: CodesManifest, codes_dir: str) -> None:
    ours, theirs = manifest.map, held_out_manifest.map
    if ours is not None and theirs is not None and ours.tokenizer_fingerprint != theirs.tokenizer_fingerprint:
        raise ValueError(
            f"validation_codes_dir {codes_dir} holds map codes of another map tokenizer: {theirs.tokenizer!r} made "
            f"them, those to train on are of {ours.tokenizer!r}"
        )


def encoded_images(args: "GeneratorArguments", tokenizer: FQGANModel) -> GeneratorData:
    """Images as for `extract_codes`, with the views of `--crop`, for `tokenizer` to encode."""
    check_encodes_pictures(tokenizer, args.tokenizer)
    resolution = args.resolution or tokenizer.config.sample_size
    tokenizer.grid_size(resolution, resolution)  # raises for a resolution that the tokenizer cannot encode
    images = held_out_images = load_images(args)
    if args.label_column is not None and images.label_column is None:
        raise ValueError(f"label_column {args.label_column!r} of a stream must be a class column, with its names")
    indices, held_out = split_indices(len(images), args.validation_fraction, args.seed)
    if args.validation_split is not None:
        held_out_images = load_images(args, args.validation_split)
        _check_same_classes(images, held_out_images)
        held_out = range(len(held_out_images))
    return GeneratorData(
        describe_codes(tokenizer, args.tokenizer, images, args.crop, resolution),
        ImageViews(images, indices, args.crop, resolution, seed=args.seed),
        ImageViews(held_out_images, held_out[: args.max_validation_samples], args.crop, resolution),
        len(indices),
        images.fingerprint,
        tokenizer,
    )


def _check_same_classes(images: LabelledImages, held_out_images: LabelledImages) -> None:
    if images.label_names != held_out_images.label_names:
        raise ValueError(
            f"validation_split must have the classes of the training split, {images.label_names[:5]}..., "
            f"got {held_out_images.label_names[:5]}..."
        )
