# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From the results of an ablation to its table: markdown, JSON and a plot. See `fqgan_hf.training.ablation.ablate`.

A result is what a finished run left: `arm`, `seed`, `metrics` and `seconds`.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from fqgan_hf.files import atomic_path, write_json


# What a person adds to a table below this line is kept when the table is rewritten.
NOTES = "<!-- Notes: kept when the table above is rewritten -->"

QUESTIONS = (
    "A question is answered seed by seed, since runs of the same seed see the same samples in the same order. It "
    "holds, or the reverse does, where at least three seeds agree; with no difference at all, three would still agree "
    "in one case of four."
)

Results = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class TokenizerArm:
    """One row of Table 3: what distinguishes a tokenizer from the others."""

    title: str
    num_codebooks: int
    size_factor: int = 1
    disentanglement: bool = False
    representation: bool = False


TABLE3 = {
    "one-n": TokenizerArm("one codebook of N", 1),
    "one-2n": TokenizerArm("one codebook of 2N", 1, size_factor=2),
    "factorized": TokenizerArm("factorized: two codebooks of N", 2),
    "disentanglement": TokenizerArm("factorized + disentanglement", 2, disentanglement=True),
    "representation": TokenizerArm("factorized + representation", 2, representation=True),
    "both": TokenizerArm("factorized + both", 2, disentanglement=True, representation=True),
}
TABLE4 = {"linear": "linear classifiers", "mlp": "MLP classifiers", "ar": "factorized autoregressive head"}


@dataclass(frozen=True)
class Context:
    """
    What a table says besides its figures.

    Args:
        folder (`Path`): Where it goes.
        settings (`dict`): What all runs share, names rather than paths.
        titles (`dict[str, str]`): The arms in their order, and what the table calls them.
        split, test_split (`str`): What was trained and judged on.
        machine (`str`): What it ran on.
        command (`str`): The call that made it.
    """

    folder: Path
    settings: dict[str, Any]
    titles: dict[str, str]
    split: str
    test_split: str
    machine: str
    command: str


def values(results: Results, arm: str, metric: str) -> dict[int, Any]:
    """A figure of an arm, by seed; seeds that do not have it are left out."""
    found = {result["seed"]: result["metrics"][metric] for result in results if result["arm"] == arm}
    return {seed: value for seed, value in found.items() if value is not None}


def spread(numbers: Sequence[float], digits: int = 2, factor: float = 1.0) -> str:
    """Mean ± sample standard deviation; the bare number where there is one only."""
    numbers = [number * factor for number in numbers]
    if not numbers:
        return "-"
    if len(numbers) == 1:
        return f"{numbers[0]:.{digits}f}"
    return f"{statistics.mean(numbers):.{digits}f} ± {statistics.stdev(numbers):.{digits}f}"


def per_codebook(figures: Sequence[Sequence[float]], digits: int, factor: float = 1.0) -> str:
    """Spread of a figure that each codebook has."""
    return " / ".join(spread(column, digits, factor) for column in zip(*figures, strict=True)) or "-"


def compare(results: Results, arm: str, other: str, metric: str, higher_is_better: bool, digits: int = 2) -> str:
    """How two arms differ, seed by seed, and what may be said of that. Same seed: same data order, paired."""
    of_arm, of_other = values(results, arm, metric), values(results, other, metric)
    seeds = sorted(of_arm.keys() & of_other.keys())
    if not seeds:
        return "no common seed"
    gains = [(of_arm[seed] - of_other[seed]) * (1 if higher_is_better else -1) for seed in seeds]
    better = statistics.mean(gains) > 0
    text = f"{'better' if better else 'worse'} by {spread(gains if better else [-gain for gain in gains], digits)}"
    if len(seeds) < 3:  # two seeds agree half of the time when there is no difference at all
        return f"{text} ({len(seeds)} seed{'s' * (len(seeds) > 1)}: no verdict)"
    if all(gain > 0 for gain in gains):
        return f"{text}: **holds** in all {len(seeds)} seeds"
    if all(gain < 0 for gain in gains):
        return f"{text}: **does not hold**, the reverse in all {len(seeds)} seeds"
    return f"{text}: **undecided**, the seeds disagree"


