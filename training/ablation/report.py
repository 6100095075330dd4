# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From the results of an ablation to its table: markdown, JSON and a plot. See `fqgan_hf.training.ablation.ablate`.

    python -m fqgan_hf.training.ablation.report docs/results/table3.json

writes the table again from the JSON beside it. A result is what a finished run left: `arm`, `seed`, `metrics` and
`seconds`.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fqgan_hf.failures import leave
from fqgan_hf.files import atomic_path, read_json, write_json
from fqgan_hf.training.ablation.regvq_arms import RegVQArm
from fqgan_hf.training.common.arguments import run_script


# What a person adds to a table below this line is kept when the table is rewritten.
NOTES = "<!-- Notes: kept when the table above is rewritten -->"

QUESTIONS = (
    "Each question is answered seed by seed, since runs of the same seed see the same samples in the same order. An "
    "answer counts where at least three seeds agree; with no difference at all, three would still agree in one case "
    "of four. *Paper*: the same difference between the paper's own figures. They are of another setting (below), so "
    "only the direction compares."
)

Results = Sequence[dict[str, Any]]
Metrics = dict[str, Any]


@dataclass(frozen=True)
class TokenizerArm:
    """
    One row of Table 3: what distinguishes a tokenizer from the others.

    Args:
        title (`str`): What the table calls it.
        num_codebooks (`int`): Its codebooks, of N codes times `size_factor` each.
        paper (`dict[str, float]`): The paper's `rfid` and `psnr` (dB) of this arm, at N = 16,384.
        disentanglement, representation (`bool`): Whether it has these terms of the loss.
    """

    title: str
    num_codebooks: int
    paper: dict[str, float]
    size_factor: int = 1
    disentanglement: bool = False
    representation: bool = False


@dataclass(frozen=True)
class GeneratorArm:
    """One row of Table 4: a head, and the paper's gFID of FAR-Large with it by top-k."""

    title: str
    paper: dict[str, float]


TABLE3 = {
    "one-n": TokenizerArm("one codebook of N", 1, {"rfid": 3.71, "psnr": 20.56}),
    "one-2n": TokenizerArm("one codebook of 2N", 1, {"rfid": 3.60, "psnr": 20.56}, size_factor=2),
    "factorized": TokenizerArm("factorized: two codebooks of N", 2, {"rfid": 2.00, "psnr": 22.21}),
    "disentanglement": TokenizerArm(
        "factorized + disentanglement", 2, {"rfid": 1.84, "psnr": 22.04}, disentanglement=True
    ),
    "representation": TokenizerArm(
        "factorized + representation", 2, {"rfid": 1.73, "psnr": 21.61}, representation=True
    ),
    "both": TokenizerArm(
        "factorized + both", 2, {"rfid": 1.66, "psnr": 21.62}, disentanglement=True, representation=True
    ),
}
TABLE4 = {
    "linear": GeneratorArm("linear classifiers", {"4096": 5.19, "8192": 6.90}),
    "mlp": GeneratorArm("MLP classifiers", {"4096": 5.59, "8192": 8.88}),
    "ar": GeneratorArm("factorized autoregressive head", {"4096": 4.37, "8192": 3.74}),
}
Arms = dict[str, TokenizerArm] | dict[str, GeneratorArm] | dict[str, RegVQArm]


@dataclass(frozen=True)
class Context:
    """
    What a table says besides its figures.

    Args:
        settings (`dict`): What all runs share, names rather than paths.
        split, test_split (`str`): What was trained and judged on.
        machine (`str`): What it ran on.
        date (`str`): When it ran, whenever the table is written.
        command (`str`): The call that made it.
    """

    settings: dict[str, Any]
    split: str
    test_split: str
    machine: str
    date: str
    command: str


# ---- Figures ----------------------------------------------------------------------------------------------------


def values(results: Results, arm: str, metric: str) -> dict[int, Any]:
    """A figure of an arm, by seed; seeds that do not have it are left out."""
    found = {result["seed"]: result["metrics"].get(metric) for result in results if result["arm"] == arm}
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
    word = "better" if statistics.mean(gains) > 0 else "worse"
    by = f"by {spread(gains if word == 'better' else [-gain for gain in gains], digits)}"
    if len(seeds) < 3:  # two seeds agree half of the time when there is no difference at all
        return f"{word} {by} ({len(seeds)} seed{'s' * (len(seeds) > 1)}: no verdict)"
    if all(gain > 0 for gain in gains) or all(gain < 0 for gain in gains):
        return f"**{word}** {by} in all {len(seeds)} seeds"
    return f"{word} {by}: **undecided**, the seeds disagree"


