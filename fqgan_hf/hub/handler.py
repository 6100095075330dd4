# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Inference Endpoints: this file lies beside a pipeline in its repository, as `handler.py`, and serves it.

It needs this package in the container, or a repository that was pushed with `--self_contained`, whose
`requirements.txt` says what to install. Requests are JSON:

    {"inputs": 7}                                            a class, by id or name; or a list of them
    {"inputs": "a red apple"}                                a prompt, or a list of them
    {"inputs": "<base64>"}                                   a picture, for a tokenizer or a generator of maps
    {"inputs": {"prompt": "a house", "map_image": "<base64>"}}     for generators of several conditions
    {..., "parameters": {"seed": 0, "guidance_scale": 3.0, "num_images_per_label": 4}}

`parameters` are arguments of the pipeline's call: those for sampling and, for editing, `image` and `mask_image`
(base64). `seed` makes the answer repeatable: its images are those of `fqgan generate --seed`. A tokenizer also takes
`codebooks`, and `return_codes`.

The answer is `{"images": ["<base64 of a PNG>", ...]}`, with `codes` where they were asked for. With the parameter
`"response": "image"` it is one `PIL.Image`, for requests with `Accept: image/png`. A picture may also come as the body
of a request with `Content-Type: image/png`; label maps may not, since the container turns such pictures into RGB. A
mistake raises `ValueError`, which endpoints answer by status 400 and `{"error": "..."}`.
"""

import base64
import binascii
import inspect
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


MAX_IMAGES = 16  # of one request
MAX_BYTES = 20_000_000  # of one picture, as a file
MAX_PIXELS = 25_000_000
MAX_SIDE = 2048  # of a generated image
MAX_NAME = 200  # letters of a class's name
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_SEED = 2**32 - 1

# By condition of a generator: the argument of its pipeline that `inputs` stands for.
ARGUMENTS = {"class": "class_labels", "text": "prompt", "map": "map_image"}
PICTURES = ("image", "mask_image", "map_image")
# Arguments of pipelines that are no matter of a request.
WITHHELD = {"self", "generator", "output_type", "return_dict", "map_codes", "prefix_codes", *ARGUMENTS.values()}


class EndpointHandler:
    """
    What an endpoint calls.

    Args:
        path (`str`): The folder of the repository.

    Raises:
        ValueError: There is no pipeline that can be loaded here.
    """

    def __init__(self, path: str = ""):
        self.pipeline = load_pipeline(Path(path))
        self.pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, data: dict[str, Any]) -> "dict[str, Any] | Image.Image":
        """
        Answer a request.

        Args:
            data (`dict`): With `inputs` and, optionally, `parameters`; see the top of this file.

        Returns:
            `dict` with `images`, or one `PIL.Image` where the request says so.

        Raises:
            ValueError: Something about the request is wrong; the message says what, and what is accepted.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError(f"a request must be an object with inputs, got {_shown(data)}")
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f"parameters must be an object, got {_shown(parameters)}")
        parameters = dict(parameters)
        response = parameters.pop("response", "json")
        if response not in ("json", "image"):
            raise ValueError(f'response must be "json" or "image", got {_shown(response)}')
        answer = self._generate if hasattr(self.pipeline, "transformer") else self._reconstruct
        images, more = answer(data["inputs"], parameters)
        if response == "image":
            if len(images) != 1:
                raise ValueError(f'response "image" is for one image, this request makes {len(images)}')
            return images[0]
        return {"images": [encode_image(image) for image in images], **more}

    def _generate(self, inputs: Any, parameters: dict[str, Any]) -> tuple[list[Image.Image], dict[str, Any]]:
        """Images of a generator for classes, prompts or maps."""
        given = self._conditions(inputs)
        seed = parameters.pop("seed", None)
        self._check(parameters, {"seed"})
        for side in ("height", "width"):
            if isinstance(parameters.get(side), int) and parameters[side] > MAX_SIDE:
                raise ValueError(f"{side} must be at most {MAX_SIDE}, got {parameters[side]}")
        arguments = {name: _picture(name, value) for name, value in parameters.items()}
        number = parameters.get("num_images_per_prompt") or parameters.get("num_images_per_label", 1)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"num_images_per_label must be an integer of at least 1, got {_shown(number)}")
        rows = max(len(value) if isinstance(value, list) else 1 for value in given.values())
        if rows * number > MAX_IMAGES:
            raise ValueError(f"a request must be for at most {MAX_IMAGES} images, got {rows * number}")
        if seed is not None:
            arguments["generator"] = generators(seed, rows * number)
        return self.pipeline(**given, **arguments).images, {}

    def _conditions(self, inputs: Any) -> dict[str, Any]:
        """What images are generated for, as arguments of the pipeline."""
        conditions = list(self.pipeline.transformer.config.conditions)
        names = [ARGUMENTS[condition] for condition in conditions]
        if not isinstance(inputs, dict):
            if len(names) != 1:
                raise ValueError(f"inputs must be an object with {' and '.join(names)}, got {_shown(inputs)}")
            inputs = {names[0]: inputs}
        accepted = [*names, "negative_prompt"] if "prompt" in names else names
        if unknown := sorted(str(name) for name in inputs.keys() - set(accepted)):
            raise ValueError(f"inputs has no {unknown[0]!r:.40}, accepted are {', '.join(accepted)}")
        labels = inputs.get("class_labels")
        for label in labels if isinstance(labels, list) else [labels]:
            if isinstance(label, str) and len(label) > MAX_NAME:
                raise ValueError(f"class_labels must be class ids or names, got a text of {len(label):,} letters")
        return {name: _picture(name, value) for name, value in inputs.items()}

    def _reconstruct(self, inputs: Any, parameters: dict[str, Any]) -> tuple[list[Image.Image], dict[str, Any]]:
        """Images through a tokenizer."""
        wants_codes = parameters.pop("return_codes", False)
        if not isinstance(wants_codes, bool):
            raise ValueError(f"return_codes must be true or false, got {_shown(wants_codes)}")
        self._check(parameters, {"return_codes"})
        pictures = [decode_image("inputs", one) for one in (inputs if isinstance(inputs, list) else [inputs])]
        if not 1 <= len(pictures) <= MAX_IMAGES:
            raise ValueError(f"inputs must be 1 to {MAX_IMAGES} pictures, got {len(pictures)}")
        images, codes = [], []
        for picture in pictures:  # of any sizes
            images += self.pipeline(picture, **parameters).images
            if wants_codes:
                codes += self.pipeline.encode(picture, size=parameters.get("size")).tolist()
        return images, {"codes": codes} if wants_codes else {}

    def _check(self, parameters: dict[str, Any], own: set[str]) -> None:
        """Raise `ValueError` for a parameter that the pipeline's call does not take."""
        names = inspect.signature(type(self.pipeline).__call__).parameters.keys() - WITHHELD - {"images"}
        accepted = sorted({name for name in names if not name.startswith("callback")} | own | {"response"})
        if unknown := sorted(str(name) for name in parameters.keys() - set(accepted)):
            raise ValueError(f"parameters has no {unknown[0]!r:.40}, accepted are {', '.join(accepted)}")


