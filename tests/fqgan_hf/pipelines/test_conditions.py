# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts and maps in both pipelines: what reaches the generator, how it is saved, what is refused."""

import json

import numpy as np
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.pipelines.prompts import encode_prompts


PIPELINES = pytest.mark.parametrize("kind", ["far", "diffusion"])
PROMPTS = ["a red apple", "the small house"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def codes_of(pipe, **arguments):
    return pipe(output_type="codes", **{"generator": seeded(), **arguments}).images


def label_maps(number=2):
    return torch.randint(5, (number, 16, 16), generator=seeded(9))


def reached(pipe, **arguments):
    """What the generator is given, as `embed_conditions` takes it."""
    found = {}
    embed = pipe.transformer.embed_conditions
    pipe.transformer.embed_conditions = lambda **inputs: (found.update(inputs), embed(**inputs))[1]
    codes = codes_of(pipe, **arguments)
    pipe.transformer.embed_conditions = embed
    return found, codes


class TestPrompts:
    @PIPELINES
    @pytest.mark.parametrize("text", ["clip", "t5", "bert", None])
    def test_reach_the_generator(self, kind, text):
        pipe = tiny.conditional_pipeline("text", kind=kind, text=text)
        found, codes = reached(pipe, prompt=PROMPTS, negative_prompt="a pear")
        expected, mask = encode_prompts(PROMPTS, pipe.tokenizer, pipe.text_encoder, 8)
        assert torch.equal(found["text"], expected) and torch.equal(found["text_mask"], mask)
        negative, mask = encode_prompts(["a pear"] * 2, pipe.tokenizer, pipe.text_encoder, 8)
        assert torch.equal(found["negative_text"], negative) and torch.equal(found["negative_text_mask"], mask)
        assert codes.shape == (2, 2, 4, 4) and codes.min() >= 0 and codes.max() < 32
        assert not torch.equal(codes, codes_of(pipe, prompt=PROMPTS)), "the negative prompt matters"
        assert not torch.equal(codes_of(pipe, prompt=PROMPTS), codes_of(pipe, prompt=PROMPTS[::-1]))

    @PIPELINES
    def test_images_of_a_prompt_come_together_and_by_themselves(self, kind):
        pipe = tiny.conditional_pipeline("text", kind=kind)
        negative = ["a pear", "blue"]
        generators = [seeded(i) for i in range(4)]
        codes = codes_of(pipe, prompt=PROMPTS, negative_prompt=negative, num_images_per_prompt=2, generator=generators)
        for i in range(4):
            alone = codes_of(pipe, prompt=PROMPTS[i // 2], negative_prompt=negative[i // 2], generator=[seeded(i)])
            assert torch.equal(codes[i], alone[0]), i

    @PIPELINES
    def test_pictures(self, kind):
        pipe = tiny.conditional_pipeline("text", kind=kind)
        (image,) = pipe(prompt="a red apple").images
        assert isinstance(image, Image.Image) and image.size == (16, 16)


class TestMaps:
    @PIPELINES
    def test_label_maps_of_every_kind_are_the_same(self, kind):
        pipe = tiny.conditional_pipeline("map", kind=kind)
        maps = label_maps()
        with torch.no_grad():
            expected = grid_to_sequence(pipe.map_vqmodel.encode_labels(maps).codes)
        arrays = maps.numpy().astype(np.uint8)
        pictures = [Image.fromarray(array) for array in arrays]
        palette = [picture.convert("P") for picture in pictures]
        for picture, array in zip(palette, arrays, strict=True):
            picture.putdata(array.flatten().tolist())
        codes = codes_of(pipe, map_image=maps)
        for given in (arrays, list(maps), list(arrays), pictures, palette, maps.int()):
            found, again = reached(pipe, map_image=given)
            assert torch.equal(found["map_codes"], expected) and torch.equal(again, codes)
        assert torch.equal(codes_of(pipe, map_image=maps[0]), codes_of(pipe, map_image=maps[:1]))
        grid = pipe.map_vqmodel.encode_labels(maps).codes
        assert torch.equal(codes_of(pipe, map_codes=grid), codes)
        assert torch.equal(codes_of(pipe, map_codes=expected), codes)

    @PIPELINES
    def test_pictures_as_maps(self, kind):
        pipe = tiny.conditional_pipeline("map", kind=kind, num_labels=None)
        image = Image.fromarray(np.random.default_rng(0).integers(255, size=(40, 40, 3), dtype=np.uint8))
        found, _ = reached(pipe, map_image=[image, image.rotate(90)])
        with torch.no_grad():
            pixels = pipe.image_processor([image, image.rotate(90)])["pixel_values"]
            expected = pipe.map_vqmodel.encode(pixels).codes
        assert torch.equal(found["map_codes"], grid_to_sequence(expected))

    def test_the_map_matters(self):
        pipe = tiny.conditional_pipeline("map")
        assert not torch.equal(codes_of(pipe, map_image=label_maps()), codes_of(pipe, map_image=label_maps().flip(0)))


@PIPELINES
def test_several_conditions_with_a_scale_of_each(kind):
    pipe = tiny.conditional_pipeline("class", "text", "map", kind=kind)
    given = {"class_labels": [1, 2], "prompt": PROMPTS, "map_image": label_maps()}
    together = codes_of(pipe, **given, guidance_scale=3.0)
    same = codes_of(pipe, **given, guidance_scale={"map": 3.0, "class": 3.0, "text": 3.0})
    assert torch.equal(together, same)
    each = codes_of(pipe, **given, guidance_scale={"class": 1.0, "text": 5.0, "map": 2.0})
    assert not torch.equal(together, each)


class TestSaving:
    @pytest.mark.parametrize(("kind", "text"), [("far", "clip"), ("far", "t5"), ("diffusion", None)])
    def test_round_trip(self, kind, text, tmp_path):
        pipe = tiny.conditional_pipeline("text", "map", kind=kind, text=text)
        pipe.save_pretrained(str(tmp_path))
        index = json.loads((tmp_path / "model_index.json").read_text())
        optional = {"tokenizer", "map_vqmodel", *(["text_encoder"] if text else [])}
        needed = {"vqmodel", "transformer", "image_processor", *(["scheduler"] if kind == "diffusion" else [])}
        assert {name for name in index if not name.startswith("_")} == needed | optional
        assert index["map_vqmodel"] == ["fqgan_hf", "FQGANModel"]
        again = DiffusionPipeline.from_pretrained(tmp_path)
        assert type(again) is type(pipe)
        again.set_progress_bar_config(disable=True)
        given = {"prompt": PROMPTS, "map_image": label_maps()}
        assert torch.equal(codes_of(again, **given), codes_of(pipe, **given))

    def test_what_is_not_there_goes_unmentioned(self, tmp_path):
        pipe = tiny.conditional_pipeline("class", kind="diffusion")
        assert pipe.text_encoder is None and set(pipe.components) == {*pipe._optional_components, *NEEDED}
        pipe.save_pretrained(str(tmp_path))
        index = json.loads((tmp_path / "model_index.json").read_text())
        assert {name for name in index if not name.startswith("_")} == NEEDED

    @PIPELINES
    def test_offload(self, kind):
        pytest.importorskip("accelerate")
        pipe = tiny.conditional_pipeline("text", "map", kind=kind)
        given = {"prompt": PROMPTS, "map_image": label_maps()}
        expected = codes_of(pipe, **given)
        pipe.enable_model_cpu_offload(device="cpu")
        brought = []
        for name in ("text_encoder", "map_vqmodel", "transformer"):
            hook = getattr(pipe, name)._hf_hook
            original = hook.pre_forward
            hook.pre_forward = lambda module, *args, name=name, original=original, **kwargs: (
                brought.append(name),
                original(module, *args, **kwargs),
            )[1]
        assert torch.equal(codes_of(pipe, **given), expected)
        assert list(dict.fromkeys(brought)) == ["text_encoder", "map_vqmodel", "transformer"]


NEEDED = {"vqmodel", "transformer", "scheduler", "image_processor"}


@pytest.fixture(scope="module")
def pipe():
    return tiny.conditional_pipeline("text", "map")


class TestRefusals:
    """Everything is refused before any network runs."""

    GIVEN = {"prompt": PROMPTS, "map_image": torch.zeros(2, 16, 16, dtype=torch.long)}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"class_labels": [1, 2]}, "class_labels cannot be given: this generator was trained for text, map"),
            ({"prompt": None}, "prompt must be given: this generator was trained for text, map"),
            ({"map_image": None}, "map_image or map_codes must be given: this generator was trained for text, map"),
            ({"map_codes": torch.zeros(2, 1, 4, 4)}, "only one of map_image and map_codes can be given"),
            ({"prompt": "a red apple"}, "prompt, map_image must be equally many, .* got 1, 2"),
            ({"prompt": ["a", ""]}, r"prompt must say something, got '' \(number 1 of 2\)"),
            ({"negative_prompt": ""}, "negative_prompt must say something"),
            ({"negative_prompt": ["a"] * 3}, "negative_prompt must be one string or one per prompt, 2, got 3"),
            ({"map_image": torch.zeros(2, 8, 16, dtype=torch.long)}, "label maps of 16 x 16 pixels .* got 16 x 8"),
            ({"map_image": torch.full((2, 16, 16), 5)}, r"map_image must be in \[0, 4\], got 5 to 5"),
            ({"map_image": torch.zeros(2, 16, 16)}, "map_image must be .* integer labels, got torch.float32"),
            ({"map_image": [Image.new("RGB", (16, 16))] * 2}, "map_image must be pictures whose values are labels"),
            ({"map_image": ["a.png", "b.png"]}, "map_image must be PIL images, arrays or tensors .* got str"),
            ({"map_image": []}, "map_image must hold at least one map"),
            (
                {"map_image": None, "map_codes": torch.zeros(2, 2, 4, 4, dtype=torch.long)},
                r"map_codes must be integers of shape \(maps, 1, 4, 4\) or \(maps, 16, 1\)",
            ),
            ({"map_image": None, "map_codes": torch.full((2, 16, 1), 16)}, r"map_codes must be in \[0, 15\], got 16"),
            ({"guidance_scale": {"text": 1.0}}, "guidance_scale must name each condition"),
            ({"top_k": [1, 2, 3]}, "top_k must be one value or 2 values"),
            ({"generator": [seeded()]}, "generator must be .* list of 2, got 1"),
            ({"num_images_per_prompt": 0}, "num_images_per_prompt must be an integer of at least 1, got 0"),
            ({"num_images_per_prompt": 2, "num_images_per_label": 3}, "mean the same, got 3 and 2"),
        ],
    )
    def test_calls(self, pipe, arguments, message):
        ran = []
        hooks = [
            module.register_forward_pre_hook(lambda *_: ran.append(1))
            for module in (pipe.text_encoder, pipe.map_vqmodel.encoder, pipe.transformer.code_embedding)
        ]
        with pytest.raises(ValueError, match=message):
            pipe(**(self.GIVEN | arguments))
        for hook in hooks:
            hook.remove()
        assert not ran

    def test_conditions_that_a_class_generator_does_not_know(self):
        pipe = tiny.conditional_pipeline("class")
        for name, value in (("prompt", "a"), ("negative_prompt", "a"), ("map_image", label_maps())):
            with pytest.raises(ValueError, match=f"{name} cannot be given: this generator was trained for class"):
                pipe(class_labels=[1], **{name: value})

    def test_components_that_are_missing(self, pipe):
        for name, given in (("tokenizer", "prompt"), ("text_encoder", "prompt"), ("map_vqmodel", "map_image")):
            parts = pipe.components | {name: None}
            with pytest.raises(ValueError, match=f"{name} must be a component of this pipeline for a {given}"):
                type(pipe)(**parts)(**self.GIVEN)

    @pytest.mark.parametrize(
        ("conditions", "parts", "settings", "message"),
        [
            (["class"], {"tokenizer": tiny.text_tokenizer}, {}, "tokenizer must be None: .* trained for class"),
            (["class"], {"map_vqmodel": tiny.map_tokenizer}, {}, "map_vqmodel must be None: .* trained for class"),
            (["text"], {}, {"text_hidden_size": 24}, "text_encoder must have states of the text_hidden_size = 24"),
            (
                ["text"],
                {},
                {"text_hidden_size": None, "text_vocab_size": 17},
                "text_encoder must be None: this generator has a text encoder of its own",
            ),
            (
                ["text"],
                {"text_encoder": lambda: None},
                {"text_hidden_size": None, "text_vocab_size": 16},
                "tokenizer must have at most the text_vocab_size = 16 tokens of the generator, got 17",
            ),
            (["map"], {"map_vqmodel": tiny.map_tokenizer}, {}, "do not belong together .*map_tokenizer_fingerprint"),
            (["map"], {}, {"map_codebook_size": 8}, "codebook_size 16 and map_codebook_size 8"),
        ],
    )
    def test_components_that_do_not_fit(self, conditions, parts, settings, message):
        pipe = tiny.conditional_pipeline(*conditions)
        parts = {name: make() for name, make in parts.items()}
        config = pipe.transformer.config.to_dict() | settings
        parts["transformer"] = type(pipe.transformer)(type(pipe.transformer.config).from_dict(config))
        with pytest.raises(ValueError, match=message):
            type(pipe)(**(pipe.components | parts))

    def test_a_tokenizer_of_label_maps_for_the_images(self, pipe):
        with pytest.raises(ValueError, match="vqmodel must be a tokenizer of pictures, got one of 5 labels"):
            type(pipe)(**(pipe.components | {"vqmodel": tiny.map_tokenizer()}))
