# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FQGANPipeline: images to codes to images, with tiny random models."""

import numpy as np
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image

from fqgan_hf import FQGANImageProcessor, FQGANPipeline


def make_pipeline(num_codebooks=2, size=None, **config):
    torch.manual_seed(num_codebooks)
    vqmodel = tiny.tokenizer(num_codebooks, **config)
    return FQGANPipeline(vqmodel, FQGANImageProcessor(size=size, multiple_of=4))


def make_image(height=16, width=16, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def pipe():
    return make_pipeline()


@pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
def test_call_is_encode_then_decode(num_codebooks):
    pipe = make_pipeline(num_codebooks)
    images = [make_image(seed=0), make_image(seed=1)]
    codes = pipe.encode(images)
    assert codes.shape == (2, num_codebooks, 4, 4) and codes.dtype == torch.long
    with torch.no_grad():
        pixel_values = pipe.image_processor(images)["pixel_values"]
        expected = (pipe.vqmodel(pixel_values).sample / 2 + 0.5).clamp(0, 1)
    output = pipe(images, output_type="pt")
    assert isinstance(output, ImagePipelineOutput)
    torch.testing.assert_close(output.images, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(pipe.decode(codes, output_type="pt").images, expected, rtol=0, atol=1e-5)
    array = pipe.decode(codes, output_type="np").images
    np.testing.assert_allclose(array, expected.permute(0, 2, 3, 1).numpy(), atol=1e-5)
    pictures = pipe.decode(codes).images
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    np.testing.assert_allclose(np.stack(pictures) / 255, array, atol=0.51 / 255)


def test_each_codebook_counts(pipe):
    image = make_image()
    both, first, second = (pipe(image, codebooks=c, output_type="pt").images for c in (None, [0], [1]))
    torch.testing.assert_close(both, pipe(image, codebooks=[0, 1], output_type="pt").images)
    assert not torch.allclose(both, first, atol=1e-4)
    assert not torch.allclose(both, second, atol=1e-4)
    codes = pipe.encode(image)
    other = codes.clone()
    other[:, 1] = (other[:, 1] + 1) % 32
    alone = [pipe.decode(c, codebooks=[0], output_type="pt").images for c in (codes, other)]
    torch.testing.assert_close(*alone, msg="a codebook that is left out has no say")


def test_any_size_and_shape(pipe):
    assert pipe.encode(make_image(24, 40)).shape == (1, 2, 6, 10)
    (picture,) = pipe(make_image(24, 40)).images
    assert picture.size == (40, 24)
    assert pipe.encode(make_image(24, 40), size=16).shape == (1, 2, 4, 4)
    (picture,) = pipe(make_image(24, 40), size={"height": 8, "width": 16}).images
    assert picture.size == (16, 8)
    assert make_pipeline(size=16).encode([make_image(24, 40), make_image(40, 24)]).shape == (2, 2, 4, 4)


def test_tuples(pipe):
    (images,) = pipe(make_image(), return_dict=False)
    assert isinstance(images[0], Image.Image)
    (images,) = pipe.decode(pipe.encode(make_image()), return_dict=False)
    assert isinstance(images[0], Image.Image)


def test_bfloat16(pipe):
    pipe.to(torch.bfloat16)
    images = pipe(make_image(), output_type="np").images
    assert images.dtype == np.float32 and images.shape == (1, 16, 16, 3)


def test_gradients_are_not_kept(pipe):
    assert not pipe(make_image(), output_type="pt").images.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_type": "codes"}, r"output_type must be one of \('pil', 'np', 'pt'\), got 'codes'"),
        ({"codebooks": [2]}, r"codebooks must be a list of indices in \[0, 1\], got \[2\]"),
        ({"codebooks": [-1]}, r"codebooks must be a list of indices in \[0, 1\], got \[-1\]"),
        ({"codebooks": []}, r"codebooks must be a list of indices in \[0, 1\], got \[\]"),
        ({"codebooks": 0}, r"codebooks must be a list of indices in \[0, 1\], got 0"),
        ({"size": 18}, "size must be divisible by multiple_of = 4, got 18"),
    ],
)
def test_refused_before_any_computation(pipe, arguments, message):
    ran = []
    pipe.vqmodel.encoder.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match=message):
        pipe(make_image(), **arguments)
    assert not ran
    if "size" not in arguments:
        with pytest.raises(ValueError, match=message):
            pipe.decode(torch.zeros(1, 2, 4, 4, dtype=torch.long), **arguments)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[1]], r"codes must be a torch.Tensor \(batch, num_codebooks, height, width\), got \[\[1\]\]"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.long), r"codes must be integers of shape \(batch, 2, height, width\)"),
        (torch.zeros(1, 2, 4, 4), "codes must be integers of shape"),
        (torch.full((1, 2, 4, 4), 32), r"codes must be in \[0, 31\], got 32"),
    ],
)
def test_codes_that_do_not_fit(pipe, codes, message):
    with pytest.raises(ValueError, match=message):
        pipe.decode(codes)


