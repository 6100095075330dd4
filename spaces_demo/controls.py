# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a picture is generated for, and how it is sampled: the same controls for every tab that generates.

    conditions, sampling = Conditions(model), Sampling(model)      # components, where they stand on the page
    arguments = {**conditions.read(given), **sampling.read(given)}  # of the pipeline, from what was sent
    seeds = sampling.seeds(given)

`inputs` of both are the components by the names of the arguments that a program calls the endpoint with, `documents`
say what these are.
"""

import html
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

import gradio as gr
from checks import MAX_TEXT, check_flag, check_number, check_text, read_label_map, read_picture
from guard import user_error
from model import Model
from widgets import hexadecimal, map_painter, palette

from fqgan_hf.pipelines.pipeline_code_diffusion import DEFAULT_STEPS
from fqgan_hf.pipelines.prompts import unknown_words


# What the page offers, and all that the handlers accept. `top_k` goes up to the codebook's size.
MAX_IMAGES = 8
MAX_SEED = 2**31 - 1
GUIDANCE_SCALES = (0.0, 10.0)
TEMPERATURES = (0.1, 2.0)
TOP_PS = (0.05, 1.0)


class Conditions:
    """
    The components for the conditions that a generator knows: class, text, map.

    Args:
        model ([`Model`]): With a generator.
        prefix (`str`): Of the components' ids.
    """

    def __init__(self, model: Model, prefix: str):
        self.model = model
        self.inputs: dict[str, Any] = {}
        self.documents: dict[str, str] = {}
        self.painter: gr.HTML | None = None
        for condition in model.conditions:
            getattr(self, f"_add_{condition}")(prefix)

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the pipeline from what was sent; `gr.Error` for what is missing or wrong."""
        arguments: dict[str, Any] = {}
        if "class_label" in self.inputs:
            arguments["class_labels"] = [read_label(self.model, given["class_label"])]
        if "prompt" in self.inputs:
            arguments["prompt"] = check_text("The prompt", given["prompt"])
            if unknown := unknown_words(arguments["prompt"], self.model.pipeline.tokenizer):
                gr.Warning(f"This model does not know: {', '.join(unknown)}")
            negative = check_text("The negative prompt", given["negative_prompt"], is_optional=True)
            if negative is not None:
                arguments["negative_prompt"] = negative
        if "map_picture" in self.inputs:
            arguments["map_image"] = self._read_map(given["map_picture"])
        return arguments

    def _add_class(self, prefix: str) -> None:
        self.inputs["class_label"] = gr.Dropdown(
            label_choices(self.model), value=0, label="Class", info="Type a part of the name, or the id",
            elem_id=f"{prefix}class",
        )  # fmt: skip
        self.documents["class_label"] = "Name or id of the class"

    def _add_text(self, prefix: str) -> None:
        prompts = self.model.prompts
        self.inputs["prompt"] = prompt = gr.Textbox(
            prompts[0] if prompts else "", label="Prompt", placeholder="What to show", lines=2, max_lines=4,
            max_length=MAX_TEXT, elem_id=f"{prefix}prompt",
        )  # fmt: skip
        with gr.Row(elem_classes=["prompts"], visible=bool(prompts)):
            for text in prompts:
                button = gr.Button(text, size="sm", scale=0)
                button.click(None, None, prompt, js=f"() => {json.dumps(text)}", api_visibility="private")
        if self.model.words:
            with gr.Accordion(f"The {len(self.model.words):,} words it knows", open=False):
                gr.Markdown(" · ".join(map(html.escape, self.model.words)), elem_classes=["words", "note"])
        self.inputs["negative_prompt"] = gr.Textbox(
            label="Negative prompt", placeholder="What guidance leads away from; may stay empty", max_length=MAX_TEXT,
            elem_id=f"{prefix}negative",
        )  # fmt: skip
        self.documents |= {
            "prompt": "What to show, at most 1,000 characters",
            "negative_prompt": "What guidance leads away from; empty for nothing in particular",
        }

    def _add_map(self, prefix: str) -> None:
        num_labels, (width, height) = self.model.pipeline.map_vqmodel.config.num_labels, self._map_size()
        if num_labels is None:
            self.inputs["map_picture"] = gr.Image(
                label="Map", format="png", type="filepath", sources=["upload", "clipboard"], height=240,
                elem_id=f"{prefix}map",
            )  # fmt: skip
            self.documents["map_picture"] = f"An uploaded picture, scaled and cut to {width} x {height}"
            return
        names = [f"label {number}" for number in range(num_labels)]  # no configuration says what they mean
        self.painter = self.inputs["map_picture"] = map_painter(
            "Map", (width, height), names, "Paint with the pointer, or with the arrow keys and space.", f"{prefix}map"
        )
        colours = ", ".join(hexadecimal(colour) for colour in palette(num_labels))
        self.documents["map_picture"] = (
            f"An uploaded picture of labels, scaled and cut to {width} x {height}: with labels as its values "
            f"(0 to {num_labels - 1}), or in the page's colours for them ({colours})"
        )

    def _map_size(self) -> tuple[int, int]:
        """Width and height of a map, in pixels."""
        config, factor = self.model.generator, self.model.pipeline.map_vqmodel.downsample_factor
        return config.map_grid_width * factor, config.map_grid_height * factor

    def _read_map(self, picture: Any) -> Any:
        num_labels = self.model.pipeline.map_vqmodel.config.num_labels
        if num_labels is None:
            return read_picture(picture, self.model.max_pixels, "The map")
        return read_label_map(picture, self._map_size(), palette(num_labels))


