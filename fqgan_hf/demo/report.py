# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The demo's report: figures by the evaluation that any model gets, and models in Hub form."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fqgan_hf.files import read_metrics
from fqgan_hf.hub.facts import codebook_names


if TYPE_CHECKING:
    import torch

    from fqgan_hf.demo.conditions import Condition
    from fqgan_hf.evaluation.evaluate import Reference
    from fqgan_hf.evaluation.features import FeatureNetwork
    from fqgan_hf.evaluation.images import LabelledImages
    from fqgan_hf.modeling.modeling_fqgan import FQGANModel
    from fqgan_hf.pipelines.pipeline_far import FARPipeline


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


def copied_share(codes: "torch.Tensor", codes_dir: Path) -> float:
    """Share of generated code grids that are those of a training digit's view: learnt by heart, not generated."""
    import pyarrow.parquet

    files = sorted(codes_dir.glob("*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file)["codes"].to_pylist()]
    views = np.array(rows).reshape(-1, codes[0].numel())  # a row holds one view after another
    known = set(map(tuple, views.tolist()))
    return float(np.mean([tuple(grid.flatten().tolist()) in known for grid in codes]))


def training_steps(folder: Path) -> int:
    """Optimizer steps of a training run."""
    return int(read_metrics(folder / "metrics.jsonl")[-1]["step"])


def export_models(pipe: "FARPipeline", folder: Path, report: dict[str, Any], condition: "Condition") -> None:
    """The models and the pipeline as they go to the Hub, with their cards; each folder appears when it is complete."""
    from fqgan_hf.hub.card_info import CardInfo
    from fqgan_hf.hub.export import export

    tokenizer, generator = report["tokenizer"], report["generator"]
    data = "Handwritten digits of the UCI collection that scikit-learn bundles, enlarged from 8x8 to 32x32 pixels."
    card = {
        "training": f"{data} Made by {_command(report, condition)}; its `report.json` has all figures.",
        "limitations": "A demonstration of the method on tiny pictures, of no use beyond that.",
        "evaluation_dataset": "handwritten digits (scikit-learn)",
    }
    quality = {"PSNR on held-out digits": tokenizer["psnr"]}
    generation = {
        "class consistency": generator["class_consistency"],
        "Frechet distance on the judge's features": generator["frechet_distance"],
        **condition.metrics(generator),
    }
    models = [
        ("tokenizer", pipe.vqmodel, "FQGAN-Dual on handwritten digits", quality),
        ("generator", pipe.transformer, f"FAR on handwritten digits{condition.title}", generation),
        ("pipeline", pipe, f"FQGAN-Dual and FAR on handwritten digits{condition.title}", quality | generation),
    ]
    if pipe.map_vqmodel is not None:
        title, figures = "FQGAN on maps of handwritten digits", report["map_tokenizer"]
        models.append(("map_tokenizer", pipe.map_vqmodel, title, {"mean IoU on held-out maps": figures["mean_iou"]}))
    further = {"tokenizer": {"image_processor": pipe.image_processor}}
    if pipe.tokenizer is not None:  # of texts
        further["generator"] = {"parts": {"tokenizer": pipe.tokenizer}}
    for name, obj, title, metrics in models:
        export(
            obj,
            folder / name,
            repo_id=f"digits-{name.replace('_', '-')}",
            card=CardInfo(title=title, metrics=metrics, **card),
            **further.get(name, {}),
        )


def _command(report: dict[str, Any], condition: "Condition") -> str:
    """What made the models, as their cards say it."""
    options = "" if condition.name == "class" else f" --condition {condition.name}"
    return f"`fqgan demo --seed {report['seed']}{options}`" + (" `--quick`" if report["quick"] else "")


def rounded(value: Any) -> Any:
    """Figures as the report gives them, to four places, in whatever they are nested."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def summary(report: dict[str, Any], seconds: float, folder: Path, condition: "Condition") -> list[str]:
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
        *condition.summary(generator),
        f"Frechet distance:  {generator['frechet_distance']:.2f} generated to held-out, "
        f"{generator['frechet_distance_of_training_digits']:.2f} training to held-out",
        f"wrote {folder} in {seconds:.0f} s: samples.png, reconstruction.png, losses.png, report.json, pipeline/",
        f"next: fqgan generate --model {folder / 'pipeline'} {condition.example(folder)}",
    ]
