# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""TODO."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.commands.options import parse_labels
from fqgan_hf.failures import MISTAKES, first_line
from fqgan_hf.files import read_json
from fqgan_hf.hub.facts import folder_kind


if TYPE_CHECKING:
    import torch
    from PIL import Image

    from fqgan_hf.pipelines.pipeline_far import FARPipeline
    from fqgan_hf.pipelines.pipeline_fqgan import FQGANPipeline


# What loads a model from the Hub, and what tells what a folder holds.
MODEL_FILES = ["*.json", "*.safetensors", "*/*.json", "*/*.safetensors"]


# What commands use when no model is named: what `fqgan demo` leaves behind.
DEMO_PIPELINE = "outputs/demo/pipeline"


def resolve_folder(reference: str) -> Path:
    """
    The local folder of a model or pipeline, downloaded first if `reference` is a Hub id.

    Args:
        reference (`str`): A folder, or an id of the form "user/name".

    Returns:
        `Path`: The folder.

    Raises:
        FileNotFoundError: If there is no such folder and it cannot be a Hub id.
        ValueError: If it is a file.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{reference} is a file, not a model folder (`fqgan convert` reads published checkpoints)")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", reference):
        hint = " (`fqgan demo` makes it; --model names another)" if reference == DEMO_PIPELINE else ""
        raise FileNotFoundError(f"there is no folder {reference}, and it is no Hub id of the form user/name{hint}")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(reference, allow_patterns=MODEL_FILES))


def resolve_generating_pipeline(reference: str) -> Path:
    """The local folder of a `FARPipeline`; `ValueError` if it is anything else. See `resolve_folder`."""
    folder = resolve_folder(reference)
    kind = folder_kind(folder)
    if kind != "FARPipeline":
        raise ValueError(f"--model must be a FARPipeline (tokenizer and generator together), {reference} is a {kind}")
    return folder


def load_generating_pipeline(folder: Path) -> "FARPipeline":
    """The `FARPipeline` of a folder; `ValueError` for whatever is wrong with it."""
    from fqgan_hf import FARPipeline

    with named_failures(folder, "a FARPipeline"):
        return FARPipeline.from_pretrained(str(folder))


@contextmanager
def named_failures(folder: Path, kind: str) -> Iterator[None]:
    """What the libraries raise for a folder that somebody damaged (KeyError, TypeError, ...) as a `ValueError`."""
    try:
        yield
    except MISTAKES:
        raise
    except Exception as error:
        raise ValueError(
            f"{folder} cannot be loaded as {kind}: {type(error).__name__}: {first_line(error)}"
        ) from error


def load_tokenizer_pipeline(folder: Path) -> "FQGANPipeline":
    """The image -> codes -> image pipeline of a tokenizer's folder, or of any pipeline that has one."""
    from fqgan_hf import FQGANImageProcessor, FQGANModel, FQGANPipeline

    model_folder, processor_folder = folder, folder
    if folder_kind(folder).endswith("Pipeline"):
        model_folder, processor_folder = folder / "vqmodel", folder / "image_processor"
    with named_failures(folder, "a tokenizer"):
        vqmodel = FQGANModel.from_pretrained(str(model_folder)).eval()
        if (processor_folder / "preprocessor_config.json").is_file():
            image_processor = FQGANImageProcessor.from_pretrained(str(processor_folder))
        else:
            size, factor = vqmodel.config.sample_size, vqmodel.downsample_factor
            image_processor = FQGANImageProcessor(size=size, multiple_of=factor)
        return FQGANPipeline(vqmodel=vqmodel, image_processor=image_processor)


