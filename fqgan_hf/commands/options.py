# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a subcommand is, and the options that several of them share."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.hub.resolve import DEMO_PIPELINE
from fqgan_hf.option_checks import MAX_SEED
from fqgan_hf.pipelines.generation_files import read_maps, read_prompts


if TYPE_CHECKING:
    from fqgan_hf.modeling.code_sampling import SamplingSettings


@dataclass(frozen=True, kw_only=True)
class Command:
    """
    One subcommand.

    Args:
        name (`str`): As typed.
        summary (`str`): Its line in `fqgan --help`.
        description (`str`): What it does, with line breaks.
        examples (`str`): Command lines, one per line.
        add_arguments (`Callable`): Adds its arguments to a parser.
        run (`Callable`): Does it; an error there becomes one line on stderr.
    """

    name: str
    summary: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


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


def add_generator_argument(parser: argparse.ArgumentParser) -> None:
    """`--model`, for commands that generate."""
    parser.add_argument(
        "--model", default=DEMO_PIPELINE, help="pipeline of a generator: a folder or a Hub id; default: %(default)s"
    )


def add_tokenizer_argument(parser: argparse.ArgumentParser) -> None:
    """`--model`, for commands that need a tokenizer only."""
    parser.add_argument(
        "--model", default=DEMO_PIPELINE, help="tokenizer or pipeline: a folder or a Hub id; default: %(default)s"
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """`--device`."""
    parser.add_argument(
        "--device", default="auto", help='"cpu", "cuda", "cuda:1", "mps"; default: a GPU if there is one'
    )


def add_condition_arguments(parser: Any) -> None:
    """The options that `read_condition_arguments` reads, for a parser or a group: what images are generated for."""
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="prompts, taken in turn: a text file with one per line, or .parquet",
    )  # fmt: skip
    parser.add_argument("--prompt_column", metavar="NAME", help="of the parquet file; default: caption")
    parser.add_argument(
        "--maps", type=Path, metavar="SOURCE",
        help="maps, taken in turn: a folder of picture files, in the order of their names, or .parquet",
    )  # fmt: skip
    parser.add_argument("--map_column", metavar="NAME", help="of the parquet file; default: map")
    parser.add_argument("--negative_prompt", metavar="TEXT", help="what guidance leads away from")
    parser.add_argument(
        "--steps", type=positive_int, metavar="N",
        help="of a generator by diffusion; default: 50, or all if it has fewer",
    )  # fmt: skip


def read_condition_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    What the options of `add_condition_arguments` say, as `sample_to_folder` and `evaluate` take it.

    Raises:
        ValueError: They do not fit together, or a file holds something else.
        FileNotFoundError: There is no such file.
    """
    for option, needed in (("prompt_column", "prompts"), ("map_column", "maps")):
        if getattr(arguments, option) is not None and getattr(arguments, needed) is None:
            raise ValueError(f"--{option} needs --{needed}")
    prompts = None if arguments.prompts is None else read_prompts(arguments.prompts, arguments.prompt_column)
    maps = None if arguments.maps is None else read_maps(arguments.maps, arguments.map_column)
    if prompts is not None and arguments.prompts == arguments.maps and len(prompts) != len(maps):
        raise ValueError(  # rows without a prompt were left out, and those after them would get maps of others
            f"--prompts and --maps of one file belong together, {arguments.maps} must hold as many of both, "
            f"got {len(prompts)} and {len(maps)}"
        )
    return {
        "prompts": prompts,
        "maps": maps,
        "negative_prompt": arguments.negative_prompt,
        "num_inference_steps": arguments.steps,
    }


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `sampling_settings` reads."""
    sampling = parser.add_argument_group("sampling", "one value, or one per codebook (visual first)")
    temperature = number(float, 0, above=True)
    sampling.add_argument(
        "--guidance_scale", nargs="+", type=_guidance_scale, default=[2.0], metavar="S",
        help="default: 2.0; 1: off; of several conditions each may have its own: text=4 map=1.5",
    )  # fmt: skip
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


def _guidance_scale(text: str) -> float | tuple[str, float]:
    """A scale, or "condition=scale" as a pair."""
    name, is_named, value = text.rpartition("=")
    scale = number(float, 0)(value)
    return (name.strip(), scale) if is_named else scale


_guidance_scale.__name__ = "float"  # argparse: "invalid float value"


def sampling_settings(arguments: argparse.Namespace) -> "SamplingSettings":
    """The settings that the options of `add_sampling_arguments` ask for. It imports torch."""
    from fqgan_hf.modeling.code_sampling import SamplingSettings

    scales = arguments.guidance_scale
    is_named = [isinstance(scale, tuple) for scale in scales]
    if any(is_named) and not (all(is_named) and len(dict(scales)) == len(scales)):
        raise ValueError("--guidance_scale must be numbers, or CONDITION=NUMBER once for each condition")
    return SamplingSettings(
        guidance_scale=dict(scales) if any(is_named) else _single_or_list(scales),
        temperature=_single_or_list(arguments.temperature),
        top_k=_single_or_list(arguments.top_k),
        top_p=_single_or_list(arguments.top_p),
        guidance_schedule=arguments.guidance_schedule,
        do_sample=not arguments.greedy,
    )


def _single_or_list(values: list[Any]) -> Any:
    """`[x]` -> `x`: one value holds for all codebooks."""
    return values[0] if len(values) == 1 else values
