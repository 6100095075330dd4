# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan evaluate`: figures of a tokenizer, a pipeline or images; from Python `fqgan_hf.evaluation.evaluate`."""

import argparse
import sys
from pathlib import Path

from fqgan_hf.commands.options import (
    Command,
    add_condition_arguments,
    add_device_argument,
    add_sampling_arguments,
    positive_int,
    read_condition_arguments,
    sampling_settings,
    seed_int,
)
from fqgan_hf.evaluation.image_source import check_source
from fqgan_hf.evaluation_results import format_table
from fqgan_hf.files import check_writable, write_json
from fqgan_hf.pipelines.inference import quiet_libraries, resolve_pipeline, resolve_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject = parser.add_argument_group("what is judged", "one of these").add_mutually_exclusive_group(required=True)
    subject.add_argument("--tokenizer", help="its reconstructions of the reference: a folder or a Hub id")
    subject.add_argument("--samples", help="images: a folder, a folder of `fqgan sample`, an .npz file, a dataset")
    subject.add_argument("--pipeline", help="what a generator's pipeline makes: a folder or a Hub id")
    add_reference_arguments(parser, "--reference")
    parser.add_argument("--samples_split", help="split of --samples, where it is a dataset")
    parser.add_argument(
        "--lpips", metavar="BACKBONE", help='also measure LPIPS: "vgg", or a vision network (comparable with itself)'
    )
    parser.add_argument("--out", type=Path, default=Path("evaluation.json"), help="default: %(default)s")
    sampling = parser.add_argument_group("with --pipeline")
    sampling.add_argument("--num_samples", type=positive_int, default=50_000, help="default: %(default)s")
    sampling.add_argument(
        "--samples_dir", type=Path, help="where samples are kept, and gone on with; default: beside --out"
    )
    sampling.add_argument("--seed", type=seed_int, default=0, help="default: %(default)s")
    add_condition_arguments(sampling)
    add_sampling_arguments(parser)
    add_device_argument(parser)


def add_reference_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """A set of images, the network that sees it, and how."""
    parser.add_argument(
        name,
        **({"required": True} if name.startswith("--") else {}),
        help="images: a folder of pictures, parquet or webdataset files, an .npz file, a folder of `fqgan sample`, or "
        "with --split a dataset; or an .npz file of statistics",
    )
    parser.add_argument("--split", help="of a local dataset or one on the Hub")
    parser.add_argument("--image_column", help="where it has several")
    parser.add_argument("--label_column", help="where it is not called label")
    parser.add_argument(
        "--features", default="inception", help='"inception", or an image network: a folder or a Hub id; default: '
        "%(default)s",
    )  # fmt: skip
    parser.add_argument("--inception_weights", type=Path, help="their file; default: in torch's cache")
    parser.add_argument(
        "--resolution", type=positive_int, help="resize and crop to this many pixels a side; default: the tokenizer's "
        "size, and otherwise the images' own",
    )  # fmt: skip
    parser.add_argument("--num_images", type=positive_int, help="only the first ones; default: all")
    parser.add_argument("--batch_size", type=positive_int, default=64, help="in each process; default: %(default)s")


def check_reference_arguments(source: str, arguments: argparse.Namespace, option: str) -> None:
    """Find what would end the run, in no time."""
    check_source(source, arguments.split, option)
    if arguments.inception_weights is not None and not arguments.inception_weights.is_file():
        raise FileNotFoundError(f"--inception_weights: there is no file {arguments.inception_weights}")


def run(arguments: argparse.Namespace) -> None:
    check_writable(arguments.out)
    check_reference_arguments(arguments.reference, arguments, "--reference")
    conditions = read_condition_arguments(arguments)
    tokenizer = pipeline = None
    if arguments.tokenizer is not None:
        tokenizer = resolve_tokenizer(arguments.tokenizer, "--tokenizer")
    elif arguments.pipeline is not None:
        pipeline = resolve_pipeline(arguments.pipeline, "--pipeline")
    else:
        check_source(arguments.samples, arguments.samples_split, "--samples")
    quiet_libraries(arguments.debug)
    from accelerate import PartialState

    from fqgan_hf.evaluation.run import evaluate

    result = evaluate(
        arguments.reference,
        tokenizer=tokenizer,
        samples=arguments.samples,
        pipeline=pipeline,
        features=arguments.features,
        inception_weights=arguments.inception_weights,
        split=arguments.split,
        samples_split=arguments.samples_split,
        resolution=arguments.resolution,
        num_images=arguments.num_images,
        lpips=arguments.lpips,
        num_samples=arguments.num_samples,
        samples_dir=arguments.samples_dir or arguments.out.with_name(f"{arguments.out.stem}-samples"),
        seed=arguments.seed,
        settings=sampling_settings(arguments),
        batch_size=arguments.batch_size,
        device=arguments.device,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        **conditions,
    )
    if PartialState().is_main_process:
        write_json(arguments.out, result)
        for warning in result["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
        print(format_table([result], [Path(arguments.tokenizer or arguments.pipeline or arguments.samples).name]))
        print(f"wrote {arguments.out}", flush=True)


COMMAND = Command(
    name="evaluate",
    summary="FID, PSNR, codebook usage and more, of a tokenizer, a pipeline or images",
    description=(
        "Judge a tokenizer's reconstructions, a pipeline's samples or any images beside reference images, and write\n"
        "the figures with the protocol that they follow. Several processes share the work:\n"
        "accelerate launch -m fqgan_hf.cli evaluate ..."
    ),
    examples=(
        "  fqgan evaluate --tokenizer user/fqgan-dual-f16 --reference imagenet/val --lpips vgg\n"
        "  fqgan evaluate --samples outputs/samples --reference statistics.npz --out samples.json\n"
        "  fqgan evaluate --pipeline outputs/demo/pipeline --reference digits --features outputs/demo/judge "
        "--num_samples 500\n"
        "  fqgan evaluate --pipeline user/emoji --prompts captions.txt --num_samples 500 --reference emoji/"
    ),
    add_arguments=add_arguments,
    run=run,
)
