# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan analyze`: a report of what codebooks hold; from Python `fqgan_hf.evaluation.analyze.analyze`."""

import argparse
from pathlib import Path

from fqgan_hf.commands.options import Command, add_device_argument, add_tokenizer_argument, positive_int, seed_int
from fqgan_hf.evaluation.image_source import check_source
from fqgan_hf.files import check_writable
from fqgan_hf.pipelines.inference import quiet_libraries, resolve_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        help="a folder of pictures, parquet or webdataset files, an .npz file, a folder of `fqgan sample`, or with "
        "--split a dataset",
    )
    add_tokenizer_argument(parser)
    parser.add_argument("--split", help="of a local dataset or one on the Hub")
    parser.add_argument("--image_column", help="where it has several")
    parser.add_argument("--label_column", help="where it is not called label")
    parser.add_argument("--output_dir", type=Path, default=Path("analysis"), help="default: %(default)s")
    parser.add_argument(
        "--features", metavar="NETWORK",
        help="a classifier of the images' classes, to judge reconstructions: a folder or a Hub id",
    )  # fmt: skip
    parser.add_argument("--num_images", type=positive_int, default=1000, help="drawn by --seed; default: %(default)s")
    parser.add_argument(
        "--num_shown", type=positive_int, default=6, help="of which pictures are shown; default: %(default)s"
    )
    parser.add_argument(
        "--resolution", type=positive_int, help="resize and crop to this many pixels a side; default: the tokenizer's"
    )
    parser.add_argument("--seed", type=seed_int, default=0, help="of all choices; default: %(default)s")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="images at a time; default: %(default)s")
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    report = arguments.output_dir / "report.html"
    check_writable(report)
    check_source(arguments.images, arguments.split, "images")
    resolve_tokenizer(arguments.model, "--model")
    quiet_libraries(arguments.debug)
    from fqgan_hf.evaluation.analyze import analyze

    result = analyze(
        arguments.model,
        arguments.images,
        arguments.output_dir,
        split=arguments.split,
        features=arguments.features,
        num_images=arguments.num_images,
        resolution=arguments.resolution,
        num_shown=arguments.num_shown,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        device=arguments.device,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
    )
    codes = result["codes"]
    for name, used, perplexity in zip(
        result["model"]["codebooks"], codes["codes_used"], codes["perplexity"], strict=True
    ):
        print(f"{name}: {used:,} codes used of {result['model']['codebook_size']:,}, perplexity {perplexity:,.1f}")
    print(f"wrote {report}", flush=True)


COMMAND = Command(
    name="analyze",
    summary="a report of what each codebook of a tokenizer holds",
    description=(
        "Look at what the codebooks of a tokenizer hold: reconstructions from all and from each alone, maps of codes\n"
        "and of images, use of the codes, patches that frequent codes stand for, how much class each carries, and\n"
        "how much two of them share. Writes report.html, its pictures in figures/, and the numbers in analysis.json."
    ),
    examples=(
        "  fqgan analyze path/to/images --model outputs/demo/pipeline --output_dir analysis\n"
        "  fqgan analyze path/to/cifar10 --split test --model user/fqgan-dual --features path/to/classifier"
    ),
    add_arguments=add_arguments,
    run=run,
)
