# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What `emoji.py` writes: tables, a plot of steps against quality, and sheets of pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from emoji_judge import TONES, Drawings, nearest_drawings
from PIL import Image

from fqgan_hf.evaluation.pictures import image_grid, save_image
from fqgan_hf.files import atomic_path, write_json


# What a person adds to the page below this line is kept when the page is rewritten.
NOTES = "<!-- Notes: kept when the tables above are rewritten -->"

NUM_SHOWN = 12  # drawings of each kind on a sheet: evenly spaced in `test`, without selection
CREDIT = (
    "Drawings: [Noto Color Emoji](https://github.com/googlefonts/noto-emoji), SIL Open Font License 1.1 and Apache "
    "License 2.0; captions: Unicode CLDR."
)

Figures = dict[str, Any]
Pictures = dict[str, list[Image.Image]]


def write_report(folder: Path, images: Path, figures: Figures, pictures: Pictures, drawings: Drawings) -> None:
    """
    `emoji.md`, `emoji.json` and `emoji.png` in `folder`; `emoji_captions.png` and `emoji_maps.png` in `images`.

    Args:
        folder, images (`Path`): Created if missing.
        figures (`dict`): Of `emoji.py`.
        pictures (`dict`): Of each row of the tables the pictures for `test`, in its order.
        drawings ([`Drawings`]): The data.
    """
    for place in (folder, images):
        place.mkdir(parents=True, exist_ok=True)
    path = folder / "emoji.md"
    notes = path.read_text(encoding="utf-8").partition(NOTES)[2] if path.is_file() else "\n"
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(page(figures, drawings, _between(folder, images))) + notes, encoding="utf-8")
    write_json(folder / "emoji.json", figures)
    if any(name.startswith("diffusion") for name in figures["titles"]):
        plot_steps(figures, folder / "emoji.png")
    save_image(caption_sheet(pictures, drawings), images / "emoji_captions.png")
    if "map-far" in pictures:
        save_image(map_sheet(pictures, drawings), images / "emoji_maps.png")


def _between(folder: Path, images: Path) -> str:
    """The way from the page to the sheets."""
    return Path(*[".."] * len(folder.parts), images).as_posix() if folder != images else "."


