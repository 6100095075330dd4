# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What Gradio has no component for: painting labels or a mask, cell by cell, and the codes of a picture on hover.

Each is a `gr.HTML` with a fixed skeleton and a script, painter.js or token_map.js. (As classes of their own they would
make Gradio write files beside this one.)
"""

import colorsys
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.base import Component
from gradio.data_classes import ImageData


FOLDER = Path(__file__).parent

# Distinct for the colour-blind, too (Okabe and Ito); labels beyond them get hues of their own.
PALETTE = (
    (0, 0, 0), (255, 255, 255), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167),
)  # fmt: skip
GOLDEN_RATIO = 0.618034
MASK_COLOURS = ("transparent", "#6366f1b0")  # of what is kept, and of what is painted anew
CODEBOOK_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7")


def palette(num_labels: int) -> list[tuple[int, int, int]]:
    """A colour for each label of a map."""
    others = range(num_labels - len(PALETTE))
    hues = [colorsys.hsv_to_rgb(i * GOLDEN_RATIO % 1, 0.55 + 0.15 * (i % 3), 0.9 - 0.2 * (i % 2)) for i in others]
    return [*PALETTE[:num_labels], *(tuple(round(255 * part) for part in hue) for hue in hues)]


def hexadecimal(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def map_painter(label: str, size: tuple[int, int], names: Sequence[str], info: str, elem_id: str) -> gr.HTML:
    """
    A map of labels to be painted.

    Args:
        label (`str`): What it is called.
        size (`tuple[int, int]`): Width and height, in pixels.
        names (`Sequence[str]`): Of the labels.
        info (`str`): A line below it.
        elem_id (`str`): For `sent`, which gets what was painted.
    """
    colours = [hexadecimal(colour) for colour in palette(len(names))]
    return _painter(label, size, colours, names, info, elem_id, is_mask=False)


def mask_painter(label: str, size: tuple[int, int], info: str, elem_id: str) -> gr.HTML:
    """
    A mask over a picture, whose reference is the value.

    Args:
        label, info, elem_id: See `map_painter`.
        size (`tuple[int, int]`): Width and height in cells of the codes' grid.
    """
    return _painter(label, size, MASK_COLOURS, ("keep", "paint anew"), info, elem_id, is_mask=True)


def sent(inputs: Sequence[Component], painter: gr.HTML | None) -> str | None:
    """
    The script of an event that sends what was painted, as an uploaded file, in the place of the painter's value.

    Args:
        inputs (`Sequence`): Of the event.
        painter: One of them, or none.
    """
    if painter is None:
        return None
    position = next(i for i, one in enumerate(inputs) if one is painter)
    return (
        "async (...values) => { "
        f"values[{position}] = await document.querySelector('#{painter.elem_id} .painter').painted(); return values }}"
    )


def _painter(
    label: str,
    size: tuple[int, int],
    colours: Sequence[str],
    names: Sequence[str],
    info: str,
    elem_id: str,
    is_mask: bool,
) -> gr.HTML:
    first = 1 if len(names) > 1 else 0
    swatches = "".join(
        f'<label title="{html.escape(name)}"><input type="radio" name="{elem_id}" value="{number}"'
        f'{" checked" if number == first else ""}><span class="chip" style="background: {colour}"></span>'
        f"<span>{html.escape(name)}</span></label>"
        for number, (name, colour) in enumerate(zip(names, colours, strict=True))
    )
    width, height = size
    largest = max(1, max(size) // 4)
    component = gr.HTML(
        label=label,
        html_template=(
            f'<div class="painter {"mask" if is_mask else "map"}" data-width="{width}" data-height="{height}" '
            f'data-colours="{" ".join(colours)}" data-names="{html.escape("|".join(names))}">'
            f'<div class="widget-label" id="{elem_id}-label">{html.escape(label)}</div>'
            f'<div class="canvas" style="aspect-ratio: {width} / {height}; --cell-width: {100 / width}%; '
            f'--cell-height: {100 / height}%"><canvas class="below"></canvas>'
            f'<canvas class="paint" tabindex="0" role="img" aria-roledescription="canvas" '
            f'aria-labelledby="{elem_id}-label" aria-describedby="{elem_id}-info"></canvas></div>'
            f'<div class="swatches" role="radiogroup" aria-label="Paint with">{swatches}</div>'
            f'<div class="tools"><label>Brush <input type="range" class="brush" min="1" max="{largest}" '
            f'value="{max(1, largest // 3)}"></label><button type="button" class="undo">Undo</button>'
            f'<button type="button" class="clear">Clear</button></div>'
            f'<div class="widget-info" id="{elem_id}-info">{html.escape(info)}</div>'
            f'<div class="said" role="status"></div></div>'
        ),
        js_on_load=(FOLDER / "painter.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        container=True,
        padding=True,
        elem_id=elem_id,
        elem_classes=["widget"],
    )
    # For programs it is a picture like any other.
    component.takes_file = True
    component.data_model, component.api_info = ImageData, lambda: Component.api_info(component)
    component.example_payload = lambda: None
    return component


def token_map(label: str, elem_id: str, elem_classes: Sequence[str] = ()) -> gr.HTML:
    """
    A picture whose cells tell their codes under the pointer, or with the arrow keys.

    Its value is what `token_map_value` gives.
    """
    component = gr.HTML(
        label=label,
        html_template=(
            f'<div class="token-map"><div class="widget-label" id="{elem_id}-label">{html.escape(label)}</div>'
            f'<div class="frame" tabindex="0" role="application" aria-labelledby="{elem_id}-label" '
            f'aria-describedby="{elem_id}-codes"><img alt=""><svg aria-hidden="true"></svg></div>'
            f'<div class="codes" id="{elem_id}-codes" role="status"></div></div>'
        ),
        js_on_load=(FOLDER / "token_map.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        container=True,
        padding=True,
        elem_id=elem_id,
        elem_classes=["widget", *elem_classes],
    )
    component.api_info = lambda: {"type": "object", "properties": {}}
    return component


def token_map_value(picture: str, names: Sequence[str], codes: Sequence[Any]) -> dict[str, Any]:
    """
    What a token map shows.

    Args:
        picture (`str`): Address of the picture.
        names (`Sequence` of K `str`): Of the codebooks.
        codes (`Sequence`): `(K, h, w)`, nested lists.
    """
    return {"picture": picture, "names": list(names), "codes": codes, "colours": list(CODEBOOK_COLOURS)}