def load_pipeline(folder: Path) -> Any:
    """
    The pipeline of a folder, by this package where it is installed, otherwise by the folder's own source.

    Raises:
        ValueError: It holds no pipeline, or neither of the two is there.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"path must be the folder of a pipeline, {folder} has no model_index.json")
    named = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    variant = _variant(folder)
    try:
        import fqgan_hf
    except ImportError as error:
        if not isinstance(named, list):
            raise ValueError(
                f"the package fqgan-hf must be installed to load {folder}: it was not pushed with --self_contained"
            ) from error
        from diffusers import DiffusionPipeline

        # The code is that of the repository in which this file lies.
        return DiffusionPipeline.from_pretrained(str(folder), variant=variant, trust_remote_code=True)
    name = named[-1] if isinstance(named, list) else named
    return getattr(fqgan_hf, name).from_pretrained(str(folder), variant=variant)


def _variant(folder: Path) -> str | None:
    """The variant of the weights, where there are no others."""
    names = [path.name.split(".") for path in (folder / "vqmodel").glob("*.safetensors")]
    variants = sorted({parts[1].split("-")[0] if len(parts) > 2 else "" for parts in names})
    return variants[0] or None if variants else None


def generators(seed: Any, number: int) -> list[torch.Generator]:
    """The random numbers of the images of a seed: the rule of `fqgan_hf.pipelines.inference.image_generator`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be an integer in [0, {MAX_SEED}], got {_shown(seed)}")
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return [torch.Generator().manual_seed((start + index) % 2**32) for index in range(number)]


def encode_image(image: Image.Image) -> str:
    """A picture as the base64 of a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def decode_image(name: str, value: Any) -> Image.Image:
    """
    A picture of a request.

    Args:
        name (`str`): What errors call it.
        value (`str` or `PIL.Image.Image`): The base64 of a file, also as a data URL; or the picture itself.

    Raises:
        ValueError: It is no such thing, or too large.
    """
    if isinstance(value, Image.Image):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a picture as base64, got {_shown(value)}")
    text = value.partition(",")[2] if value.startswith("data:") else value
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise ValueError(f"{name} must be a file of at most {MAX_BYTES:,} bytes, got {len(text) * 3 // 4:,}")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=FORMATS)
        width, height = image.size
        if width * height <= MAX_PIXELS:
            image.load()
    except binascii.Error as error:
        raise ValueError(f"{name} must be a picture as base64, got {_shown(value)}") from error
    except Exception as error:  # Pillow raises whatever a damaged file leads it to
        raise ValueError(f"{name} must be a {', '.join(FORMATS)} file that can be read") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name} must have at most {MAX_PIXELS:,} pixels, got {width} x {height}")
    return image


def _picture(name: str, value: Any) -> Any:
    """An argument of a pipeline, with pictures in place of their files."""
    if name not in PICTURES:
        return value
    return [decode_image(name, one) for one in value] if isinstance(value, list) else decode_image(name, value)


def _shown(value: Any) -> str:
    return f"{value!r:.60}" if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