def choose_device(name: str) -> str:
    """A torch device: `name` itself, or for "auto" a GPU where there is one."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here: {first_line(error)}") from error
    return name


def quiet_libraries(arguments: argparse.Namespace) -> None:
    """No warnings and loading bars of the libraries between our own lines, unless --debug asks for them.

    It imports the libraries: a subcommand calls it once its cheap checks are done.
    """
    if getattr(arguments, "debug", False):
        return
    import warnings

    import diffusers
    import transformers

    warnings.filterwarnings("ignore")
    for library in (transformers, diffusers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def read_labels(folder: Path, words: list[str]) -> tuple[list[int], list[str]]:
    """
    Class ids of what was typed, and their names as captions, from the configuration alone.

    Raises:
        ValueError: For labels that the model does not have.
    """
    from fqgan_hf.pipelines.labels import class_names, resolve_labels

    config = read_json(folder / "transformer" / "config.json")
    num_classes, id2label = config.get("num_classes"), config.get("id2label")
    if not isinstance(num_classes, int) or not isinstance(id2label or {}, dict):
        raise ValueError(f"{folder / 'transformer' / 'config.json'} must give num_classes and id2label")
    names = class_names(id2label)
    labels = resolve_labels(parse_labels(words), num_classes, names)
    return labels, [names.get(label, f"class {label}") for label in labels]


def join_pipeline(tokenizer: str | Path, generator: str | Path) -> "FARPipeline":
    """
    A tokenizer and a generator that were saved apart, as one pipeline on the CPU, ready to generate.

    Args:
        tokenizer (`str` or `Path`): Folder or Hub id of an [`FQGANModel`] with its [`FQGANImageProcessor`].
        generator (`str` or `Path`): Folder or Hub id of a [`FARForImageGeneration`].

    Raises:
        ValueError: One of them cannot be loaded, or they do not belong together.
    """
    from fqgan_hf import FARForImageGeneration, FARPipeline, FQGANImageProcessor, FQGANModel
    from fqgan_hf.pretrained import load_pretrained

    return FARPipeline(
        vqmodel=load_pretrained(FQGANModel, tokenizer, "tokenizer").eval(),
        transformer=load_pretrained(FARForImageGeneration, generator, "generator").eval(),
        image_processor=load_pretrained(FQGANImageProcessor, tokenizer, "tokenizer"),
    )


def image_generator(seed: int, index: int) -> "torch.Generator":
    """
    The random numbers of one image among those made from a seed: the rule wherever images follow from a seed.

    Image `index` is the same whatever else is generated, in whatever batches and processes. A CPU generator reads 32
    bits of its seed; counting on from a place that `seed` is hashed to, no two of fewer than 2^32 images of a seed
    share one, and neighbouring seeds have nothing in common.

    Args:
        seed (`int`): At least 0.
        index (`int`): The image's place among those of this seed, from 0.

    Returns:
        `torch.Generator`, on the CPU.
    """
    import numpy as np
    import torch

    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return torch.Generator().manual_seed((start + index) % 2**32)


def generate_images(
    pipe: "FARPipeline", labels: list[int], seed: int, batch_size: int = 16, **sampling
) -> list["Image.Image"]:
    """
    One image per label, in batches, with a progress bar.

    Each image draws from a generator of its own (`seed` + its place), so that it depends neither on `batch_size` nor
    on the other images.

    Args:
        pipe ([`FARPipeline`]): Tokenizer and generator.
        labels (`list[int]`): Class ids.
        seed (`int`): See above.
        batch_size (`int`): Images at a time.
        **sampling: `guidance_scale` and other arguments of the pipeline.

    Returns:
        `list[PIL.Image.Image]`, or with `output_type="codes"` the codes `(images, num_codebooks, height, width)`.
    """
    import torch
    from tqdm import tqdm

    pipe.set_progress_bar_config(disable=True)  # one bar over all batches instead
    progress_bar = None
    batches = [labels[start : start + batch_size] for start in range(0, len(labels), batch_size)]
    results = []

    def on_step_end(pipe, step, timestep, tensors):
        nonlocal progress_bar
        if progress_bar is None:  # arguments that are refused get no bar
            progress_bar = tqdm(total=len(labels) * pipe.num_timesteps, desc="generating", unit="token")
        progress_bar.update(len(tensors["codes"]))
        return {}

    try:
        for number, batch in enumerate(batches):
            generators = [torch.Generator().manual_seed(seed + number * batch_size + i) for i in range(len(batch))]
            results.append(pipe(batch, generator=generators, callback_on_step_end=on_step_end, **sampling).images)
    finally:
        if progress_bar is not None:
            progress_bar.close()
    if sampling.get("output_type") == "codes":
        return torch.cat(results)
    return [image for images in results for image in images]
