# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What `fqgan demo` does: the whole system on real images, handwritten digits, in minutes and without a download.

    digits -> train_fqgan -> extract_codes -> train_far -> FARPipeline -> 500 digits, read by an independent classifier

Training runs as the same scripts that train everything else, each in a process of its own. Everything is seeded and
runs on the CPU with two threads: on one machine the same seed gives the same report, byte for byte.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.demo.digits import IMAGE_SIZE, DigitReader, load_digits, write_dataset
from fqgan_hf.demo.report import (
    GUIDANCE_SCALE,
    copied_share,
    decode,
    evaluate_generator,
    evaluate_tokenizer,
    export_models,
    plot_losses,
    reconstruction_picture,
    rounded,
    sample_picture,
    summary,
)
from fqgan_hf.evaluation.pictures import save_image
from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.files import write_json
from fqgan_hf.pipelines.inference import generate_images
from fqgan_hf.processes import ScriptRunner, cpu_threads


if TYPE_CHECKING:
    from fqgan_hf.pipelines.pipeline_far import FARPipeline


# Everything that a run writes into its folder, and thus what the next run may remove there.
OUTPUTS = (
    "data", "training", "logs", "tokenizer", "generator", "pipeline",
    "reconstruction.png", "samples.png", "losses.png", "report.json", "timings.json",
)  # fmt: skip

MARKER = ".fqgan-demo"


NUM_THREADS = 2

# Training runs on the CPU, without the network, and gives the same bytes each time.
TRAINING_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_MIXED_PRECISION": "no",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

# Overrides of the presets under `quick`: enough to pass through every line, not enough to learn.
QUICK_TOKENIZER = ["--max_train_steps", "12", "--validation_steps", "12"]

QUICK_GENERATOR = ["--max_train_steps", "12", "--validation_steps", "12"]


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
        ScriptRunner(NUM_THREADS, TRAINING_ENVIRONMENT, show=True).run(script, options, log)


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
            from fqgan_hf.modeling.code_sampling import SamplingSettings

            pipe = load_pipeline(training / "tokenizer", training / "generator")
            labels = [label for label in range(10) for _ in range(per_class)]
            settings = SamplingSettings(guidance_scale=GUIDANCE_SCALE)
            codes = generate_images(pipe, labels, seed=seed, batch_size=250, settings=settings, output_type="codes")
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


def load_pipeline(tokenizer: Path, generator: Path) -> "FARPipeline":
    """The trained parts as one pipeline."""
    from fqgan_hf import FARForImageGeneration, FARPipeline, FQGANImageProcessor, FQGANModel

    return FARPipeline(
        vqmodel=FQGANModel.from_pretrained(str(tokenizer)).eval(),
        transformer=FARForImageGeneration.from_pretrained(str(generator)).eval(),
        image_processor=FQGANImageProcessor.from_pretrained(str(tokenizer)),
    )