def page(figures: Figures, drawings: Drawings, images: str) -> list[str]:
    """The lines of the page."""
    rows, titles = figures["rows"], figures["titles"]
    seconds, machine = figures["seconds"], figures["machine"]
    minutes = {name: round(value / 60) for name, value in figures["training_seconds"].items() if value}
    named = {"real": "real drawings", "reconstructions": "their reconstructions", **titles}
    lines = [
        "# Emoji from words and from maps",
        "",
        f"{len(drawings.train):,} drawings of 64x64 pixels to learn from, {len(drawings.test)} others to ask for: of "
        f"{(drawings.unseen == 'drawing').sum()} the drawing is in no training row, of "
        f"{(drawings.unseen == 'combination').sum()} only this skin tone of it is missing. Every generator is asked "
        "once for each of them, by its caption or by its map of 12 colours.",
        "",
        "## From captions",
        "",
        "| pictures | group read as asked, % ↑ | of things, % ↑ | skin tone read as asked, % ↑ | of unseen drawings | "
        "of unseen combinations | Frechet distance ↓ | time per picture, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("real", "reconstructions", *(arm for arm in titles if arm != "map-far"), "shuffled"):
        title = named.get(name, "real drawings of other captions")
        cells = [percent(rows[name].get(key)) for key in CAPTION_COLUMNS]
        cells.append(number(rows[name].get("frechet_distance")))
        cells.append(number(seconds[name]["cpu"], 2) if name in seconds else "-")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [
        "",
        f"*Things*: all groups but People & Body, to which {(drawings.groups == drawings.people).mean():.0%} belong. "
        f"Skin tone: of the captions that name one of {', '.join(TONES[1:])}. The Frechet distance of the "
        f"training drawings is {rows['train']['frechet_distance']:.2f}. Time: processor time of one core, in batches "
        f"of 8, guidance included ({machine['processor']}, {machine['date']}).",
        "",
        *(["![steps against quality](emoji.png)", ""] if any("diffusion" in name for name in titles) else []),
        f"![captions]({images}/emoji_captions.png)",
        "",
        *(maps_section(rows, named, images) if "map-far" in titles else []),
        "## Memorised or composed?",
        "",
        "The nearest training drawing by its pixels, mirrored or not:",
        "",
        "| pictures | median difference from the nearest training drawing (RMS, pixels in [0, 1]) | nearer than a "
        "reconstruction is to its original, % |",
        "| --- | --- | --- |",
    ]
    for name in ("real", "reconstructions", *titles):
        row = rows[name]
        share = percent(row["as_near_as_a_reconstruction"])
        lines.append(f"| {named[name]} | {row['nearest_training_drawing']:.3f} | {share} |")
    lines += [
        "",
        "## Setting",
        "",
        f"- **tokenizer**: preset `emoji-fqgan`, 2 x 512 codes, 8x8 positions; {figures['psnr']:.2f} dB on `test`; "
        "its perceptual loss is on a small classifier of CIFAR-10",
        "- **generators**: presets `emoji-far`, `emoji-code-diffusion` and `emoji-map-far` on views shifted and, "
        "where the caption allows it, mirrored; captions and keywords; a word-level vocabulary trained along; "
        "guidance 3, by maps 1.5",
        f"- **training**: {', '.join(f'{name} {value} minutes' for name, value in minutes.items())}; one or two cores",
        "- **judge**: a residual network trained on the training drawings to read group and skin tone; its accuracy "
        "on real drawings is the first row. The Frechet distance is on its pooled features, and no FID",
        "- one seed, no picture chosen; trainings shared their machine with each other",
        "",
        "```",
        figures["command"],
        "```",
        "",
        CREDIT,
        "",
        NOTES,
    ]
    return lines


def maps_section(rows: Figures, named: dict[str, str], images: str) -> list[str]:
    """What came of maps."""
    lines = ["## From maps", "", "| pictures | mean IoU of the colours with the map ↑ | Frechet distance ↓ |"]
    lines.append("| --- | --- | --- |")
    for name in ("real", "reconstructions", "map-far", "shuffled"):
        title = named.get(name, "real drawings of other maps")
        lines.append(
            f"| {title} | {number(rows[name]['map_iou'], 3)} | {number(rows[name].get('frechet_distance'))} |"
        )
    return [*lines, "", f"![maps]({images}/emoji_maps.png)", ""]


CAPTION_COLUMNS = ("group", "group_of_things", "tone", "tone_of_unseen_drawing", "tone_of_unseen_combination")


def percent(share: float | None) -> str:
    """A share as a cell of a table."""
    return "-" if share is None else f"{100 * share:.1f}"


def number(value: float | None, digits: int = 2) -> str:
    """A number as a cell of a table."""
    return "-" if value is None else f"{value:.{digits}f}"


def plot_steps(figures: Figures, path: Path) -> None:
    """Frechet distance against the time of a picture: diffusion by its steps, and FAR."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    points = {
        name: (times["cpu"], figures["rows"][name]["frechet_distance"]) for name, times in figures["seconds"].items()
    }
    line = sorted(point for name, point in points.items() if name.startswith("diffusion"))
    axes.plot(*zip(*line, strict=True), color="#4477aa", marker="o", label="diffusion")
    axes.plot(*points["confidence-8"], color="#228833", marker="s", linestyle="", label="diffusion by confidence")
    axes.plot(*points["far"], color="#ee6677", marker="D", linestyle="", label="FAR")
    for name, point in points.items():
        words = "FAR" if name == "far" else f"{name.rpartition('-')[2]} steps"
        axes.annotate(words, point, xytext=(6, 5), textcoords="offset points", fontsize="small")
    floor = figures["rows"]["reconstructions"]["frechet_distance"]
    axes.axhline(floor, color="#888888", linestyle=":", label="reconstructions of real drawings")
    axes.set(xscale="log", xlabel="processor time per picture, s", ylabel="Frechet distance on the judge's features")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def caption_sheet(pictures: Pictures, drawings: Drawings) -> Image.Image:
    """A row for each of some captions: the real drawing, both generators, and what is nearest of what they learned."""
    shown = _spread(drawings)
    train = list(drawings.train["image"])
    rows, captions = [], [drawings.test[i]["caption"] for i in shown]
    near = {}
    titles = {"far": "FAR", "diffusion-50": "diffusion, 50 steps"}
    titles = {name: title for name, title in titles.items() if name in pictures}
    for name in titles:
        numbers, _ = nearest_drawings([pictures[name][i] for i in shown], train)
        near[name] = [train[number] for number in numbers.tolist()]
    for place, i in enumerate(shown):
        row = [pictures["real"][i], pictures["reconstructions"][i]]
        for name in near:
            row += [pictures[name][i], near[name][place]]
        rows.append(row)
    columns = ["real", "tokenizer", *(one for title in titles.values() for one in (title, "nearest learned"))]
    return image_grid(rows, columns, captions, min_cell_size=64)


def map_sheet(pictures: Pictures, drawings: Drawings) -> Image.Image:
    """A row for each of some maps: the map, what was generated for it, and the drawing whose map it is."""
    shown = _spread(drawings)
    train = list(drawings.train["image"])
    numbers, _ = nearest_drawings([pictures["map-far"][i] for i in shown], train)
    rows = [
        [drawings.test[i]["map"].convert("RGB"), pictures["map-far"][i], pictures["real"][i], train[number]]
        for i, number in zip(shown, numbers.tolist(), strict=True)
    ]
    captions = [drawings.test[i]["caption"] for i in shown]
    return image_grid(rows, ["map", "FAR", "real", "nearest learned"], captions, min_cell_size=64)


def _spread(drawings: Drawings) -> list[int]:
    """Numbers of some drawings of `test`, evenly spaced: things and people of unseen drawings, and combinations."""
    people = drawings.groups == drawings.people
    unseen = drawings.unseen == "drawing"
    kinds = (np.flatnonzero(kind) for kind in (unseen & ~people, unseen & people, drawings.unseen == "combination"))
    per_kind = NUM_SHOWN // 3
    return [int(one) for kind in kinds for one in kind[np.linspace(0, len(kind) - 1, per_kind).astype(int)]]
