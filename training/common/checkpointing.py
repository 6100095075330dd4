# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that are complete or absent, and the atomic export of a trained model.

`accelerator.save_state` writes in place. Here it writes to `checkpoint-500.tmp`; every file is hashed into a manifest
and flushed to the disk; only then is the folder renamed to `checkpoint-500`, and only after that are old checkpoints
removed. A run that is killed anywhere leaves the previous checkpoint as it was.
"""

import copy
import shutil
from collections.abc import Iterable, Mapping
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

from fqgan_hf.failures import first_line
from fqgan_hf.files import MANIFEST, named_errors, replace_path, sha256, staged_folder, write_json
from fqgan_hf.training.common.resuming import check_resumable, list_checkpoints, read_checkpoint


logger = get_logger(__name__)

EMA_FILE = "ema.safetensors"


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
    except BaseException as error:
        free = shutil.disk_usage(output_dir).free
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, (OSError, RuntimeError, SafetensorError)):  # a full disk speaks through each of these
            raise
        previous = list_checkpoints(output_dir)
        kept = f"the last complete one is {previous[-1]}" if previous else "there is no earlier one"
        raise OSError(
            f"checkpoint {final} could not be written with {free:,} bytes free; {kept}. Make room and go on with "
            f"--resume_from_checkpoint latest ({first_line(error)})"
        ) from error
    if accelerator.is_main_process and total_limit is not None:
        for old in list_checkpoints(output_dir)[:-total_limit]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def _complete(temporary: Path, final: Path, step: int, state: dict[str, Any]) -> None:
    """Hash all files, write the manifest, and give the folder its name."""
    files = {}
    for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
        files[path.relative_to(temporary).as_posix()] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    write_json(temporary / MANIFEST, {"step": step, "state": state, "files": files})
    replace_path(temporary, final)  # there may be one of the same step, after a resume from an older checkpoint


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that FSDP may have sharded, in one piece; every process calls this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def load_checkpoint(
    accelerator: Accelerator, path: Path, state: dict[str, Any], max_train_steps: int, ema: EMAModel | None = None
) -> int:
    """
    Restore what `save_checkpoint` wrote, under the options of this run; every process calls this.

    Optimizers get their moments back, but keep their own learning rate, betas, epsilon and decay, and schedulers their
    own curve, at the step that was reached.

    Args:
        accelerator (`Accelerator`): With the same models, optimizers and schedulers prepared.
        path (`Path`): A complete checkpoint.
        state (`dict`): What this run writes into checkpoints; see `check_resumable` for what must be equal.
        max_train_steps (`int`): Where the run ends.
        ema (`EMAModel`, *optional*): Receives the averaged weights.

    Returns:
        `int`: Optimizer steps done.

    Raises:
        ValueError: A file is missing or damaged, or the run is another one.
    """
    # All that can be refused is refused before anything is loaded, and the hashes, which read every file, come last.
    manifest = read_checkpoint(path)
    check_resumable(path, manifest, state)
    if manifest["step"] > max_train_steps:
        raise ValueError(
            f"max_train_steps must be at least {manifest['step']}, the steps done in {path}, got {max_train_steps}"
        )
    if (ema is not None) != (EMA_FILE in manifest["files"]):
        raise ValueError(f"use_ema must be as in {path}, which was written {'with' if ema is None else 'without'} it")
    _check_files(path, manifest["files"])

    # torch stores learning rate, betas, epsilon and decay inside an optimizer's state, and the base rates inside a
    # scheduler's. Those of the run that wrote the checkpoint would silently win over the options of this one.
    own_settings = _settings(accelerator)
    try:
        accelerator.load_state(str(path))
        if ema is not None:
            _load_averages(ema, path, manifest["state"]["ema_optimization_step"], accelerator.device)
    except Exception as error:  # the files are as they were written, so they belong to another model or optimizer
        raise ValueError(f"{path} does not fit this run: {first_line(error)}") from error
    _keep_settings(accelerator, own_settings)

    # accelerate counts batches, and has just restored its count. Checkpoints are written between steps, so the count
    # was a multiple of the batches per step *then*. With another number now, the first step would be too short.
    if accelerator.step % accelerator.gradient_accumulation_steps:
        accelerator.step = 0
    return manifest["step"]


def _check_files(path: Path, files: dict[str, dict[str, Any]]) -> None:
    for name, expected in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"] or sha256(file) != expected["sha256"]:
            raise ValueError(
                f"checkpoint {path} is damaged: {name} does not have the content that was written. "
                "Resume from an older one by its path"
            )


def _load_averages(ema: EMAModel, path: Path, optimization_step: int, device: torch.device) -> None:
    tensors = load_file(path / EMA_FILE)  # whole; under FSDP each process takes its shard, as its average has them
    averages = [
        distribute_tensor(tensors[str(i)].to(like.device), like.device_mesh, like.placements)
        if isinstance(like, DTensor)
        else tensors[str(i)]
        for i, like in enumerate(ema.shadow_params)
    ]
    ema.load_state_dict({"shadow_params": averages, "optimization_step": optimization_step})
    ema.to(device)


def _settings(accelerator: Accelerator) -> list[list[dict[str, Any]]]:
    """What the options of the run made of each group of parameters of each optimizer."""
    return [
        [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
        for optimizer in accelerator._optimizers
    ]


def _keep_settings(accelerator: Accelerator, settings: list[list[dict[str, Any]]]) -> None:
    """Put back what loading has replaced by the options of the run that wrote the checkpoint."""
    for optimizer, groups in zip(accelerator._optimizers, settings, strict=True):
        for group, own in zip(optimizer.param_groups, groups, strict=True):
            group.update(own)
    # A schedule is a function of the step: with the curve of this run, at the step that was reached.
    for wrapped in accelerator._schedulers:
        scheduler = wrapped.scheduler
        groups = scheduler.optimizer.param_groups
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        scheduler._last_lr = [rate * factor for rate, factor in zip(scheduler.base_lrs, factors, strict=True)]
        for group, rate in zip(groups, scheduler._last_lr, strict=True):
            group["lr"] = rate


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


def export(components: Iterable[Any], output_dir: str | Path, parts: Mapping[str, Any] | None = None) -> None:
    """
    Save models and processors in `from_pretrained` form directly in `output_dir`, all of them or none.

    Whoever finds a `config.json` there finds the weights that belong to it. See `staged_folder`.

    Args:
        components (`Iterable`): Go into the folder itself.
        output_dir (`str` or `Path`): The folder.
        parts (`Mapping[str, Any]`, *optional*): Others, by the subfolder that they go into.

    Raises:
        OSError: There is no room for it, for example; what was there before is as it was.
    """
    output_dir = Path(output_dir)
    with named_errors(f"the model in {output_dir}"), staged_folder(output_dir) as staging:
        for component in components:
            component.save_pretrained(str(staging))
        for folder, part in (parts or {}).items():
            part.save_pretrained(str(staging / folder))