def test_round_trip_by_either_class(pipe, tmp_path):
    codes = pipe.encode(make_image())
    pipe.save_pretrained(str(tmp_path))
    for cls in (FQGANPipeline, DiffusionPipeline):
        reloaded = cls.from_pretrained(tmp_path)
        assert type(reloaded) is FQGANPipeline
        assert torch.equal(reloaded.encode(make_image()), codes)


def test_offload_brings_the_model_in_for_decoding(pipe):
    """`decode_codes` reads the codebooks before any `forward`, where accelerate waits."""
    pytest.importorskip("accelerate")
    codes = pipe.encode(make_image())
    expected = pipe.decode(codes, output_type="pt").images
    pipe.enable_model_cpu_offload(device="cpu")
    hook, calls = pipe.vqmodel._hf_hook, []
    original = hook.pre_forward
    hook.pre_forward = lambda module, *args, **kwargs: (calls.append("in"), original(module, *args, **kwargs))[1]
    lookup = pipe.vqmodel.quantizer.lookup
    pipe.vqmodel.quantizer.lookup = lambda codes: (calls.append("lookup"), lookup(codes))[1]
    assert torch.equal(pipe.decode(codes, output_type="pt").images, expected)
    assert calls[:2] == ["in", "lookup"]
    assert torch.equal(pipe.encode(make_image()), codes)


# ---- reconstruct ----


@pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
def test_reconstruct_shows_all_codebooks_and_each_alone(num_codebooks):
    pipe, image = make_pipeline(num_codebooks), make_image(24, 16)
    (result,) = pipe.reconstruct(image)
    alone = [None, *([k] for k in range(num_codebooks))] if num_codebooks > 1 else [None]
    expected = [image, *(pipe(image, codebooks=codebooks).images[0] for codebooks in alone)]
    assert len(result.pictures) == len(result.captions) == len(expected)
    for picture, other in zip(result.pictures, expected, strict=True):
        np.testing.assert_allclose(np.asarray(picture, int), np.asarray(other, int), atol=1)
    assert torch.equal(result.codes, pipe.encode(image))
    assert result.usage.num_used.tolist() == [result.codes[:, k].unique().numel() for k in range(num_codebooks)]
    error = ((np.asarray(image, float) - np.asarray(result.pictures[1], float)) / 255) ** 2
    assert result.psnr == pytest.approx(-10 * np.log10(error.mean()), abs=0.05)


def test_reconstruct_takes_images_of_different_sizes(pipe):
    images = [make_image(24, 40, seed=1), make_image(16, 16, seed=2)]
    first, second = pipe.reconstruct(images)
    assert [first.pictures[0].size, second.pictures[0].size] == [(40, 24), (16, 16)]
    assert first.codes.shape == (1, 2, 6, 10) and second.codes.shape == (1, 2, 4, 4)
    (alone,) = pipe.reconstruct(images[1])
    assert torch.equal(alone.codes, second.codes) and alone.psnr == second.psnr
    assert pipe.reconstruct(images[0], size=16)[0].codes.shape == (1, 2, 4, 4)
    batch = torch.rand(2, 3, 16, 16)
    assert len(pipe.reconstruct(batch)) == 2
    with pytest.raises(ValueError, match="size must be divisible by multiple_of = 4, got 18"):
        pipe.reconstruct(images, size=18)


def test_pictures_are_captioned_after_what_the_codebooks_were_trained_for(pipe):
    """They were called visual and semantic although no teacher had taught either."""
    assert pipe.reconstruct(make_image())[0].captions == [
        "original", "both codebooks", "codebook 1 only", "codebook 2 only",
    ]  # fmt: skip
    taught = make_pipeline(feature_dims=(None, 16), feature_num_layers=1, feature_num_heads=2)
    (result,) = taught.reconstruct(make_image())
    assert result.captions == ["original", "both codebooks", "visual only", "semantic only"]


def test_a_tokenizer_of_label_maps_is_refused():
    with pytest.raises(ValueError, match="got one of label maps of 5 labels: its encode_labels and decode_labels"):
        make_pipeline(num_labels=5)
