# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`handler.py` as it lies in a repository: requests by class, prompt, map and picture, and what it refuses."""

import base64
import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers.utils import dynamic_modules_utils
from PIL import Image

from fqgan_hf import FQGANPipeline, export, generate_images


def write(pipe, folder, **options):
    torch.manual_seed(0)
    export(pipe, folder, **options)
    return folder


def handler_of(folder):
    """An `EndpointHandler` of the file in the folder, as an endpoint makes it."""
    spec = importlib.util.spec_from_file_location("endpoint_handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(path=str(folder))


def as_base64(image, file_format="PNG"):
    file = io.BytesIO()
    image.save(file, file_format)
    return base64.b64encode(file.getvalue()).decode()


def pictures(answer):
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in answer["images"]]


def assert_same(images, expected):
    assert len(images) == len(expected)
    for one, other in zip(images, expected, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


PHOTO = Image.effect_mandelbrot((40, 24), (-2, -1.5, 1, 1.5), 50).convert("RGB")


@pytest.fixture(scope="module")
def by_class():
    torch.manual_seed(0)
    return tiny.pipeline(2, id2label={i: f"digit_{i}" for i in range(10)})


@pytest.fixture(scope="module")
def class_folder(by_class, tmp_path_factory):
    return write(by_class, tmp_path_factory.mktemp("handler") / "class", self_contained=True)


@pytest.fixture(scope="module")
def handler(class_folder):
    return handler_of(class_folder)


@pytest.fixture(scope="module")
def tokenizer_handler(by_class, tmp_path_factory):
    pipe = FQGANPipeline(by_class.vqmodel, by_class.image_processor)
    return handler_of(write(pipe, tmp_path_factory.mktemp("handler") / "fqgan", variant="bf16"))


class TestClasses:
    def test_ids_and_names(self, handler, by_class):
        expected = generate_images(by_class, [3, 5], seed=0)
        parameters = {"seed": 0, "guidance_scale": 2.0}
        assert_same(pictures(handler({"inputs": [3, "digit 5"], "parameters": parameters})), expected)
        assert_same(pictures(handler({"inputs": 3, "parameters": parameters})), expected[:1])
        request = {"inputs": {"class_labels": "digit_3"}, "parameters": {**parameters, "response": "image"}}
        assert_same([handler(request)], expected[:1])
        assert len(handler({"inputs": [1, 2], "parameters": {"num_images_per_label": 2}})["images"]) == 4
        assert len(handler({"inputs": 1, "parameters": None})["images"]) == 1

    def test_edits(self, handler, by_class):
        """A kept codebook: what comes is that of the pipeline, of the picture in the request."""
        square = PHOTO.resize((16, 16))
        arguments = {"keep_codebooks": 0, "strength": 0.5}
        parameters = {"seed": 1, "image": as_base64(square), **arguments}
        expected = generate_images(by_class, [3], seed=1, arguments={"image": square, **arguments})
        assert_same(pictures(handler({"inputs": 3, "parameters": parameters})), expected)

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            ([], "a request must be an object with inputs, got list"),
            ({"parameters": {}}, "a request must be an object with inputs, got dict"),
            ({"inputs": 1, "parameters": [1]}, "parameters must be an object, got list"),
            ({"inputs": 99}, r"class_labels must be in \[0, 9\], got 99"),
            ({"inputs": "digit 11"}, "no class is named 'digit 11'"),
            ({"inputs": "A" * 5000}, "class_labels must be class ids or names, got a text of 5,000 letters"),
            ({"inputs": {"prompt": "a"}}, "inputs has no 'prompt', accepted are class_labels"),
            (
                {"inputs": 1, "parameters": {"steps": 3}},
                "parameters has no 'steps', accepted are do_sample, guidance_",
            ),
            ({"inputs": 1, "parameters": {"generator": 3}}, "parameters has no 'generator'"),
            ({"inputs": 1, "parameters": {"guidance_scale": "much"}}, "guidance_scale must be"),
            ({"inputs": 1, "parameters": {"seed": -1}}, r"seed must be an integer in \[0, 4294967295\], got -1"),
            ({"inputs": 1, "parameters": {"num_images_per_label": 17}}, "at most 16 images, got 17"),
            ({"inputs": 1, "parameters": {"num_images_per_label": "2"}}, "must be an integer of at least 1, got '2'"),
            ({"inputs": 1, "parameters": {"height": 4096}}, "height must be at most 2048, got 4096"),
            (
                {"inputs": 1, "parameters": {"image": "no picture"}},
                "image must be a picture as base64, got 'no picture'",
            ),
            ({"inputs": 1, "parameters": {"response": "html"}}, 'response must be "json" or "image", got \'html\''),
            ({"inputs": [1, 2], "parameters": {"response": "image"}}, "for one image, this request makes 2"),
        ],
    )
    def test_what_is_refused(self, handler, request_, message):
        with pytest.raises(ValueError, match=message):
            handler(request_)

    def test_a_request_is_left_as_it_is(self, handler):
        request = {"inputs": 1, "parameters": {"seed": 0, "response": "json"}}
        assert handler(request) == handler(request)


