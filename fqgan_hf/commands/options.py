# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import argparse
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    pass


MAX_SEED = 2**32 - 1  # all that a CPU generator of torch reads of a seed


def single_or_list(values: list) -> Any:
    """`[x]` -> `x`: one value holds for all codebooks."""
    return values[0] if len(values) == 1 else values


def parse_labels(words: list[str]) -> list[int | str]:
    """Class labels as typed: "3" is an id; a class whose name is a number still answers to its id."""
    return [int(word) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", word) else word for word in words]


def number(kind: type, least: float, most: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """Argument type: a number of a kind in [least, most], or with `above` in (least, most]."""

    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value <= most or value == math.inf or (above and value == least):
            bound = f"above {least:g}" if above else f"at least {least:,}"
            bound += f" and at most {most:,}" if most < math.inf else ""
            raise argparse.ArgumentTypeError(f"must be {bound}, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse: "invalid int value"
    return parse


positive_int = number(int, 1)

seed_int = number(int, 0, MAX_SEED)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    sampling = parser.add_argument_group("sampling", "one value, or one per codebook (visual first)")
    scale, temperature = number(float, 0), number(float, 0, above=True)
    sampling.add_argument(
        "--guidance_scale", nargs="+", type=scale, default=[2.0], metavar="S", help="default: 2.0; 1: off"
    )
    sampling.add_argument(
        "--temperature", nargs="+", type=temperature, default=[1.0], metavar="T", help="default: 1.0"
    )
    sampling.add_argument(
        "--top_k", nargs="+", type=number(int, 0), default=[0], metavar="K", help="default: 0, all codes"
    )
    sampling.add_argument(
        "--top_p", nargs="+", type=number(float, 0, 1, above=True), default=[1.0], metavar="P",
        help="default: 1.0, all codes",
    )  # fmt: skip
    sampling.add_argument(
        "--guidance_schedule",
        choices=["constant", "linear", "power-cosine"],
        default="constant",
        help="default: constant",
    )
    sampling.add_argument("--greedy", action="store_true", help="take the likeliest code everywhere: no randomness")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help='"cpu", "cuda", "cuda:1", "mps"; default: a GPU if there is one'
    )
