# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.commands.options import add_device_argument, add_sampling_arguments, number, parse_labels, positive_int
from fqgan_hf.files import check_writable
from fqgan_hf.pipelines.inference import (
    DEMO_PIPELINE,
    choose_device,
    load_generating_pipeline,
    quiet_libraries,
    resolve_generating_pipeline,
)


if TYPE_CHECKING:
    pass


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=DEMO_PIPELINE, help="FARPipeline: a folder or a Hub id; default: %(default)s"
    )
    parser.add_argument("--num", type=positive_int, required=True, help="images in all; may be raised later")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the shards and manifest.json")
    parser.add_argument(
        "--class_labels", nargs="+", metavar="LABEL", help="class ids or names, taken in turn; default: all classes"
    )
    parser.add_argument("--seed", type=number(int, 0), default=0, help="default: %(default)s")
    parser.add_argument(
        "--batch_size", type=positive_int, default=16, help="images at a time in each process; default: %(default)s"
    )
    parser.add_argument(
        "--shard_size",
        type=positive_int,
        default=1024,
        help="images a shard: kept in memory until it is full, lost when the process is stopped before; best a "
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
    add_sampling_arguments(parser)
    add_device_argument(parser)


def run_sample(arguments: argparse.Namespace) -> None:
    if arguments.output_dir.exists() and not arguments.output_dir.is_dir():
        raise ValueError(f"--output_dir must be a folder, got the file {arguments.output_dir}")
    folder = resolve_generating_pipeline(arguments.model)
    check_writable(arguments.output_dir / "manifest.json")
    quiet_libraries(arguments)
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    from fqgan_hf import optimize
    from fqgan_hf.pipelines.sample import SamplingRun, dealt_folder, sample

    run = SamplingRun.describe(
        folder,
        model=arguments.model,
        num=arguments.num,
        class_labels=None if arguments.class_labels is None else parse_labels(arguments.class_labels),
        seed=arguments.seed,
        guidance_scale=arguments.guidance_scale,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        guidance_schedule=arguments.guidance_schedule,
        greedy=arguments.greedy,
        dtype=arguments.dtype,
        quantization=arguments.quantization,
        format=arguments.format,
        shard_size=arguments.shard_size,
    )
    device = choose_device(arguments.device)
    # A process may wait very long for its main process, while that waits for another run.
    state = PartialState(cpu=device in ("cpu", "mps"), timeout=timedelta(days=30))
    if state.num_processes > 1:
        if device == "mps" or ":" in device:
            raise ValueError(f"--device must be cpu or cuda for {state.num_processes} processes, got {device}")
        device = state.device  # a GPU of its own
    with dealt_folder(arguments.output_dir, run, state, arguments.verify) as (mine, missing):
        if missing:
            pipe = load_generating_pipeline(folder).to(device)
            optimize(pipe, getattr(torch, arguments.dtype), arguments.quantization, arguments.compile)
            sample(pipe, run, arguments.output_dir, mine, missing, arguments.batch_size, state.is_main_process)
    state.destroy_process_group()
    if state.is_main_process:
        verified = ", with the content that was written" if arguments.verify else ""
        print(f"{arguments.output_dir} holds {run.num} images (seed {run.seed}){verified}")
