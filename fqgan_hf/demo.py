# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What `fqgan demo` does: the whole system on real images, handwritten digits, in minutes and without a download.

    digits -> train_fqgan -> extract_codes -> train_far -> FARPipeline -> 500 digits, read by an independent classifier

Training runs as the same scripts that train everything else, each in a process of its own. Everything is seeded and
runs on the CPU with two threads: on one machine the same seed gives the same report, byte for byte.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fqgan_hf.cli import (
    codebook_names,
    generate_images,
    reconstruct,
    reconstruction_captions,
)
from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.files import atomic_path, write_json
from fqgan_hf.picture_files import save_image


if TYPE_CHECKING:
    import torch
    from PIL import Image

    from fqgan_hf.modeling.modeling_fqgan import FQGANModel
    from fqgan_hf.pipeline_far import FARPipeline

DIGIT_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
IMAGE_SIZE = 32
NUM_HELD_OUT = 360
GUIDANCE_SCALE = 2.0
NUM_THREADS = 2

# Everything that a run writes into its folder, and thus what the next run may remove there.
OUTPUTS = (
    "data", "training", "logs", "tokenizer", "generator", "pipeline",
    "reconstruction.png", "samples.png", "losses.png", "report.json", "timings.json",
)  # fmt: skip
MARKER = ".fqgan-demo"

# Overrides of the presets under `quick`: enough to pass through every line, not enough to learn.
QUICK_TOKENIZER = ["--max_train_steps", "12", "--validation_steps", "12"]
QUICK_GENERATOR = ["--max_train_steps", "12", "--validation_steps", "12"]


# ---- Digits ---------------------------------------------------------------------------------------------------------


@dataclass
class Digits:
    """
    scikit-learn's handwritten digits, split once and for all.

    Args:
        train, held_out (`np.ndarray` of shape `(digits, 64)`): 8x8 pixels in [0, 16], dark to bright.
        train_labels, held_out_labels (`np.ndarray` of shape `(digits,)`): What the writer meant.
    """

    train: np.ndarray
    train_labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray


def load_digits() -> Digits:
    """The 1797 digits: 1437 to train on, 360 held out, each class in the same proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=NUM_HELD_OUT, stratify=labels, random_state=0)
    train, held_out, train_labels, held_out_labels = parts
    return Digits(train, train_labels, held_out, held_out_labels)


def enlarge(digit: np.ndarray) -> "Image.Image":
    """A digit of 8x8 pixels in [0, 16] as a smooth greyscale picture of 32x32."""
    from PIL import Image

    small = Image.fromarray((digit.reshape(8, 8) * (255 / 16)).astype(np.float32))
    large = np.asarray(small.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS))
    return Image.fromarray(np.rint(large).clip(0, 255).astype(np.uint8))


def shrink(images: list["Image.Image"]) -> np.ndarray:
    """Pictures of 32x32 as digits of 8x8 in [0, 16], the inverse of `enlarge` but for its rounding: `(images, 64)`."""
    pixels = np.stack([np.asarray(image.convert("L"), dtype=np.float64) for image in images])
    cell = IMAGE_SIZE // 8
    return pixels.reshape(-1, 8, cell, 8, cell).mean(axis=(2, 4)).reshape(-1, 64) * (16 / 255)


def write_dataset(digits: Digits, folder: Path) -> None:
    """The digits as a dataset on disk: `train` and `held_out`, a parquet file of pictures and labels each."""
    import io

    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=DIGIT_NAMES)})
    for split, pixels, labels in (
        ("train", digits.train, digits.train_labels),
        ("held_out", digits.held_out, digits.held_out_labels),
    ):
        files = []
        for digit in pixels:
            buffer = io.BytesIO()
            enlarge(digit).save(buffer, format="PNG")
            files.append({"bytes": buffer.getvalue(), "path": None})
        dataset = datasets.Dataset.from_dict({"image": files, "label": labels.tolist()}, features=features)
        with atomic_path(folder / split / "00000.parquet") as path:
            dataset.to_parquet(str(path))


# ---- The independent classifier -------------------------------------------------------------------------------------


class DigitReader:
    """
    A small neural network that reads 8x8 digits; it has seen real training digits only.

    Args:
        digits ([`Digits`]): The classifier learns from `digits.train`.
    """

    def __init__(self, digits: Digits):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import threadpool_limits

        self.model = MLPClassifier((128, 64), alpha=0.1, max_iter=200, random_state=0)
        with threadpool_limits(1), warnings.catch_warnings():  # matrices this small only lose by threads
            warnings.simplefilter("ignore", category=ConvergenceWarning)  # 200 passes are what is meant
            self.model.fit(digits.train / 16, digits.train_labels)

    def read(self, digits: np.ndarray) -> np.ndarray:
        """Classes `(digits,)` of 8x8 digits `(digits, 64)`."""
        return self.model.predict(digits / 16)

    def accuracy(self, digits: np.ndarray, labels: np.ndarray) -> float:
        """Share of digits read as `labels`."""
        return float(np.mean(self.read(digits) == labels))

    def features(self, digits: np.ndarray) -> np.ndarray:
        """Activations of the last hidden layer, `(digits, 64)`."""
        hidden = digits / 16
        for weights, bias in zip(self.model.coefs_[:-1], self.model.intercepts_[:-1], strict=True):
            hidden = np.maximum(hidden @ weights + bias, 0)
        return hidden


def feature_distance(reader: DigitReader, digits: np.ndarray, others: np.ndarray) -> float:
    """Frechet distance between two sets of 8x8 digits on the classifier's features."""
    from fqgan_hf.metrics import FeatureStatistics, frechet_distance

    a, b = (FeatureStatistics().update(reader.features(x)) for x in (digits, others))
    return frechet_distance(a.mu, a.sigma, b.mu, b.sigma)


