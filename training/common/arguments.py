# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Run configuration: the options that the training scripts share, and how command line and YAML file become them.

A script's options are one dataclass. `--config run.yaml` (or the name of a file in `training/configs`) supplies values
under the same names; the command line wins over the file. The *model's* configuration is not among them: it is a
`config.json`, as on the Hub, named by `--model_config_name_or_path`.

Importing this file is cheap: a mistake on the command line is answered before any library is imported.
"""

import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fqgan_hf.failures import first_line, run_command
from fqgan_hf.files import read_json
from fqgan_hf.option_checks import as_list, check_at_least, check_seed, check_values, option


if TYPE_CHECKING:
    from transformers import HfArgumentParser

PRESETS = Path(__file__).parent.parent / "configs"
ACCELERATE_CONFIGS = ("fsdp2",)  # beside the presets, for `accelerate launch --config_file`
WITHOUT_TEACHER = "none"
TEACHER_KINDS = ("clip", "dinov2")  # what may stand before a teacher's name, with a colon
LPIPS_NAME, VGG19_NAME = "lpips", "vgg19"
CropName = Literal["plain", "flip", "ten-crop", "shift", "shift-flip"]  # views of an image; `data.crops` makes them

Arguments = TypeVar("Arguments")


@dataclass(kw_only=True)
class TrainingArguments:
    """What all trainings share: optimization, precision, logging, checkpoints."""

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
        "Read images as they arrive, from the Hub or from webdataset, parquet or image files, without a prepared copy "
        "on disk. They are shuffled by file and in a buffer. A run resumes exactly with the same numbers of processes "
        "and workers; to find its place it reads what it has already seen again, without decoding it.",
    )
    streaming_samples: int | None = option(None, "Images in the stream, that is in an epoch, if it does not say.")
    streaming_buffer_size: int = option(10000, "Undecoded images in each worker's shuffle buffer.")

    train_batch_size: int = option(16, "Samples per process in one forward pass.")
    gradient_accumulation_steps: int = option(1, "Forward passes per optimizer step.")
    num_train_epochs: int = option(1, "Passes over the data, unless --max_train_steps is given.")
    max_train_steps: int | None = option(None, "Total number of optimizer steps; overrides --num_train_epochs.")
    learning_rate: float = option(1e-4, "Peak learning rate.")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = option(
        "constant", "Schedule of the rate."
    )
    lr_warmup_steps: int = option(0, "Warm-up steps of the schedule.")
    adam_beta1: float = option(0.9, "Decay of the first moment.")
    adam_beta2: float = option(0.95, "Decay of the second moment.")
    adam_epsilon: float = option(1e-8, "Epsilon of Adam.")
    adam_weight_decay: float = option(0.0, "Decoupled weight decay.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm.")
    max_nonfinite_steps: int = option(10, "Stop after skipping this many steps for a non-finite loss or gradient.")
    use_ema: bool = option(False, "Keep an exponential moving average of the weights, and validate and save that.")
    ema_decay: float = option(0.9999, "Decay of the average.")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        None, "By default what accelerate is configured for."
    )
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    compile: bool = option(False, "Compile the model with torch.compile: slow to start, then faster.")

    logging_steps: int = option(50, "Write to metrics.jsonl and trackers every this many steps.")
    peak_flops: float | None = option(
        None,
        "Peak floating-point operations per second of a device at this precision (989e12 for an H100 or H200 in bf16, "
        "312e12 for an A100): the log then has the share of them that training uses, as `mfu`.",
    )
    report_to: Literal["tensorboard", "wandb", "trackio", "all"] | None = option(
        None, "Tracker, in addition to metrics.jsonl."
    )
    validation_fraction: float = option(0.0, "Share of the samples to hold out for validation.")
    validation_steps: int = option(1000, "Validate every this many steps, and at the end.")
    max_validation_samples: int = option(1000, "Use at most this many held-out samples.")
    checkpointing_steps: int = option(1000, "Write a checkpoint every this many steps.")
    checkpoints_total_limit: int | None = option(None, "Keep only this many checkpoints, the newest ones.")
    resume_from_checkpoint: str | None = option(None, "`latest`, or the path of a checkpoint.")

    push_to_hub: bool = option(False, "Publish the trained model with its card on the Hub; needs --hub_model_id.")
    hub_model_id: str | None = option(None, "Repository to publish to: `name` or `organization/name`.")
    hub_token: str | None = option(None, "Token with write access there. By default the one of `hf auth login`.")
    hub_private_repo: bool = option(False, "If the repository has to be created, make it private.")

    def __post_init__(self):
        check_values(self)
        check_seed("seed", self.seed)
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
                "streaming excludes --max_train_samples and --validation_fraction: a stream has no random access. "
                "--validation_split works"
            )
        if self.streaming_samples is not None and not self.streaming:
            raise ValueError("streaming_samples needs --streaming")
        check_at_least(self, 0, "lr_warmup_steps", "adam_weight_decay", "max_nonfinite_steps")
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm", "peak_flops"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        for name in ("adam_beta1", "adam_beta2", "ema_decay", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


# ---- Command line and file ------------------------------------------------------------------------------------------


class _UsageError(Exception):
    """What argparse has to say."""


def parse_arguments(arguments_class: type[Arguments], argv: list[str] | None = None) -> Arguments:
    """
    Options of a script from the command line and the YAML file that `--config` names.

    Args:
        arguments_class (`type`): The script's dataclass; it has a field `config`.
        argv (`list[str]`, *optional*): Command line without the program's name, by default this process's.

    Raises:
        ValueError: The file holds something that is no option, or an option's value is not accepted.
        SystemExit: The command line is not understood: status 2, after one line that says why.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _build_parser(arguments_class)
    known = {option.name for option in fields(arguments_class)}
    try:
        # The file goes first: of two values argparse takes the last.
        config = _config_of(argv)
        words = argv if config is None else _file_options(config, known - {"config"}, arguments_class) + argv
        for word in argv:  # before what is missing, which may be there with a slip
            if re.match("--.", word) and word.partition("=")[0] not in parser._option_string_actions:
                raise _UsageError(_unknown("option", word.partition("=")[0], [f"--{name}" for name in known]))
        namespace, superfluous = parser.parse_known_args(words)
        if superfluous:
            raise _UsageError(f"{superfluous[0]!r} belongs to no option")
    except _UsageError as error:
        parser.exit(2, f"{parser.prog}: error: {first_line(error)}\n")
    return arguments_class(**{name: value for name, value in vars(namespace).items() if name in known})


