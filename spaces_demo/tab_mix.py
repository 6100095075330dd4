# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The tab Mix: two pictures that give each other the codes of some codebooks."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from checks import check_choices, read_picture
from guard import Limit, Page, user_error
from model import Model
from sources import EXAMPLES, add_examples, picture_input
from tab_generate import BEHIND_THE_SCENES, CALL, CAPTIONED, SHOW


class MixTab:
    """
    What the button does.

    Args:
        model ([`Model`]): With several codebooks.
    """

    def __init__(self, model: Model):
        self.model = model

    def mix(self, *, picture_a: Any, picture_b: Any, taken: Any, limit: Limit | None = None) -> Iterator[CAPTIONED]:
        """
        Swap the codes of some codebooks between two pictures. Gives both reconstructions, and each picture with the
        other's codes in these codebooks.
        """
        names = self.model.names
        chosen = check_choices("The codebooks to take", taken, names)
        if not 0 < len(chosen) < len(names):
            got = "all" if chosen else "none"
            raise user_error(f"The codebooks to take must be some of {', '.join(names)} and leave others, got {got}")
        both = [
            self.model.pixels(read_picture(one, self.model.max_pixels, f"Picture {letter}"))
            for one, letter in ((picture_a, "A"), (picture_b, "B"))
        ]
        codes = self.model.encode(np.concatenate(both))
        swapped = codes.copy()
        which = [names.index(name) for name in chosen]
        swapped[:, which] = codes[::-1][:, which]
        samples = self.model.decode(np.concatenate([codes, swapped]), [None], limit)
        what = ", ".join(chosen)
        captions = ["A", "B", f"A with the {what} codes of B", f"B with the {what} codes of A"]
        yield list(zip(self.model.pictures(samples), captions, strict=True))


def add_mix_tab(page: Page, model: Model, pictures: list[str]) -> None:
    """
    Controls and results.

    Args:
        page ([`Page`]), model ([`Model`]): Which the tab belongs to.
        pictures (`list[str]`): CSS classes of galleries.
    """
    generated = "images" if model.conditions else ""
    inputs: dict[str, Any] = {}
    with gr.Column(scale=2, min_width=320):
        for letter, names in (("A", list(EXAMPLES)[:2]), ("B", list(EXAMPLES)[1:])):
            picture = picture_input(f"Picture {letter}", f"picture-{letter.lower()}", height=200)
            add_examples(page, picture, names, generated)
            inputs[f"picture_{letter.lower()}"] = picture
        inputs["taken"] = gr.CheckboxGroup(
            model.names, value=model.names[-1:], label="Codebooks to take from the other picture", elem_id="taken"
        )
        button = gr.Button("Mix", variant="primary", elem_id="mix")
    with gr.Column(scale=5, min_width=320):
        mixed = gr.Gallery(
            label="Mixtures", show_label=False, format="png", columns=2, height="auto", object_fit="contain",
            interactive=False, elem_id="mixed", elem_classes=pictures,
        )  # fmt: skip
    documents = {
        "picture_a": "An uploaded picture, scaled and cut to the model's size",
        "picture_b": "Another one",
        "taken": f"Codebooks to take from the other picture: some of {', '.join(model.names)}, but not all",
    }
    button.click(None, js=SHOW.format("#mixed"), **BEHIND_THE_SCENES)
    call = button.click(
        page.bounded(MixTab(model).mix, documents), list(inputs.values()), mixed, api_name="mix",
        show_progress_on=mixed, **CALL,
    )  # fmt: skip
    call.success(None, js=SHOW.format("#mixed"), **BEHIND_THE_SCENES)
