# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Curves of a run, as a picture beside its metrics, with or without a tracker."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from fqgan_hf.files import atomic_path, read_metrics


COLUMNS = 3
MAX_POINTS = 2000  # per curve; more than the picture has columns of pixels


def plot_losses(metrics_path: str | Path, picture_path: str | Path) -> None:
    """
    Draw every loss and every validation figure of a run over its steps.

    Names that differ in their last part only share a panel: `loss/commitment/0` and `loss/commitment/1`. The picture
    replaces its predecessor in one step.

    Args:
        metrics_path (`str` or `Path`): A `metrics.jsonl`.
        picture_path (`str` or `Path`): PNG to write.
    """
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in read_metrics(metrics_path):
        for name, value in record.items():
            if not name.startswith(("loss/", "validation/")) or not math.isfinite(value):
                continue
            panel, _, last = name.rpartition("/")
            if not last.isdigit():
                panel, last = name, "mean" if name == "validation/loss" else ""
            curves.setdefault(panel, {}).setdefault(last, []).append((record["step"], value))
    if not curves:
        return
    rows = -(-len(curves) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.6 * rows), layout="constrained")
    for i, (panel, lines) in enumerate(sorted(curves.items())):
        axes = figure.add_subplot(rows, COLUMNS, i + 1, title=panel)
        for label, points in sorted(lines.items()):
            points = points[:: -(-len(points) // MAX_POINTS)]
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 20 else "")
        if len(lines) > 1:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    with atomic_path(picture_path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
