# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Many images of a pipeline in shards, by any number of processes, stopped and continued at will: `fqgan sample`.

    samples/settings.json          what the images follow from; there before the first image, until the manifest has it
    samples/shard-00000/           png: 00000000.png, ... and metadata.csv (file_name, index, label, class_name)
    samples/shard-00000.npz        npz: arr_0 (N, H, W, 3) uint8 and arr_1 (N,) int64 labels
    samples/shard-00000.parquet    parquet: image, index and label, as `datasets` reads them
    samples/manifest.json          the settings, and rows, bytes and SHA-256 of each shard; written last

Image i has class `class_labels[i % len(class_labels)]`, its prompt and its map in the same way, and random numbers of
its own, which follow from the seed and i. A shard holds the images of a range and appears complete or not at all. A
process takes its batches from the list of its missing images, whatever shards they belong to, so that every batch is
full; all images have the same length and end together. The last batch repeats its last image to have the shape of the
others.

Where `shard_size` is a multiple of `batch_size`, a batch holds the same images whoever computes it, so one machine
writes the same bytes with any number of processes and interruptions. Otherwise, and between batch sizes, dtypes or
machines, only the random numbers are the same: sums of other shapes may round differently and tip a code over.

With `keep_best` R and a `classifier`, images 0 ... ceil(num / R) - 1 are candidates. Of each class the best are kept,
by the classifier's probability of it, as many as `num` images have of the class: the best share over all candidates,
not over groups of them. They take their places in the order in which they were drawn, with columns `candidate` (the
number that the image has without rejection) and `score` beside them. Candidates wait in `.candidates/`, so that a run
goes on wherever it was stopped; they go when the manifest is there. A shard that is removed later costs drawing them
again. More images cannot be added: which are the best depends on how many there are.

One run at a time writes to a folder. An equal one waits for it and then finds nothing left to do, or more to do if it
asks for more images; one with other settings is refused.

The work is here, its division in `sample_parts`, what the images follow from in `sample_run` and `sample_maps`, the
state of the folder in `sample_folder`, the kinds of shards in `sample_formats`, and rejection in `rejection` and
`sample_candidates`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from PIL import Image

from fqgan_hf.files import atomic_path
from fqgan_hf.kernels.optimization import optimize
from fqgan_hf.pipelines.inference import choose_device, generate_batches, load_pipeline, resolve_pipeline
from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline
from fqgan_hf.pipelines.sample_candidates import BestCandidates, draw_candidates
from fqgan_hf.pipelines.sample_folder import claimed_folder, close_folder, is_complete, missing_shards
from fqgan_hf.pipelines.sample_formats import FORMATS
from fqgan_hf.pipelines.sample_parts import Parts, fill_parts, full_batches
from fqgan_hf.pipelines.sample_run import SamplingRun
from fqgan_hf.pipelines.sharing import joined_processes


ENCODING_THREADS = 4  # PNG is compressed beside the model's work


def sample_to_folder(
    model: str | Path,
    output_dir: str | Path,
    *,
    batch_size: int = 16,
    device: str = "auto",
    compile: bool = False,
    verify: bool = False,
    **run: Any,
) -> SamplingRun:
    """
    Write images of a pipeline in shards, or what of them is missing: `fqgan sample` from Python.

    All processes of an `accelerate launch` call it with the same arguments and share the work.

    Example:

        sample_to_folder("outputs/demo/pipeline", "outputs/samples", num=1000, seed=0, format="npz")

    Args:
        model (`str` or `Path`): A [`FARPipeline`] or a [`CodeDiffusionPipeline`]: a folder or a Hub id.
        output_dir (`str` or `Path`): Gets the shards and `manifest.json`.
        batch_size (`int`): Images at a time in each process.
        device (`str`): See [`~fqgan_hf.pipelines.inference.choose_device`].
        compile (`bool`): On a GPU, compile the generator and capture CUDA graphs.
        verify (`bool`): Compare what is there already with the hashes in the manifest.
        **run: What [`SamplingRun.describe`] takes: `num`, and `class_labels`, `seed`, `settings`, `dtype`,
            `quantization`, `format`, `shard_size`, `model_name`, `keep_best` with `classifier`, `prompts`, `maps`,
            `negative_prompt` and `num_inference_steps`.

    Returns:
        [`SamplingRun`]: What the folder now holds.

    Raises:
        ValueError: The arguments do not fit the pipeline, or the folder holds something else or is damaged.
        OSError: The folder cannot be written.
    """
    folder = resolve_pipeline(model)
    device = choose_device(device)
    run = SamplingRun.describe(folder, **{"model_name": str(model), **run})
    fill_folder(folder, run, output_dir, batch_size=batch_size, device=device, compile=compile, verify=verify)
    return run


