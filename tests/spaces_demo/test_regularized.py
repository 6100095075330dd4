# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Space's handlers with a regularized tokenizer: they know of no quantizer."""

import numpy as np
import pytest
import tiny
import torch
from serving import NAMES, Handlers, make_picture

from fqgan_hf import load_pipeline, optimize


pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[space]'")


@pytest.fixture(scope="module", params=[(1, "linear"), (2, "cosine")], ids=["regvq", "regfq"])
def handlers(request, space, tmp_path_factory):
    num_codebooks, token_logits = request.param
    torch.manual_seed(0)
    settings = {"quantizer_type": "regularized", "token_logits": token_logits}
    pipe = tiny.pipeline(num_codebooks, tokenizer_settings=settings, id2label=dict(enumerate(NAMES)))
    folder = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(str(folder))
    loaded = optimize(load_pipeline(folder, "cpu"), compile=False)
    loaded.set_progress_bar_config(disable=True)
    return Handlers(space.build_app(loaded))


def test_generate(handlers):
    images, seed = handlers.generate()
    again, _ = handlers.generate()
    assert seed == 7 and [image.size for image, _ in images] == [(16, 16)] * 2
    assert all(np.array_equal(one, other) for (one, _), (other, _) in zip(images, again, strict=True))


def test_tokenize(handlers, temporary_files):
    path = temporary_files / "a" / "picture.png"
    path.parent.mkdir(exist_ok=True)
    make_picture().save(path)
    _, images, _, rows, _ = handlers.tokenize({"path": str(path), "meta": {"_type": "gradio.FileData"}})
    assert images and rows
