# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan sample`: many images in shards; from Python `fqgan_hf.sample_to_folder`."""

import argparse
from pathlib import Path

from fqgan_hf.commands.options import (
    Command,
    add_condition_arguments,
    add_device_argument,
    add_generator_argument,
    add_sampling_arguments,
    number,
    positive_int,
    read_condition_arguments,
    sampling_settings,
)
from fqgan_hf.files import check_writable
from fqgan_hf.pipelines.inference import quiet_libraries, resolve_pipeline
from fqgan_hf.pipelines.labels import parse_labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_generator_argument(parser)
    parser.add_argument("--num", type=positive_int, required=True, help="images in all; may be raised later")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the shards and manifest.json")
    conditions = parser.add_argument_group(
        "conditions",
        "those that the generator was trained for, the values of each taken in turn",
    )
    conditions.add_argument(
        "--class_labels", nargs="+", metavar="LABEL", help="class ids or names, taken in turn; default: all classes"
    )
    add_condition_arguments(conditions)
    parser.add_argument("--seed", type=number(int, 0), default=0, help="default: %(default)s")
    parser.add_argument(
        "--batch_size", type=positive_int, default=16, help="images at a time in each process; default: %(default)s"
    )
    parser.add_argument(
        "--shard_size",
        type=positive_int,
        default=1024,
        help="images per shard: kept in memory until it is full, lost when the process is stopped before; best a "
        "multiple of the batch size; default: %(default)s",
    )
    parser.add_argument(
        "--format",
        choices=["png", "npz", "parquet"],
        default="png",
        help="png: folders of pictures with metadata.csv; npz: arr_0 images, arr_1 labels; parquet; default: png",
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="default: %(default)s"
    )
    parser.add_argument(
        "--quantization", choices=["int8"], help="of the generator's matrices, on a CPU: faster, worse"
    )
    parser.add_argument("--compile", action="store_true", help="on a GPU: compile and capture CUDA graphs")
    parser.add_argument(
        "--verify", action="store_true", help="compare what is there already with the hashes in manifest.json"
    )
    rejection = parser.add_argument_group("rejection sampling", "draw more images and keep the best of each class")
    rejection.add_argument(
        "--keep_best", type=number(float, 0, 1, above=True), metavar="R",
        help="share of the images drawn that is kept: --num / R are drawn",
    )  # fmt: skip
    rejection.add_argument(
        "--classifier", metavar="NETWORK",
        help="keep those whose class it gives the highest probability: an image classifier of transformers for the "
        "pipeline's classes, by folder or Hub id",
    )  # fmt: skip
    add_sampling_arguments(parser)
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.output_dir.exists() and not arguments.output_dir.is_dir():
        raise ValueError(f"--output_dir must be a folder, got the file {arguments.output_dir}")
    if (arguments.keep_best is None) != (arguments.classifier is None):
        raise ValueError("--keep_best and --classifier belong together: give both or neither")
    conditions = read_condition_arguments(arguments)
    folder = resolve_pipeline(arguments.model, "--model")
    check_writable(arguments.output_dir / "manifest.json")
    quiet_libraries(arguments.debug)
    from accelerate import PartialState

    from fqgan_hf.pipelines.sample import sample_to_folder

    done = sample_to_folder(
        folder,
        arguments.output_dir,
        batch_size=arguments.batch_size,
        device=arguments.device,
        compile=arguments.compile,
        verify=arguments.verify,
        model_name=arguments.model,
        num=arguments.num,
        class_labels=None if arguments.class_labels is None else parse_labels(arguments.class_labels),
        seed=arguments.seed,
        settings=sampling_settings(arguments),
        dtype=arguments.dtype,
        quantization=arguments.quantization,
        format=arguments.format,
        shard_size=arguments.shard_size,
        keep_best=arguments.keep_best,
        classifier=arguments.classifier,
        **conditions,
    )
    if PartialState().is_main_process:
        verified = ", with the content that was written" if arguments.verify else ""
        best = f", the best of {done.rejection.num_candidates}" if done.rejection else ""
        print(f"{arguments.output_dir} holds {done.num} images (seed {done.seed}){best}{verified}")


COMMAND = Command(
    name="sample",
    summary="many images in shards, by several processes, stopped and continued at will",
    description=(
        "Generate images of all classes, of given ones, of prompts or of maps, in turn, and write them in shards of\n"
        "PNG, npz or parquet files. Stopped anywhere, the same command goes on with what is missing. Several\n"
        "processes write the same files: accelerate launch -m fqgan_hf.cli sample ..."
    ),
    examples=(
        "  fqgan sample --model outputs/demo/pipeline --num 1000 --output_dir outputs/samples\n"
        "  fqgan sample --model user/far-base --num 50000 --batch_size 128 --dtype bfloat16 --format npz "
        "--output_dir out/\n"
        "  fqgan sample --model user/far-base --num 50000 --keep_best 0.5 --classifier user/resnet --output_dir best/"
        "\n  fqgan sample --model user/emoji --prompts captions.txt --num 1000 --steps 25 --output_dir out/\n"
        "  fqgan sample --model outputs/demo-map/pipeline --maps maps/ --num 1000 --output_dir out/"
    ),
    add_arguments=add_arguments,
    run=run,
)