class Sampling:
    """
    How many images, and how their codes are drawn.

    Args:
        model ([`Model`]): With a generator.
        prefix (`str`): Of the components' ids.
    """

    def __init__(self, model: Model, prefix: str):
        self.model = model
        self.top_ks = (0, model.vqmodel.config.codebook_size)
        self.inputs: dict[str, Any] = {}
        self.documents: dict[str, str] = {}
        # Of several conditions each has a scale of its own.
        self.scales = {"": "guidance_scale"}
        if len(model.conditions) > 1:
            self.scales = {name: f"guidance_scale_{name}" for name in model.conditions}
        self.of_codebooks = {name: f"guidance_{slug(name)}" for name in model.names} if len(model.names) > 1 else {}
        self._add_usual(prefix)

    def add_details(self, prefix: str) -> None:
        """What few visitors need, folded up."""
        with gr.Accordion("Sampling", open=False, elem_id=f"{prefix}sampling"):
            self._add_sampling()
        if self.of_codebooks:
            with gr.Accordion("Guidance of each codebook", open=False, elem_id=f"{prefix}guidance"):
                self._add_codebooks(prefix)
        self._listen()

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the pipeline from what was sent; `gr.Error` for what is missing or out of range."""
        scales = {
            condition: check_number(self._scale_label(condition), given[name], *GUIDANCE_SCALES)
            for condition, name in self.scales.items()
        }
        arguments = {
            "guidance_scale": scales if len(scales) > 1 else next(iter(scales.values())),
            "temperature": check_number("The temperature", given["temperature"], *TEMPERATURES),
            "top_k": check_number("Top-k", given["top_k"], *self.top_ks, whole=True),
            "top_p": check_number("Top-p", given["top_p"], *TOP_PS),
        }
        if self.of_codebooks and check_flag("A guidance scale for each codebook", given["guide_codebooks"]):
            each = [
                check_number(f"The guidance scale of {name}", given[argument], *GUIDANCE_SCALES)
                for name, argument in self.of_codebooks.items()
            ]
            arguments["guidance_scale"] = dict.fromkeys(scales, each) if len(scales) > 1 else each
        if "num_steps" in self.inputs:
            arguments["num_inference_steps"] = check_number("Steps", given["num_steps"], 1, self._max_steps(), True)
        return arguments

    def seeds(self, given: Mapping[str, Any]) -> list[int]:
        """
        The seed of each image: counted on from the first one, at 0 again after the largest.

        The exception to the seed rule of `image_generator`: here every image shows its own seed, and typing it in
        makes that image alone.
        """
        count = check_number("The number of images", given["num_images"], 1, MAX_IMAGES, whole=True)
        if check_flag("Random seed", given["random_seed"]):
            first = secrets.randbelow(MAX_SEED + 1)
        else:
            first = check_number("The seed", given["seed"], 0, MAX_SEED, whole=True)
        return [(first + i) % (MAX_SEED + 1) for i in range(count)]

    def _listen(self) -> None:
        """The seed can be typed in while it is not random, the codebooks' scales while they are used."""
        behave = {"api_visibility": "private", "show_progress": "hidden"}
        self.inputs["random_seed"].change(
            None, self.inputs["random_seed"], self.inputs["seed"],
            js="random => ({__type__: 'update', interactive: !random})", **behave,
        )  # fmt: skip
        if self.of_codebooks:
            sliders = [self.inputs[name] for name in self.of_codebooks.values()]
            update = "({__type__: 'update', interactive: used})"
            js = f"used => [{', '.join([update] * len(sliders))}]"
            self.inputs["guide_codebooks"].change(None, self.inputs["guide_codebooks"], sliders, js=js, **behave)

    def _max_steps(self) -> int:
        return self.model.pipeline.scheduler.config.num_train_timesteps

    def _scale_label(self, condition: str) -> str:
        return f"The guidance scale of the {condition}" if condition else "The guidance scale"

    def _add_usual(self, prefix: str) -> None:
        self.inputs["num_images"] = gr.Slider(1, MAX_IMAGES, value=4, step=1, label="Images")
        for condition, name in self.scales.items():
            label = f"Guidance scale: {condition}" if condition else "Guidance scale"
            info = f"Fidelity to the {condition or self.model.conditions[0]}; 1: off"
            self.inputs[name] = gr.Slider(*GUIDANCE_SCALES, value=2.0, step=0.1, label=label, info=info)
            self.documents[name] = f"{info}; up to 10"
        if self.model.is_diffusion:
            most = self._max_steps()
            self.inputs["num_steps"] = gr.Slider(
                1,
                most,
                value=min(DEFAULT_STEPS, most),
                step=1,
                label="Steps",
                info="Fewer are faster, more are better",
            )
            self.documents["num_steps"] = f"Passes of the network, up to {most}"
        with gr.Row(equal_height=True):
            self.inputs["seed"] = gr.Number(
                0, minimum=0, maximum=MAX_SEED, step=1, label="Seed", interactive=False, min_width=120,
                elem_id=f"{prefix}seed",
            )  # fmt: skip
            self.inputs["random_seed"] = gr.Checkbox(True, label="Random", min_width=120, elem_id=f"{prefix}random")
        self.documents |= {
            "num_images": "How many images, 1 to 8",
            "seed": "Of the first image; the others' follow it",
            "random_seed": "Draw the first seed; `seed` then means nothing",
        }

    def _add_sampling(self) -> None:
        self.inputs["temperature"] = gr.Slider(*TEMPERATURES, value=1.0, step=0.05, label="Temperature")
        self.inputs["top_k"] = gr.Slider(*self.top_ks, value=0, step=1, label="Top-k", info="0: all codes")
        self.inputs["top_p"] = gr.Slider(*TOP_PS, value=1.0, step=0.01, label="Top-p", info="1: all codes")
        self.documents |= {
            "temperature": "Divides the logits, 0.1 to 2",
            "top_k": f"Sample among this many likeliest codes, up to {self.top_ks[1]:,}; 0 for all",
            "top_p": "Sample among the likeliest codes that together have this probability, 0.05 to 1",
        }

    def _add_codebooks(self, prefix: str) -> None:
        self.inputs["guide_codebooks"] = gr.Checkbox(
            False, label="In place of one scale for all", elem_id=f"{prefix}guided"
        )
        self.documents["guide_codebooks"] = "Use the guidance scales of the codebooks in place of `guidance_scale`"
        for name, argument in self.of_codebooks.items():
            self.inputs[argument] = gr.Slider(
                *GUIDANCE_SCALES, value=2.0, step=0.1, label=name.capitalize(), interactive=False
            )
            self.documents[argument] = f"Guidance scale of {name}, up to 10"


def slug(name: str) -> str:
    """A codebook's name as a part of an argument's: "semantic (mid)" is "semantic_mid"."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


def read_label(model: Model, label: Any) -> int:
    """The id of a class by id or name."""
    if isinstance(label, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", label):
        label = int(label)
    if not isinstance(label, (int, str)) or label == "":
        raise user_error(f"Choose a class: an id or a name, got {label!r:.40}")
    try:
        return model.pipeline.get_label_ids(label)[0]
    except ValueError as error:
        raise user_error(error) from error


def label_choices(model: Model) -> list[tuple[str, int]]:
    """Every class as "7 · seven" with its id: typing either part finds it."""
    names = {int(key): name for key, name in (model.generator.id2label or {}).items()}
    choices = []
    for label in range(model.generator.num_classes):
        # transformers invents LABEL_0, LABEL_1, ... for a configuration without names.
        name = names.get(label, f"LABEL_{label}")
        name = f"class {label}" if name == f"LABEL_{label}" else f"{label} · {name.replace('_', ' ')}"
        choices.append((name, label))
    return choices
