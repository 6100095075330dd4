# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The demo's report: figures by the evaluation that any model gets, pictures, and models in Hub form."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fqgan_hf.demo.digits import DIGIT_NAMES, Digits, enlarge
from fqgan_hf.files import atomic_path, read_metrics
from fqgan_hf.hub.facts import codebook_names


if TYPE_CHECKING:
    import torch
    from PIL import Image

    from fqgan_hf.evaluation.evaluate import Reference
    from fqgan_hf.evaluation.features import FeatureNetwork
    from fqgan_hf.evaluation.images import LabelledImages
    from fqgan_hf.modeling.code_sampling import SamplingSettings
    from fqgan_hf.modeling.modeling_fqgan import FQGANModel
    from fqgan_hf.pipelines.pipeline_far import FARPipeline


NUM_SHOWN = 10  # generated digits of each class in the picture


def tokenizer_figures(
    model: "FQGANModel", images: "LabelledImages", reference: "Reference", judge: "FeatureNetwork"
) -> dict[str, Any]:
    """
    How well held-out digits are reconstructed, and what each codebook holds (arXiv 2411.16681, Figure 3).

    Args:
        model ([`FQGANModel`]): The tokenizer.
        images (`LabelledImages`): The training digits, from whose codes linear probes learn.
        reference ([`Reference`]): The held-out digits.
        judge ([`FeatureNetwork`]): Classifies reconstructions.
    """
    from fqgan_hf.evaluation.evaluate import evaluate_tokenizer
    from fqgan_hf.evaluation.image_batches import image_batches
    from fqgan_hf.evaluation.probe import encode_batches, linear_probe

    figures = evaluate_tokenizer(model, reference, judge, each_codebook=True)
    names = codebook_names(model.config.num_codebooks, model.config.feature_dims)
    train = encode_batches(model, image_batches(images, resolution=reference.resolution))
    probes = linear_probe(
        model, train, encode_batches(model, image_batches(reference.images, resolution=reference.resolution))
    )
    by_name = {name: figures[name] for name in ("codes_used", "perplexity")}
    each = [
        alone | {"linear_probe_accuracy": accuracy}
        for alone, accuracy in zip(figures["each_codebook"], probes, strict=True)
    ]
    kept = ("num_images", "num_codebooks", "codebook_size", "grid", "parameters", "training_only_parameters", "psnr",
            "classifier_accuracy", "frechet_distance", "overlap")  # fmt: skip
    return rounded(
        {
            **{name: figures[name] for name in kept},
            **{name: dict(zip(names, values, strict=True)) for name, values in by_name.items()},
            "each_codebook_alone": dict(zip(names, each, strict=True)),
        }
    )


def generator_figures(
    pipe: "FARPipeline",
    reference: "Reference",
    judge: "FeatureNetwork",
    num_images: int,
    seed: int,
    settings: "SamplingSettings",
) -> tuple[dict[str, Any], list[list["Image.Image"]]]:
    """How the judge classifies generated digits, how far they are from held-out ones, and the first of each class."""
    from fqgan_hf.evaluation.evaluate import evaluate_generator

    figures, shown = evaluate_generator(
        pipe, reference, judge, num_images=num_images, seed=seed, batch_size=250, settings=settings,
        num_shown=NUM_SHOWN,
    )  # fmt: skip
    return rounded(figures), shown