class TestPromptsAndMaps:
    def test_prompts(self, tmp_path):
        torch.manual_seed(0)
        pipe = tiny.conditional_pipeline("text")
        handler = handler_of(write(pipe, tmp_path))
        expected = generate_images(pipe, {"prompt": ["a red apple"]}, seed=0, arguments={"negative_prompt": "a house"})
        request = {"inputs": {"prompt": "a red apple", "negative_prompt": "a house"}, "parameters": {"seed": 0}}
        assert_same(pictures(handler(request)), expected)
        assert len(handler({"inputs": ["a pear", "a house"]})["images"]) == 2
        with pytest.raises(ValueError, match="prompt must be"):
            handler({"inputs": 3})

    def test_label_maps_with_prompts(self, tmp_path):
        torch.manual_seed(0)
        pipe = tiny.conditional_pipeline("text", "map", kind="diffusion")
        handler = handler_of(write(pipe, tmp_path))
        labels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % 5).convert("P")
        given = {"prompt": ["a red apple"], "map_image": [labels]}
        expected = generate_images(pipe, given, seed=0, arguments={"num_inference_steps": 4})
        parameters = {"seed": 0, "num_inference_steps": 4}
        request = {"inputs": {"prompt": "a red apple", "map_image": as_base64(labels)}, "parameters": parameters}
        assert_same(pictures(handler(request)), expected)
        with pytest.raises(ValueError, match="inputs must be an object with prompt and map_image, got 'a red apple'"):
            handler({"inputs": "a red apple"})
        with pytest.raises(ValueError, match="map_image must be label maps of 16 x 16 pixels"):
            handler({"inputs": {"prompt": "a", "map_image": as_base64(labels.resize((8, 8)))}})


class TestTokenizer:
    def test_pictures(self, tokenizer_handler):
        pipe = tokenizer_handler.pipeline
        expected = pipe(PHOTO).images
        for picture in (PHOTO, as_base64(PHOTO), f"data:image/png;base64,{as_base64(PHOTO)}"):
            assert_same(pictures(tokenizer_handler({"inputs": picture})), expected)
        parameters = {"codebooks": [0], "return_codes": True}
        answer = tokenizer_handler({"inputs": [PHOTO, as_base64(PHOTO, "JPEG")], "parameters": parameters})
        assert_same(pictures(answer)[:1], pipe(PHOTO, codebooks=[0]).images)
        assert answer["codes"][0] == pipe.encode(PHOTO)[0].tolist() and len(answer["codes"]) == 2

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (3, "inputs must be a picture as base64, got 3"),
            ([], "inputs must be 1 to 16 pictures, got 0"),
            ("aGVsbG8=", "inputs must be a PNG, JPEG, WEBP, GIF file that can be read"),
            (as_base64(PHOTO)[:200], "inputs must be a"),
            (as_base64(PHOTO, "BMP"), "inputs must be a PNG, JPEG, WEBP, GIF file"),
            ("A" * 30_000_000, "inputs must be a file of at most 20,000,000 bytes, got 22,500,000"),
            (
                as_base64(Image.new("1", (30_000, 1000))),
                "inputs must have at most 25,000,000 pixels, got 30000 x 1000",
            ),
        ],
    )
    def test_what_is_refused(self, tokenizer_handler, inputs, message):
        with pytest.raises(ValueError, match=message) as caught:
            tokenizer_handler({"inputs": inputs})
        assert len(str(caught.value)) < 300, "no picture in a message"


class TestWithoutThePackage:
    @pytest.fixture(autouse=True)
    def absent(self, monkeypatch, tmp_path):
        monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.setitem(sys.modules, "fqgan_hf", None)  # to import it is an ImportError then

    def test_a_self_contained_folder(self, class_folder, handler):
        without = handler_of(class_folder)
        assert type(without.pipeline).__module__.startswith("diffusers_modules.")
        request = {"inputs": [3, "digit 5"], "parameters": {"seed": 0}}
        assert without(request) == handler(request)
        assert "diffusers>=" in (class_folder / "requirements.txt").read_text()

    def test_another_folder_says_what_it_needs(self, by_class, tmp_path):
        by_class.save_pretrained(str(tmp_path / "saved"))
        (tmp_path / "saved" / "handler.py").write_bytes(handler_source().read_bytes())
        with pytest.raises(
            ValueError, match="the package fqgan-hf must be installed to load .* pushed with --self_contained"
        ):
            handler_of(tmp_path / "saved")


def handler_source():
    return Path(export.__globals__["__file__"]).with_name("handler.py")


def test_no_pipeline(tmp_path):
    (tmp_path / "handler.py").write_bytes(handler_source().read_bytes())
    with pytest.raises(ValueError, match="path must be the folder of a pipeline"):
        handler_of(tmp_path)
