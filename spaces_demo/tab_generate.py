# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The tab Generate: images of a class, a prompt or a drawn map, shown while they are made."""

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
from controls import Conditions, Sampling
from guard import Limit, Page
from model import Model
from PIL import Image
from storage import Storage
from widgets import sent


# The handlers see what was sent as it was sent, so that every mistake gets their clear answer. One model: one call at
# a time, whichever button it came from.
CALL = {"preprocess": False, "concurrency_limit": 1, "concurrency_id": "model"}
# What the page does by itself is nothing to call from a program.
BEHIND_THE_SCENES = {"api_visibility": "private", "show_progress": "hidden"}

# Phones show one column, in which progress and results come below the fold. (Listeners to a click wait for each other:
# this one has to come first.)
SHOW = "() => document.querySelector('{}').scrollIntoView({{block: 'nearest', behavior: 'smooth'}})"

CAPTIONED = list[tuple[Image.Image | str, str]]


class GenerateTab:
    """
    What the button does.

    Args:
        model ([`Model`]): With a generator.
        conditions ([`Conditions`]), sampling ([`Sampling`]): Read what was sent.
        storage ([`Storage`]): Keeps the pictures of images that are not finished.
    """

    def __init__(self, model: Model, conditions: Conditions, sampling: Sampling, storage: Storage):
        self.model, self.conditions, self.sampling, self.storage = model, conditions, sampling, storage

    def generate(self, *, limit: Limit | None = None, **given: Any) -> Iterator[tuple[CAPTIONED, int]]:
        """
        Generate images of a class, a prompt or a map. Each has the seed that makes it alone. The results come again
        and again while they grow, transparent where nothing is known yet.
        """
        arguments = {**self.conditions.read(given), **self.sampling.read(given)}
        seeds = self.sampling.seeds(given)
        yield from ((captioned, seeds[0]) for captioned in shown(self.model, self.storage, arguments, seeds, limit))


def shown(
    model: Model,
    storage: Storage,
    arguments: dict[str, Any],
    seeds: Sequence[int],
    limit: Limit | None,
    below: Image.Image | None = None,
) -> Iterator[CAPTIONED]:
    """
    Images with captions for a gallery, the last ones finished.

    Args:
        model, arguments, seeds, limit: See [`Model.generate`].
        storage ([`Storage`]): Keeps the others as files.
        below (`PIL.Image.Image`, *optional*): Shows through where nothing is known yet.
    """
    replaced: list[str] = []
    for pictures, share in model.generate(arguments, seeds, limit):
        if share == 1.0:
            captions = [f"seed {seed}" for seed in seeds]
            yield list(zip(pictures, captions, strict=True))
        else:
            if below is not None:
                pictures = [Image.alpha_composite(below.convert("RGBA"), one.convert("RGBA")) for one in pictures]
            files = storage.save(pictures)
            captions = [f"seed {seed} · {share:.0%}" for seed in seeds]
            yield list(zip(files, captions, strict=True))
        storage.replace(replaced)
        replaced = [] if share == 1.0 else files


def add_generate_tab(page: Page, model: Model, pictures: list[str]) -> None:
    """
    Controls and results.

    Args:
        page ([`Page`]): Which the tab belongs to.
        model ([`Model`]): With a generator.
        pictures (`list[str]`): CSS classes of galleries.
    """
    has_map = "map" in model.conditions  # which takes a column of its own
    with gr.Column(scale=2, min_width=280 if has_map else 320) as column:
        conditions = Conditions(model, "")
    with gr.Column(scale=2, min_width=280) if has_map else column:
        sampling, button, stop = add_sampling(model, "Generate", "")
    with gr.Column(scale=3 if has_map else 5, min_width=280):
        images = image_gallery("images", pictures, columns=2 if has_map else 4)
    tab = GenerateTab(model, conditions, sampling, page.storage)
    add_call(page, tab.generate, "generate", button, stop, [conditions, sampling], images)


def add_sampling(model: Model, label: str, prefix: str) -> tuple[Sampling, gr.Button, gr.Button]:
    """
    How images are sampled, with the buttons that begin and end it.

    Args:
        model ([`Model`]): With a generator.
        label (`str`): Of the first button; in lower case its id.
        prefix (`str`): Of the other components' ids.
    """
    sampling = Sampling(model, prefix)
    with gr.Row():
        button = gr.Button(label, variant="primary", scale=3, min_width=120, elem_id=label.lower())
        stop = gr.Button("Stop", min_width=80, elem_id=f"{prefix}stop")
    sampling.add_details(prefix)
    return sampling, button, stop


def image_gallery(elem_id: str, pictures: list[str], columns: int) -> gr.Gallery:
    """Where images appear."""
    return gr.Gallery(
        label="Images", show_label=False, format="png", columns=columns, height="auto", object_fit="contain",
        interactive=False, elem_id=elem_id, elem_classes=pictures,
    )  # fmt: skip


def add_call(
    page: Page,
    work: Any,
    name: str,
    button: gr.Button,
    stop: gr.Button,
    groups: Sequence[Any],
    images: gr.Gallery,
    painter: gr.HTML | None = None,
) -> None:
    """
    Make a button call what generates, and another one end it.

    Args:
        page ([`Page`]), work (`Callable`), name (`str`): What is called, and how programs call it.
        button, stop: Of the page.
        groups (`Sequence`): Have `inputs` and `documents`; those of sampling come last.
        images: Takes the results.
        painter: One of the inputs, which has to be uploaded.
    """
    inputs = {key: component for group in groups for key, component in group.inputs.items()}
    documents = {key: group.documents[key] for group in groups for key in group.inputs}
    painters = [painter, *(getattr(group, "painter", None) for group in groups)]
    painter = next((one for one in painters if one is not None), None)
    button.click(None, js=SHOW.format(f"#{images.elem_id}"), **BEHIND_THE_SCENES)
    call = button.click(
        page.bounded(work, documents),
        list(inputs.values()),
        [images, inputs["seed"]],
        js=sent(list(inputs.values()), painter),
        api_name=name,
        show_progress_on=images,
        **CALL,
    )
    call.success(None, js=SHOW.format(f"#{images.elem_id}"), **BEHIND_THE_SCENES)
    stop.click(None, cancels=call, **BEHIND_THE_SCENES)