def setting_lines(context: Context, results: Results) -> list[str]:
    """What was done with what, and that it is not the paper's setting."""
    settings = context.settings
    train = settings["max_train_samples"]
    images = f"the first {train:,} images" if train else "all images"
    real = results[0]["metrics"]["real_images_read_as_labelled"]
    judge = f"`{settings['feature_extractor']}`, pooled features"
    if real is not None:
        judge += f"; as a classifier it reads {real:.3f} of the same real images as labelled"
    seconds = sum(sum(result["seconds"].values()) for result in results)
    lines = [
        f"- **data**: {settings['data']}, trained on {images} of `{context.split}`, judged on the first "
        f"{settings['num_test_images']:,} of `{context.test_split}`",
        f"- **budget of every run**: {settings['max_train_steps']} steps of {settings['train_batch_size']} images "
        f"({settings['max_train_steps'] * settings['train_batch_size']:,} in all), learning rate "
        f"{settings['learning_rate']:g}, preset `{settings['preset']}`",
        f"- **judge**: {judge}. Distances on its features are no FID: compare them within this table only",
        f"- **seeds**: {', '.join(str(seed) for seed in sorted({result['seed'] for result in results}))}; "
        "figures are mean ± sample standard deviation over the seeds",
        f"- **machine**: {context.machine}, "
        f"{date.today().isoformat()}; {len(results)} runs, {seconds / 60:.0f} minutes of run time in all",
        "",
        "This is **not the paper's setting** (ImageNet at 256 pixels, 16,384 codes, hundreds of thousands of steps): "
        "small images, small networks and a training that is far from its end. It says which way a difference points "
        "under these conditions, nothing about the size of the published one.",
    ]
    return lines


