# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The runs of an ablation: trained by scripts in processes of their own, evaluated here. Tables 3 and 4 of FQGAN.

Options and command: `fqgan_hf.training.ablation.ablate`.
"""

import os
import platform
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fqgan_hf.evaluation.evaluate import Reference, evaluate_generator, evaluate_tokenizer
from fqgan_hf.evaluation.features import FeatureNetwork
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.evaluation.images import load_images
from fqgan_hf.files import MANIFEST, read_json, read_metrics, write_json
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.inference import join_pipeline
from fqgan_hf.pretrained import load_pretrained
from fqgan_hf.processes import ScriptRunner
from fqgan_hf.training.ablation.report import TABLE3, TABLE4, Context, Results, report_table3, report_table4
from fqgan_hf.training.common.arguments import load_model_config, parse_arguments
from fqgan_hf.training.train_far import TrainFARArguments
from fqgan_hf.training.train_fqgan import TrainFQGANArguments


if TYPE_CHECKING:
    from fqgan_hf.training.ablation.ablate import AblationArguments, Table3Arguments, Table4Arguments


@dataclass(frozen=True)
class Stage:
    """
    One call of a training script.

    Args:
        script (`str`): Its name.
        words (`list[str]`): Its options.
        result (`Path`): The file that it writes last: once it is there, the stage is over.
        batch_size (`int`): Images per step, where it trains.
    """

    script: str
    words: list[str]
    result: Path
    batch_size: int | None = None

    @property
    def seconds(self) -> float:
        """Time in the training loop by its own record, which counts across interruptions."""
        seconds, last = 0.0, 0
        for record in read_metrics(self.result.parent / "metrics.jsonl") if self.batch_size else ():
            if "images_per_second" in record:
                seconds += (record["step"] - last) * self.batch_size / record["images_per_second"]
                last = record["step"]
        return seconds


@dataclass(frozen=True)
class Run:
    """One arm with one seed: where it lives, how it is trained, how it is judged."""

    arm: str
    seed: int
    folder: Path
    stages: list[Stage]
    judge: Callable[[], dict[str, Any]]

    @property
    def result_path(self) -> Path:
        return self.folder / "result.json"


def _run_all(
    runs: Sequence[Run], settings: dict[str, Any], jobs: int, scripts: ScriptRunner, finished: Callable[[], Any]
) -> None:
    """Train and judge what has no result yet, `jobs` at a time; `finished` is called after each, one at a time."""
    judging = threading.Lock()  # one evaluation at a time, in this process, beside the training of the next run

    def run(job: Run) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        if job.result_path.is_file():
            check_same_settings(job.result_path, settings)
            print(f"{job.arm}, seed {job.seed}: done before", flush=True)
            return
        for stage in job.stages:
            if not stage.result.is_file():
                print(f"{job.arm}, seed {job.seed}: {stage.script}", flush=True)
                scripts.run(stage.script, stage.words, job.folder / "train.log")
            if scripts.stopped:
                return
        with judging:
            if scripts.stopped:
                return
            started = time.perf_counter()
            print(f"{job.arm}, seed {job.seed}: judging", flush=True)
            metrics = job.judge()
            judged = time.perf_counter()
        training = sum(stage.seconds for stage in job.stages)
        seconds = {"training": round(training, 1), "judging": round(judged - started, 1)}
        result = {"arm": job.arm, "seed": job.seed, "date": date.today().isoformat()}
        write_json(job.result_path, {**result, "settings": settings, "metrics": metrics, "seconds": seconds})
        with judging:
            finished()

    with ThreadPoolExecutor(jobs) as pool:
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


def check_same_settings(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The result in a file, if it was obtained under these settings; else `ValueError`."""
    result = read_json(path)
    if not all(isinstance(result.get(name), dict) for name in ("settings", "metrics")):
        raise ValueError(f"{path} is damaged: it is no result of a run")
    if not isinstance(result.get("date"), str):
        raise ValueError(
            f"{path} is of an earlier version, whose figures have other names. Choose another --output_dir"
        )
    _refuse_other_settings(path, result["settings"], settings, "output_dir")
    return result


