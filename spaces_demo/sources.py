# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Where pictures come from: a file, the clipboard, a camera, an example, or what the tab Generate made."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from guard import Page


FOLDER = Path(__file__).parent
EXAMPLES = {
    "Landscape": FOLDER / "example-landscape.png",
    "Still life": FOLDER / "example-still-life.png",
    "Pattern": FOLDER / "example-pattern.png",
}

# Results are no uploads, and only these are taken: the browser uploads the open, or the first, picture of a gallery.
TAKE = """async () => {
  const shown = ["#ID .preview .media-button img", "#ID .thumbnail-lg img"];
  const image = shown.map((selector) => document.querySelector(selector)).find((found) => found);
  const root = window.gradio_config.root.replace(/[/]$/, "") + "/gradio_api";
  const body = new FormData();
  body.append("files", await (await fetch(image.src)).blob(), "generated.png");
  const [path] = await (await fetch(root + "/upload", { method: "POST", body })).json();
  return { path, url: root + "/file=" + path, orig_name: "generated.png", meta: { _type: "gradio.FileData" } };
}"""


def picture_input(label: str, elem_id: str, height: int = 320) -> gr.Image:
    """A picture of the visitor's."""
    return gr.Image(
        label=label, format="png", type="filepath", sources=["upload", "clipboard", "webcam"], height=height,
        elem_id=elem_id, elem_classes=["source"],
    )  # fmt: skip


def add_examples(page: Page, picture: gr.Image, names: Sequence[str] = tuple(EXAMPLES), generated: str = "") -> None:
    """
    Small buttons that fill in a picture.

    Args:
        page ([`Page`]), picture: What they belong to, and what they fill in.
        names (`Sequence[str]`): Of the examples.
        generated (`str`): Id of a gallery of which a picture may be taken; the button shows once it has one.
    """
    with gr.Row(elem_classes=["examples"]):
        for name in names:
            button = gr.Button(
                name, icon=EXAMPLES[name], size="sm", min_width=90,
                elem_id=f"{picture.elem_id}-{EXAMPLES[name].stem}",
            )  # fmt: skip
            path = keep(page, picture, EXAMPLES[name])
            button.click(lambda path=path: path, None, picture, api_visibility="private", show_progress="hidden")
    if generated:
        button = gr.Button(
            "Use a generated picture", size="sm", elem_id=f"{picture.elem_id}-from-{generated}",
            elem_classes=["from-gallery", f"from-{generated}"],
        )  # fmt: skip
        button.click(
            None, None, picture, js=TAKE.replace("ID", generated), api_visibility="private", show_progress="hidden"
        )


def keep(page: Page, picture: gr.Image, path: Path) -> str:
    """A file as if it had been uploaded, but not to be deleted."""
    kept = save_file_to_cache(path, picture.GRADIO_CACHE)
    page.upload_file_set.add(kept)
    picture.keep_in_cache.add(kept)
    return kept
