# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What can be found wrong with a run before torch is imported, which takes seconds, and before anything is loaded."""

import importlib.util
import os
import re
from pathlib import Path

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.evaluation.data_folder import list_data_folder
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.failures import first_line
from fqgan_hf.files import check_writable, read_json
from fqgan_hf.hub.facts import folder_kind
from fqgan_hf.hub.push import check_access
from fqgan_hf.training.common.arguments import TrainingArguments, load_model_config
from fqgan_hf.training.common.model_config import check_model_config
from fqgan_hf.training.common.resuming import check_resumable, find_checkpoint, read_checkpoint, recorded_options


HUB_NAME = r"[\w-][\w.-]*"


def check_training(args: TrainingArguments, model_class: str) -> None:
    """
    Find what would end a training: its folder, the checkpoint to resume from, the model, the tracker, the Hub.

    Args:
        args (`TrainingArguments`): The run's.
        model_class (`str`): What it trains, `"FQGANModel"` or `"FARForImageGeneration"`.

    Raises:
        ValueError, OSError: The message names the option or the file.
    """
    check_output_dir(args.output_dir)
    resume = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    if resume is not None:  # as far as it is known now
        manifest, state = read_checkpoint(resume), {"seed": args.seed, "options": recorded_options(args)}
        check_resumable(resume, manifest, {name: state[name] for name in state if name in manifest["state"]})
    if args.model_config_name_or_path is not None:
        check_model_config(load_model_config(args.model_config_name_or_path), model_class)
    if args.pretrained_model_name_or_path is not None:
        check_model("pretrained_model_name_or_path", args.pretrained_model_name_or_path, model_class)
    if args.report_to not in (None, "all") and importlib.util.find_spec(args.report_to) is None:
        raise ValueError(f"report_to={args.report_to!r} needs the package {args.report_to}, which is not installed")
    if args.push_to_hub and _is_main_process():
        _check_hub(args)


def check_output_dir(output_dir: str, option: str = "output_dir") -> None:
    """Raise `OSError` for a folder that cannot be written to, or that cannot be made."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{option} must be a folder, got the file {output_dir!r}")
    if _is_main_process():  # it leaves no trace, which other processes could stumble upon
        check_output_file(folder / "metrics.jsonl", option)


def check_output_file(path: str | Path, option: str) -> None:
    """Raise `OSError` for a file that cannot be written."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"{option} must be a file, got the folder {str(path)!r}")
    try:
        check_writable(path)
    except OSError as error:
        raise OSError(f"{option}: {error}") from error


def check_picture_file(path: str | Path, option: str) -> None:
    """Raise `ValueError` or `OSError` for a picture that cannot be written."""
    from PIL import Image

    Image.init()
    if Path(path).suffix.lower() not in Image.EXTENSION:
        raise ValueError(f"{option} must end like a picture, in .png for example, got {str(path)!r}")
    check_output_file(path, option)


def _is_main_process() -> bool:
    """By what launchers say; without one there is no other."""
    return os.environ.get("RANK", "0") == "0"


def check_images(args: ImageDataArguments) -> None:
    """Raise `ValueError` or `OSError` for a data folder without data, or a dataset that cannot be one."""
    if args.train_data_dir is not None:
        list_data_folder(args.train_data_dir)
    else:
        check_dataset("dataset_name", args.dataset_name)


def check_dataset(option: str, name: str) -> None:
    """Raise `FileNotFoundError` for what is neither a folder nor could be on the Hub, which is not asked."""
    if not Path(name).is_dir() and not re.fullmatch(rf"hf://.*|(buckets/)?({HUB_NAME}/)?{HUB_NAME}", name):
        raise FileNotFoundError(f"{option} must be a folder or a dataset on the Hub, got {name!r}: no such folder")


def check_codes(codes_dir: str) -> CodesManifest:
    """The manifest of a store of codes, all of whose files are there."""
    manifest = CodesManifest.load(codes_dir)
    for shard in manifest.shards:
        if not Path(codes_dir, shard["file"]).is_file():
            raise ValueError(f"codes_dir {codes_dir} is damaged: {shard['file']} is missing or was changed")
    return manifest


def check_model(option: str, name: str, model_class: str | None = None) -> None:
    """
    Raise `ValueError` or `OSError` for what can be no model.

    Args:
        option (`str`): Names the model.
        name (`str`): A folder, or a repository on the Hub, which is not asked.
        model_class (`str`, *optional*): What it must be, where it is one of ours.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{option} must be a folder with config.json and weights, got {name!r}")
        read_json(path / "config.json")
        if model_class is not None and (kind := folder_kind(path)).class_name != model_class:
            raise ValueError(f"{option} must be the folder of a {model_class}, {name!r} holds a {kind}")
    elif path.exists():
        raise ValueError(f"{option} must be a folder or the name of a Hub repository, got the file {name!r}")
    elif not re.fullmatch(rf"{HUB_NAME}/{HUB_NAME}" if model_class else rf"({HUB_NAME}/)?{HUB_NAME}", name):
        raise FileNotFoundError(f"{option} must be a folder or the name of a Hub repository, got {name!r}: not found")


def _check_hub(args: TrainingArguments) -> None:
    """Make sure that the result of a run can be published: see `check_access`, which raises."""
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(args.hub_model_id)
    except ValueError as error:
        raise ValueError(f"hub_model_id: {first_line(error)}") from error
    check_access(args.hub_model_id, args.hub_token, names=("hub_model_id", "hub_token"))
