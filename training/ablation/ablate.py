# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Rerun the papers' ablations on any image dataset: FQGAN's Table 3, the tokenizer's parts, its Table 4, the
generator's head, and the steps of Reg-VQ.

    python -m fqgan_hf.training.ablation.ablate table3 --dataset path/to/cifar10 --feature_extractor path/to/network \
        --output_dir outputs/ablation --seeds 0 1 2 --jobs 2
    python -m fqgan_hf.training.ablation.ablate table4 --dataset path/to/cifar10 --feature_extractor path/to/network \
        --output_dir outputs/ablation --tokenizer outputs/ablation/table3/both-seed0/model --seeds 0 1 2 --jobs 2
    python -m fqgan_hf.training.ablation.ablate regvq --dataset path/to/cifar10 --feature_extractor path/to/network \
        --output_dir outputs/ablation --results_dir docs/results --seeds 0 1 2 --jobs 2

All arms of a table get the same data, steps, batches, learning rate and seeds. Every run is one call of the training
script in a process of its own, followed by an evaluation on held-out images, and ends in
`output_dir/table3/ARM-seedN/result.json`. An ablation that was killed continues where it was when it is started again:
finished runs are kept, the others resume from their checkpoints (after `kill -9`, first end the trainings that it left
behind). The table is rewritten from all results that are there, so that later calls can add arms and seeds. It goes to
`results_dir` as markdown, JSON (one record per run) and a plot, beside the paper's own figures. What of `regvq` is in
the JSON there is done, wherever it ran.

Source: arXiv 2411.16681, Tables 3 and 4; arXiv 2303.06424, its ablation, mask ratios and codebook sizes.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from fqgan_hf.failures import leave
from fqgan_hf.option_checks import check_at_least, check_seed, check_values, option
from fqgan_hf.training.ablation.regvq_arms import REGVQ
from fqgan_hf.training.ablation.report import TABLE3, TABLE4
from fqgan_hf.training.common.arguments import parse_arguments, run_script
from fqgan_hf.training.common.preflight import check_dataset, check_model, check_output_dir


@dataclass(kw_only=True)
class AblationArguments:
    """What both tables share."""

    dataset: str = field(metadata={"help": "Dataset on the Hub, or a local folder, with a training and a test split."})
    output_dir: str = field(metadata={"help": "Folder for the runs."})
    feature_extractor: str = field(
        metadata={
            "help": "Folder or Hub name of the network that judges the images, by its features and as a classifier."
        }
    )
    config: str | None = option(None, "YAML file of options; the command line wins over it.")
    split: str = option("train", "Split to train on.")
    test_split: str = option("test", "Split to judge on.")
    cache_dir: str | None = option(None, "Where `datasets` keeps what it prepares.")
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Each arm runs once with each."})
    arms: list[str] | None = option(None, "Run only these arms.")
    max_train_steps: int | None = option(None, "Optimizer steps of every run; by default those of the preset.")
    max_train_samples: int | None = option(None, "Train on the first this many images only.")
    num_test_images: int = option(5000, "Judge on the first this many images of the test split.")
    batch_size: int = option(100, "Images per forward pass when judging.")
    jobs: int = option(1, "Runs at the same time.")
    num_threads: int = option(1, "CPU threads of each run.")
    results_dir: str | None = option(None, "Folder for the table, by default --output_dir.")
    data_name: str | None = option(None, "What the table calls the data, by default the name of --dataset.")
    machine: str | None = option(None, "What the table says it ran on, by default the number and kind of processors.")

    def __post_init__(self):
        check_values(self)
        for seed in self.seeds:
            check_seed("seeds", seed)
        known = list(self.all_arms())
        if unknown := [arm for arm in self.arms or [] if arm not in known]:
            raise ValueError(f"arms must be among {known}, got {unknown}")
        check_at_least(
            self, 1, "max_train_steps", "max_train_samples", "num_test_images", "batch_size", "jobs", "num_threads"
        )

    def all_arms(self) -> dict[str, Any]:
        raise NotImplementedError


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
    crop: Literal["plain", "flip", "ten-crop"] = option("plain", "Views of each image.")
    num_generated_images: int = option(5000, "Images to generate and judge, the same number of each class.")
    guidance_scale: float = option(1.75, "Classifier-free guidance; the paper's head ablation has 1.75.")
    top_k: int = option(0, "Sample among this many likeliest codes; 0 for all.")

    def all_arms(self) -> dict[str, Any]:
        return TABLE4

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "num_generated_images")
        check_at_least(self, 0, "guidance_scale", "top_k")


