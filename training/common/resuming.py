# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Which checkpoint a run goes on from, and what it may change when it does.

A run is the same run if it has the same data, in the same order, and the same model. Everything else may be changed,
and takes effect from the next step on. `ON_RESUME` says which is which, option by option.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from fqgan_hf.files import MANIFEST, read_json


logger = logging.getLogger(__name__)


class OnResume(Enum):
    """What becomes of an option's value when a run is resumed."""

    TAKES_EFFECT = "the new value holds from the next step on"
    MUST_STAY = "another value is refused by name"
    ON_OR_OFF = "as TAKES_EFFECT, but not from 0 to another value or back: the checkpoint has or lacks a network"
    BY_CONTENT = "what it names may move; that it holds the same is compared"
    NO_MATTER = "the trained model does not depend on it"


def _named(meaning: OnResume, names: str) -> dict[str, OnResume]:
    return dict.fromkeys(names.split(), meaning)


ON_RESUME: dict[str, OnResume] = {
    **_named(
        OnResume.TAKES_EFFECT,
        # The learning rate of a step follows from the step and these.
        "learning_rate disc_learning_rate lr_scheduler lr_warmup_steps max_train_steps num_train_epochs "
        "adam_beta1 adam_beta2 adam_epsilon adam_weight_decay max_grad_norm max_nonfinite_steps ema_decay "
        # Their product with the number of processes must stay, as `samples_per_step`.
        "train_batch_size gradient_accumulation_steps "
        "gradient_checkpointing compile skip_bad_images center_crop max_resize_ratio random_flip "
        "reconstruction_loss reconstruction_weight codebook_weight commitment_weight entropy_weight "
        "disentanglement_weight prior_weight prior perceptual_weight perceptual_model perceptual_layers "
        "contrastive_weight pcl_weight pcl_temperature pcl_num_patches auxiliary_weight "
        # The temperatures of a step follow from the step, the number of steps and these.
        "gumbel_temperature gumbel_temperature_end softmax_temperature softmax_temperature_end temperature_schedule "
        "disc_start disc_adaptive_weight disc_loss "
        "usage_window revive_dead_codes",
    ),
    **_named(
        OnResume.MUST_STAY,
        "seed resolution split image_column label_column label_map_column num_labels max_train_samples "
        "validation_fraction streaming streaming_samples streaming_buffer_size use_ema mixed_precision teachers "
        "disc_type disc_channels disc_num_layers disc_norm on_the_fly crop",
    ),
    **_named(OnResume.ON_OR_OFF, "representation_weight disc_weight lecam_weight"),
    **_named(
        OnResume.BY_CONTENT,
        "train_data_dir dataset_name dataset_config_name codes_dir tokenizer head "
        # Fields of the model's configuration, fingerprints within it, and that of a frozen text encoder.
        "conditions text_encoder train_text_encoder num_text_tokens map_tokenizer "
        "time_conditioning num_train_timesteps transition gamma_cum_end "
        "model_config_name_or_path pretrained_model_name_or_path",
    ),
    **_named(
        OnResume.NO_MATTER,
        # The number of workers does matter to a stream, which compares it as `streams`.
        "output_dir config cache_dir dataloader_num_workers logging_steps peak_flops report_to "
        "validation_split validation_codes_dir validation_steps max_validation_samples "
        "checkpointing_steps checkpoints_total_limit resume_from_checkpoint "
        "push_to_hub hub_model_id hub_token hub_private_repo warn_usage warn_perplexity warn_overlap "
        "sample_steps sample_classes sample_guidance_scale",
    ),
}
# Compared as it is in the end, which may be accelerate's doing: `precision`.
_RECORDED_ELSEWHERE = ("mixed_precision",)
# What checkpoints of the first versions do not say.
_ADDED_LATER = ("data", "options", "precision", "model")
_RECORDED = (OnResume.TAKES_EFFECT, OnResume.MUST_STAY, OnResume.ON_OR_OFF)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = {}
    folder = Path(output_dir)
    for path in folder.iterdir() if folder.is_dir() else ():
        match = re.fullmatch(r"checkpoint-(\d+)", path.name, re.ASCII)
        if match and (path / MANIFEST).is_file():
            found[int(match[1])] = path
    return [found[step] for step in sorted(found)]


