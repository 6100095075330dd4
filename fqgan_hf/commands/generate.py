# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan generate`: images of given classes, prompts or maps; from Python `fqgan_hf.generate_images`."""

import argparse
import os
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.commands.options import (
    Command,
    add_device_argument,
    add_sampling_arguments,
    number,
    positive_int,
    sampling_settings,
    seed_int,
)
from fqgan_hf.files import check_writable
from fqgan_hf.hub.resolve import DEMO_PIPELINE, embedded_pipeline
from fqgan_hf.pipelines.generation_files import GenerationRequest, read_request
from fqgan_hf.pipelines.inference import generate_images, load_pipeline, quiet_libraries, resolve_pipeline


if TYPE_CHECKING:
    from PIL import Image

    from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline


MAX_GENERATED = 10_000  # images of one command, which holds all of them at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        help="pipeline of a generator: a folder or a Hub id; default: for prompts alone the small one of emoji that "
        f"comes with this package, else {DEMO_PIPELINE}",
    )
    conditions = parser.add_argument_group(
        "conditions", "those that the generator was trained for, a row of images each"
    )
    conditions.add_argument("--class_labels", nargs="+", metavar="LABEL", help="class ids or names")
    conditions.add_argument("--prompt", nargs="+", metavar="TEXT", help="what to show, each in quotation marks")
    conditions.add_argument("--negative_prompt", metavar="TEXT", help="what guidance leads away from")
    conditions.add_argument(
        "--map", nargs="+", type=Path, metavar="FILE", help="label maps whose values are labels, or pictures"
    )
    parser.add_argument(
        "--num_images_per_label", "--num_images_per_prompt", type=positive_int, default=1, metavar="N",
        help="images of each label, prompt or map; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="a picture: a grid with a row per label; any other name: a folder of single images; default: %(default)s",
    )
    parser.add_argument("--seed", type=seed_int, help="default: a random one, which is printed")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="images at a time; default: %(default)s")
    parser.add_argument(
        "--steps",
        type=positive_int,
        metavar="N",
        help="of a generator by diffusion; default: 50, or all if it has fewer",
    )
    for side in ("height", "width"):
        parser.add_argument(f"--{side}", type=positive_int, metavar="PIXELS", help="default: as trained")
    editing = parser.add_argument_group("editing", "keep a part of an image and generate the rest")
    editing.add_argument("--image", nargs="+", type=Path, metavar="FILE", help="one for all rows, or one for each")
    editing.add_argument(
        "--mask", nargs="+", type=Path, metavar="FILE", help="of the image's size: white is generated, black is kept"
    )
    editing.add_argument(
        "--strength", type=number(float, 0, 1, above=True), metavar="S", help="share of the codes that is generated"
    )
    editing.add_argument("--keep", nargs="+", metavar="CODEBOOK", help="codebooks that are kept, by name or number")
    add_sampling_arguments(parser)
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    from fqgan_hf.evaluation.pictures import check_image_path, image_grid, is_image_path, save_image

    as_grid = is_image_path(arguments.out) and not arguments.out.is_dir()
    if as_grid:
        check_image_path(arguments.out)
    elif arguments.out.exists() and not arguments.out.is_dir():
        raise ValueError(f"--out must be a picture (.png, .jpg, ...) or a folder, got the file {arguments.out}")
    else:
        check_writable(arguments.out / "0.png")
    if arguments.class_labels is arguments.prompt is arguments.map is None:
        raise ValueError("one of --class_labels, --prompt and --map must be given")
    num_each = arguments.num_images_per_label
    num_rows = max(len(values or ()) for values in (arguments.class_labels, arguments.prompt, arguments.map))
    if num_rows * num_each > MAX_GENERATED:
        raise ValueError(
            f"--num_images_per_label must give at most {MAX_GENERATED:,} images, got {num_rows} x {num_each} "
            "(`fqgan sample` writes any number)"
        )
    folder = resolve_pipeline(arguments.model or _default_model(arguments), "--model")
    request = _read_request(folder, arguments)
    quiet_libraries(arguments.debug)
    from fqgan_hf import optimize

    settings = sampling_settings(arguments)
    pipe = load_pipeline(folder, arguments.device)
    if as_grid:
        trained = pipe.vqmodel.config.sample_size
        _check_grid(arguments.out, arguments.width or trained, arguments.height or trained, num_each, request.captions)
    _note_unknown_words(arguments.prompt, pipe)
    optimize(pipe, compile=False)  # the same images; compiling takes longer than a few of them
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    images = generate_images(
        pipe, request.repeated(num_each), seed=seed, batch_size=arguments.batch_size, settings=settings,
        arguments=request.arguments,
    )  # fmt: skip
    rows = [images[i : i + num_each] for i in range(0, len(images), num_each)]
    if as_grid:
        save_image(image_grid(rows, row_captions=request.captions), arguments.out)
        print(f"wrote {arguments.out} (seed {seed})")
    else:
        _save_folder(rows, request.captions, arguments.out)
        print(f"wrote {len(images)} images to {arguments.out}{os.sep} (seed {seed})")


