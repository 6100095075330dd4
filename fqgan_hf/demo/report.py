# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fqgan_hf.demo.digits import DIGIT_NAMES, DigitReader, Digits, enlarge, feature_distance, real_halves, shrink
from fqgan_hf.files import atomic_path
from fqgan_hf.hub.facts import codebook_names


if TYPE_CHECKING:
    import torch
    from PIL import Image

    from fqgan_hf.modeling.modeling_fqgan import FQGANModel
    from fqgan_hf.pipelines.pipeline_far import FARPipeline


GUIDANCE_SCALE = 2.0


def decode(pipe: "FARPipeline", codes: "torch.Tensor") -> list["Image.Image"]:
    """Pictures of codes `(images, num_codebooks, height, width)`."""
    import torch

    with torch.no_grad():
        samples = [pipe.vqmodel.decode_codes(batch).sample for batch in codes.split(100)]
    return pipe.image_processor.postprocess(torch.cat(samples))


def evaluate_tokenizer(model: "FQGANModel", digits: Digits, reader: DigitReader, folder: Path) -> dict[str, Any]:
    """Quality of the reconstructions of held-out digits, and how much of the codebooks they use."""
    import torch

    from fqgan_hf import FQGANImageProcessor
    from fqgan_hf.evaluation.codebooks import CodebookUsage
    from fqgan_hf.evaluation.metrics import psnr

    processor = FQGANImageProcessor(multiple_of=model.downsample_factor)
    pixel_values = processor([enlarge(digit) for digit in digits.held_out])["pixel_values"]
    with torch.no_grad():
        output = model(pixel_values)
    usage = CodebookUsage(model.config.num_codebooks, model.config.codebook_size).update(output.codes)
    names = codebook_names(model.config.num_codebooks, model.config.feature_dims)
    read = reader.read(shrink(processor.postprocess(output.sample)))
    return {
        "num_codebooks": model.config.num_codebooks,
        "codebook_size": model.config.codebook_size,
        "grid": list(output.codes.shape[2:]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_steps": training_steps(folder),
        "psnr_on_held_out_digits": rounded(psnr(pixel_values, output.sample).mean().item()),
        "codes_used_on_held_out_digits": dict(zip(names, usage.num_used.tolist(), strict=True)),
        "perplexity_on_held_out_digits": dict(zip(names, map(rounded, usage.perplexity.tolist()), strict=True)),
        "reconstructions_of_held_out_digits_read_correctly": rounded(np.mean(read == digits.held_out_labels)),
    }


def evaluate_generator(
    pipe: "FARPipeline",
    images: list["Image.Image"],
    labels: list[int],
    digits: Digits,
    reader: DigitReader,
    folder: Path,
) -> dict[str, Any]:
    """How the classifier reads generated digits, and how far they are from real ones."""
    small, asked = shrink(images), np.array(labels)
    as_asked = reader.read(small) == asked
    first, second = real_halves(digits)
    return {
        "parameters": pipe.transformer.num_parameters(),
        "training_steps": training_steps(folder),
        "guidance_scale": GUIDANCE_SCALE,
        "generated_digits": len(images),
        "read_as_the_class_asked_for": rounded(as_asked.mean()),
        "read_as_the_class_asked_for_by_class": {
            name: rounded(as_asked[asked == label].mean()) for label, name in enumerate(DIGIT_NAMES)
        },
        "frechet_distance_to_real_digits": rounded(feature_distance(reader, small, first)),
        "frechet_distance_between_two_real_halves": rounded(feature_distance(reader, second, first)),
    }


def copied_share(codes: "torch.Tensor", codes_dir: Path) -> float:
    """Share of generated code grids that are those of a training digit: learnt by heart rather than generated."""
    import pyarrow.parquet

    files = sorted(codes_dir.glob("*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file)["codes"].to_pylist()]
    known = {tuple(row) for row in rows}
    return float(np.mean([tuple(grid.flatten().tolist()) in known for grid in codes]))


def reconstruction_picture(pipe: "FARPipeline", digits: Digits) -> "Image.Image":
    """A held-out digit of each class in a column: original, both codebooks, each codebook alone."""
    from fqgan_hf import FQGANPipeline
    from fqgan_hf.evaluation.pictures import image_grid

    chosen = [digits.held_out[np.flatnonzero(digits.held_out_labels == label)[0]] for label in range(10)]
    tokenizer = FQGANPipeline(vqmodel=pipe.vqmodel, image_processor=pipe.image_processor)
    results = tokenizer.reconstruct([enlarge(digit) for digit in chosen])
    rows = list(zip(*(result.pictures for result in results), strict=True))
    return image_grid(rows, row_captions=results[0].captions, min_cell_size=64)


def sample_picture(images: list["Image.Image"]) -> "Image.Image":
    """The first ten generated digits of each class, a row a class. No selection: the first ten."""
    from fqgan_hf.evaluation.pictures import image_grid

    per_class = len(images) // 10
    rows = [images[label * per_class : label * per_class + 10] for label in range(10)]
    return image_grid(rows, row_captions=DIGIT_NAMES, min_cell_size=64)


def plot_losses(tokenizer: Path, generator: Path, path: Path) -> None:
    """The losses of both trainings, from their `metrics.jsonl`."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = [
        (left, tokenizer, "loss/reconstruction", "reconstruction (squared error)"),
        (left, tokenizer, "loss/disentanglement", "disentanglement"),
        (left, tokenizer, "loss/commitment/0", "commitment, visual"),
        (left, tokenizer, "loss/commitment/1", "commitment, semantic"),
        (right, generator, "loss/0", "visual codes"),
        (right, generator, "loss/1", "semantic codes"),
        (right, generator, "validation/loss", "both, validation"),
    ]
    for axes, folder, name, label in curves:
        points = [(record["step"], record[name]) for record in read_metrics(folder) if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 5 else None)
    left.set(title="tokenizer: unweighted losses", xlabel="step", yscale="log")
    right.set(title="generator: cross-entropy (nats a code)", xlabel="step")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a training run."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def training_steps(folder: Path) -> int:
    """Optimizer steps of a training run."""
    return read_metrics(folder)[-1]["step"]


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
    quality = {"PSNR on held-out digits": tokenizer["psnr_on_held_out_digits"]}
    generation = {
        "share of digits read as the class asked for": generator["read_as_the_class_asked_for"],
        "Frechet distance on the classifier's features": generator["frechet_distance_to_real_digits"],
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


def rounded(value: float) -> float:
    """Figures as the report gives them: to four places."""
    return round(float(value), 4)


def summary(report: dict[str, Any], seconds: float, folder: Path) -> list[str]:
    """What the terminal says at the end."""
    tokenizer, generator, classifier = report["tokenizer"], report["generator"], report["classifier"]
    used = ", ".join(f"{name} {number}" for name, number in tokenizer["codes_used_on_held_out_digits"].items())
    return [
        f"held-out digits:   PSNR {tokenizer['psnr_on_held_out_digits']:.2f} dB, "
        f"codes used of {tokenizer['codebook_size']}: {used}",
        f"generated digits:  {generator['read_as_the_class_asked_for']:.1%} read as the class asked for "
        f"({classifier['accuracy_on_real_held_out_digits']:.1%} of real held-out digits are read correctly)",
        f"Frechet distance:  {generator['frechet_distance_to_real_digits']:.2f} generated to real, "
        f"{generator['frechet_distance_between_two_real_halves']:.2f} between two real halves",
        f"wrote {folder} in {seconds:.0f} s: samples.png, reconstruction.png, losses.png, report.json, pipeline/",
        f"next: fqgan generate --model {folder / 'pipeline'} --class_labels 7 three --num_images_per_label 4",
    ]
