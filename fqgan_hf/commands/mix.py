# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan mix`: swap codebooks between two images; from Python `FQGANPipeline.mix`."""

import argparse
from pathlib import Path

from fqgan_hf.commands.options import Command, add_device_argument, add_tokenizer_argument, positive_int
from fqgan_hf.hub.facts import folder_kind, tokenizer_facts
from fqgan_hf.pipelines.inference import load_tokenizer, quiet_libraries, resolve_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image_a", type=Path, metavar="A", help="a picture file: the mixture below it keeps its others"
    )
    parser.add_argument("image_b", type=Path, metavar="B", help="a picture file; gives A its codes of --take")
    parser.add_argument(
        "--take", nargs="+", required=True, metavar="CODEBOOK",
        help="what the images swap: names such as semantic or visual, or ids from 0; `fqgan info MODEL` lists them",
    )  # fmt: skip
    add_tokenizer_argument(parser)
    parser.add_argument("--out", type=Path, default=Path("mix.png"), help="the grid; default: %(default)s")
    parser.add_argument(
        "--size", type=positive_int, help="scale and crop to this many pixels a side; default: the model's own size"
    )
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    from fqgan_hf.evaluation.pictures import check_image_path
    from fqgan_hf.pipelines.mix import mix_files, taken_codebooks

    paths = (arguments.image_a, arguments.image_b)
    check_image_path(arguments.out)
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        if arguments.out.exists() and arguments.out.samefile(path):
            raise ValueError(f"--out {arguments.out} is one of the images: it would be overwritten")
    folder = resolve_tokenizer(arguments.model, "--model")
    taken_codebooks(arguments.take, _codebook_names(folder))
    quiet_libraries(arguments.debug)
    taken = mix_files(load_tokenizer(folder, arguments.device), *paths, arguments.take, arguments.out, arguments.size)
    print(f"swapped: {', '.join(taken)}")
    print(f"wrote {arguments.out}", flush=True)


def _codebook_names(folder: Path) -> list[str]:
    """Of the tokenizer in a folder, without loading it."""
    return tokenizer_facts(folder / "vqmodel" if folder_kind(folder).role == "pipeline" else folder)["codebooks"]


COMMAND = Command(
    name="mix",
    summary="swap codebooks between two images, to see what each holds",
    description=(
        "Decode the codes of image A with those of image B in some codebooks, and the reverse. Writes a grid with a\n"
        "column per image: original, reconstruction, and the image with the other's codes of --take."
    ),
    examples=(
        "  fqgan mix a.jpg b.jpg --take semantic --model outputs/demo/pipeline --out mix.png\n"
        "  fqgan mix a.jpg b.jpg --take 0 2 --model user/fqgan-triple-f16"
    ),
    add_arguments=add_arguments,
    run=run,
)