@dataclass(kw_only=True)
class RegVQArguments(AblationArguments):
    """Options of `regvq`."""

    tokenizer_config: str = option("cifar10-ablation-regvq", "Preset or YAML file that all tokenizers share.")
    generator_config: str = option("cifar10-ablation-regvq-far", "Preset or YAML file that all generators share.")
    perceptual_model: str | None = option(
        None, "Network whose feature maps the perceptual and contrastive losses compare; by default the judge."
    )
    parts: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4],
        metadata={"help": "1: the steps of Reg-VQ, 2: mask ratios, 3: codebook sizes, 4: two codebooks."},
    )
    max_train_samples: int | None = option(14000, "Train on the first this many images only.")
    generator_steps: int | None = option(None, "Optimizer steps of every generator; by default those of its preset.")
    num_generated_images: int = option(2000, "Images to generate and judge, the same number of each class.")
    num_test_images: int = option(2000, "Judge on the first this many images of the test split.")
    guidance_scale: float = option(1.75, "Classifier-free guidance.")

    def all_arms(self) -> dict[str, Any]:
        return REGVQ

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "num_generated_images", "generator_steps")
        check_at_least(self, 0, "guidance_scale")
        if not set(self.parts) <= {1, 2, 3, 4}:
            raise ValueError(f"parts must be among 1, 2, 3 and 4, got {self.parts}")
        if not any(REGVQ[name].part in self.parts for name in self.arms or REGVQ):
            raise ValueError(f"none of the arms {self.arms} is in parts {self.parts}")


def check(args: AblationArguments) -> None:
    """Find what would end the ablation, before anything is imported for it."""
    check_output_dir(args.output_dir)
    if args.results_dir is not None:
        check_output_dir(args.results_dir, "results_dir")
    check_dataset("dataset", args.dataset)
    check_model("feature_extractor", args.feature_extractor)
    if isinstance(args, RegVQArguments) and args.perceptual_model is not None:
        check_model("perceptual_model", args.perceptual_model)
    if isinstance(args, Table4Arguments):
        check_model("tokenizer", args.tokenizer, "FQGANModel")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Within this, SIGTERM acts like Ctrl-C: the trainings end with the ablation."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


TABLES = {"table3": Table3Arguments, "table4": Table4Arguments, "regvq": RegVQArguments}


def main(argv: list[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    if not argv or argv[0] not in TABLES:
        got = repr(argv[0]) if argv else "nothing"
        print(f"ablate: error: the first word must be one of {', '.join(TABLES)}, got {got}", file=sys.stderr)
        raise SystemExit(2)
    args = parse_arguments(TABLES[argv[0]], argv[1:])
    check(args)
    # Not before: torch and the libraries over it take seconds to import.
    from fqgan_hf.failures import raise_if_interrupted
    from fqgan_hf.processes import ScriptRunner, cpu_threads
    from fqgan_hf.training.ablation.regvq import run_regvq
    from fqgan_hf.training.ablation.runs import run_table3, run_table4, shown_command

    raise_if_interrupted()  # some library may have swallowed it while it was imported
    run = {"table3": run_table3, "table4": run_table4, "regvq": run_regvq}[argv[0]]
    with _terminable(), cpu_threads(args.num_threads):
        print("\n".join(run(args, ScriptRunner(args.num_threads), shown_command(argv))))


if __name__ == "__main__":
    leave(run_script(main))
