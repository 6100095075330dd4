# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The tab About: what the model is, what was measured of it, and its card."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from jinja2 import TemplateNotFound
from model import Model

from fqgan_hf.evaluation_results import described_protocol, load_result, titled_figures
from fqgan_hf.files import read_json
from fqgan_hf.hub.cards import render_card
from fqgan_hf.hub.facts import folder_facts, format_value


PARTS = {"vqmodel": "Tokenizer", "transformer": "Generator", "scheduler": "Scheduler", "map_vqmodel": "Map tokenizer"}
SETTINGS = ("guidance_scale", "temperature", "top_p", "inception_score_std")  # of a report, but nothing measured
HIDDEN = ("kind", "fingerprint", "tokenizer_fingerprint", "map_tokenizer_fingerprint", "feature_dims")


def about_facts(folder: Path | None) -> list[list[str]]:
    """
    Rows of part, what of it, and its value, from the folder of a pipeline or tokenizer.

    Args:
        folder (`Path`, *optional*): Without one there is nothing to tell.
    """
    if folder is None:
        return []
    try:
        facts = folder_facts(folder)
    except (OSError, ValueError):
        return []
    parts = {PARTS.get(name, name): part for name, part in facts.items() if isinstance(part, dict)}
    parts = parts or {"Tokenizer": facts}
    return [
        [part, name.removesuffix("_bytes").replace("_", " "), format_value(name.removesuffix("_bytes"), value)]
        for part, content in parts.items()
        for name, value in content.items()
        if value is not None and name not in HIDDEN
    ]


def measured(folder: Path | None) -> list[list[str]]:
    """
    Rows of what was measured and its value: from the results of `fqgan evaluate` in `evaluation/`, and from the report
    of `fqgan demo` in the folder or above it.
    """
    if folder is None:
        return []
    rows = []
    for path in sorted((folder / "evaluation").glob("*.json")):
        try:
            result = load_result(path)
            rows += [
                [described_protocol(result), title, figure(value)] for title, value in titled_figures(result).items()
            ]
        except (OSError, ValueError, KeyError, TypeError):  # some other file
            continue
    for path in (folder / "report.json", folder.parent / "report.json"):
        try:
            rows += [[what, name, value] for what, name, value in _reported(read_json(path))]
        except (OSError, ValueError):
            continue
        break
    return rows


def _reported(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The single numbers of a report's tokenizer and generator."""
    for part in ("tokenizer", "generator"):
        content = report.get(part)
        for name, value in content.items() if isinstance(content, dict) else ():
            if isinstance(value, float) and name not in SETTINGS:
                yield part, "PSNR (dB)" if name == "psnr" else name.replace("_", " "), figure(value)


def figure(value: float | list[float]) -> str:
    """A measured number, or one for each codebook."""
    return ", ".join(f"{one:,.4g}" for one in (value if isinstance(value, list) else [value]))


def card_text(model: Model, folder: Path | None) -> str:
    """The card beside the model, or else what it would be, without front matter and heading."""
    name = folder.name if folder is not None else "The model"
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, TypeError, UnicodeDecodeError):
        try:
            text = render_card(model.pipeline, name)
        except TemplateNotFound:  # a Space on the Hub has no templates: what it shows has a card of its own
            text = f"# {name}\n\nThis model has no card."
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    # Pictures are beside the card, where the page has none of it.
    return re.sub(r"!\[[^\]]*\]\((?!https:)[^)]*\)", "", text)


def as_table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; what repeats the row above is left out."""
    lines = [head, ["---"] * len(head)]
    for above, row in zip([None, *rows], rows, strict=False):
        lines.append(["" if above and row[0] == above[0] else row[0], *row[1:]])
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def add_about_tab(model: Model, folder: Path | None) -> None:
    """
    Facts, figures and card.

    Args:
        model ([`Model`]), folder (`Path`, *optional*): What the page shows, and where it was loaded from.
    """
    card, facts, figures = card_text(model, folder), about_facts(folder), measured(folder)

    def about() -> dict[str, Any]:
        """What the model is: its card, the facts of its parts, and what was measured."""
        return {"card": card, "facts": facts, "figures": figures}

    with gr.Column(scale=3, min_width=320):
        gr.Markdown(card, elem_id="card", sanitize_html=True)
    with gr.Column(scale=2, min_width=320):
        if figures:
            gr.Markdown(f"### Measured\n\n{as_table(['Of', 'Figure', 'Value'], figures)}", elem_classes=["facts"])
        if facts:
            gr.Markdown(f"### Parts\n\n{as_table(['Part', 'What', 'Value'], facts)}", elem_classes=["facts"])
    gr.api(about, api_name="about")