def _default_model(arguments: argparse.Namespace) -> str | Path:
    """What makes pictures of words, or of anything else, where no model is named."""
    only_words = arguments.class_labels is arguments.map is None
    return embedded_pipeline() if only_words else DEMO_PIPELINE


def _note_unknown_words(prompts: list[str] | None, pipe: "GeneratorPipeline") -> None:
    """On stderr: the libraries' warnings are hidden."""
    from fqgan_hf.pipelines.prompts import unknown_words

    found = [word for prompt in prompts or () for word in unknown_words(prompt, pipe.tokenizer)]
    if found:
        print(f"fqgan generate: this model does not know: {', '.join(dict.fromkeys(found))}", file=sys.stderr)


def _read_request(folder: Path, arguments: argparse.Namespace) -> GenerationRequest:
    return read_request(
        folder,
        arguments.class_labels,
        arguments.prompt,
        arguments.map,
        arguments.image,
        arguments.mask,
        negative_prompt=arguments.negative_prompt,
        num_inference_steps=arguments.steps,
        strength=arguments.strength,
        keep_codebooks=arguments.keep,
        height=arguments.height,
        width=arguments.width,
    )


def _check_grid(path: Path, width: int, height: int, num_columns: int, names: list[str]) -> None:
    """Raise `ValueError` if the picture's format has no room for the grid, before the first image is made."""
    from PIL import Image

    from fqgan_hf.evaluation.pictures import check_image_format, image_grid

    blanks = [[Image.new("RGB", (width, height))] * num_columns] * len(names)
    check_image_format(path, image_grid(blanks, row_captions=names))


def _save_folder(rows: list[list["Image.Image"]], names: list[str], folder: Path) -> None:
    """Write single images, numbered over all rows: 00_tench.png, 01_tench.png, 02_goldfish.png, ..."""
    from fqgan_hf.evaluation.pictures import save_image

    digits = len(str(sum(map(len, rows)) - 1))
    number = 0
    for row, name in zip(rows, names, strict=True):
        slug = re.sub(r"\W+", "_", name.split(",")[0]).strip("_").lower()[:80]
        for image in row:
            save_image(image, folder / f"{number:0{digits}d}_{slug}.png")
            number += 1


COMMAND = Command(
    name="generate",
    summary="images of given classes, prompts or maps",
    description=(
        "Generate images of classes, prompts or maps, whatever the generator was trained for, or edit images by\n"
        "their codes. The same seed gives the same images, whatever the batch size."
    ),
    examples=(
        "  fqgan generate --model outputs/demo/pipeline --class_labels 3 seven --num_images_per_label 4 --seed 0\n"
        '  fqgan generate --model user/far-base --class_labels 3 "golden retriever" --guidance_scale 2 1.5\n'
        '  fqgan generate --prompt "smiling cat" --out cat.png\n'
        '  fqgan generate --prompt "smiling cat" --image cat.png --strength 0.5 --out other_cat.png\n'
        '  fqgan generate --model user/birds --prompt "a red bird" "a blue bird" --steps 25 --guidance_scale 3\n'
        '  fqgan generate --model user/birds --prompt "a red bird" --image bird.png --mask mask.png\n'
        '  fqgan generate --model user/birds --prompt "a red bird" --image bird.png --keep semantic'
    ),
    add_arguments=add_arguments,
    run=run,
)
