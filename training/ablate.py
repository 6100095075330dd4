# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Rerun the paper's ablations on any image dataset: Table 3, the tokenizer's parts, and Table 4, the generator's head.

    python -m fqgan_hf.training.ablate table3 --dataset path/to/cifar10 --feature_extractor path/to/network \
        --output_dir outputs/ablation --seeds 0 1 2 --jobs 2
    python -m fqgan_hf.training.ablate table4 --dataset path/to/cifar10 --feature_extractor path/to/network \
        --output_dir outputs/ablation --tokenizer outputs/ablation/table3/both-seed0/model --seeds 0 1 2 --jobs 2

All arms of a table get the same data, steps, batches, learning rate and seeds. Every run is one call of the training
script in a process of its own, followed by an evaluation on held-out images, and ends in
`output_dir/table3/ARM-seedN/result.json`. A killed ablation goes on where it was when started again: finished runs are
kept, the others resume from their checkpoints (after `kill -9`, first end the trainings that it left behind). The
table is rewritten from all results that are there, so that arms and seeds can be added in later calls. It goes to
`results_dir` as markdown, JSON (a record a run) and a plot.

Source: arXiv 2411.16681, Tables 3 and 4.
"""

import contextlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fqgan_hf.demo import cpu_threads
from fqgan_hf.files import MANIFEST, write_json
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.ablation_report import Context, report_table3, report_table4
from fqgan_hf.training.arguments import (
    ImageDataArguments,
    check_at_least,
    load_model_config,
    option,
    parse_arguments,
)
from fqgan_hf.training.data import load_images
from fqgan_hf.training.evaluation import (
    FeatureNetwork,
    Reference,
    evaluate_generator,
    evaluate_tokenizer,
    load_pipeline,
)
from fqgan_hf.training.train_far import TrainFARArguments
from fqgan_hf.training.train_fqgan import TrainFQGANArguments


# ---- Options --------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class AblationArguments:
    """What both tables share."""

    dataset: str = field(metadata={"help": "Dataset on the Hub, or a local folder, with a training and a test split."})
    output_dir: str = field(metadata={"help": "Folder for the runs."})
    feature_extractor: str = field(metadata={"help": "Folder or Hub name of the network that judges the images."})
    config: str | None = option(None, "YAML file of options; the command line wins over it.")
    split: str = option("train", "Split to train on.")
    test_split: str = option("test", "Split to judge on.")
    cache_dir: str | None = option(None, "Where `datasets` keeps what it prepares.")
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Each arm runs once with each."})
    arms: list[str] | None = option(None, "Run only these arms.")
    max_train_steps: int | None = option(None, "Optimizer steps of every run; by default those of the preset.")
    max_train_samples: int | None = option(None, "Train on the first so many images only.")
    num_test_images: int = option(5000, "Judge on the first so many images of the test split.")
    batch_size: int = option(100, "Images in one forward pass when judging.")
    jobs: int = option(1, "Runs at the same time.")
    num_threads: int = option(1, "CPU threads of each run.")
    results_dir: str | None = option(None, "Folder for the table, by default --output_dir.")
    data_name: str | None = option(None, "What the table calls the data, by default the name of --dataset.")
    machine: str | None = option(None, "What the table says it ran on, by default the processor.")

    def __post_init__(self):
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds must be integers of at least 0, got {self.seeds}")
        known = list(self.all_arms())
        if unknown := [arm for arm in self.arms or [] if arm not in known]:
            raise ValueError(f"arms must be among {known}, got {unknown}")
        check_at_least(
            self, 1, "max_train_steps", "max_train_samples", "num_test_images", "batch_size", "jobs", "num_threads"
        )

    def all_arms(self) -> dict[str, Any]:
        raise NotImplementedError


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


@dataclass(kw_only=True)
class Table3Arguments(AblationArguments):
    """Options of `table3`."""

    tokenizer_config: str = option("cifar10-ablation-fqgan", "Preset or YAML file that all tokenizers share.")
    teacher: str | None = option(None, "Network whose feature the second codebook predicts; by default the judge.")

    def all_arms(self) -> dict[str, Any]:
        return TABLE3


@dataclass(kw_only=True)
class Table4Arguments(AblationArguments):
    """Options of `table4`."""

    tokenizer: str = field(metadata={"help": "The tokenizer under all generators."})
    generator_config: str = option("cifar10-ablation-far", "Preset or YAML file that all generators share.")
    crop: str = option("plain", "Views of each image: plain, flip or ten-crop.")
    num_generated_images: int = option(5000, "Images to generate and judge, the same number of each class.")
    guidance_scale: float = option(1.75, "Classifier-free guidance; the paper's head ablation has 1.75.")
    top_k: int = option(0, "Sample among so many likeliest codes; 0 for all.")

    def all_arms(self) -> dict[str, Any]:
        return TABLE4

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "num_generated_images")
        check_at_least(self, 0, "guidance_scale", "top_k")


# ---- Running --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One arm with one seed: where it lives, how it is trained, how it is judged."""

    arm: str
    seed: int
    folder: Path
    script: str
    words: list[str]
    judge: Callable[[Path], dict[str, Any]]

    @property
    def model_dir(self) -> Path:
        return self.folder / "model"

    @property
    def result_path(self) -> Path:
        return self.folder / "result.json"