def report_table3(context: Context, results: Results) -> list[str]:
    """Write Table 3; returns its lines."""
    settings = context.settings
    lines = [
        "# Table 3: what the tokenizer's parts contribute",
        "",
        f"Reconstruction of held-out images, N = {settings['codebook_size']}.",
        "",
        "| tokenizer | bits a position | parameters (+ in training) | Frechet distance ↓ | PSNR, dB ↑ | "
        "read as labelled, % ↑ | codes used, % | perplexity | overlap | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, title in context.titles.items():
        of_arm = [result["metrics"] for result in results if result["arm"] == name]
        if not of_arm:
            continue
        first = of_arm[0]
        extra = first["training_only_parameters"]
        size = f"{first['parameters'] / 1e6:.2f} M" + (f" (+ {extra / 1e6:.2f} M)" if extra else "")
        shares = list(values(results, name, "read_as_labelled").values())
        cells = [
            title,
            f"{first['bits_per_position']:g}",
            size,
            spread(list(values(results, name, "frechet_distance").values())),
            spread(list(values(results, name, "psnr").values())),
            spread(shares, 1, 100),
            per_codebook([metrics["usage"] for metrics in of_arm], 0, 100),
            per_codebook([metrics["perplexity"] for metrics in of_arm], 0),
            spread(list(values(results, name, "overlap").values()), 3),
            str(len(of_arm)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Two figures in a cell: first codebook / second codebook (the one with the teacher). Overlap: normalised "
        "mutual information between the codebooks above chance, 0 for independent ones. The factorized tokenizers "
        "have an adapter a codebook, hence more parameters, and twice the bits a position: a single codebook of as "
        "many bits would need N² codes.",
        "",
        "| question | Frechet distance | PSNR |",
        "| --- | --- | --- |",
    ]
    for arm, other, question in (
        ("one-2n", "one-n", "one codebook of 2N better than one of N?"),
        ("factorized", "one-n", "two codebooks of N better than one of N?"),
        ("factorized", "one-2n", "two codebooks of N better than one of 2N?"),
        ("disentanglement", "factorized", "does disentanglement help?"),
        ("representation", "factorized", "does representation learning help?"),
        ("both", "factorized", "do both together help?"),
        ("both", "one-2n", "everything together better than one codebook of 2N?"),
    ):
        verdicts = (
            compare(results, arm, other, "frechet_distance", False),
            compare(results, arm, other, "psnr", True),
        )
        lines.append(f"| {question} | {verdicts[0]} | {verdicts[1]} |")
    lines += ["", QUESTIONS]
    lines += ["", "## Setting", "", *setting_lines(context, results)]
    if settings["teacher"] == settings["feature_extractor"]:
        lines += [
            "",
            f"The teacher of the representation arms is the judge itself (`{settings['teacher']}`), which favours "
            "these arms in the Frechet distance and in the share read as labelled; PSNR does not depend on it.",
        ]
    panels = [("frechet_distance", "Frechet distance (lower is better)"), ("psnr", "PSNR, dB (higher is better)")]
    write_report(context, "table3", lines, results, panels, {})
    return lines


def report_table4(context: Context, results: Results, ceiling: dict[str, Any]) -> list[str]:
    """Write Table 4; `ceiling` are the figures of the tokenizer's reconstructions. Returns its lines."""
    settings = context.settings
    lines = [
        "# Table 4: how the generator predicts the codes of one position",
        "",
        f"{settings['num_generated_images']:,} class-balanced samples with guidance {settings['guidance_scale']:g}, "
        f"{'all codes' if not settings['top_k'] else 'top-k ' + str(settings['top_k'])}, temperature 1; one tokenizer "
        f"for all ({ceiling['num_codebooks']} codebooks of {ceiling['codebook_size']}).",
        "",
        "| head | parameters | Frechet distance ↓ | read as the class asked for, % ↑ | validation loss, nats: "
        "codebook by codebook | sum ↓ | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for head, title in context.titles.items():
        of_arm = [result["metrics"] for result in results if result["arm"] == head]
        if not of_arm:
            continue
        cells = [
            title,
            f"{of_arm[0]['parameters'] / 1e6:.2f} M",
            spread(list(values(results, head, "frechet_distance").values())),
            spread(list(values(results, head, "read_as_asked").values()), 1, 100),
            per_codebook([metrics["validation_loss"] for metrics in of_arm], 3),
            spread(list(values(results, head, "validation_loss_sum").values()), 3),
            str(len(of_arm)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    shares = [ceiling["read_as_labelled"], ceiling["real_images_read_as_labelled"]]
    cells = [f"{100 * share:.1f}" if share is not None else "-" for share in shares]
    lines += [
        f"| *reconstructions of the test images* | | *{ceiling['frechet_distance']:.2f}* | *{cells[0]}* | | | |",
        f"| *the test images themselves* | | *0* | *{cells[1]}* | | | |",
        "",
        "The last two rows bound what any head can reach: samples pass through the same decoder, and the judge "
        "misreads some real images, too. Validation loss: cross-entropy of held-out codes; its sum is the negative "
        "log-likelihood of a position under each head. The factorized head sees the first code when it predicts the "
        "second, the others do not.",
        "",
        "| question | Frechet distance | read as asked (share) | validation loss, sum |",
        "| --- | --- | --- | --- |",
    ]
    for other in ("linear", "mlp"):
        verdicts = (
            compare(results, "ar", other, "frechet_distance", False),
            compare(results, "ar", other, "read_as_asked", True, 3),
            compare(results, "ar", other, "validation_loss_sum", False, 3),
        )
        lines.append(f"| factorized head better than {context.titles[other]}? | {' | '.join(verdicts)} |")
    lines += ["", QUESTIONS]
    lines += ["", "## Setting", "", *setting_lines(context, results)]
    panels = [
        ("frechet_distance", "Frechet distance (lower is better)"),
        ("read_as_asked", "read as the class asked for (higher is better)"),
        ("validation_loss_sum", "validation loss, nats a position (lower is better)"),
    ]
    write_report(context, "table4", lines, results, panels, {"tokenizer": ceiling})
    return lines


def write_report(
    context: Context,
    name: str,
    lines: list[str],
    results: Results,
    panels: Sequence[tuple[str, str]],
    more: dict[str, Any],
) -> None:
    """Markdown, JSON and plot; what stands below the line `NOTES` in the markdown stays there."""
    folder = context.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    notes = path.read_text(encoding="utf-8").partition(NOTES)[2] if path.is_file() else ""
    text = "\n".join([*lines, "", "```", context.command, "```", "", f"![{name}]({name}.png)", "", NOTES]) + (
        notes or "\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    runs = [{key: value for key, value in result.items() if key != "settings"} for result in results]
    write_json(folder / f"{name}.json", {"settings": context.settings, **more, "runs": runs})
    plot(results, context.titles, panels, folder / f"{name}.png")


def plot(results: Results, titles: dict[str, str], panels: Sequence[tuple[str, str]], path: Path) -> None:
    """One panel a metric: a dot a run, a bar at the mean of each arm."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    arms = [arm for arm in titles if any(result["arm"] == arm for result in results)]
    panels = [(metric, label) for metric, label in panels if any(values(results, arm, metric) for arm in arms)]
    figure = Figure(figsize=(4.2 * len(panels) + 2.0, 0.45 * len(arms) + 1.4), layout="constrained")
    for axes, (metric, label) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        for row, arm in enumerate(arms):
            numbers = list(values(results, arm, metric).values())
            axes.plot(numbers, [row] * len(numbers), "o", color="tab:blue", alpha=0.6)
            if numbers:
                axes.plot([statistics.mean(numbers)], [row], "|", color="black", markersize=18, markeredgewidth=2)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.set_yticks(range(len(arms)), [titles[arm] for arm in arms])
    axes.invert_yaxis()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, metadata={"Software": None})