def real_halves(digits: Digits, per_class: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of real training digits that share none, `per_class` of each class, seen through `enlarge`."""
    first, second = [], []
    for label in range(10):
        chosen = digits.train[digits.train_labels == label]
        first.append(chosen[:per_class])
        second.append(chosen[per_class : 2 * per_class])
    halves = (np.concatenate(first), np.concatenate(second))
    return tuple(shrink([enlarge(digit) for digit in half]) for half in halves)


# ---- Stages and the processes that train ----------------------------------------------------------------------------


@dataclass
class Run:
    """One demo: its folder and settings, and what its stages took."""

    folder: Path
    seed: int
    quick: bool
    seconds: dict[str, float] = field(default_factory=dict)
    num_stages: int = 6

    @contextmanager
    def stage(self, name: str, announcement: str) -> Iterator[None]:
        """Announce a stage and keep its seconds."""
        print(f"[{len(self.seconds) + 1}/{self.num_stages}] {announcement}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        yield
        raise_if_interrupted()  # scikit-learn's fit takes Ctrl-C for the wish to stop learning
        self.seconds[name] = round(time.perf_counter() - started, 1)

    def train(self, script: str, *options: str) -> None:
        """
        Run a training script in a process of its own; its output goes to the terminal and to `logs/`.

        Raises:
            ChildProcessError: If it failed; the message says where its log is.
        """
        log = self.folder / "logs" / f"{script}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", f"fqgan_hf.training.{script}", *options]
        status, last_line = run_logged(command, log, training_environment())
        if status != 0:
            raise ChildProcessError(f"{script} failed with exit status {status}, its log is {log}: {last_line}")


def training_environment() -> dict[str, str]:
    """The environment of the training processes: CPU, two threads, no network."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(NUM_THREADS),
        "MKL_NUM_THREADS": str(NUM_THREADS),
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_MIXED_PRECISION": "no",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # On a busy machine threads that wait in a loop for a core are many times slower than threads that sleep.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.stderr.isatty():
        environment.setdefault("TQDM_NCOLS", str(min(shutil.get_terminal_size().columns, 110)))
    else:
        environment.setdefault("TQDM_MININTERVAL", "10")
    return environment


def run_logged(command: list[str], log: Path, environment: dict[str, str]) -> tuple[int, str]:
    """
    Run a command with its output on our stderr, progress bars and all, and in a log file that keeps their last state.

    Returns:
        `tuple[int, str]`: The exit status, and the last line that the command wrote.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    screen = getattr(sys.stderr, "buffer", None)
    pending, last_line = b"", b""
    try:
        with open(log, "wb") as file:
            while chunk := os.read(process.stdout.fileno(), 65536):
                if screen is None:
                    sys.stderr.write(chunk.decode(errors="replace"))
                else:
                    screen.write(chunk)
                sys.stderr.flush()
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    line = line.rstrip(b"\r").rpartition(b"\r")[2]  # a bar writes its states over each other
                    file.write(line + b"\n")
                    last_line = line.strip() or last_line
            file.write(pending.rpartition(b"\r")[2])
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        process.stdout.close()
    return status, (pending.strip() or last_line).decode(errors="replace")


def prepare_folder(folder: Path) -> None:
    """
    An output folder without the results of an earlier demo.

    Raises:
        FileExistsError: If it holds something else than a demo's results, which would be lost or mixed with them.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--output_dir must be a folder, got the file {folder}")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise FileExistsError(f"--output_dir {folder} is not empty, and not from an earlier demo: choose another one")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    for name in OUTPUTS:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


# ---- The demo itself ------------------------------------------------------------------------------------------------


def run(output_dir: str | os.PathLike, seed: int = 0, quick: bool = False) -> dict[str, Any]:
    """
    Train on handwritten digits, generate every class, and write models, pictures and a report.

    Args:
        output_dir (`str` or `os.PathLike`):
            Gets `tokenizer/`, `generator/` and `pipeline/` in the form in which they go to the Hub,
            `reconstruction.png`, `samples.png`, `losses.png`, `report.json`, `timings.json`, and the folders `data`,
            `training` and `logs`. The results of an earlier demo there are removed.
        seed (`int`, defaults to 0): Of both trainings and of the generated digits. The same seed, the same report.
        quick (`bool`, defaults to `False`): A few training steps only; shows that all parts work together.

    Returns:
        `dict`: The report.

    Raises:
        ValueError: If `seed` is negative.
        FileExistsError: If `output_dir` holds something else.
        ChildProcessError: If a training script failed.
        ImportError: If the packages of the extra "train" are not installed.
    """
    require_packages()
    if seed < 0:
        raise ValueError(f"--seed must be at least 0, got {seed}")
    folder = Path(output_dir)
    prepare_folder(folder)
    demo = Run(folder, seed, quick)
    started = time.perf_counter()

    with demo.stage("data", "preparing 1797 handwritten digits and the classifier that will judge"):
        digits = load_digits()
        write_dataset(digits, folder / "data")
        reader = DigitReader(digits)
    training = folder / "training"
    cache = ("--cache_dir", str(training / "cache"))
    images = ("--train_data_dir", str(folder / "data" / "train"), *cache)
    with demo.stage("tokenizer", "training the tokenizer: FQGAN-Dual, two codebooks"):
        options = ("--config", "digits-fqgan", "--seed", str(seed), *images, *(QUICK_TOKENIZER if quick else ()))
        demo.train("train_fqgan", *options, "--output_dir", str(training / "tokenizer"))
    with demo.stage("codes", "extracting the codes of the training digits"):
        options = ("--tokenizer", str(training / "tokenizer"), *images, "--crop", "plain")
        demo.train("extract_codes", *options, "--output_dir", str(training / "codes"))
    with demo.stage("generator", "training the generator: FAR, one class-conditional transformer"):
        options = ("--config", "digits-far", "--seed", str(seed), *(QUICK_GENERATOR if quick else ()))
        codes = ("--codes_dir", str(training / "codes"), "--tokenizer", str(training / "tokenizer"), *cache)
        demo.train("train_far", *options, *codes, "--output_dir", str(training / "generator"))

    with cpu_threads(NUM_THREADS):
        per_class = 10 if quick else 50
        with demo.stage("generation", f"generating {10 * per_class} digits, {per_class} of each class"):
            pipe = load_pipeline(training / "tokenizer", training / "generator")
            labels = [label for label in range(10) for _ in range(per_class)]
            codes = generate_images(
                pipe, labels, seed=seed, batch_size=250, guidance_scale=GUIDANCE_SCALE, output_type="codes"
            )
            generated = decode(pipe, codes)
        with demo.stage("evaluation", "evaluating, and writing models, pictures and the report"):
            report = {
                "seed": seed,
                "quick": quick,
                "data": {"train": len(digits.train), "held_out": len(digits.held_out), "image_size": IMAGE_SIZE},
                "tokenizer": evaluate_tokenizer(pipe.vqmodel, digits, reader, training / "tokenizer"),
                "generator": evaluate_generator(pipe, generated, labels, digits, reader, training / "generator")
                | {"copies_of_a_training_digit": rounded(copied_share(codes, training / "codes"))},
                "classifier": {
                    "kind": "scikit-learn MLPClassifier, 64-128-64-10, on 8x8 pixels",
                    "trained_on": "the real training digits",
                    "accuracy_on_real_held_out_digits": rounded(
                        reader.accuracy(digits.held_out, digits.held_out_labels)
                    ),
                },
            }
            save_image(reconstruction_picture(pipe, digits), folder / "reconstruction.png")
            save_image(sample_picture(generated), folder / "samples.png")
            plot_losses(training / "tokenizer", training / "generator", folder / "losses.png")
            export_models(pipe, folder, report)
    write_json(folder / "report.json", report)
    demo.seconds["total"] = round(time.perf_counter() - started, 1)
    write_json(folder / "timings.json", {"seconds": demo.seconds, "cpu_seconds": cpu_seconds()})
    print("\n".join(summary(report, demo.seconds["total"], folder)))
    return report


def cpu_seconds() -> float:
    """Processor time of this process and of those it has waited for: what wall-clock time hides on a busy machine."""
    times = os.times()
    return round(times.user + times.system + times.children_user + times.children_system, 1)


def require_packages() -> None:
    """Raise `ImportError`, with what to install, if a package of the extra "train" is missing."""
    import importlib.util

    packages = {"datasets": "datasets", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "yaml": "pyyaml"}
    missing = [name for module, name in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(f"fqgan demo needs {', '.join(missing)}: pip install 'fqgan-hf[train]'")


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Let torch compute with so many threads: sums depend on how they are divided."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_pipeline(tokenizer: Path, generator: Path) -> "FARPipeline":
    """The trained parts as one pipeline."""
    from fqgan_hf import FARForImageGeneration, FARPipeline, FQGANImageProcessor, FQGANModel

    return FARPipeline(
        vqmodel=FQGANModel.from_pretrained(str(tokenizer)).eval(),
        transformer=FARForImageGeneration.from_pretrained(str(generator)).eval(),
        image_processor=FQGANImageProcessor.from_pretrained(str(tokenizer)),
    )


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
    from fqgan_hf.analysis import CodebookUsage, psnr

    processor = FQGANImageProcessor(multiple_of=model.downsample_factor)
    pixel_values = processor([enlarge(digit) for digit in digits.held_out])["pixel_values"]
    with torch.no_grad():
        output = model(pixel_values)
    usage = CodebookUsage(model.config.num_codebooks, model.config.codebook_size).update(output.codes)
    names = codebook_names(model.config.num_codebooks)
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
    from fqgan_hf.analysis import image_grid

    chosen = [digits.held_out[np.flatnonzero(digits.held_out_labels == label)[0]] for label in range(10)]
    columns = [reconstruct(pipe, enlarge(digit)).pictures for digit in chosen]
    captions = reconstruction_captions(pipe.vqmodel.config.num_codebooks)
    return image_grid(list(zip(*columns, strict=True)), row_captions=captions, min_cell_size=64)


def sample_picture(images: list["Image.Image"]) -> "Image.Image":
    """The first ten generated digits of each class, a row a class. No selection: the first ten."""
    from fqgan_hf.analysis import image_grid

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
    from fqgan_hf.hub import CardInfo, export

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