class Scripts:
    """Starts training scripts as processes, and ends those that still run when something goes wrong."""

    def __init__(self, num_threads: int):
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self.environment = {**os.environ, **dict.fromkeys(threads, str(num_threads))}
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def run(self, script: str, words: Sequence[str], log: Path) -> None:
        """Wait for `python -m fqgan_hf.training.SCRIPT WORDS`, its output added to `log`."""
        command = [sys.executable, "-m", f"fqgan_hf.training.{script}", *words]
        with open(log, "a", encoding="utf-8") as file:
            if self.stopped:
                return
            process = subprocess.Popen(command, env=self.environment, stdout=file, stderr=subprocess.STDOUT)
            self.running.add(process)
            code = process.wait()
            self.running.discard(process)
        if code and not self.stopped:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise ChildProcessError(f"{shlex.join(command)} ended with exit code {code}; the end of {log}:\n{tail}")

    def stop(self) -> None:
        self.stopped = True
        for process in list(self.running):
            process.terminate()


def run_all(runs: Sequence[Run], settings: dict[str, Any], args: AblationArguments, scripts: Scripts) -> None:
    """Train and judge what has no result yet, `--jobs` at a time."""
    judging = threading.Lock()  # one evaluation at a time, in this process, beside the training of the next run

    def run(job: Run) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        if job.result_path.is_file():
            check_same_settings(job.result_path, settings)
            print(f"{job.arm}, seed {job.seed}: done before", flush=True)
            return
        if not (job.model_dir / "config.json").is_file():  # written last, when training is over
            print(f"{job.arm}, seed {job.seed}: training", flush=True)
            scripts.run(job.script, job.words, job.folder / "train.log")
        if scripts.stopped:
            return
        with judging:
            if scripts.stopped:
                return
            started = time.perf_counter()
            print(f"{job.arm}, seed {job.seed}: judging", flush=True)
            metrics = job.judge(job.model_dir)
            judged = time.perf_counter()
        training = training_seconds(job.model_dir, settings["train_batch_size"])
        seconds = {"training": round(training, 1), "judging": round(judged - started, 1)}
        result = {"arm": job.arm, "seed": job.seed, "settings": settings, "metrics": metrics, "seconds": seconds}
        write_json(job.result_path, result)

    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(run, job) for job in runs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in futures if future.done() and future.exception()]
        except BaseException:  # also an interrupt: no training may go on behind our back
            scripts.stop()
            raise
        if failed:
            scripts.stop()
            raise failed[0].exception()