def _refuse_other_settings(path: Path, found: dict[str, Any], settings: dict[str, Any], option: str) -> None:
    differences = [
        f"{name} was {found.get(name)!r} and is now {value!r}"
        for name, value in settings.items()
        if found.get(name) != value
    ]
    if differences:
        raise ValueError(
            f"{path} was obtained with other settings and cannot stand in the same table: {'; '.join(differences)}. "
            f"Choose another --{option}"
        )


def known_results(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The results in a table's JSON, as earlier calls left it: here or on another machine. `ValueError` as above."""
    if not path.is_file():
        return []
    content = read_json(path)
    if not isinstance(content.get("settings"), dict) or not isinstance(content.get("runs"), list):
        raise ValueError(f"{path} is damaged: it holds no results of an ablation")
    _refuse_other_settings(path, content["settings"], settings, "results_dir")
    return [{**run, "settings": settings} for run in content["runs"]]


def _load_results(
    folder: Path, settings: dict[str, Any], arms: Sequence[str], known: Results = ()
) -> list[dict[str, Any]]:
    """All results of a table, those of its runs before what is `known` of them, in the order of arms and by seed."""
    found = [*known, *(check_same_settings(path, settings) for path in sorted(folder.glob("*-seed*/result.json")))]
    results = {(result["arm"], result["seed"]): result for result in found}
    return sorted(results.values(), key=lambda result: (list(arms).index(result["arm"]), result["seed"]))


class Judge:
    """The network and the held-out images, loaded when first needed."""

    def __init__(self, args: "AblationArguments", resolution: int):
        self.args = args
        self.resolution = resolution
        self._loaded: tuple[FeatureNetwork, Reference] | None = None

    def load(self) -> tuple[FeatureNetwork, Reference]:
        """The network, and the held-out images as it sees them."""
        if self._loaded is None:
            args = self.args
            data = ImageDataArguments(dataset_name=args.dataset, split=args.test_split, cache_dir=args.cache_dir)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            network = FeatureNetwork(args.feature_extractor, device, "feature_extractor")
            images = load_images(data)
            reference = Reference.measure(
                images,
                network,
                resolution=self.resolution,
                num_images=args.num_test_images,
                batch_size=args.batch_size,
            )
            self._loaded = network, reference
        return self._loaded

    def tokenizer(self, folder: str | Path) -> dict[str, Any]:
        """Figures of a tokenizer's reconstructions."""
        network, reference = self.load()
        model = FQGANModel.from_pretrained(str(folder)).to(network.model.device)
        return {
            **evaluate_tokenizer(model, reference, network, self.args.batch_size),
            "classifier_accuracy_of_real_images": reference.accuracy,
        }

    def samples(self, tokenizer: str | Path, folder: Path, seed: int, settings: SamplingSettings) -> dict[str, Any]:
        """Figures of a generator's samples from this seed."""
        network, reference = self.load()
        figures, _ = evaluate_generator(
            join_pipeline(tokenizer, folder).to(network.model.device),
            reference,
            network,
            num_images=self.args.num_generated_images,
            seed=seed,
            batch_size=self.args.batch_size,
            settings=settings,
        )
        return {**figures, "classifier_accuracy_of_real_images": reference.accuracy}

    def generator(self, tokenizer: str | Path, folder: Path, seed: int) -> dict[str, Any]:
        """Figures of a generator's samples from this seed, with the last validation of its training."""
        settings = SamplingSettings(guidance_scale=self.args.guidance_scale, top_k=self.args.top_k)
        figures = self.samples(tokenizer, folder, seed, settings)
        validation = [record for record in read_metrics(folder / "metrics.jsonl") if "validation/loss" in record]
        if not validation:
            raise ValueError(f"{folder / 'metrics.jsonl'} is damaged: it says nothing of a validation")
        names = sorted(name for name in validation[-1] if name.startswith("validation/loss/"))
        losses = [validation[-1][name] for name in names]
        return {**figures, "validation_loss": losses, "validation_loss_sum": sum(losses)}


def common_settings(args: "AblationArguments", preset: str, training: Any) -> dict[str, Any]:
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
    return shlex.join(["python", "-m", "fqgan_hf.training.ablation.ablate", *kept])


@dataclass(frozen=True)
class Table:
    """
    One table of an ablation: what its runs share, and how they become a report.

    Args:
        args (`AblationArguments`): Of the call.
        scripts (`ScriptRunner`): Trains.
        command (`str`): The call, as the report shows it.
        folder (`Path`): Of the runs.
        arms (`list[str]`): Names of all arms, in the order of the report.
        settings (`dict`): What must be equal in all runs.
        known (`list[dict]`): Results that earlier calls left in the report: those runs are not made again.
    """

    args: "AblationArguments"
    scripts: ScriptRunner
    command: str
    folder: Path
    arms: list[str]
    settings: dict[str, Any]
    known: list[dict[str, Any]] = field(default_factory=list)

    def make(self, runs: Sequence[Run], report: Callable[[Path, Context, Results], list[str]]) -> list[str]:
        """Do what is missing of the runs, and whatever comes of it, report on all results that are there."""
        done = {(result["arm"], result["seed"]) for result in self.known}
        missing = [run for run in runs if (run.arm, run.seed) not in done]

        def write() -> list[str]:
            if results := _load_results(self.folder, self.settings, self.arms, self.known):
                return report(Path(self.args.results_dir or self.args.output_dir), self.context(results), results)
            return []

        try:
            # After each run, too: the folder of the runs, or this process, may not live to the end.
            _run_all(missing, self.settings, self.args.jobs, self.scripts, write)
        finally:
            lines = write()
        return lines

    def context(self, results: Results) -> Context:
        """What the report of these results says besides their figures; dated by the runs, not by the report."""
        args = self.args
        machine = args.machine or f"{os.cpu_count()}-core {platform.machine()}"
        days = [result["date"] for result in results]
        when = min(days) if min(days) == max(days) else f"{min(days)} to {max(days)}"
        return Context(self.settings, args.split, args.test_split, machine, when, self.command)


def data_words(args: "AblationArguments") -> list[str]:
    words = ["--dataset_name", args.dataset, "--split", args.split]
    if args.cache_dir is not None:
        words += ["--cache_dir", args.cache_dir]
    if args.max_train_samples is not None:
        words += ["--max_train_samples", str(args.max_train_samples)]
    return words


def training_words(args: "AblationArguments", preset: str, seed: int, folder: Path) -> list[str]:
    words = ["--config", preset, "--seed", str(seed), "--output_dir", str(folder / "model")]
    if args.max_train_steps is not None:
        words += ["--max_train_steps", str(args.max_train_steps)]
    return [*words, "--resume_from_checkpoint", "latest"]


def run_table3(args: "Table3Arguments", scripts: ScriptRunner, command: str) -> list[str]:
    """Six tokenizers. Returns the lines of the table."""
    folder = Path(args.output_dir) / "table3"
    teacher = args.teacher or args.feature_extractor
    shared = parse_arguments(
        TrainFQGANArguments, [*data_words(args), *training_words(args, args.tokenizer_config, 0, folder)]
    )
    base = load_model_config(shared.model_config_name_or_path) if shared.model_config_name_or_path else {}
    if "codebook_size" not in base:
        raise ValueError(
            f"tokenizer_config {args.tokenizer_config} must name a model configuration with codebook_size"
        )
    settings = common_settings(args, args.tokenizer_config, shared)
    settings |= {"teacher": Path(teacher).name, "codebook_size": base["codebook_size"]}
    judge = Judge(args, shared.resolution or base.get("sample_size", 256))

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
            model = path / "model"
            stage = Stage("train_fqgan", words, model / "config.json", settings["train_batch_size"])
            runs.append(Run(name, seed, path, [stage], partial(judge.tokenizer, model)))
    return Table(args, scripts, command, folder, list(TABLE3), settings).make(runs, report_table3)


def run_table4(args: "Table4Arguments", scripts: ScriptRunner, command: str) -> list[str]:
    """Three generators on the codes of one tokenizer. Returns the lines of the table."""
    folder = Path(args.output_dir) / "table4"
    folder.mkdir(parents=True, exist_ok=True)
    model = load_pretrained(FQGANModel, args.tokenizer, "tokenizer")
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
        metrics = judge.tokenizer(args.tokenizer)
        write_json(ceiling_path, {"date": date.today().isoformat(), "settings": settings, "metrics": metrics})
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
            model = path / "model"
            stage = Stage("train_far", words, model / "config.json", settings["train_batch_size"])
            runs.append(Run(head, seed, path, [stage], partial(judge.generator, args.tokenizer, model, seed)))
    report = partial(report_table4, ceiling=ceiling)
    return Table(args, scripts, command, folder, list(TABLE4), settings).make(runs, report)
