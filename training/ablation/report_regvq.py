# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From the results of `regvq` to its tables: the steps of Reg-VQ, mask ratios, codebook sizes, two codebooks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fqgan_hf.training.ablation.regvq_arms import REGVQ, TABLES, RegVQArm
from fqgan_hf.training.ablation.report import (
    QUESTIONS,
    Context,
    Metrics,
    Results,
    arm_rows,
    compare,
    compare_paper,
    per_codebook,
    plot,
    setting_lines,
    spread,
    table_head,
    table_row,
    values,
    write_report,
)


# Reported beside each other: metric, its name, whether higher is better, the paper's figure.
FIGURES = (
    ("frechet_distance", "reconstruction Frechet distance", False, "rfid"),
    ("psnr", "PSNR, dB", True, "psnr"),
    ("generation_frechet_distance", "generation Frechet distance", False, "gfid"),
)
COLUMNS = ("reconstruction Frechet distance ↓", "PSNR, dB ↑", "codes used, %", "perplexity", "generation Frechet "
           "distance ↓", "class consistency, % ↑", "seeds")  # fmt: skip
STEPS = (
    ("prior", "deterministic", "does the prior help?"),
    ("mask", "prior", "does the mask help, with the prior?"),
    ("contrastive", "mask", "does the contrastive loss help, with prior and mask?"),
    ("pcl", "mask", "does PCL help, with prior and mask?"),
    ("pcl", "contrastive", "PCL better than the contrastive loss?"),
    ("pcl", "deterministic", "all of Reg-VQ better than none of it?"),
    ("pcl", "nearest", "Reg-VQ better than the nearest neighbour?"),
    ("pcl", "nearest-entropy", "Reg-VQ better than the nearest neighbour with FQGAN's entropy term?"),
    ("pcl", "gumbel", "Reg-VQ better than Gumbel?"),
)
TITLES = {
    2: "Mask ratio (the paper's Figure 3), with the prior",
    3: "Codebook size (the paper's Figure 8), deterministic",
    4: "Two codebooks at 10 bits per position, beside one of 1,024 codes",
}
MORE_QUESTIONS = {
    4: (
        ("dual", "nearest-entropy", "two codebooks better than one, nearest neighbour?"),
        ("regfq", "mask", "two codebooks better than one, with prior and mask?"),
        ("regfq", "dual", "Reg-FQ better than FQGAN?"),
        ("regfq-pcl", "dual", "Reg-FQ with PCL better than FQGAN?"),
        ("regfq-pcl", "pcl", "Reg-FQ with PCL better than Reg-VQ?"),
    ),
}
SETTING = "ADE20K at 256 pixels, 16x16 positions, a GAN, VGG-19, and a transformer of another size"


def report_regvq(folder: Path, context: Context, results: Results) -> list[str]:
    """Write the tables into a folder; returns their lines."""
    settings = context.settings

    def cells(name: str, of_arm: list[Metrics]) -> list[str]:
        return [
            spread(list(values(results, name, "frechet_distance").values())),
            spread(list(values(results, name, "psnr").values())),
            per_codebook([metrics["usage"] for metrics in of_arm], 1, 100),
            per_codebook([metrics["perplexity"] for metrics in of_arm], 0),
            spread(list(values(results, name, "generation_frechet_distance").values())),
            spread(list(values(results, name, "class_consistency").values()), 1, 100),
        ]

    def cells_with_paper(name: str, of_arm: list[Metrics]) -> list[str]:
        figures = list(REGVQ[name].paper.values())
        return [*cells(name, of_arm), f"*{' / '.join(f'{figure:.2f}' for figure in figures)}*" if figures else "-"]

    present = {result["arm"] for result in results}
    lines = [
        "# Reg-VQ step by step",
        "",
        f"One codebook of N = {settings['tokenizer']['codebook_size']:,} codes, 8x8 positions. A small FAR is trained "
        f"on the codes of each tokenizer; {settings['num_generated_images']:,} class-balanced samples with guidance "
        f"{settings['guidance_scale']:g}.",
        "",
        *table_head("tokenizer", *COLUMNS[:-1], "*paper: rFID ↓ / PSNR / gFID ↓*", COLUMNS[-1]),
        *arm_rows(results, _titled(1), cells_with_paper),
        "",
        *_collapse_lines(results),
        *_question_rows(results, STEPS, with_paper=True),
        "",
        QUESTIONS,
    ]
    for part, title in TITLES.items():
        if not any(REGVQ[name].part == part for name in present):
            continue
        lines += ["", f"## {title}", "", *table_head("tokenizer", *COLUMNS), *arm_rows(results, _titled(part), cells)]
        if part in MORE_QUESTIONS:
            lines += ["", *_question_rows(results, MORE_QUESTIONS[part], with_paper=False)]
    lines += ["", "## Setting", "", *setting_lines(context, results, SETTING, "2303.06424")]
    lines += [
        "",
        f"- **losses of every tokenizer**: L1; perceptual loss of weight {settings['perceptual_weight']:g} on the "
        f"layers {', '.join(settings['perceptual_layers'] or ['hidden states'])} of `{settings['perceptual_model']}`, "
        f"on which the contrastive losses are, too, of weight {settings['contrastive_weight']:g}; prior of weight "
        f"{settings['prior_weight']:g}; no discriminator",
        f"- **generators**: preset `{settings['generator_preset']}`, {settings['generator_steps']} steps of "
        f"{settings['generator_batch_size']} images on the codes of the training images, as they are at evaluation",
    ]
    if settings["perceptual_model"] == settings["feature_extractor"]:
        lines += [
            "",
            f"The perceptual network is the judge itself (`{settings['perceptual_model']}`), by its first layers. All "
            "Frechet distances profit from that, those of the arms with a contrastive loss the most; PSNR does not.",
        ]
    write_report(folder, "regvq", context, lines, results)
    panels = [(metric, name) for metric, name, _, _ in FIGURES]
    plot(results, REGVQ, panels, folder / "regvq.png")
    return lines


def _titled(part: int) -> dict[str, RegVQArm]:
    """The arms of a part, as its table calls them."""
    return {name: replace(REGVQ[name], title=title) for name, title in TABLES[part].items()}


def _collapse_lines(results: Results) -> list[str]:
    """The collapse and its cure: the same seeds and budget without and with the prior."""
    without, with_prior = values(results, "deterministic", "usage"), values(results, "prior", "usage")
    shares = [
        f"{100 * without[seed][0]:.1f} % without and {100 * with_prior[seed][0]:.1f} % with the prior (seed {seed})"
        for seed in sorted(without.keys() & with_prior.keys())
    ]
    return [f"**The collapse and its cure.** Codes in use, same seed and budget: {'; '.join(shares)}.", ""] * bool(
        shares
    )


def _question_rows(results: Results, questions: Sequence[tuple[str, str, str]], with_paper: bool) -> list[str]:
    """A row for each question whose arms have results."""
    present = {result["arm"] for result in results}
    columns = [column for _, name, _, _ in FIGURES for column in ((name, "*paper*") if with_paper else (name,))]
    rows = []
    for arm, other, question in questions:
        if {arm, other} <= present:
            cells = [question]
            for metric, _, higher_is_better, paper in FIGURES:
                cells.append(compare(results, arm, other, metric, higher_is_better))
                cells += [f"*{compare_paper(REGVQ[arm], REGVQ[other], paper)}*"] * with_paper
            rows.append(table_row(*cells))
    return [*table_head("question", *columns), *rows] if rows else []
