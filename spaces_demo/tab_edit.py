# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The tab Edit: some of a picture's codes stay, the others are generated anew."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from checks import check_choice, check_choices, check_number, read_mask, read_picture
from controls import Conditions, Sampling
from guard import Limit, Page, user_error
from model import Model
from PIL import Image
from sources import add_examples, picture_input
from storage import Storage
from tab_generate import BEHIND_THE_SCENES, CAPTIONED, add_call, add_sampling, image_gallery, shown
from widgets import mask_painter


PAINT, TOP, VARY, RESAMPLE = "Paint", "Keep the top", "Vary", "Resample codebooks"


class Changes:
    """
    The components that say which codes stay.

    Args:
        page ([`Page`]): Which they belong to.
        model ([`Model`]): With a generator.
    """

    def __init__(self, page: Page, model: Model):
        self.model = model
        self.ways = [PAINT, TOP, VARY, *([RESAMPLE] if len(model.names) > 1 else [])]
        height, width = model.grid
        self.inputs: dict[str, Any] = {"picture": picture_input("Picture", "edited", height=240)}
        add_examples(page, self.inputs["picture"], generated="images")
        self.inputs["way"] = gr.Radio(self.ways, value=PAINT, label="What to do", elem_id="way")
        self.painter = self.inputs["mask"] = mask_painter(
            "Mask", (width, height), "Paint over what is to be generated anew: with the pointer, or with the arrow "
            "keys and space.", "mask",
        )  # fmt: skip
        self.inputs["rows"] = gr.Slider(
            1, height - 1, value=height // 2, step=1, label="Rows of codes to keep", visible="hidden",
            info=f"Of {height}, from the top", elem_id="rows",
        )  # fmt: skip
        self.inputs["strength"] = gr.Slider(
            0.05, 0.95, value=0.5, step=0.05, label="Strength", visible="hidden",
            info="Share of the codes that is generated anew, at random", elem_id="strength",
        )  # fmt: skip
        if RESAMPLE in self.ways:
            self.inputs["kept"] = gr.CheckboxGroup(
                model.names, value=model.names[-1:], label="Codebooks to keep", visible="hidden", elem_id="kept",
                info="The others are generated anew: the same layout, another look",
            )  # fmt: skip
        self.documents = {
            "picture": "An uploaded picture, scaled and cut to the model's size",
            "way": f"What to do: {', '.join(self.ways)}",
            "mask": f"To {PAINT}: an uploaded picture, white where it is generated anew, black elsewhere; of the size "
            "of the picture, or a square of its middle",
            "rows": f"To {TOP}: how many rows of codes stay, 1 to {height - 1}",
            "strength": f"To {VARY}: share of the codes that is generated anew, 0.05 to 0.95",
            "kept": f"To {RESAMPLE}: the codebooks that stay, some of {', '.join(model.names)}, but not all",
        }
        self._listen()

    def read(self, given: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's arguments for an edit; `gr.Error` for what is missing or wrong."""
        way = check_choice("What to do", given["way"], self.ways)
        pixels = self.model.pixels(read_picture(given["picture"], self.model.max_pixels))
        arguments: dict[str, Any] = {"image": self.model.pictures(pixels)[0]}
        if way == PAINT:
            if given["mask"] is None:
                raise user_error("Paint over what is to be generated anew first: the mask is empty")
            arguments["mask_image"] = read_mask(given["mask"], self.model.size)
        elif way == TOP:
            rows = check_number("The rows to keep", given["rows"], 1, self.model.grid[0] - 1, whole=True)
            arguments["mask_image"] = self._mask_below(rows)
        elif way == VARY:
            arguments["strength"] = check_number("The strength", given["strength"], 0.05, 0.95)
        else:
            arguments["keep_codebooks"] = self._read_kept(given["kept"])
        return arguments

    def _read_kept(self, kept: Any) -> list[str]:
        names = self.model.names
        chosen = check_choices("The codebooks to keep", kept, names)
        if not 0 < len(chosen) < len(names):
            got = "all" if chosen else "none"
            raise user_error(f"The codebooks to keep must be some of {', '.join(names)} and leave others, got {got}")
        return chosen

    def _mask_below(self, rows: int) -> Image.Image:
        """White below so many rows of codes."""
        width, height = self.model.size
        mask = np.full((height, width), 255, np.uint8)
        mask[: rows * height // self.model.grid[0]] = 0
        return Image.fromarray(mask)

    def _listen(self) -> None:
        """The mask lies over the picture, and each way shows its own controls."""
        picture, way = self.inputs["picture"], self.inputs["way"]
        picture.change(None, picture, self.painter, js="picture => picture", **BEHIND_THE_SCENES)
        controls = {PAINT: "mask", TOP: "rows", VARY: "strength", RESAMPLE: "kept"}
        controls = {key: name for key, name in controls.items() if name in self.inputs}
        updates = ", ".join(f"{{__type__: 'update', visible: way === '{key}' ? true : 'hidden'}}" for key in controls)
        way.change(
            None, way, [self.inputs[name] for name in controls.values()], js=f"way => [{updates}]", **BEHIND_THE_SCENES
        )


class EditTab:
    """
    What the button does.

    Args:
        model ([`Model`]): With a generator.
        changes ([`Changes`]), conditions ([`Conditions`]), sampling ([`Sampling`]): Read what was sent.
        storage ([`Storage`]): Keeps the pictures of images that are not finished.
    """

    def __init__(self, model: Model, changes: Changes, conditions: Conditions, sampling: Sampling, storage: Storage):
        self.model, self.changes, self.storage = model, changes, storage
        self.conditions, self.sampling = conditions, sampling

    def edit(self, *, limit: Limit | None = None, **given: Any) -> Iterator[tuple[CAPTIONED, int]]:
        """
        Generate a part of a picture's codes anew: under a mask, below some rows, a random share, or some codebooks'.
        Each image has the seed that makes it alone. The results come again and again while they grow.
        """
        changes = self.changes.read(given)
        arguments = {**self.conditions.read(given), **self.sampling.read(given), **changes}
        seeds = self.sampling.seeds(given)
        captioned = shown(self.model, self.storage, arguments, seeds, limit, changes["image"])
        yield from ((images, seeds[0]) for images in captioned)


def add_edit_tab(page: Page, model: Model, pictures: list[str]) -> None:
    """
    Controls and results.

    Args:
        page ([`Page`]), model ([`Model`]): Which the tab belongs to; with a generator.
        pictures (`list[str]`): CSS classes of galleries.
    """
    with gr.Column(scale=2, min_width=280):
        changes = Changes(page, model)
    with gr.Column(scale=2, min_width=280):
        conditions = Conditions(model, "edit-")
        sampling, button, stop = add_sampling(model, "Edit", "edit-")
    with gr.Column(scale=3, min_width=280):
        images = image_gallery("edits", pictures, columns=2)
    tab = EditTab(model, changes, conditions, sampling, page.storage)
    add_call(page, tab.edit, "edit", button, stop, [changes, conditions, sampling], images)