def fill_folder(
    folder: Path,
    run: SamplingRun,
    output_dir: str | Path,
    *,
    batch_size: int = 16,
    device: str = "auto",
    compile: bool = False,
    verify: bool = False,
) -> None:
    """
    Write the images of a run, or what of them is missing.

    Args:
        folder (`Path`): Of the pipeline that `run` describes.
        run (`SamplingRun`): The same in all processes.
        output_dir, batch_size, device, compile, verify: See `sample_to_folder`.

    Raises:
        ValueError, OSError: See `sample_to_folder`.
    """
    output_dir = Path(output_dir)
    with (
        joined_processes(choose_device(device)) as (state, device),
        dealt_folder(output_dir, run, state, verify) as (mine, missing),
    ):
        if missing:
            pipe = load_pipeline(folder, device)
            pipe.transformer.to(getattr(torch, run.dtype))
            optimize(pipe, getattr(torch, run.dtype), run.quantization, compile)
            best = draw_candidates(pipe, run, output_dir, batch_size, state) if run.rejection else None
            write_shards(pipe, run, output_dir, mine, missing, batch_size, state.is_main_process, best)


@contextmanager
def dealt_folder(
    folder: Path, run: SamplingRun, state: PartialState, verify: bool = False
) -> Iterator[tuple[list[int], list[int]]]:
    """
    The folder of a run, with what it lacks shared out; at the end, when nothing is missing, its manifest is written.

    Args:
        folder (`Path`): Shared by all processes.
        run (`SamplingRun`): The same in all of them.
        state (`PartialState`): Of this process.
        verify (`bool`): See `claimed_folder`.

    Yields:
        `tuple[list[int], list[int]]`: Numbers of the shards that this process is to write, and of all missing ones.

    Raises:
        ValueError, OSError: See `claimed_folder`; in every process.
    """
    with ExitStack() as stack:
        failure = [None]
        if state.is_main_process:
            try:
                stack.enter_context(claimed_folder(folder, run, verify))
            except (ValueError, OSError) as error:
                failure = [error]
        broadcast_object_list(failure)  # the other processes wait here
        if failure[0] is not None:
            raise failure[0]
        missing = missing_shards(folder, run)
        state.wait_for_everyone()
        yield missing[state.process_index :: state.num_processes], missing
        if state.is_main_process:
            close_folder(folder, run)


def write_shards(
    pipe: GeneratorPipeline,
    run: SamplingRun,
    folder: Path,
    mine: Sequence[int],
    missing: Sequence[int],
    batch_size: int,
    show_progress: bool = True,
    best: BestCandidates | None = None,
) -> None:
    """
    Write the shards of this process, then wait until those of the others are there.

    Args:
        pipe ([`GeneratorPipeline`]): The pipeline that `run` describes, on its device.
        run (`SamplingRun`), folder (`Path`): As given to `dealt_folder`.
        mine, missing (`Sequence[int]`): What `dealt_folder` gave.
        batch_size (`int`): Images at a time.
        show_progress (`bool`): A bar over all images; those of other processes count when their shard is there.
        best ([`BestCandidates`], *optional*): The images are these, drawn before.
    """
    shard_format, shards = FORMATS[run.format], run.shards
    batch_size = min(batch_size, run.num)

    def write(number: int, images: list[Future]) -> None:
        indices = shards[number]
        rows = run.rows(indices, None if best is None else best.columns(indices))
        with atomic_path(folder / run.shard_name(number)) as path:
            shard_format.write(path, [image.result() for image in images], rows)

    def compute(indices: list[int]) -> Iterator[list[Image.Image]]:
        if best is not None:
            return best.decode(pipe, indices, batch_size)
        return generate_batches(
            pipe, run.given(indices), seed=run.seed, batch_size=batch_size, settings=run.sampling, indices=indices,
            arguments=run.arguments,
        )  # fmt: skip

    parts = Parts(shards, lambda n: is_complete(folder / run.shard_name(n), len(shards[n]), run), write)
    with ThreadPoolExecutor(ENCODING_THREADS) as pool:
        batches = full_batches(compute, parts.images(mine), batch_size)
        kept = ([pool.submit(shard_format.keep, image) for image in batch] for batch in batches)
        fill_parts(parts, mine, missing, kept, "sampling", show_progress)