def copied_share(codes: "torch.Tensor", codes_dir: Path) -> float:
    """Share of generated code grids that are those of a training digit: learnt by heart rather than generated."""
    import pyarrow.parquet

    files = sorted(codes_dir.glob("*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file)["codes"].to_pylist()]
    known = {tuple(row) for row in rows}
    return float(np.mean([tuple(grid.flatten().tolist()) in known for grid in codes]))


def reconstruction_picture(
    pipe: "FARPipeline", digits: Digits, tokenizer: dict[str, Any], real: float
) -> "Image.Image":
    """
    A held-out digit of each class in a column: original, both codebooks, each codebook alone.

    Args:
        pipe ([`FARPipeline`]): Its tokenizer reconstructs.
        digits ([`Digits`]): The first held-out one of each class is shown.
        tokenizer (`dict`):
            `tokenizer_figures`; each row says which share of all held-out digits the judge recognizes, and of a
            codebook alone what a linear probe makes of its codes.
        real (`float`): The judge's accuracy on the digits themselves.
    """
    from fqgan_hf import FQGANPipeline
    from fqgan_hf.evaluation.pictures import image_grid

    chosen = [digits.held_out[np.flatnonzero(digits.held_out_labels == label)[0]] for label in range(10)]
    results = FQGANPipeline(pipe.vqmodel, pipe.image_processor).reconstruct([enlarge(digit) for digit in chosen])
    rows = list(zip(*(result.pictures for result in results), strict=True))
    shares = [
        f"recognized: {real:.1%}",
        f"recognized: {tokenizer['classifier_accuracy']:.1%}",
        *(
            f"recognized: {figures['classifier_accuracy']:.1%}\nlinear probe: {figures['linear_probe_accuracy']:.1%}"
            for figures in tokenizer["each_codebook_alone"].values()
        ),
    ]
    captions = [f"{caption}\n{share}" for caption, share in zip(results[0].captions, shares, strict=True)]
    return image_grid(rows, row_captions=captions, min_cell_size=64)


def sample_picture(shown: list[list["Image.Image"]]) -> "Image.Image":
    """The first generated digits of each class, one row per class, without selection."""
    from fqgan_hf.evaluation.pictures import image_grid

    return image_grid(shown, row_captions=DIGIT_NAMES, min_cell_size=64)


def plot_losses(tokenizer: Path, generator: Path, names: list[str], path: Path) -> None:
    """The losses of both trainings, from their `metrics.jsonl`; `names` are those of the codebooks."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = [
        (left, tokenizer, "loss/reconstruction", "reconstruction (squared error)"),
        (left, tokenizer, "loss/disentanglement", "disentanglement"),
        *((left, tokenizer, f"loss/commitment/{k}", f"commitment, {name}") for k, name in enumerate(names)),
        *((left, tokenizer, f"loss/representation/{k}", f"representation, {name}") for k, name in enumerate(names)),
        *((right, generator, f"loss/{k}", f"{name} codes") for k, name in enumerate(names)),
        (right, generator, "validation/loss", "both, validation"),
    ]
    for axes, folder, name, label in curves:
        records = read_metrics(folder / "metrics.jsonl")
        points = [(record["step"], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 5 else None)
    left.set(title="tokenizer: unweighted losses", xlabel="step", yscale="log")
    right.set(title="generator: cross-entropy (nats per code)", xlabel="step")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})


def training_steps(folder: Path) -> int:
    """Optimizer steps of a training run."""
    return int(read_metrics(folder / "metrics.jsonl")[-1]["step"])


def export_models(pipe: "FARPipeline", folder: Path, report: dict[str, Any]) -> None:
    """The models and the pipeline as they go to the Hub, with their cards; each folder appears when it is complete."""
    from fqgan_hf.hub.cards import CardInfo
    from fqgan_hf.hub.export import export

    tokenizer, generator = report["tokenizer"], report["generator"]
    data = "Handwritten digits of the UCI collection that scikit-learn bundles, enlarged from 8x8 to 32x32 pixels."
    command = f"`fqgan demo --seed {report['seed']}`" + (" `--quick`" if report["quick"] else "")
    card = {
        "training": f"{data} Made by {command}; its `report.json` has all figures.",
        "limitations": "A demonstration of the method on tiny pictures, of no use beyond that.",
        "evaluation_dataset": "handwritten digits (scikit-learn)",
    }
    quality = {"PSNR on held-out digits": tokenizer["psnr"]}
    generation = {
        "class consistency": generator["class_consistency"],
        "Frechet distance on the judge's features": generator["frechet_distance"],
    }
    for name, obj, title, metrics in (
        ("tokenizer", pipe.vqmodel, "FQGAN-Dual on handwritten digits", quality),
        ("generator", pipe.transformer, "FAR on handwritten digits", generation),
        ("pipeline", pipe, "FQGAN-Dual and FAR on handwritten digits", quality | generation),
    ):
        options = {"image_processor": pipe.image_processor} if name == "tokenizer" else {}
        export(
            obj,
            folder / name,
            repo_id=f"digits-{name}",
            card=CardInfo(title=title, metrics=metrics, **card),
            **options,
        )


def rounded(value: Any) -> Any:
    """Figures as the report gives them, to four places, in whatever they are nested."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def summary(report: dict[str, Any], seconds: float, folder: Path) -> list[str]:
    """What the terminal says at the end."""
    tokenizer, generator, judge = report["tokenizer"], report["generator"], report["judge"]
    used = ", ".join(f"{name} {number}" for name, number in tokenizer["codes_used"].items())
    alone = ", ".join(
        f"{figures['classifier_accuracy']:.1%} from {name} codes alone"
        for name, figures in tokenizer["each_codebook_alone"].items()
    )
    probes = ", ".join(
        f"{name} {figures['linear_probe_accuracy']:.1%}" for name, figures in tokenizer["each_codebook_alone"].items()
    )
    return [
        f"held-out digits:   PSNR {tokenizer['psnr']:.2f} dB, codes used of {tokenizer['codebook_size']}: {used}",
        f"recognized:        {tokenizer['classifier_accuracy']:.1%} of their reconstructions, {alone} "
        f"(real ones: {judge['accuracy_on_held_out_digits']:.1%})",
        f"linear probe:      {probes}",
        f"generated digits:  {generator['class_consistency']:.1%} are classified as the class asked for",
        f"Frechet distance:  {generator['frechet_distance']:.2f} generated to held-out, "
        f"{generator['frechet_distance_of_training_digits']:.2f} training to held-out",
        f"wrote {folder} in {seconds:.0f} s: samples.png, reconstruction.png, losses.png, report.json, pipeline/",
        f"next: fqgan generate --model {folder / 'pipeline'} --class_labels 7 three --num_images_per_label 4",
    ]
