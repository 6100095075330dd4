# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Images that are encoded on the fly: the views of extract_codes, and what is refused."""

from typing import get_args

import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from torch.utils.data import default_collate

from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.arguments import CropName, parse_arguments
from fqgan_hf.training.data.crops import CROPS
from fqgan_hf.training.extract_codes import main as extract_codes
from fqgan_hf.training.far.generator_data import encoded_images, stored_codes
from fqgan_hf.training.train_code_diffusion import TrainCodeDiffusionArguments
from fqgan_hf.training.train_far import TrainFARArguments
from fqgan_hf.training.train_far import main as train_far

from ..conftest import TOKENIZER


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """With codebooks far apart: as they are initialized, most images would have the same few codes."""
    torch.manual_seed(0)
    model = tiny.tokenizer(**TOKENIZER)
    torch.nn.init.normal_(model.quantizer.embedding)
    folder = tmp_path_factory.mktemp("tokenizer")
    model.save_pretrained(str(folder))
    return folder


def encode(data, keys):
    """Samples by their keys, and their codes."""
    batch = default_collate([data.training[key] for key in keys])
    return batch, data.codes_of(batch)


def test_every_crop_has_views():
    """Written out a second time, in a file that can be imported at once."""
    assert get_args(CropName) == tuple(CROPS)


@pytest.mark.parametrize("crop", CROPS)
def test_on_the_fly_has_the_codes_of_the_store(crop, tokenizer, image_folder, cache_dir, to_command, tmp_path):
    """Of every image in every epoch, whichever view that shows; validation sees the first view."""
    images = {"train_data_dir": image_folder, "tokenizer": tokenizer, "crop": crop, "cache_dir": cache_dir}
    extract_codes(to_command({**images, "output_dir": tmp_path / "codes"}))
    AcceleratorState._reset_state(reset_partial_state=True)
    options = {"output_dir": tmp_path / "out", "validation_fraction": 0.2, "seed": 3}
    fly = parse_arguments(TrainFARArguments, [*to_command({**images, **options}), "--on_the_fly"])
    store = parse_arguments(TrainFARArguments, to_command({**options, "codes_dir": tmp_path / "codes"}))
    encoded = encoded_images(fly, FQGANModel.from_pretrained(str(tokenizer)).eval())
    stored = stored_codes(store, None)
    assert encoded.manifest.views == stored.manifest.views == CROPS[crop][0]
    seen = set()
    for epoch in range(4):
        keys = [(epoch, position) for position in range(encoded.num_samples)]
        (ours, codes), (theirs, expected) = encode(encoded, keys), encode(stored, keys)
        assert torch.equal(codes, expected)
        assert all(torch.equal(ours[name], theirs[name]) for name in ("class_labels", "index"))
        seen |= set(zip(ours["index"].tolist(), map(str, codes.tolist()), strict=True))
    assert crop == "plain" or len(seen) > 1.5 * encoded.num_samples, "codes that tell views apart"
    held_out = default_collate([encoded.held_out[i] for i in range(len(encoded.held_out))])
    expected = torch.stack([stored.held_out[i]["codes"] for i in range(len(stored.held_out))])
    assert torch.equal(encoded.codes_of(held_out), expected)


@pytest.mark.parametrize("arguments_class", [TrainFARArguments, TrainCodeDiffusionArguments])
def test_every_generator_knows_every_crop(arguments_class, image_folder, to_command):
    for crop in CROPS:
        words = to_command({"output_dir": "out", "train_data_dir": image_folder, "tokenizer": "a/b", "crop": crop})
        assert parse_arguments(arguments_class, [*words, "--on_the_fly"]).crop == crop


def test_a_tokenizer_of_label_maps_encodes_no_pictures_on_the_fly(image_folder, cache_dir, to_command, tmp_path):
    tiny.tokenizer(**TOKENIZER, num_labels=3).save_pretrained(str(tmp_path / "maps"))
    options = {"train_data_dir": image_folder, "tokenizer": tmp_path / "maps", "cache_dir": cache_dir}
    with pytest.raises(ValueError, match="tokenizer must be one of pictures, .*: --map_tokenizer takes it"):
        train_far([*to_command({**options, "output_dir": tmp_path / "out"}), "--on_the_fly"])
