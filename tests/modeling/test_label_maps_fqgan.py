# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Tokenizers of label maps: labels in, codes, labels out."""

import json

import pytest
import tiny
import torch

from fqgan_hf.modeling.label_maps_fqgan import one_hot_labels
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


NUM_LABELS = 5


@pytest.fixture
def label_map() -> torch.Tensor:
    return torch.randint(0, NUM_LABELS, (2, 16, 24))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_are_one_hot_channels(dtype, label_map):
    model = tiny.tokenizer(num_labels=NUM_LABELS).to(dtype)
    assert (model.config.in_channels, model.config.out_channels) == (NUM_LABELS, NUM_LABELS)
    pixel_values = torch.zeros(2, NUM_LABELS, 16, 24, dtype=dtype)
    for image, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(16), torch.arange(24)):
        pixel_values[image, label_map[image, y, x], y, x] = 1
    assert torch.equal(one_hot_labels(label_map, NUM_LABELS, dtype), pixel_values)
    codes = model.encode_labels(label_map.to(torch.uint8)).codes
    assert torch.equal(codes, model.encode(pixel_values).codes) and codes.shape == (2, 2, 4, 6)
    labels = model.decode_labels(codes)
    assert labels.dtype == torch.int64 and torch.equal(labels, model.decode_codes(codes).sample.argmax(1))
    assert labels.shape == label_map.shape and torch.equal(labels, model(pixel_values).sample.argmax(1))
    assert torch.equal(model.decode_labels(codes, [1]), model.decode_codes(codes, [1]).sample.argmax(1))


@torch.no_grad()
def test_save_and_load(label_map, tmp_path):
    model = tiny.tokenizer(num_labels=NUM_LABELS)
    model.save_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert [config[name] for name in ("num_labels", "in_channels", "out_channels")] == [NUM_LABELS] * 3
    loaded = FQGANModel.from_pretrained(str(tmp_path)).eval()
    assert torch.equal(loaded.encode_labels(label_map).latents, model.encode_labels(label_map).latents)


def test_tokenizers_of_pictures_are_what_they_were(tmp_path):
    """With a configuration that does not know of labels, as published ones."""
    model = tiny.tokenizer()
    assert model.config.num_labels is None and model.config.in_channels == 3
    model.save_pretrained(str(tmp_path))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["num_labels"]
    path.write_text(json.dumps(config))
    assert FQGANModel.from_pretrained(str(tmp_path)).config.num_labels is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode_labels(torch.full((1, 16, 16), 5)), r"label_map must be in \[0, 4\], got 5 to 5"),
        (lambda m: m.encode_labels(-torch.ones(1, 16, 16).long()), r"must be in \[0, 4\], got -1 to -1"),
        (lambda m: m.encode_labels(torch.zeros(1, 16, 16)), "must be integers of shape .*, got torch.float32"),
        (
            lambda m: m.encode_labels(torch.zeros(16, 16).long()),
            r"of shape \(batch, height, width\), got .*\(16, 16\)",
        ),
        (
            lambda m: m.encode_labels(torch.zeros(1, 18, 16).long()),
            "divisible by the downsampling factor 4, got 18x16",
        ),
        (lambda m: tiny.tokenizer().encode_labels(torch.zeros(1, 16, 16).long()), "is one of pictures"),
        (lambda m: tiny.tokenizer().decode_labels(torch.zeros(1, 2, 4, 4).long()), "is one of pictures"),
        (lambda m: tiny.tokenizer(num_labels=1), r"num_labels must be an integer in \[2, 1,024\] or None, got 1"),
        (
            lambda m: tiny.tokenizer(num_labels=4, in_channels=5),
            "in_channels must be num_labels = 4 or left out, got 5",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(tiny.tokenizer(num_labels=NUM_LABELS))
