# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From the name of a model to its images: loading, the one seed rule, batches."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fqgan_hf import (
    FARPipeline,
    FQGANPipeline,
    SamplingSettings,
    generate_images,
    load_pipeline,
    load_tokenizer,
)
from fqgan_hf.pipelines.inference import generate_batches, image_generator, join_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tokenizer without an image processor, one with it, a generator, and both as pipelines."""
    torch.manual_seed(0)
    pipe = tiny.pipeline(num_classes=4, num_hidden_layers=1)
    tokenizer, generator, processor = pipe.vqmodel, pipe.transformer, pipe.image_processor
    folder = tmp_path_factory.mktemp("models")
    tokenizer.save_pretrained(str(folder / "bare"))
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    processor.save_pretrained(str(folder / "tokenizer"))
    generator.save_pretrained(str(folder / "generator"))
    pipe.save_pretrained(str(folder / "pipeline"))
    FQGANPipeline(tokenizer, processor).save_pretrained(str(folder / "codec"))
    return folder


@pytest.fixture(scope="module")
def pipe(saved):
    return load_pipeline(saved / "pipeline", "cpu")


# ---- Loading ----


def test_a_pipeline_is_loaded_whole_or_from_its_parts(saved, pipe):
    joined = join_pipeline(saved / "tokenizer", saved / "generator")
    assert type(pipe) is type(joined) is FARPipeline
    assert not joined.vqmodel.training and not joined.transformer.training
    codes = [generate_images(p, [1, 2], seed=0, output_type="codes") for p in (pipe, joined)]
    assert torch.equal(*codes)


def test_a_generator_by_diffusion_is_joined_with_what_lies_beside_it(tmp_path):
    pipe = tiny.conditional_pipeline("text", "map", kind="diffusion", text=None)
    for name in ("vqmodel", "map_vqmodel", "transformer"):
        getattr(pipe, name).save_pretrained(str(tmp_path / name))
    pipe.image_processor.save_pretrained(str(tmp_path / "vqmodel"))
    pipe.tokenizer.save_pretrained(str(tmp_path / "transformer" / "tokenizer"))
    parts = tmp_path / "vqmodel", tmp_path / "transformer", None, tmp_path / "map_vqmodel"
    with pytest.raises(ValueError, match="must have its scheduler in a subfolder"):
        join_pipeline(*parts)
    pipe.scheduler.save_pretrained(str(tmp_path / "transformer" / "scheduler"))
    joined = join_pipeline(*parts)
    given = {"prompt": ["a red apple"] * 2, "map_image": [torch.zeros(16, 16, dtype=torch.long)] * 2}
    codes = [generate_images(p, given, seed=0, output_type="codes") for p in (pipe, joined)]
    assert torch.equal(*codes)


@pytest.mark.parametrize("name", ["bare", "tokenizer", "pipeline", "codec"])
def test_a_tokenizer_is_found_wherever_there_is_one(saved, name):
    pipe = load_tokenizer(saved / name, "cpu")
    assert type(pipe) is FQGANPipeline
    assert pipe.image_processor.size == 16 and not pipe.vqmodel.training
    assert pipe.encode(Image.new("RGB", (20, 16))).shape == (1, 2, 4, 4)


@pytest.mark.parametrize(
    ("load", "name", "message"),
    [
        (load_pipeline, "tokenizer", "model must be a FARPipeline .* is a FQGANModel"),
        (load_pipeline, "codec", "model must be a FARPipeline .* is a FQGANPipeline"),
        (load_tokenizer, "generator", "is a generator and reads no images"),
    ],
)
def test_another_kind_of_model_is_refused(saved, load, name, message):
    with pytest.raises(ValueError, match=message):
        load(saved / name)


def test_what_does_not_exist_is_named(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_pipeline(tmp_path / "absent")
    with pytest.raises(ValueError, match="--device nonsense cannot be used here"):
        load_pipeline(saved / "pipeline", "nonsense")
    with pytest.raises(ValueError, match="generator: .* cannot be loaded as a generator, it is a FQGANModel"):
        join_pipeline(saved / "tokenizer", saved / "tokenizer")


# ---- The seed rule ----


def test_neighbouring_seeds_have_no_random_numbers_in_common():
    """The generator of image i was seeded with `seed + i`: seeds 0 and 1 shared all images but one."""
    first, second = ([image_generator(seed, i).initial_seed() for i in range(1000)] for seed in (0, 1))
    assert len({*first, *second}) == 2000
    draws = [torch.rand(1, generator=image_generator(seed, i)).item() for seed in range(3) for i in range(100)]
    assert len(set(draws)) == 300


def test_the_rule_stays_what_it_is():
    """Published figures and half-finished runs rest on it."""
    assert [image_generator(0, i).initial_seed() for i in (0, 1)] == [2968811710, 2968811711]
    assert image_generator(1, 2**32 - 1).initial_seed() == image_generator(1, 0).initial_seed() - 1
    assert image_generator(2**40, 0).initial_seed() < 2**32
    with pytest.raises(ValueError):
        image_generator(-1, 0)


def test_seed_1_is_not_seed_0_shifted(pipe):
    first, second = (generate_images(pipe, [1] * 8, seed=seed, output_type="codes") for seed in (0, 1))
    assert not (first[:, None] == second[None]).flatten(2).all(-1).any()


# ---- Batches ----


def test_images_do_not_depend_on_the_batch_size(pipe):
    labels, settings = [0, 1, 2, 3, 0, 1, 2], SamplingSettings(guidance_scale=(2.0, 1.5), top_k=20)
    expected = generate_images(pipe, labels, seed=3, batch_size=7, settings=settings, output_type="codes")
    for batch_size in (1, 3, 16):
        codes = generate_images(pipe, labels, seed=3, batch_size=batch_size, settings=settings, output_type="codes")
        assert torch.equal(codes, expected)


@pytest.mark.parametrize("kind", ["far", "diffusion"])
def test_prompts_and_edits_in_batches(kind):
    pipe = tiny.conditional_pipeline("text", kind=kind)
    photo = Image.effect_mandelbrot((16, 16), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    given = {"prompt": ["a red apple", "a pear", "blue"], "image": [photo] * 3}
    arguments = {"strength": 0.5, "negative_prompt": "green"}
    codes = [
        generate_images(pipe, given, seed=3, batch_size=size, output_type="codes", arguments=arguments)
        for size in (2, 3)
    ]
    assert torch.equal(*codes) and len(codes[0]) == 3
    with pytest.raises(ValueError, match="given must have as many values of each name, got .*'image': 2"):
        generate_images(pipe, given | {"image": [photo] * 2}, seed=3)


def test_generate_images_is_the_pipeline_with_one_generator_per_image(pipe):
    settings = SamplingSettings(guidance_scale=3.0, temperature=0.8, top_k=5, top_p=0.9)
    images = generate_images(pipe, [2, 3], seed=5, settings=settings)
    expected = pipe(
        [2, 3], guidance_scale=3.0, temperature=0.8, top_k=5, top_p=0.9,
        generator=[image_generator(5, 0), image_generator(5, 1)],
    ).images  # fmt: skip
    assert all(np.array_equal(image, other) for image, other in zip(images, expected, strict=True))
    assert all(isinstance(image, Image.Image) for image in images)


def test_batches_are_computed_when_they_are_asked_for(pipe):
    calls = []
    hook = pipe.vqmodel.decoder.register_forward_hook(lambda module, arguments, output: calls.append(len(output)))
    batches = generate_batches(pipe, [0, 1, 2, 3, 0], seed=0, batch_size=2)
    assert calls == []
    assert len(next(batches)) == 2 and calls == [2]
    assert [len(batch) for batch in batches] == [2, 1] and calls == [2, 2, 1]
    hook.remove()


def test_any_images_of_a_seed_can_be_asked_for(pipe):
    labels = [i % 4 for i in range(6)]
    codes = generate_images(pipe, labels, seed=0, output_type="codes")
    chosen = [5, 2, 2]
    batches = generate_batches(pipe, [labels[i] for i in chosen], seed=0, indices=chosen, output_type="codes")
    assert torch.equal(torch.cat(list(batches)), codes[chosen])


def test_bad_arguments_are_refused_before_anything_is_computed(pipe, capsys):
    with pytest.raises(ValueError, match=r"class_labels must be in \[0, 3\], got 4"):
        generate_images(pipe, [4], seed=0)
    with pytest.raises(ValueError, match="guidance_scale must be one value or 2 values"):
        generate_images(pipe, [1], seed=0, settings=SamplingSettings(guidance_scale=(1, 2, 3)))
    with pytest.raises(ValueError, match='output_type must be "pil" or "codes"'):
        generate_images(pipe, [1], seed=0, output_type="latents")
    assert "generating" not in capsys.readouterr().err
