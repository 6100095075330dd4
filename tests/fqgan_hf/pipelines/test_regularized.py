# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Regularized tokenizers in the pipelines and commands: nothing there knows which quantizer a tokenizer has."""

import json

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fqgan_hf import load_pipeline, optimize
from fqgan_hf.cli import main


SETTINGS = {
    "regvq": (1, {"quantizer_type": "regularized", "token_logits": "linear"}),
    "regfq": (2, {"quantizer_type": "regularized", "token_logits": "cosine", "mask_shared": False}),
    "gumbel": (2, {"quantizer_type": "gumbel", "token_logits": "linear"}),
}


@pytest.fixture(params=SETTINGS)
def pipeline(request):
    num_codebooks, settings = SETTINGS[request.param]
    torch.manual_seed(0)
    return tiny.pipeline(num_codebooks, tokenizer_settings=settings)


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(str(tmp_path / "pipeline"))
    Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path


def generate(pipeline) -> np.ndarray:
    return pipeline([1, 2], generator=torch.Generator().manual_seed(0), output_type="np").images


def test_a_generator_and_its_tokenizer_make_images(pipeline, folder):
    """The same ones once saved and loaded, and after `optimize`."""
    loaded = load_pipeline(folder / "pipeline", "cpu")
    assert loaded.vqmodel.config.quantizer_type == pipeline.vqmodel.config.quantizer_type
    expected, again = generate(pipeline), generate(loaded)
    assert expected.shape == (2, 16, 16, 3) and np.array_equal(again, expected)
    np.testing.assert_allclose(generate(optimize(loaded, compile=False)), expected, atol=1e-3)


def test_encoding_is_deterministic_and_goes_through_the_codes(pipeline):
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    model = pipeline.vqmodel
    codes = model.encode(pixels).codes
    assert torch.equal(model.encode(pixels).codes, codes)
    torch.testing.assert_close(model.decode_codes(codes).sample, model(pixels).sample)


def test_commands(folder, capsys):
    """`info`, `reconstruct`, `generate` and `sample` by the folder alone; `sample` in pieces makes the same images."""
    model = ["--model", str(folder / "pipeline")]
    assert main(["info", str(folder / "pipeline")]) == 0
    assert "belong together  yes" in capsys.readouterr().out
    assert main(["reconstruct", str(folder / "photo.png"), *model, "--out", str(folder / "grid.png")]) == 0
    assert main(["generate", *model, "--class_labels", "1", "2", "--out", str(folder / "made.png")]) == 0
    for name in ("grid.png", "made.png"):
        assert Image.open(folder / name).width >= 32
    for name, numbers in (("whole", ["6"]), ("pieces", ["3", "6"])):
        for number in numbers:
            words = ["--num", number, "--batch_size", "1", "--output_dir", str(folder / name)]
            assert main(["sample", *model, *words]) == 0
    manifests = [json.loads((folder / name / "manifest.json").read_text()) for name in ("whole", "pieces")]
    assert manifests[0]["shards"] == manifests[1]["shards"], "with their hashes"