def compare_paper(arm: Any, other: Any, metric: str) -> str:
    """How a paper's own figures of two arms differ; higher is better for PSNR only."""
    if metric not in arm.paper or metric not in other.paper:
        return "-"
    gain = (arm.paper[metric] - other.paper[metric]) * (1 if metric == "psnr" else -1)
    return "equal" if gain == 0 else f"{'better' if gain > 0 else 'worse'} by {abs(gain):.2f}"


# ---- Parts of a table -------------------------------------------------------------------------------------------


def arm_rows(results: Results, arms: Arms, cells: Callable[[str, list[Metrics]], list[str]]) -> list[str]:
    """A row per arm that has results: its title, its cells from its name and the metrics of its runs, its seeds."""
    rows = []
    for name, arm in arms.items():
        of_arm = [result["metrics"] for result in results if result["arm"] == name]
        if of_arm:
            rows.append(table_row(arm.title, *cells(name, of_arm), str(len(of_arm))))
    return rows


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table_head(*headings: str) -> list[str]:
    return [table_row(*headings), table_row(*["---"] * len(headings))]


FQGAN_SETTING = "ImageNet at 256 pixels, 16,384 codes, hundreds of thousands of steps"


def setting_lines(
    context: Context, results: Results, setting: str = FQGAN_SETTING, paper: str = "2411.16681"
) -> list[str]:
    """What was done with what, and that it is not the paper's setting."""
    settings = context.settings
    train = settings["max_train_samples"]
    images = f"the first {train:,} images" if train else "all images"
    real = results[0]["metrics"]["classifier_accuracy_of_real_images"]
    judge = f"`{settings['feature_extractor']}`, pooled features"
    if real is not None:
        judge += f"; as a classifier it has an accuracy of {100 * real:.1f} % on the same real images"
    seconds = sum(sum(result["seconds"].values()) for result in results)
    return [
        f"- **data**: {settings['data']}, trained on {images} of `{context.split}`, judged on the first "
        f"{settings['num_test_images']:,} of `{context.test_split}`",
        f"- **budget of every run**: {settings['max_train_steps']} steps of {settings['train_batch_size']} images "
        f"({settings['max_train_steps'] * settings['train_batch_size']:,} in all), learning rate "
        f"{settings['learning_rate']:g}, preset `{settings['preset']}`",
        f"- **judge**: {judge}. Distances on its features are no FID: compare them within this table only",
        f"- **seeds**: {', '.join(str(seed) for seed in sorted({result['seed'] for result in results}))}; "
        "figures are mean ± sample standard deviation over the seeds",
        f"- **machine**: {context.machine}, {context.date}; {len(results)} runs, {seconds / 60:.0f} minutes of run "
        "time in all",
        "",
        f"This is **not the paper's setting** ({setting}): "
        "small images, small networks and a training that is far from its end. It says which way a difference points "
        "under these conditions, nothing about the size of the published one. The columns *paper* hold the figures of "
        f"arXiv {paper}.",
    ]


def write_report(
    folder: Path, name: str, context: Context, lines: list[str], results: Results, more: dict[str, Any] | None = None
) -> None:
    """Markdown and JSON; what stands below the line `NOTES` in the markdown stays there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    notes = path.read_text(encoding="utf-8").partition(NOTES)[2] if path.is_file() else ""
    text = "\n".join([*lines, "", "```", context.command, "```", "", f"![{name}]({name}.png)", "", NOTES]) + (
        notes or "\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    runs = [{key: value for key, value in result.items() if key != "settings"} for result in results]
    write_json(folder / f"{name}.json", {**asdict(context), **(more or {}), "runs": runs})


def plot(results: Results, arms: Arms, panels: Sequence[tuple[str, str]], path: Path) -> None:
    """One panel per metric: a dot for each run, a bar at the mean of each arm."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    shown = [name for name in arms if any(result["arm"] == name for result in results)]
    panels = [(metric, label) for metric, label in panels if any(values(results, name, metric) for name in shown)]
    figure = Figure(figsize=(4.2 * len(panels) + 2.0, 0.45 * len(shown) + 1.4), layout="constrained")
    for axes, (metric, label) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        for row, name in enumerate(shown):
            numbers = list(values(results, name, metric).values())
            axes.plot(numbers, [row] * len(numbers), "o", color="tab:blue", alpha=0.6)
            if numbers:
                axes.plot([statistics.mean(numbers)], [row], "|", color="black", markersize=18, markeredgewidth=2)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_yticks(range(len(shown)), [arms[name].title for name in shown])
    axes.invert_yaxis()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, metadata={"Software": None})


