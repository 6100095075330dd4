# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Run configuration: the options that the training scripts share, and how command line and YAML file become them.

A script's options are one dataclass. `--config run.yaml` (or the name of a file in `training/configs`) supplies values
under the same names; the command line wins over the file. The *model's* configuration is not among them: it is a
`config.json`, as on the Hub, named by `--model_config_name_or_path`.
"""

import json
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from huggingface_hub import hf_hub_download
from transformers import HfArgumentParser


PRESETS = Path(__file__).parent / "configs"
ACCELERATE_CONFIGS = ("fsdp2",)  # beside the presets, for `accelerate launch --config_file`

Arguments = TypeVar("Arguments")


def option(default: Any, description: str) -> Any:
    """A dataclass field with a default and the line that `--help` shows."""
    return field(default=default, metadata={"help": description})


@dataclass(kw_only=True)
class ImageDataArguments:
    """Where images come from; shared by tokenizer training and code extraction."""

    train_data_dir: str | None = option(None, "Folder of images (a subfolder a class), parquet or webdataset files.")
    dataset_name: str | None = option(None, "Dataset on the Hub, or a local folder with splits, instead of a folder.")
    dataset_config_name: str | None = option(None, "Configuration of --dataset_name, where it has several.")
    split: str = option("train", "Split of --dataset_name to read.")
    cache_dir: str | None = option(None, "Where `datasets` keeps what it downloads and prepares.")
    image_column: str | None = option(None, "Column of the images. By default the only image column.")
    label_column: str | None = option(None, "Column of the labels. By default `label`, or the only class column.")
    resolution: int | None = option(None, "Height and width of the crops. By default the tokenizer's sample_size.")
    max_train_samples: int | None = option(None, "Use only so many images, the first ones.")
    skip_bad_images: bool = option(
        False,
        "In place of an image that cannot be read use the next one, for up to one in a hundred; they are named in "
        "the log and in bad_images.txt. Otherwise the first such image ends the run.",
    )
    dataloader_num_workers: int = option(0, "Processes that decode images, for each training process.")

    def __post_init__(self):
        if (self.train_data_dir is None) == (self.dataset_name is None):
            raise ValueError(
                "exactly one of --train_data_dir and --dataset_name must be given, "
                f"got train_data_dir={self.train_data_dir!r} and dataset_name={self.dataset_name!r}"
            )
        if self.train_data_dir is not None and not Path(self.train_data_dir).is_dir():
            raise FileNotFoundError(f"train_data_dir must be a folder, got {self.train_data_dir!r}")
        check_at_least(self, 1, "resolution", "max_train_samples")
        check_at_least(self, 0, "dataloader_num_workers")


@dataclass(kw_only=True)
class TrainingArguments:
    """What the two trainers share: optimisation, precision, logging, checkpoints."""

    output_dir: str = field(metadata={"help": "Folder for the model, checkpoints, metrics.jsonl and pictures."})
    config: str | None = option(None, "YAML file of options, or the name of a preset; the command line wins over it.")
    model_config_name_or_path: str | None = option(
        None,
        "Model configuration: a JSON file, a folder or a Hub repository with config.json. Else the class's defaults.",
    )
    pretrained_model_name_or_path: str | None = option(None, "Start from this model's weights and configuration.")
    seed: int = option(0, "Seeds weights, data order, augmentation and dropout.")

    streaming: bool = option(
        False,
        "Read the images as they come, from the Hub or from webdataset, parquet or image files, with no copy prepared "
        "on disk. They are shuffled by files and in a buffer. A run resumes exactly, with the same number of "
        "processes and workers; it reads again, without decoding, what it has seen.",
    )
    streaming_samples: int | None = option(None, "Images in the stream, the length of an epoch, where it cannot tell.")
    streaming_buffer_size: int = option(10000, "Images, not decoded, that each worker draws from with --streaming.")

    train_batch_size: int = option(16, "Samples per process in one forward pass.")
    gradient_accumulation_steps: int = option(1, "Forward passes for one optimizer step.")
    num_train_epochs: int = option(1, "Passes over the data, unless --max_train_steps is given.")
    max_train_steps: int | None = option(None, "Optimizer steps in all; overrides --num_train_epochs.")
    learning_rate: float = option(1e-4, "Peak learning rate.")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = option("constant", "Schedule.")
    lr_warmup_steps: int = option(0, "Warm-up steps of the schedule.")
    adam_beta1: float = option(0.9, "First moment's decay.")
    adam_beta2: float = option(0.95, "Second moment's decay.")
    adam_epsilon: float = option(1e-8, "Epsilon of Adam.")
    adam_weight_decay: float = option(0.0, "Decoupled weight decay.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm.")
    max_nonfinite_steps: int = option(10, "Stop after so many steps were skipped for a non-finite loss or gradient.")
    use_ema: bool = option(False, "Keep an exponential moving average of the weights; validate and save that.")
    ema_decay: float = option(0.9999, "Decay of the average.")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        None, "By default what accelerate was configured for."
    )
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    compile: bool = option(False, "Compile the model by torch.compile: minutes at the start, faster steps after.")

    logging_steps: int = option(50, "Write metrics.jsonl and trackers every so many steps.")
    peak_flops: float | None = option(
        None,
        "Floating-point operations a second that one device can do at this precision (989e12 for an H100 or H200 in "
        "bf16, 312e12 for an A100): the log then says which share of them training uses, as `mfu`.",
    )
    report_to: Literal["tensorboard", "wandb", "trackio", "all"] | None = option(
        None, "Tracker, besides metrics.jsonl."
    )
    validation_fraction: float = option(0.0, "Share of the samples that is held out for validation.")
    validation_steps: int = option(1000, "Validate every so many steps, and at the end.")
    max_validation_samples: int = option(1000, "Use at most so many held-out samples.")
    checkpointing_steps: int = option(1000, "Write a checkpoint every so many steps.")
    checkpoints_total_limit: int | None = option(None, "Keep only so many checkpoints, the newest ones.")
    resume_from_checkpoint: str | None = option(None, "`latest`, or the path of a checkpoint.")

    push_to_hub: bool = option(False, "Publish the trained model with its card on the Hub; needs --hub_model_id.")
    hub_model_id: str | None = option(None, "Repository to publish in: `name` or `organisation/name`.")
    hub_token: str | None = option(None, "Token that may write there. By default the one of `hf auth login`.")
    hub_private_repo: bool = option(False, "If the repository has to be created, create it private.")

    def __post_init__(self):
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("push_to_hub needs --hub_model_id, the repository to publish in")
        for name in ("hub_model_id", "hub_token", "hub_private_repo"):
            if getattr(self, name) and not self.push_to_hub:
                raise ValueError(f"{name} needs --push_to_hub")
        if self.model_config_name_or_path and self.pretrained_model_name_or_path:
            raise ValueError(
                "at most one of --model_config_name_or_path and --pretrained_model_name_or_path may be given: "
                "pretrained weights bring their own configuration"
            )
        check_at_least(
            self, 1, "train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_train_steps",
            "logging_steps", "validation_steps", "max_validation_samples", "checkpointing_steps",
            "checkpoints_total_limit", "streaming_samples", "streaming_buffer_size",
        )  # fmt: skip
        if self.streaming and (getattr(self, "max_train_samples", None) is not None or self.validation_fraction > 0):
            raise ValueError(
                "streaming excludes --max_train_samples and --validation_fraction: a stream has no places. "
                "--validation_split works"
            )
        if self.streaming_samples is not None and not self.streaming:
            raise ValueError("streaming_samples needs --streaming")
        check_at_least(self, 0, "seed", "lr_warmup_steps", "adam_weight_decay", "max_nonfinite_steps")
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm", "peak_flops"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        for name in ("adam_beta1", "adam_beta2", "ema_decay", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def check_at_least(arguments: Any, minimum: int, *names: str) -> None:
    """Raise `ValueError` for the first named option that is set and below `minimum`."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def parse_arguments(arguments_class: type[Arguments], argv: list[str] | None = None) -> Arguments:
    """
    Options of a script from the command line and the YAML file that `--config` names.

    Args:
        arguments_class (`type`): The script's dataclass; it has a field `config`.
        argv (`list[str]`, *optional*): Command line without the program's name, by default this process's.

    Raises:
        ValueError: The file holds something that is no option, or an option's value is not accepted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(
        arguments_class, allow_abbrev=False, description=sys.modules[arguments_class.__module__].__doc__
    )
    config_parser = HfArgumentParser([], add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config")
    config = config_parser.parse_known_args(argv)[0].config
    if config is not None:
        # The file goes first: of two values argparse takes the last.
        argv = _file_options(config, {option.name for option in fields(arguments_class)}) + argv
    return parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[0]


def preset_names() -> list[str]:
    """What `--config` knows by name."""
    return sorted({path.stem for path in PRESETS.glob("*.yaml")} - set(ACCELERATE_CONFIGS))


def _file_options(config: str, known: set[str]) -> list[str]:
    """A YAML file as command-line words."""
    path = Path(config)
    if not path.is_file():
        if config not in preset_names():
            presets = ", ".join(preset_names())
            raise FileNotFoundError(f"config must be a YAML file or one of the presets {presets}, got {config!r}")
        path = PRESETS / f"{config}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"config {path} must hold a mapping of options to values, got {type(values).__name__}")
    if unknown := sorted(set(values) - known):
        raise ValueError(f"config {path} holds unknown options {unknown}, accepted are {sorted(known)}")
    words = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, str) and value.endswith(".json") and (path.parent / value).is_file():
            value = path.parent / value  # a preset names the model configuration beside it
        words += [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return words


def load_model_config(name_or_path: str) -> dict[str, Any]:
    """Content of a `config.json`: of a JSON file, of a folder, or of a repository on the Hub."""
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "config.json"
    elif not path.is_file():
        if path.suffix == ".json":
            raise FileNotFoundError(
                f"model_config_name_or_path must be a JSON file, got {name_or_path!r}: no such file"
            )
        path = Path(hf_hub_download(name_or_path, "config.json"))
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"model_config_name_or_path {path} must hold a JSON object, got {type(config).__name__}")
    return config


def check_config_keys(config: dict[str, Any], known: set[str], model_class: str) -> None:
    """Raise `ValueError` for keys that the model does not have: the libraries would ignore a misspelt one."""
    unknown = sorted(key for key in config if key not in known and not key.startswith("_"))
    if unknown:
        raise ValueError(f"model_config_name_or_path: {model_class} has no {unknown}, accepted are {sorted(known)}")