def find_checkpoint(output_dir: str | Path, resume_from_checkpoint: str | None) -> Path | None:
    """
    The checkpoint to resume from.

    Args:
        output_dir (`str` or `Path`): The run's folder.
        resume_from_checkpoint (`str`, *optional*): `"latest"`, a path, or None for a fresh start.

    Returns:
        `Path`, or None: without `resume_from_checkpoint`, or for `"latest"` when the run has written none yet.

    Raises:
        ValueError: A fresh start in a folder that holds checkpoints, or a path that is no complete checkpoint.
    """
    existing = list_checkpoints(output_dir)
    if resume_from_checkpoint is None:
        if existing:
            raise ValueError(
                f"output_dir {output_dir} already holds {existing[-1].name}: pass --resume_from_checkpoint latest "
                "to go on, or another --output_dir"
            )
        return None
    if resume_from_checkpoint == "latest":
        return existing[-1] if existing else None
    path = Path(resume_from_checkpoint)
    if not (path / MANIFEST).is_file():
        raise ValueError(
            f"resume_from_checkpoint must be `latest` or a complete checkpoint (a folder with {MANIFEST}), "
            f"got {str(path)!r}"
        )
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """
    The manifest of a checkpoint: `step`, `state`, and `files` with the `sha256` and `bytes` of each.

    Raises:
        ValueError: It is damaged.
    """
    manifest = read_json(path / MANIFEST)
    step, state, files = (manifest.get(name) for name in ("step", "state", "files"))
    if type(step) is not int or step < 0 or not isinstance(state, dict) or not isinstance(files, dict):
        raise ValueError(f"{path / MANIFEST} is damaged: it is no manifest of a checkpoint")
    if not all(isinstance(entry, dict) and {"sha256", "bytes"} <= entry.keys() for entry in files.values()):
        raise ValueError(f"{path / MANIFEST} is damaged: its list of files is not whole")
    return manifest


def recorded_options(args: Any) -> dict[str, Any]:
    """The options that a checkpoint keeps, to compare and to report."""
    names = [option.name for option in fields(args) if ON_RESUME[option.name] in _RECORDED]
    return {name: getattr(args, name) for name in names if name not in _RECORDED_ELSEWHERE}


def check_resumable(path: Path, manifest: dict[str, Any], state: dict[str, Any]) -> None:
    """
    Make sure that a run continues as the run that wrote a checkpoint.

    Args:
        path (`Path`): A checkpoint.
        manifest (`dict`): Its manifest.
        state (`dict`):
            What the run would write into one, or a part of it. `data` are compared by their fingerprint, `options` as
            `ON_RESUME` says, `model` field by field, and all else as it is.

    Raises:
        ValueError: Something differs; the message names it, with both values.
    """
    saved = manifest["state"]
    compare: dict[str, Callable] = {"data": _changed_data, "options": _changed_option, "model": _changed_field}
    for name, value in state.items():
        if name not in saved and name in _ADDED_LATER:
            logger.warning(f"{path} has no record of its {name}, which cannot be compared")
            continue
        if name in compare and not isinstance(saved[name], dict):
            raise ValueError(f"{path / MANIFEST} is damaged: {name} is no object")
        changed = compare.get(name, _changed_value)(name, saved.get(name), value)
        if changed:
            raise ValueError(f"cannot resume from {path}: {changed}")


def tell_changes(manifest: dict[str, Any], args: Any) -> list[str]:
    """A sentence for each option that has changed and takes effect."""
    saved = manifest["state"].get("options") or {}
    return [
        f"{name} was {saved[name]!r} and is {value!r} from step {manifest['step']:,} on"
        for name, value in recorded_options(args).items()
        if name in saved and saved[name] != value
    ]


def _changed_value(name: str, was: Any, value: Any) -> str | None:
    return None if was == value else f"{name} was {was!r} and is now {value!r}"


def _changed_data(name: str, was: dict, value: dict) -> str | None:
    if was.get("fingerprint") == value["fingerprint"]:
        return None
    return f"its data, {was.get('source')!r}, had other files (names or sizes) than {value['source']!r} has now"


def _changed_option(name: str, was: dict, value: dict) -> str | None:
    for option in (name for name in value if name in was):
        old, new = was[option], value[option]
        meaning = ON_RESUME[option]
        if meaning is OnResume.MUST_STAY and old != new:
            return _changed_value(option, old, new)
        if meaning is OnResume.ON_OR_OFF and bool(old) != bool(new):
            return f"{option} was {old!r} and is now {new!r}: it may change, but not to 0 or from 0"
    return None


def _changed_field(name: str, was: dict, value: dict) -> str | None:
    # A setting that the model did not have then has its default, or its weights would not fit.
    for key in sorted(was):
        if was[key] != value.get(key):
            return f"{key} of the model was {was[key]!r} and is now {value.get(key)!r}"
    return None