# ---- The tables -------------------------------------------------------------------------------------------------


def report_table3(folder: Path, context: Context, results: Results) -> list[str]:
    """Write Table 3 into a folder; returns its lines."""
    settings = context.settings

    def cells(name: str, of_arm: list[Metrics]) -> list[str]:
        first, paper = of_arm[0], TABLE3[name].paper
        extra = first["training_only_parameters"]
        return [
            f"{first['bits_per_position']:g}",
            f"{first['parameters'] / 1e6:.2f} M" + (f" (+ {extra / 1e6:.2f} M)" if extra else ""),
            spread(list(values(results, name, "frechet_distance").values())),
            f"*{paper['rfid']:.2f}*",
            spread(list(values(results, name, "psnr").values())),
            f"*{paper['psnr']:.2f}*",
            spread(list(values(results, name, "classifier_accuracy").values()), 1, 100),
            per_codebook([metrics["usage"] for metrics in of_arm], 0, 100),
            per_codebook([metrics["perplexity"] for metrics in of_arm], 0),
            spread(list(values(results, name, "overlap").values()), 3),
        ]

    lines = [
        "# Table 3: what the tokenizer's parts contribute",
        "",
        f"Reconstruction of held-out images, N = {settings['codebook_size']}.",
        "",
        *table_head(
            "tokenizer", "bits per position", "parameters (+ in training)", "Frechet distance ↓", "*paper: rFID ↓*",
            "PSNR, dB ↑", "*paper: PSNR, dB ↑*", "classifier accuracy, % ↑", "codes used, %", "perplexity", "overlap",
            "seeds",
        ),
        *arm_rows(results, TABLE3, cells),
        "",
        "Two figures in a cell: first codebook / second codebook (the one with the teacher). Classifier accuracy: how "
        "many reconstructions the judge gives the label of the original. Overlap: normalized mutual information "
        "between the codebooks above chance, 0 for independent ones. The factorized tokenizers have an adapter per "
        "codebook, hence more parameters, and twice the bits per position: a single codebook of as many bits would "
        "need N² codes.",
        "",
        *table_head("question", "Frechet distance", "*paper: rFID*", "PSNR, dB", "*paper: PSNR, dB*"),
    ]  # fmt: skip
    for arm, other, question in (
        ("one-2n", "one-n", "one codebook of 2N better than one of N?"),
        ("factorized", "one-n", "two codebooks of N better than one of N?"),
        ("factorized", "one-2n", "two codebooks of N better than one of 2N?"),
        ("disentanglement", "factorized", "does disentanglement help?"),
        ("representation", "factorized", "does representation learning help?"),
        ("both", "factorized", "do both together help?"),
        ("both", "one-2n", "everything together better than one codebook of 2N?"),
    ):
        lines.append(
            table_row(
                question,
                compare(results, arm, other, "frechet_distance", False),
                f"*{compare_paper(TABLE3[arm], TABLE3[other], 'rfid')}*",
                compare(results, arm, other, "psnr", True),
                f"*{compare_paper(TABLE3[arm], TABLE3[other], 'psnr')}*",
            )
        )
    lines += ["", QUESTIONS, "", "## Setting", "", *setting_lines(context, results)]
    if settings["teacher"] == settings["feature_extractor"]:
        lines += [
            "",
            f"The teacher of the representation arms is the judge itself (`{settings['teacher']}`), which favours "
            "these arms in the Frechet distance and in the classifier accuracy; PSNR does not depend on it.",
        ]
    write_report(folder, "table3", context, lines, results)
    panels = [("frechet_distance", "Frechet distance (lower is better)"), ("psnr", "PSNR, dB (higher is better)")]
    plot(results, TABLE3, panels, folder / "table3.png")
    return lines


