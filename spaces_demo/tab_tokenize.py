# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The tab Tokenize: a picture, its codes, and what each codebook keeps of it; or pictures of uploaded codes.

Shapes: K codebooks, h w grid of codes, H W pixels.
"""

import base64
import io
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from checks import codes_file, read_codes, read_picture
from gradio.utils import get_upload_folder
from guard import Limit, Page
from model import Model
from PIL import Image
from sources import add_examples, picture_input
from tab_generate import BEHIND_THE_SCENES, CALL, CAPTIONED, SHOW
from widgets import token_map, token_map_value

from fqgan_hf.evaluation.codebooks import CodebookUsage
from fqgan_hf.evaluation.metrics import psnr


TABLE = ["Decoded from", "PSNR (dB)", "Different codes used"]
Results = tuple[tuple[Image.Image, Image.Image] | None, CAPTIONED, dict[str, Any], list[list[str]], str]


class TokenizeTab:
    """
    What the buttons do.

    Args:
        model ([`Model`]): With any pipeline.
    """

    def __init__(self, model: Model):
        self.model = model

    def tokenize(self, *, picture: Any, limit: Limit | None = None) -> Iterator[Results]:
        """
        Encode a picture and decode it from all codes and from each codebook alone, where the codes of the others are
        replaced by their average. Gives original and reconstruction, the decoded pictures with captions, the codes in
        a picture, a table of PSNR and codes used, and the codes as a file.
        """
        original = self.model.pixels(read_picture(picture, self.model.max_pixels))
        codes = self.model.encode(original)
        samples = self.model.decode(codes, self.model.alone(), limit)
        yield self._results(codes, samples, original)

    def decode(self, *, codes: Any, limit: Limit | None = None) -> Iterator[Results]:
        """
        Decode codes from a .npy file, as /tokenize gives it, from all codes and from each codebook alone. Gives what
        /tokenize gives, but nothing that an original is needed for.
        """
        config = self.model.vqmodel.config
        array = read_codes(codes, config.num_codebooks, config.codebook_size, max(self.model.grid))
        yield self._results(array, self.model.decode(array, self.model.alone(), limit), None)

    def _results(self, codes: np.ndarray, samples: np.ndarray, original: np.ndarray | None) -> Results:
        """Codes `(1, K, h, w)`, samples `(1 + K, 3, H, W)` and pixels `(1, 3, H, W)` for the page."""
        captions = ["all codebooks", *self.model.names] if len(samples) > 1 else ["reconstruction"]
        decoded = self.model.pictures(samples)
        below, compared = decoded[0], None
        if original is not None:
            below = self.model.pictures(original)[0]
            compared = (below, decoded[0])
        tokens = token_map_value(as_address(below), self.model.names, codes[0].tolist())
        table = [list(row) for row in zip(captions, quality(original, samples), self._used(codes), strict=True)]
        return compared, list(zip(decoded, captions, strict=True)), tokens, table, save_codes(codes)

    def _used(self, codes: np.ndarray) -> list[str]:
        """How many different codes there are, in words; of several codebooks nothing for all together."""
        size, num_codebooks = self.model.vqmodel.config.codebook_size, codes.shape[1]
        used = CodebookUsage(num_codebooks, size).update(torch.from_numpy(codes)).num_used.tolist()
        texts = [f"{number:,} of {size:,} at {codes[0, 0].size:,} positions" for number in used]
        return texts if num_codebooks == 1 else ["", *texts]


def quality(original: np.ndarray | None, samples: np.ndarray) -> list[str]:
    """The PSNR of each sample, in words."""
    if original is None:
        return ["unknown"] * len(samples)
    decoded = torch.from_numpy(samples)
    values = psnr(torch.from_numpy(original).expand_as(decoded), decoded).tolist()
    return [f"{decibels:.2f}" if math.isfinite(decibels) else "no error" for decibels in values]


def as_address(picture: Image.Image) -> str:
    """A picture in an address of its own."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def save_codes(codes: np.ndarray) -> str:
    """A file of codes `(1, K, h, w)` to be downloaded."""
    path = Path(get_upload_folder()) / uuid.uuid4().hex / "codes.npy"
    path.parent.mkdir(parents=True)
    path.write_bytes(codes_file(codes))
    return str(path)


def add_tokenize_tab(page: Page, model: Model, pictures: list[str]) -> None:
    """
    Controls and results.

    Args:
        page ([`Page`]), model ([`Model`]): Which the tab belongs to.
        pictures (`list[str]`): CSS classes of galleries.
    """
    with gr.Column(scale=2, min_width=320):
        picture = picture_input("Picture", "picture")
        add_examples(page, picture, generated="images" if model.conditions else "")
        button = gr.Button("Tokenize", variant="primary", elem_id="tokenize")
        with gr.Accordion("From codes", open=False, elem_id="from-codes"):
            gr.Markdown(
                f"A .npy file of whole numbers of shape ({len(model.names)}, {model.grid[0]}, {model.grid[1]}), the "
                f"first axis for {', '.join(model.names)}: as this page gives it, or changed by a program.",
                elem_classes=["note"],
            )
            codes = gr.UploadButton(
                "Decode a file of codes", file_types=[".npy"], type="filepath", size="sm", elem_id="upload-codes"
            )
    with gr.Column(scale=5, min_width=320):
        with gr.Row(equal_height=True):
            compared = gr.ImageSlider(
                label="Original and reconstruction", format="png", interactive=False, buttons=["fullscreen"],
                max_height=420, min_width=280, elem_id="compared", elem_classes=pictures[1:],
            )  # fmt: skip
            tokens = token_map("Codes of each cell", "tokens", pictures[1:])
        decoded = gr.Gallery(
            label="Decoded from", show_label=False, format="png", columns=4, height="auto", object_fit="contain",
            interactive=False, elem_id="decoded", elem_classes=pictures,
        )  # fmt: skip
        table = gr.Dataframe(
            headers=TABLE, label="Measures", show_label=False, interactive=False, column_count=3,
            column_widths=["35%", "25%", "40%"], wrap=True, buttons=[], elem_id="table",
        )  # fmt: skip
        file = gr.DownloadButton("Download the codes (.npy)", size="sm", interactive=False, elem_id="download-codes")
    tab, outputs = TokenizeTab(model), [compared, decoded, tokens, table, file]
    shapes = f"({len(model.names)}, h, w), each side at most {max(model.grid)}"
    for event, work, name, argument, text in (
        (button.click, tab.tokenize, "tokenize", picture, "An uploaded picture, scaled and cut to the model's size"),
        (codes.upload, tab.decode, "decode", codes, f"An uploaded .npy file of whole numbers of shape {shapes}"),
    ):
        parameter = "picture" if argument is picture else "codes"
        event(None, js=SHOW.format("#compared"), **BEHIND_THE_SCENES)
        call = page.bounded(work, {parameter: text})
        done = event(call, argument, outputs, api_name=name, show_progress_on=[compared, decoded], **CALL)
        done.success(None, js=SHOW.format("#compared"), **BEHIND_THE_SCENES)
        done.success(None, None, file, js="() => ({__type__: 'update', interactive: true})", **BEHIND_THE_SCENES)