def run_script(main: Callable[[list[str]], None]) -> int:
    """A script as a program: runs `main` on the command line and returns the exit status. See `fqgan_hf.failures`."""
    argv = sys.argv[1:]
    debug = "--debug" in argv

    def run() -> None:
        with contextlib.nullcontext() if debug else _plain_errors():
            main(argv)

    return run_command(_program(main), run, debug)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors that libraries wrap, as they were."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("datasets", "matplotlib", "pyarrow", "yaml"):
            raise
        raise ImportError(f"{error}: training needs `pip install 'fqgan-hf[train]'`") from error
    except Exception as error:
        # A DataLoader's worker sends its traceback as the message.
        raised = re.search(rf"\n(?:\w+\.)*{type(error).__name__}: (?P<message>.*)\Z", str(error), re.DOTALL)
        if raised is None or "Original Traceback" not in str(error):
            raise
        raise type(error)(raised["message"]) from error


def preset_names() -> list[str]:
    """What `--config` knows by name."""
    return sorted({path.stem for path in PRESETS.glob("*.yaml")} - set(ACCELERATE_CONFIGS))


def _program(member: Any) -> str:
    """Name of the script that a class or function is of."""
    return Path(sys.modules[member.__module__].__file__).stem


def _build_parser(arguments_class: type) -> "HfArgumentParser":
    """A parser that raises `_UsageError`, rather than print all options and exit."""
    from transformers import HfArgumentParser

    def fail(message: str) -> None:
        raise _UsageError(message)

    description = sys.modules[arguments_class.__module__].__doc__
    parser = HfArgumentParser(
        arguments_class, prog=_program(arguments_class), allow_abbrev=False, description=description
    )
    parser.error = fail
    parser.add_argument("--debug", action="store_true", help="Show where an error came from.")
    return parser


def _config_of(argv: list[str]) -> str | None:
    """The value of `--config`, the last one."""
    found = None
    for i, word in enumerate(argv):
        if word == "--config" and i + 1 < len(argv):
            found = argv[i + 1]
        elif word.startswith("--config="):
            found = word.partition("=")[2]
    return found


def _unknown(kind: str, name: Any, known: Collection[str]) -> str:
    """That `name` is none of `known`, and which of them may have been meant."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"unknown {kind} {name!r}" + (f", did you mean {close[0]!r}?" if close else "")


def _file_options(config: str, known: set[str], arguments_class: type) -> list[str]:
    """A YAML file as command-line words, each option of which has been understood."""
    path = Path(config)
    if not path.is_file():
        if config not in preset_names():
            presets = ", ".join(preset_names())
            raise FileNotFoundError(f"config must be a YAML file or one of the presets {presets}, got {config!r}")
        path = PRESETS / f"{config}.yaml"
    parser = _build_parser(arguments_class)
    for action in parser._actions:
        action.required = False  # one option at a time, to name the file for its faults
    words = []
    for name, value in _read_yaml(path).items():
        if name not in known:
            raise ValueError(f"config {path}: {_unknown('option', name, known)}")
        if value is None:
            continue
        if isinstance(value, str) and value.endswith(".json") and (path.parent / value).is_file():
            value = path.parent / value  # a preset names the model configuration beside it
        if any(isinstance(item, (dict, list)) or item is None for item in as_list(value)):
            raise ValueError(f"config {path}: {name} must be a value or a list of values, got {type(value).__name__}")
        try:
            option = [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
            superfluous = parser.parse_known_args(option)[1]
        except (_UsageError, ValueError) as error:
            raise ValueError(f"config {path}: {first_line(error)}") from error
        if superfluous:
            raise ValueError(f"config {path}: {name} must be a single value, got {value!r}")
        words += option
    return words


def _read_yaml(path: Path) -> dict[Any, Any]:
    """A mapping from a YAML file; a key that is there twice is a mistake."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise ValueError(f"{twice[0]} is there twice")
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise ValueError(f"config {path} cannot be read: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config {path} must hold a mapping of options to values, got {type(values).__name__}")
    return values


def load_model_config(name_or_path: str) -> dict[str, Any]:
    """
    Content of a `config.json`: of a JSON file, of a folder, or of a repository on the Hub.

    Raises:
        ValueError, OSError: There is none, or it holds no JSON object.
    """
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "config.json"
    elif not path.is_file():
        if path.suffix == ".json":
            raise FileNotFoundError(
                f"model_config_name_or_path must be a JSON file, got {name_or_path!r}: no such file"
            )
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(name_or_path, "config.json"))
        except (OSError, ValueError) as error:  # huggingface_hub's errors are among these
            raise OSError(
                f"model_config_name_or_path must be a JSON file, a folder with config.json or a Hub repository, got "
                f"{name_or_path!r}: {first_line(error)}"
            ) from error
    try:
        return read_json(path)
    except OSError as error:
        raise OSError(f"model_config_name_or_path {path} cannot be read: {first_line(error)}") from error
