# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What `fqgan demo` does: the whole system on real images, handwritten digits, in minutes and without a download.

    digits -> a judge and a teacher -> train_fqgan -> extract_codes -> train_far -> FARPipeline -> 500 digits, judged

Training runs as the same scripts that train everything else, each in a process of its own, and evaluation is that of
any model. Everything is seeded and runs on the CPU with a fixed number of threads: on one machine the same seed gives
the same report, byte for byte.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.demo.digits import IMAGE_SIZE, JUDGE, TEACHER, load_digits, train_network, write_dataset
from fqgan_hf.demo.report import (
    copied_share,
    export_models,
    generator_figures,
    plot_losses,
    reconstruction_picture,
    rounded,
    sample_picture,
    summary,
    tokenizer_figures,
    training_steps,
)
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.evaluation.pictures import save_image
from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.files import write_json
from fqgan_hf.hub.facts import codebook_names
from fqgan_hf.pipelines.inference import generate_images, join_pipeline
from fqgan_hf.processes import ScriptRunner, cpu_threads


if TYPE_CHECKING:
    from fqgan_hf.pipelines.pipeline_far import FARPipeline


# Everything that a run writes into its folder, and thus what the next run may remove there.
OUTPUTS = (
    "data", "judge", "teacher", "training", "logs", "tokenizer", "generator", "pipeline",
    "reconstruction.png", "samples.png", "losses.png", "report.json", "timings.json",
)  # fmt: skip

MARKER = ".fqgan-demo"

NUM_THREADS = 2
GUIDANCE_SCALE = 2.0
NUM_REAL = 500  # training digits whose Frechet distance stands beside that of the generated ones

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
            `reconstruction.png`, `samples.png`, `losses.png`, `report.json`, `timings.json`, the networks `judge/` and
            `teacher/`, and the folders `data`, `training` and `logs`. An earlier demo's results there are removed.
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

    with demo.stage("data", "preparing 1797 handwritten digits, a judge and a teacher"), cpu_threads(1):
        digits = load_digits()
        write_dataset(digits, folder / "data")
        for recipe, name in ((JUDGE, "judge"), (TEACHER, "teacher")):
            recipe = replace(recipe, num_epochs=1) if quick else recipe
            train_network(recipe, digits, folder / name)
    training = folder / "training"
    cache = ("--cache_dir", str(training / "cache"))
    images = ("--train_data_dir", str(folder / "data" / "train"), *cache)
    with demo.stage("tokenizer", "training the tokenizer: FQGAN-Dual, its second codebook with the teacher"):
        options = ("--config", "digits-fqgan", "--seed", str(seed), *images, *(QUICK_TOKENIZER if quick else ()))
        teachers = ("--teachers", "none", str(folder / "teacher"))
        demo.train("train_fqgan", *options, *teachers, "--output_dir", str(training / "tokenizer"))
    with demo.stage("codes", "extracting the codes of the training digits"):
        options = ("--tokenizer", str(training / "tokenizer"), *images, "--crop", "plain")
        demo.train("extract_codes", *options, "--output_dir", str(training / "codes"))
    with demo.stage("generator", "training the generator: FAR, one class-conditional transformer"):
        options = ("--config", "digits-far", "--seed", str(seed), *(QUICK_GENERATOR if quick else ()))
        codes = ("--codes_dir", str(training / "codes"), "--tokenizer", str(training / "tokenizer"), *cache)
        demo.train("train_far", *options, *codes, "--output_dir", str(training / "generator"))
    with cpu_threads(NUM_THREADS):
        num_images = 100 if quick else 500
        with demo.stage("evaluation", f"evaluating, with {num_images} generated digits"):
            pipe = join_pipeline(training / "tokenizer", training / "generator")
            report, shown = _evaluate(demo, pipe, num_images)
        with demo.stage("report", "writing models, pictures and the report"):
            real = report["judge"]["accuracy_on_held_out_digits"]
            save_image(reconstruction_picture(pipe, digits, report["tokenizer"], real), folder / "reconstruction.png")
            save_image(sample_picture(shown), folder / "samples.png")
            names = codebook_names(pipe.vqmodel.config.num_codebooks, pipe.vqmodel.config.feature_dims)
            plot_losses(training / "tokenizer", training / "generator", names, folder / "losses.png")
            export_models(pipe, folder, report)
    write_json(folder / "report.json", report)
    demo.seconds["total"] = round(time.perf_counter() - started, 1)
    write_json(folder / "timings.json", {"seconds": demo.seconds, "cpu_seconds": cpu_seconds()})
    print("\n".join(summary(report, demo.seconds["total"], folder)))
    return report


def _evaluate(demo: Run, pipe: "FARPipeline", num_images: int) -> tuple[dict[str, Any], list[list[Any]]]:
    """The report, and the generated digits to show: the evaluation of any model, on the digits and by the judge."""
    from fqgan_hf.evaluation.evaluate import Reference
    from fqgan_hf.evaluation.features import FeatureNetwork
    from fqgan_hf.evaluation.images import load_images
    from fqgan_hf.modeling.code_sampling import SamplingSettings

    folder, training = demo.folder, demo.folder / "training"
    judge = FeatureNetwork(folder / "judge")
    train, held_out = (
        load_images(ImageDataArguments(train_data_dir=str(folder / "data" / split), cache_dir=str(training / "cache")))
        for split in ("train", "held_out")
    )
    reference = Reference.measure(held_out, judge, resolution=IMAGE_SIZE)
    real = Reference.measure(train, judge, resolution=IMAGE_SIZE, num_images=NUM_REAL)
    taught = Reference.measure(held_out, FeatureNetwork(folder / "teacher"), resolution=IMAGE_SIZE)
    settings = SamplingSettings(guidance_scale=GUIDANCE_SCALE)
    generator, shown = generator_figures(pipe, reference, judge, num_images, demo.seed, settings)
    labels = list(range(10)) * (num_images // 10)
    codes = generate_images(
        pipe, labels, seed=demo.seed, batch_size=250, settings=settings, output_type="codes"
    )  # those of the images that were judged
    distance = real.statistics.pooled.distance(reference.statistics.pooled)
    generator["frechet_distance_of_training_digits"] = rounded(distance)
    generator["copies_of_a_training_digit"] = rounded(copied_share(codes, training / "codes"))
    generator["training_steps"] = training_steps(training / "generator")
    report = {
        "seed": demo.seed,
        "quick": demo.quick,
        "data": {"train": len(train), "held_out": len(held_out), "image_size": IMAGE_SIZE},
        "tokenizer": tokenizer_figures(pipe.vqmodel, train, reference, judge)
        | {"training_steps": training_steps(training / "tokenizer")},
        "generator": generator,
    }
    for name, recipe, accuracy in (("judge", JUDGE, reference.accuracy), ("teacher", TEACHER, taught.accuracy)):
        report[name] = {
            "kind": f"ResNet with {len(recipe.hidden_sizes)} stages, {recipe.hidden_sizes[-1]} features",
            "accuracy_on_held_out_digits": rounded(accuracy),
        }
    return report, shown


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