def report_table4(folder: Path, context: Context, results: Results, ceiling: Metrics) -> list[str]:
    """Write Table 4 into a folder; `ceiling` are the figures of the tokenizer's reconstructions. Returns its lines."""
    settings = context.settings

    def cells(name: str, of_arm: list[Metrics]) -> list[str]:
        return [
            f"{of_arm[0]['parameters'] / 1e6:.2f} M",
            spread(list(values(results, name, "frechet_distance").values())),
            f"*{' / '.join(f'{figure:.2f}' for figure in TABLE4[name].paper.values())}*",
            spread(list(values(results, name, "class_consistency").values()), 1, 100),
            per_codebook([metrics["validation_loss"] for metrics in of_arm], 3),
            spread(list(values(results, name, "validation_loss_sum").values()), 3),
        ]

    shares = [ceiling["classifier_accuracy"], ceiling["classifier_accuracy_of_real_images"]]
    bounds = [f"*{100 * share:.1f}*" if share is not None else "-" for share in shares]
    paper_top_k = " / ".join(next(iter(TABLE4.values())).paper)
    lines = [
        "# Table 4: how the generator predicts the codes of one position",
        "",
        f"{settings['num_generated_images']:,} class-balanced samples with guidance {settings['guidance_scale']:g}, "
        f"{'all codes' if not settings['top_k'] else 'top-k ' + str(settings['top_k'])}, temperature 1; one tokenizer "
        f"for all ({ceiling['num_codebooks']} codebooks of {ceiling['codebook_size']}).",
        "",
        *table_head(
            "head", "parameters", "Frechet distance ↓", f"*paper: gFID, top-k {paper_top_k} ↓*",
            "class consistency, % ↑", "validation loss, nats: codebook by codebook", "sum ↓", "seeds",
        ),
        *arm_rows(results, TABLE4, cells),
        table_row(
            "*reconstructions of the test images*", "", f"*{ceiling['frechet_distance']:.2f}*", "", bounds[0], "", "",
            "",
        ),
        table_row("*the test images themselves*", "", "*0*", "", bounds[1], "", "", ""),
        "",
        "Class consistency: how many samples the judge gives the class that was asked for; in the last two rows, how "
        "many images it gives their label. These rows bound what any head can reach: samples pass through the same "
        "decoder, and the judge mistakes some real images, too. Validation loss: cross-entropy of held-out codes; its "
        "sum is the negative log-likelihood of a position under each head. The factorized head sees the first code "
        "when it predicts the second, the others do not.",
        "",
        *table_head(
            "question", "Frechet distance", f"*paper: gFID, top-k {paper_top_k}*", "class consistency (share)",
            "validation loss, sum",
        ),
    ]  # fmt: skip
    for other in ("linear", "mlp"):
        paper = [compare_paper(TABLE4["ar"], TABLE4[other], top_k) for top_k in TABLE4["ar"].paper]
        lines.append(
            table_row(
                f"factorized head better than {TABLE4[other].title}?",
                compare(results, "ar", other, "frechet_distance", False),
                f"*{' / '.join(paper)}*",
                compare(results, "ar", other, "class_consistency", True, 3),
                compare(results, "ar", other, "validation_loss_sum", False, 3),
            )
        )
    lines += ["", QUESTIONS, "", "## Setting", "", *setting_lines(context, results)]
    write_report(folder, "table4", context, lines, results, {"tokenizer": ceiling})
    panels = [
        ("frechet_distance", "Frechet distance (lower is better)"),
        ("class_consistency", "class consistency (higher is better)"),
        ("validation_loss_sum", "validation loss, nats per position (lower is better)"),
    ]
    plot(results, TABLE4, panels, folder / "table4.png")
    return lines


# ---- Again, from the JSON -----------------------------------------------------------------------------------------


def rewrite(path: Path) -> list[str]:
    """Write a table again beside the JSON that it once left; returns its lines."""
    content = read_json(path)
    try:
        context = Context(**{name: content[name] for name in Context.__annotations__})
        if path.stem == "table3":
            return report_table3(path.parent, context, content["runs"])
        if path.stem == "regvq":
            from fqgan_hf.training.ablation.report_regvq import report_regvq  # which is made of the parts above

            return report_regvq(path.parent, context, content["runs"])
        if path.stem == "table4":
            return report_table4(path.parent, context, content["runs"], content["tokenizer"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results of an ablation, or those of an earlier version: {error}") from error
    raise ValueError(f"expected table3.json, table4.json or regvq.json, got {path}")


def main(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    for path in argv:
        print("\n".join(rewrite(Path(path))))


if __name__ == "__main__":
    leave(run_script(main))
