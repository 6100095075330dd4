# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a training gives to a regularized quantizer: prior, pooling over the processes, temperatures by the step."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:  # a mistake in the options is answered before torch is imported
    from accelerate import Accelerator

    from fqgan_hf.modeling.quantizer_regularized import RegularizedQuantizer


def read_prior(path: str | Path, num_codebooks: int, codebook_size: int) -> list[list[float]]:
    """
    A prior distribution for each codebook, from a JSON file: one list of N probabilities for all, or K lists.

    Raises:
        ValueError: The file holds something else; the message begins with the option's name, `prior`.
        OSError: It cannot be read.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"prior {path} must be a JSON file: {error}") from error
    except OSError as error:
        raise OSError(f"prior {path} cannot be read: {error.strerror or error}") from error
    if isinstance(rows, list) and rows and not isinstance(rows[0], list):
        rows = [rows] * num_codebooks
    if not isinstance(rows, list) or len(rows) != num_codebooks:
        raise ValueError(f"prior {path} must hold a list of {codebook_size} probabilities, or {num_codebooks} lists")
    for row in rows:
        if not isinstance(row, list) or not all(type(value) in (int, float) for value in row):
            raise ValueError(f"prior {path} must hold numbers only")
        if len(row) != codebook_size:
            raise ValueError(f"prior {path} must have {codebook_size} probabilities for a codebook, got {len(row)}")
        if not all(value > 0 and math.isfinite(value) for value in row):
            raise ValueError(
                f"prior {path} must be positive everywhere, got {min(row)}: the KL to a code of prior 0 is infinite"
            )
        if not math.isclose(sum(row), 1.0, abs_tol=1e-4):
            raise ValueError(f"prior {path} must sum to 1, got {sum(row):.6g}")
    return rows


def prepare_quantizer(accelerator: "Accelerator", quantizer: "RegularizedQuantizer", args: Any) -> None:
    """Give a quantizer on its device the prior of the options, and counts of all processes for the prior term."""
    import torch

    if args.prior is not None:
        prior = read_prior(args.prior, quantizer.num_codebooks, quantizer.codebook_size)
        quantizer.set_prior(torch.tensor(prior, dtype=torch.float64))
    if accelerator.num_processes > 1:
        quantizer.pool_counts = partial(accelerator.reduce, reduction="sum")


def temperatures(args: Any, step: int, num_steps: int) -> tuple[float, float]:
    """
    Temperatures of the Gumbel-softmax and of the softmax at a step: functions of it alone.

    Args:
        args: Options `gumbel_temperature`, `softmax_temperature`, both with `_end`, and `temperature_schedule`.
        step (`int`): Optimizer steps done.
        num_steps (`int`): Of the whole training; the last one has the temperature of the end.
    """
    done = min(1.0, step / max(1, num_steps - 1))
    share = {"constant": 0.0, "linear": done, "cosine": (1.0 - math.cos(math.pi * done)) / 2}[
        args.temperature_schedule
    ]
    found = []
    for name in ("gumbel", "softmax"):
        start, end = getattr(args, f"{name}_temperature"), getattr(args, f"{name}_temperature_end")
        found.append(start if end is None else start + (end - start) * share)
    return found[0], found[1]


def check_prior(args: Any, config: Mapping[str, Any]) -> None:
    """Raise for a `--prior` that does not fit a tokenizer's configuration, before anything is imported for it."""
    if args.prior is not None:
        read_prior(args.prior, config["num_codebooks"], config["codebook_size"])
