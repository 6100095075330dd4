# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Space's page: its heading and one tab for each thing that its model can do, which are in the files tab_*.py."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from model import Model  # before anything that may start CUDA: see there


# isort: split
import gradio as gr
from guard import Page
from tab_about import add_about_tab
from tab_edit import add_edit_tab
from tab_generate import add_generate_tab
from tab_mix import add_mix_tab
from tab_tokenize import add_tokenize_tab

from fqgan_hf import CardInfo


MAX_WAITING = 32  # visitors in the queue; the next one is told that it is full
LAUNCH_OPTIONS: dict[str, Any] = {
    "theme": gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"]),
    "css_paths": Path(__file__).with_name("page.css"),
    "footer_links": ["api", "gradio"],
    "ssr_mode": False,
}


def describe(model: Model) -> str:
    """The page's heading, in Markdown."""
    config, count = model.vqmodel.config, len(model.names)
    codes = "one code" if count == 1 else f"{count} codes, one from each codebook"
    text = (
        "# Factorized image codes\n"
        f"[FQGAN](https://arxiv.org/abs/2411.16681) writes a {model.size[0]}×{model.size[1]} image as "
        f"{model.grid[0]}×{model.grid[1]} positions with {codes} of {config.codebook_size:,}"
    )
    if not model.conditions:
        return f"{text}."
    name = "discrete diffusion" if model.is_diffusion else "FAR"
    words = {"class": f"any of {model.generator.num_classes:,} classes", "text": "a prompt", "map": "a drawn map"}
    *most, last = (words[one] for one in model.conditions)
    return f"{text}; {name} generates these codes for {', '.join(most)}{' and ' if most else ''}{last}."


def example_prompts(folder: str | Path | None) -> list[str]:
    """Those of the model's `card.json`, if it has any."""
    with suppress(ValueError, OSError):
        return CardInfo.read(Path(folder)).prompts if folder is not None else []
    return []


def build_app(pipeline: Any, folder: str | Path | None = None) -> Page:
    """
    The page, with its queue.

    Args:
        pipeline ([`FARPipeline`], [`CodeDiffusionPipeline`] or [`FQGANPipeline`]):
            The model, on the device where it is to run. Its progress bar is switched off.
        folder (`str` or `Path`, *optional*): Where it was loaded from: its card and what was measured are shown.

    Returns:
        [`Page`]: To be launched with `LAUNCH_OPTIONS`.
    """
    model = Model(pipeline, example_prompts(folder))
    # Enlarged by the browser, small images would blur.
    pictures = ["pictures", "small"] if max(model.size) < 128 else ["pictures"]
    with Page(title="Factorized image codes", analytics_enabled=False) as page:
        gr.Markdown(describe(model), elem_id="heading")
        if model.conditions:
            with gr.Tab("Generate", elem_id="tab-generate"), gr.Row():
                add_generate_tab(page, model, pictures)
        with gr.Tab("Tokenize", elem_id="tab-tokenize"), gr.Row():
            add_tokenize_tab(page, model, pictures)
        if len(model.names) > 1:
            with gr.Tab("Mix", elem_id="tab-mix"), gr.Row():
                add_mix_tab(page, model, pictures)
        if model.conditions:
            with gr.Tab("Edit", elem_id="tab-edit"), gr.Row():
                add_edit_tab(page, model, pictures)
        with gr.Tab("About", elem_id="tab-about"), gr.Row():
            add_about_tab(model, Path(folder) if folder is not None else None)
    # After each call Gradio would go over the last hours' with pandas, for a page that is switched off here.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
    # The queue can't be bypassed.
    return page.queue(api_open=False, max_size=MAX_WAITING, default_concurrency_limit=1)