def training_seconds(model_dir: Path, batch_size: int) -> float:
    """Time in the training loop by its own record, which counts across interruptions."""
    seconds, last = 0.0, 0
    for line in (model_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "images_per_second" in record:
            seconds += (record["step"] - last) * batch_size / record["images_per_second"]
            last = record["step"]
    return seconds


def check_same_settings(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The result in a file, if it was obtained under these settings; else `ValueError`."""
    result = json.loads(path.read_text(encoding="utf-8"))
    differences = [
        f"{name} was {result['settings'].get(name)!r} and is now {value!r}"
        for name, value in settings.items()
        if result["settings"].get(name) != value
    ]
    if differences:
        raise ValueError(
            f"{path} was obtained with other settings and cannot stand in the same table: {'; '.join(differences)}. "
            "Choose another --output_dir"
        )
    return result


def load_results(folder: Path, settings: dict[str, Any], arms: Sequence[str]) -> list[dict[str, Any]]:
    """All results of a table, in the order of its arms and by seed."""
    results = [check_same_settings(path, settings) for path in sorted(folder.glob("*-seed*/result.json"))]
    return sorted(results, key=lambda result: (list(arms).index(result["arm"]), result["seed"]))


class Judge:
    """The network and the held-out images, loaded when first needed."""

    def __init__(self, args: AblationArguments, resolution: int):
        self.args = args
        self.resolution = resolution
        self._loaded: tuple[FeatureNetwork, Reference] | None = None

    def load(self) -> tuple[FeatureNetwork, Reference]:
        if self._loaded is None:
            args = self.args
            data = ImageDataArguments(dataset_name=args.dataset, split=args.test_split, cache_dir=args.cache_dir)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            network = FeatureNetwork(args.feature_extractor, device)
            images = load_images(data)
            reference = Reference.measure(images, self.resolution, args.num_test_images, network, args.batch_size)
            self._loaded = network, reference
        return self._loaded

    def tokenizer(self, folder: str | Path) -> dict[str, Any]:
        network, reference = self.load()
        model = FQGANModel.from_pretrained(str(folder)).to(network.model.device)
        return {
            **evaluate_tokenizer(model, reference, network, self.args.batch_size),
            "real_images_read_as_labelled": reference.accuracy,
        }

    def generator(self, tokenizer: str, folder: Path, seed: int) -> dict[str, Any]:
        network, reference = self.load()
        args = self.args
        pipe = load_pipeline(tokenizer, folder).to(network.model.device)
        figures, _ = evaluate_generator(
            pipe,
            reference,
            network,
            args.num_generated_images,
            args.batch_size,
            args.guidance_scale,
            args.top_k,
            seed,
        )
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        validation = [record for record in map(json.loads, lines) if "validation/loss" in record][-1]
        losses = [validation[f"validation/loss/{k}"] for k in range(pipe.transformer.config.num_codebooks)]
        return {
            **figures,
            "validation_loss": losses,
            "validation_loss_sum": sum(losses),
            "real_images_read_as_labelled": reference.accuracy,
        }


def common_settings(args: AblationArguments, preset: str, training: Any) -> dict[str, Any]:
    """What must be equal in all runs of a table; names instead of paths."""
    return {
        "data": args.data_name or Path(args.dataset).name,
        "max_train_samples": args.max_train_samples,
        "preset": Path(preset).stem,
        "max_train_steps": training.max_train_steps,
        "train_batch_size": training.train_batch_size * training.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "feature_extractor": Path(args.feature_extractor).name,
        "num_test_images": args.num_test_images,
    }


def report_context(args: AblationArguments, settings: dict[str, Any], titles: dict[str, str], command: str) -> Context:
    machine = args.machine or f"{os.cpu_count()}-core {platform.machine()}"
    folder = Path(args.results_dir or args.output_dir)
    return Context(folder, settings, titles, args.split, args.test_split, machine, command)


def shown_command(argv: Sequence[str]) -> str:
    """This call with local paths replaced by what they stand for."""
    outside = [Path(word).is_absolute() or word.startswith("..") for word in argv]
    words = [f"path/to/{Path(word).name}" if out else word for word, out in zip(argv, outside, strict=True)]
    hidden = {"--cache_dir"}
    kept, skip = [], False
    for word in words:
        skip = word in hidden or (skip and not word.startswith("--"))
        if not skip:
            kept.append(word)
    return shlex.join(["python", "-m", "fqgan_hf.training.ablate", *kept])


def data_words(args: AblationArguments) -> list[str]:
    words = ["--dataset_name", args.dataset, "--split", args.split]
    if args.cache_dir is not None:
        words += ["--cache_dir", args.cache_dir]
    if args.max_train_samples is not None:
        words += ["--max_train_samples", str(args.max_train_samples)]
    return words


def training_words(args: AblationArguments, preset: str, seed: int, folder: Path) -> list[str]:
    words = ["--config", preset, "--seed", str(seed), "--output_dir", str(folder / "model")]
    if args.max_train_steps is not None:
        words += ["--max_train_steps", str(args.max_train_steps)]
    return [*words, "--resume_from_checkpoint", "latest"]


def table3(args: Table3Arguments, scripts: Scripts, command: str) -> list[str]:
    """Six tokenizers. Returns the lines of the table."""
    folder = Path(args.output_dir) / "table3"
    teacher = args.teacher or args.feature_extractor
    shared = parse_arguments(
        TrainFQGANArguments, [*data_words(args), *training_words(args, args.tokenizer_config, 0, folder)]
    )
    base = load_model_config(shared.model_config_name_or_path)
    settings = common_settings(args, args.tokenizer_config, shared)
    settings |= {"teacher": Path(teacher).name, "codebook_size": base["codebook_size"]}
    judge = Judge(args, shared.resolution or base["sample_size"])

    runs = []
    for seed in args.seeds:
        for name in args.arms or TABLE3:
            arm, path = TABLE3[name], folder / f"{name}-seed{seed}"
            changes: dict[str, Any] = {
                "num_codebooks": arm.num_codebooks,
                "codebook_size": base["codebook_size"] * arm.size_factor,
            }
            if arm.num_codebooks == 1:
                changes["adapter_num_layers"] = 0  # the plain VQGAN: same trunk and decoder
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "model_config.json", {**base, **changes})
            words = [*data_words(args), *training_words(args, args.tokenizer_config, seed, path)]
            words += ["--model_config_name_or_path", str(path / "model_config.json")]
            words += ["--disentanglement_weight", str(shared.disentanglement_weight if arm.disentanglement else 0.0)]
            words += ["--teachers", *(["none", teacher] if arm.representation else ["none"])]
            runs.append(Run(name, seed, path, "train_fqgan", words, judge.tokenizer))
    try:
        run_all(runs, settings, args, scripts)
    finally:
        titles = {name: arm.title for name, arm in TABLE3.items()}
        results = load_results(folder, settings, list(TABLE3))
        lines = report_table3(report_context(args, settings, titles, command), results) if results else []
    return lines


def table4(args: Table4Arguments, scripts: Scripts, command: str) -> list[str]:
    """Three generators on the codes of one tokenizer. Returns the lines of the table."""
    folder = Path(args.output_dir) / "table4"
    folder.mkdir(parents=True, exist_ok=True)
    model = FQGANModel.from_pretrained(args.tokenizer)
    codes, test_codes = str(folder / "codes"), str(folder / "test-codes")
    shared = parse_arguments(
        TrainFARArguments, ["--codes_dir", codes, *training_words(args, args.generator_config, 0, folder)]
    )
    settings = common_settings(args, args.generator_config, shared)
    for name in ("crop", "num_generated_images", "guidance_scale", "top_k"):
        settings[name] = getattr(args, name)
    settings["tokenizer_fingerprint"] = model.fingerprint()
    judge = Judge(args, model.config.sample_size)

    test = ["--split", args.test_split, "--max_train_samples", str(args.num_test_images), "--crop", "plain"]
    for output_dir, words in ((codes, ["--crop", args.crop]), (test_codes, test)):
        if not (Path(output_dir) / MANIFEST).is_file():
            words = [*data_words(args), "--tokenizer", args.tokenizer, "--output_dir", output_dir, *words]
            scripts.run("extract_codes", words, folder / "extract.log")

    # How good can samples of this tokenizer be at all? As good as its reconstructions.
    ceiling_path = folder / "tokenizer.json"
    if not ceiling_path.is_file():
        write_json(ceiling_path, {"settings": settings, "metrics": judge.tokenizer(args.tokenizer)})
    ceiling = check_same_settings(ceiling_path, settings)["metrics"]

    runs = []
    for seed in args.seeds:
        for head in args.arms or TABLE4:
            path = folder / f"{head}-seed{seed}"
            words = ["--codes_dir", codes, "--validation_codes_dir", test_codes, "--tokenizer", args.tokenizer]
            words += [*training_words(args, args.generator_config, seed, path), "--head", head]
            words += ["--validation_steps", str(10**9), "--max_validation_samples", str(args.num_test_images)]
            if args.cache_dir is not None:
                words += ["--cache_dir", args.cache_dir]

            def run(path: Path, seed: int = seed) -> dict[str, Any]:
                return judge.generator(args.tokenizer, path, seed)

            runs.append(Run(head, seed, path, "train_far", words, run))
    try:
        run_all(runs, settings, args, scripts)
    finally:
        results = load_results(folder, settings, list(TABLE4))
        context = report_context(args, settings, TABLE4, command)
        lines = report_table4(context, results, ceiling) if results else []
    return lines


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within this SIGTERM is as Ctrl-C: the trainings end with the ablation."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


TABLES = {"table3": (Table3Arguments, table3), "table4": (Table4Arguments, table4)}


def main(argv: list[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in TABLES:
        print(__doc__)
        if argv and argv[0] in ("-h", "--help"):
            return
        raise SystemExit(f"the first word must be one of {', '.join(TABLES)}, got {argv[0] if argv else 'nothing'!r}")
    arguments_class, make = TABLES[argv[0]]
    args = parse_arguments(arguments_class, argv[1:])
    with cpu_threads(args.num_threads), terminable():
        lines = make(args, Scripts(args.num_threads), shown_command(argv))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
