# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that are complete or absent, and the atomic export of a trained model.

`accelerator.save_state` writes in place. Here it writes to `checkpoint-500.tmp`; every file is hashed into a manifest
and flushed to the disk; only then is the folder renamed to `checkpoint-500`, and only after that are old checkpoints
removed. A run that is killed anywhere leaves the previous checkpoint as it was.
"""

import copy
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor

from fqgan_hf.files import MANIFEST, fsync, sha256, write_json


logger = get_logger(__name__)

EMA_FILE = "ema.safetensors"


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = {}
    for path in Path(output_dir).glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
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


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: str | Path,
    step: int,
    state: dict[str, Any],
    ema: EMAModel | None = None,
    total_limit: int | None = None,
) -> Path:
    """
    Write `output_dir/checkpoint-{step}`; every process calls this.

    Args:
        accelerator (`Accelerator`): Holds models, optimizers and schedulers.
        output_dir (`str` or `Path`): The run's folder, shared by all processes.
        step (`int`): Optimizer steps done.
        state (`dict`): JSON values to find again in the manifest.
        ema (`EMAModel`, *optional*): Averaged weights; stored as safetensors.
        total_limit (`int`, *optional*): Keep only so many checkpoints. Older ones go after this one is complete.
    """
    final = Path(output_dir) / f"checkpoint-{step}"
    temporary = final.with_name(final.name + ".tmp")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    averages = None if ema is None else [whole(tensor) for tensor in ema.shadow_params]
    try:
        accelerator.save_state(str(temporary))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            if ema is not None:
                save_file({str(i): tensor.contiguous() for i, tensor in enumerate(averages)}, temporary / EMA_FILE)
                state = {**state, "ema_optimization_step": ema.optimization_step}
            _complete(temporary, final, step, state)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk speaks through each of these
        free = shutil.disk_usage(output_dir).free  # torch does not name the cause
        shutil.rmtree(temporary, ignore_errors=True)
        previous = list_checkpoints(output_dir)
        kept = f"the last complete one is {previous[-1]}" if previous else "there is no earlier one"
        raise OSError(
            f"checkpoint {final} could not be written with {free:,} bytes free: {error}; {kept}. "
            "Make room and go on with --resume_from_checkpoint latest"
        ) from error
    if accelerator.is_main_process and total_limit is not None:
        for old in list_checkpoints(output_dir)[:-total_limit]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def _complete(temporary: Path, final: Path, step: int, state: dict[str, Any]) -> None:
    """Hash and flush all files, write the manifest, and give the folder its name."""
    files = {}
    for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
        fsync(path)
        files[path.relative_to(temporary).as_posix()] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    write_json(temporary / MANIFEST, {"step": step, "state": state, "files": files})
    if final.exists():  # the same step again, after a resume from an older checkpoint
        shutil.rmtree(final)
    temporary.rename(final)
    fsync(final.parent)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that FSDP may have sharded, in one piece; every process calls this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def load_checkpoint(accelerator: Accelerator, path: Path, state: dict[str, Any], ema: EMAModel | None = None) -> int:
    """
    Restore everything that `save_checkpoint` wrote; every process calls this.

    Args:
        accelerator (`Accelerator`): With the same models, optimizers and schedulers prepared.
        path (`Path`): A complete checkpoint.
        state (`dict`): Must equal what was saved: what the position in the data follows from.
        ema (`EMAModel`, *optional*): Receives the averaged weights.

    Returns:
        `int`: Optimizer steps done.

    Raises:
        ValueError: A file is missing or damaged, or the run's settings differ from the saved ones.
    """
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"] or sha256(file) != expected["sha256"]:
            raise ValueError(
                f"checkpoint {path} is damaged: {name} does not have the content that was written. "
                "Resume from an older one by its path"
            )
    for name, value in state.items():
        if manifest["state"].get(name) != value:
            raise ValueError(
                f"cannot resume from {path}: {name} was {manifest['state'].get(name)!r} and is now {value!r}, "
                "so that the data would not continue where they stopped"
            )
    if (ema is not None) != (EMA_FILE in manifest["files"]):
        raise ValueError(f"use_ema must be as in {path}, which was written {'with' if ema is None else 'without'} it")
    accelerator.load_state(str(path))
    if ema is not None:
        tensors = load_file(path / EMA_FILE)
        averages = [
            distribute_tensor(tensors[str(i)].to(like.device), like.device_mesh, like.placements)
            if isinstance(like, DTensor)
            else tensors[str(i)]
            for i, like in enumerate(ema.shadow_params)
        ]
        step = manifest["state"]["ema_optimization_step"]
        ema.load_state_dict({"shadow_params": averages, "optimization_step": step})
        ema.to(accelerator.device)
    return manifest["step"]


def unsharded(model: nn.Module) -> nn.Module:
    """
    A model with whole weights to save; every process calls this.

    Returns:
        `nn.Module`: The model itself, or where FSDP has sharded it a copy on the CPU, complete on the main process.
    """
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    whole = type(model)(copy.deepcopy(model.config))
    if weights:
        whole.load_state_dict(weights)
    return whole.to(model.dtype)


def export(components: Iterable[Any], output_dir: str | Path) -> None:
    """
    Save models and processors in `from_pretrained` form directly in `output_dir`.

    Each file replaces its predecessor in one step, weights before configurations, so that a folder with a new
    `config.json` has the new weights.
    """
    output_dir = Path(output_dir)
    staging = output_dir / "export.tmp"
    shutil.rmtree(staging, ignore_errors=True)
    for component in components:
        component.save_pretrained(str(staging))
    for path in sorted(staging.iterdir(), key=lambda path: (path.suffix == ".json", path.name)):
        path.chmod(0o644)  # safetensors writes 0600, which another user could not load
        fsync(path)
        path.replace(output_dir / path.name)
    staging.rmdir()
    fsync(output_dir)
