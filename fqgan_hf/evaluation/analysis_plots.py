# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The plots of an analysis, by matplotlib: black on white, to be shown on a white card in a dark page, too.

Shapes: K codebooks, V codebook size, P points.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe & Ito's colours, which people with any colour vision tell apart.
CODEBOOK_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MAX_CLASS_COLORS = 10
MAX_TITLE_LENGTH = 20
FONT_SIZE = 13  # legible where the plot is as wide as a phone


@contextmanager
def _axes(square: bool = False) -> Iterator[tuple["Figure", "Axes"]]:
    """A figure and its axes, in the library's own style, whatever a user has set."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context("default", after_reset=True), matplotlib.rc_context({"font.size": FONT_SIZE}):
        figure = Figure(figsize=(5.6, 5.6) if square else (7, 4.2), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(square)
        yield figure, axes


def usage_plot(counts: np.ndarray, names: Sequence[str]) -> "Figure":
    """
    How often the codes of each codebook occur, the most frequent first; a line ends where codes never occur.

    Args:
        counts (`np.ndarray` of shape `(K, V)`): Occurrences.
        names (`Sequence[str]`): Of the codebooks.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    with _axes() as (figure, axes):
        for k, row in enumerate(counts):
            frequencies = np.sort(row[row > 0])[::-1] / row.sum()
            color = CODEBOOK_COLORS[k % len(CODEBOOK_COLORS)]
            axes.plot(np.arange(1, len(frequencies) + 1), frequencies, color=color, label=names[k], linewidth=2)
        size = counts.shape[1]
        axes.plot([1, size], [1 / size] * 2, color="#777777", linestyle="--", label="uniform")
        axes.set(yscale="log", xlim=(0, size * 1.02), xlabel="codes, the most frequent first")
        axes.set_ylabel("share of positions")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False)
    return figure


def codes_plot(points: Sequence[np.ndarray], names: Sequence[str]) -> "Figure":
    """Points `(P, 2)` of each codebook in its colour."""
    with _axes(square=True) as (figure, axes):
        for k, rows in enumerate(points):
            color = CODEBOOK_COLORS[k % len(CODEBOOK_COLORS)]
            axes.scatter(*rows.T, s=14, color=color, alpha=0.7, linewidths=0, label=names[k])
        _finish_map(axes, len(points) > 1)
    return figure


def images_plot(points: np.ndarray, labels: np.ndarray, classes: Sequence[int], titles: Sequence[str]) -> "Figure":
    """
    Points of images, coloured by class.

    Args:
        points (`np.ndarray` of shape `(P, 2)`): In the plane.
        labels (`np.ndarray` of shape `(P,)`): Class ids.
        classes (`Sequence[int]`): Those that get a colour, at most `MAX_CLASS_COLORS`; the others are grey.
        titles (`Sequence[str]`): Their names.
    """
    with _axes(square=True) as (figure, axes):
        others = points[~np.isin(labels, list(classes))]
        if len(others):
            style = {"s": 10, "color": "#c8c8c8"} if len(classes) else {"s": 16, "color": "#555555"}
            axes.scatter(*others.T, linewidths=0, label="other", **style)
        for number, (label, title) in enumerate(zip(classes, titles, strict=True)):
            axes.scatter(
                *points[labels == label].T, s=16, color=f"C{number}", alpha=0.85, linewidths=0, label=_plain(title)
            )
        _finish_map(axes, len(classes) > 0)
    return figure


def _plain(text: str) -> str:
    """A name as it is: matplotlib would read formulas between dollars, and leave names like _a out of legends."""
    text = text if len(text) <= MAX_TITLE_LENGTH else text[: MAX_TITLE_LENGTH - 1] + "…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _finish_map(axes: "Axes", has_legend: bool) -> None:
    """Positions in a t-SNE have no unit: no ticks. The legend stands below, where it covers no point."""
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    if has_legend:
        handles, labels = axes.get_legend_handles_labels()
        axes.figure.legend(
            handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=11, markerscale=1.8,
            handletextpad=0.1, columnspacing=1,
        )  # fmt: skip
