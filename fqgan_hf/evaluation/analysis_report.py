# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The page of an analysis: one HTML file with its pictures inside, from the numbers and the pictures.

What a section says stands here; how it looks stands in the template beside this file.
"""

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


TEMPLATE = "analysis_report.html"
LEFT_OUT = "–"  # in a table


@dataclass(frozen=True)
class EmbeddedPicture:
    """
    A PNG in the page.

    Args:
        png (`bytes`): Its file.
        alt (`str`): What it shows, for those who don't see it.
        caption (`str`): Above it; empty where the section's title is enough.
    """

    png: bytes
    alt: str
    caption: str = ""

    @property
    def data(self) -> str:
        """The file in base 64."""
        return base64.b64encode(self.png).decode("ascii")

    @property
    def width(self) -> int:
        """In pixels, from the header; with it the page keeps its place free."""
        return struct.unpack(">I", self.png[16:20])[0]

    @property
    def height(self) -> int:
        """In pixels."""
        return struct.unpack(">I", self.png[20:24])[0]


@dataclass(frozen=True)
class Section:
    """
    A part of the page.

    Args:
        title (`str`): Its heading.
        text (`Sequence[str]`): Paragraphs.
        table (`Sequence[Sequence[str]]`): Head and rows; none by default.
        figures (`Sequence[EmbeddedPicture]`): Its pictures.
        left_out (`Sequence[str]`): Why something that belongs here is missing.
    """

    title: str
    text: Sequence[str]
    table: Sequence[Sequence[str]] = ()
    figures: Sequence[EmbeddedPicture] = ()
    left_out: Sequence[str] = ()


def render_report(result: Mapping[str, Any], png: Mapping[str, bytes]) -> str:
    """
    The page.

    Args:
        result (`Mapping`): What `analyze` returns.
        png (`Mapping[str, bytes]`): Its pictures, by name.

    Returns:
        `str`: HTML that loads nothing.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    subject, verb = ("codebooks", "hold") if result["model"]["num_codebooks"] > 1 else ("codebook", "holds")
    return environment.get_template(TEMPLATE).render(
        title=f"What the {subject} of {result['model']['name']} {verb}",
        facts=_facts(result),
        sections=[section for build in _SECTIONS for section in build(result, png)],
    )


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was looked at, and with what: the head of the page."""
    model, images, classifier = result["model"], result["images"], result["classifier"]
    size, height, width = model["codebook_size"], *images["grid"]
    used = ", ".join(
        f"{name} {number:,} of {size:,}"
        for name, number in zip(model["codebooks"], result["codes"]["codes_used"], strict=True)
    )
    count = f"{model['num_codebooks']} codebooks" if model["num_codebooks"] > 1 else "1 codebook"
    facts = [
        ("Tokenizer", f"{model['name']}: {count} of {size:,} codes with {model['codebook_dim']} dimensions"),
        ("Training", "not recorded in the files of a tokenizer: judge by the codes in use and the figures below"),
        ("Codes in use", f"{used}, at {images['num_images'] * height * width:,} positions"),
        (
            "Images",
            f"{images['num_images']:,} of {images['num_available']:,} from {images['source']}, drawn by seed "
            f"{result['settings']['seed']}; {images['resolution']} x {images['resolution']} pixels become "
            f"{height} x {width} positions",
        ),
        ("Classifier", "none given" if classifier is None else classifier["name"]),
        ("Fingerprint", model["fingerprint"][:16]),
    ]
    return facts


# ---- Sections: (result, pictures) -> the sections that they make ----------------------------------------------------


def _overview(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    """One row per codebook with all that was measured of it."""
    reconstruction, codes, probe = result["reconstruction"], result["codes"], result["linear_probe"]
    names, size = result["model"]["codebooks"], result["model"]["codebook_size"]
    each = reconstruction["each_codebook"] or [reconstruction["all"]]
    rows = [
        [
            name,
            _decibel(each[k]["psnr"]),
            _percent(each[k]["classifier_accuracy"]),
            _percent(probe["accuracy"][k] if probe else None),
            f"{codes['codes_used'][k]:,}",
            _percent(codes["usage"][k]),
            f"{codes['perplexity'][k]:,.1f}",
        ]
        for k, name in enumerate(names)
    ]
    if len(names) > 1:
        whole = reconstruction["all"]
        accuracy = _percent(whole["classifier_accuracy"])
        rows.append(["all together", _decibel(whole["psnr"]), accuracy, *[LEFT_OUT] * 4])
    if (accuracy := reconstruction["originals"]["classifier_accuracy"]) is not None:
        rows.append(["original images", LEFT_OUT, _percent(accuracy), *[LEFT_OUT] * 4])
    head = ["codebook", "PSNR, dB", "classifier", "linear probe", "codes used", "usage", "perplexity"]
    alone = " of what the decoder makes of this codebook alone" if len(names) > 1 else " of reconstructions"
    text = [
        f"PSNR and classifier: closeness to the original, and the share that the classifier reads as their class,"
        f"{alone}. Linear probe: the share of images whose class a linear classifier reads from the codes. "
        f"Perplexity: as many equally frequent codes would carry the same information; at most {size:,}.",
    ]
    missing = _left_out(result, "classifier_accuracy", "linear_probe")
    return [Section("At a glance", text, [head, *rows], left_out=missing)]


def _reconstructions(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    text = ["Each row is an image: the original, then what the decoder makes of its codes."]
    if result["model"]["num_codebooks"] > 1:
        text = [
            f"{text[0][:-1]}, of all codebooks and of each alone. What is missing is filled with the mean of its "
            "codebook, so that a picture shows what this codebook says and nothing of the others."
        ]
    figures = _figures(png, "reconstructions", "Originals and their reconstructions")
    return [Section("Reconstructions", text, figures=figures, left_out=_left_out(result, "each_codebook"))]


def _usage(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    text = [
        "The share of positions that has each code, sorted. A flat line is a codebook whose codes are all worth their "
        "place; a line that ends early leaves the rest of the codebook unused."
    ]
    return [Section("Use of the codes", text, figures=_figures(png, "usage", "Sorted frequencies of codes"))]


def _code_map(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    text = ["The vectors of codes in use, by t-SNE: neighbours stay neighbours, distances mean little."]
    if result["model"]["num_codebooks"] > 1:
        text.append(
            "A region of one colour holds directions that only this codebook uses. Codebooks that mix need not hold "
            "the same: nothing but training aligns their spaces. What they share is measured below, as overlap."
        )
    figures = _figures(png, "codes-tsne", "Code vectors in the plane, coloured by codebook")
    return [Section("Code vectors", text, figures=figures, left_out=_left_out(result, "codes-tsne"))]


def _image_maps(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    text = [
        "Each point is an image: the mean of its code vectors over all positions, by t-SNE. Where colours gather, a "
        "codebook tells classes apart even without saying where in the image something is."
    ]
    figures = _each_codebook(result, png, "images-tsne", "Images by the mean of their code vectors")
    return [
        Section("Images by their codes", text, figures=figures, left_out=_left_out(result, "images-tsne", "colors"))
    ]


def _token_maps(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    text = ["Each position takes the colour of its code; codes with similar vectors have similar colours."]
    if result["model"]["num_codebooks"] > 1:
        text.append("Colours of different codebooks have nothing to do with each other.")
    figures = _figures(png, "token-maps", "Images beneath the colours of their codes")
    return [Section("Token maps", text, figures=figures)]


def _patches(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    text = [
        "A row per code, the most frequent first, with its share of positions: where latents come nearest to it, at "
        "most once per image. The outline is the position; what the encoder sees of it reaches further."
    ]
    figures = _each_codebook(result, png, "patches", "Patches nearest to the most frequent codes")
    return [Section("What frequent codes stand for", text, figures=figures)]


def _probe(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    probe, table, text = result["linear_probe"], (), []
    if probe is not None:
        text = [
            f"A linear classifier that reads the code vectors of all positions, trained on {probe['num_train']:,} of "
            f"these images and tested on {probe['num_test']:,} others, {probe['num_classes']} classes."
        ]
        rows = zip(result["model"]["codebooks"], map(_percent, probe["accuracy"]), strict=True)
        table = [["codebook", "accuracy"], *rows, ["most frequent class alone", _percent(probe["chance"])]]
    return [Section("How much of the class each carries", text, table, left_out=_left_out(result, "linear_probe"))]


def _overlap(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    names, table = result["model"]["codebooks"], ()
    if result["overlap"] is not None:
        rows = zip(names, result["overlap"], strict=True)
        table = [["", *names], *([name, *(f"{value:.3f}" for value in row)] for name, row in rows)]
    text = [
        "Mutual information of two codebooks' codes at the same position, normalised, less what chance would give: 0 "
        "where one says nothing about the other, 1 where one follows from the other."
    ]
    return [Section("Overlap between codebooks", text, table, left_out=_left_out(result, "overlap"))]


def _making(result: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    text = [
        "Made with " + ", ".join(f"{name} {value}" for name, value in result["versions"].items()) + ".",
        f"Images: {result['images']['source']}, fingerprint {result['images']['fingerprint'][:16]}. Every number of "
        "this page, and more digits, is in analysis.json; its pictures are in the folder figures.",
    ]
    rows = [[name.replace("_", " "), f"{value:,}"] for name, value in result["settings"].items()]
    return [Section("How this was made", text, [["setting", "value"], *rows])]


_SECTIONS = (
    _overview, _reconstructions, _usage, _code_map, _image_maps, _token_maps, _patches, _probe, _overlap, _making,
)  # fmt: skip


def _figures(png: Mapping[str, bytes], name: str, alt: str, caption: str = "") -> list[EmbeddedPicture]:
    return [EmbeddedPicture(png[name], alt, caption)] if name in png else []


def _each_codebook(result: Mapping[str, Any], png: Mapping[str, bytes], name: str, alt: str) -> list[EmbeddedPicture]:
    """The pictures `name-1`, `name-2`, ..., under the names of their codebooks."""
    return [
        picture
        for k, codebook in enumerate(result["model"]["codebooks"])
        for picture in _figures(png, f"{name}-{k + 1}", f"{alt}: {codebook}", codebook)
    ]


def _left_out(result: Mapping[str, Any], *names: str) -> list[str]:
    """Reasons, each with what it is the reason for."""
    return [f"{_TITLES[name]}, since {result['left_out'][name]}" for name in names if name in result["left_out"]]


_TITLES = {
    "each_codebook": "reconstructions from each codebook alone",
    "classifier_accuracy": "accuracy of a classifier",
    "linear_probe": "linear probes",
    "overlap": "overlap",
    "codes-tsne": "the map of code vectors",
    "images-tsne": "the maps of images",
    "colors": "colours of classes",
}


def _percent(share: float | None) -> str:
    return LEFT_OUT if share is None else f"{share:.1%}"


def _decibel(psnr: float) -> str:
    return f"{psnr:.2f}"
