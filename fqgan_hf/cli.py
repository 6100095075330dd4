# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The `fqgan` command.

A subcommand is one `Command` in `COMMANDS`, at the end of this file: two functions, one that adds its arguments and
one that runs it. Heavy libraries are imported where they are used, so that `fqgan --help` answers at once.

Exit status: 0 done, 1 failed (one line on stderr says why), 2 wrong usage, 130 interrupted.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.facts import codebook_names, collect_facts, folder_kind, format_facts
from fqgan_hf.failures import MISTAKES, first_line, leave, run_command
from fqgan_hf.files import check_writable, read_json
from fqgan_hf.picture_files import check_image_format, check_image_path, is_image_path, save_image


if TYPE_CHECKING:
    import torch
    from PIL import Image

    from fqgan_hf.modeling.modeling_fqgan import FQGANModel
    from fqgan_hf.pipeline_far import FARPipeline
    from fqgan_hf.pipeline_fqgan import FQGANPipeline

# What loads a model from the Hub, and what tells what a folder holds.
MODEL_FILES = ["*.json", "*.safetensors", "*/*.json", "*/*.safetensors"]

MAX_GENERATED = 10_000  # images of `fqgan generate`, which holds all of them at once
MAX_SEED = 2**32 - 1  # all that a CPU generator of torch reads of a seed

# What commands use when no model is named: what `fqgan demo` leaves behind.
DEMO_PIPELINE = "outputs/demo/pipeline"


# ---- Shared by several subcommands ----------------------------------------------------------------------------------


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


@dataclass
class Reconstruction:
    """One image through a tokenizer: `pictures` are the original, all codebooks, then (K > 1) each codebook alone."""

    pictures: list["Image.Image"]
    psnr: float
    codes: "torch.Tensor"


def reconstruct(
    pipe: "FQGANPipeline", image: "Image.Image", size: int | dict[str, int] | None = None
) -> Reconstruction:
    """
    Reconstruct one image from all of its codes and from each codebook alone.

    Args:
        pipe ([`FQGANPipeline`]): The tokenizer.
        image (`PIL.Image.Image`): Any size.
        size (`int` or `dict`, *optional*): Size to work at, in place of the image processor's own.

    Returns:
        [`Reconstruction`], whose `codes` have shape `(1, num_codebooks, height / f, width / f)`.
    """
    import torch

    from fqgan_hf.analysis import psnr

    model, processor = pipe.vqmodel, pipe.image_processor
    with torch.no_grad():
        pixel_values = processor(image, size=size)["pixel_values"]
        codes = model.encode(pixel_values.to(model.device, model.dtype)).codes
        samples = [model.decode_codes(codes).sample]
        if codes.shape[1] > 1:
            samples += [model.decode_codes(codes, codebooks=[k]).sample for k in range(codes.shape[1])]
    pictures = processor.postprocess(torch.cat([pixel_values, *(sample.float().cpu() for sample in samples)]))
    quality = psnr(pixel_values, samples[0].float().cpu()).item()
    return Reconstruction(pictures, quality, codes.cpu())


def reconstruction_captions(num_codebooks: int) -> list[str]:
    """Captions of `Reconstruction.pictures`."""
    if num_codebooks == 1:
        return ["original", "reconstruction"]
    both = "both codebooks" if num_codebooks == 2 else "all codebooks"
    return ["original", both, *(f"{name} only" for name in codebook_names(num_codebooks))]


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


# ---- fqgan demo -----------------------------------------------------------------------------------------------------


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"), help="default: %(default)s")
    parser.add_argument(
        "--seed", type=seed_int, default=0, help="the same seed gives the same report; default: %(default)s"
    )
    parser.add_argument("--quick", action="store_true", help="a few training steps only: shows that all parts work")


def run_demo(arguments: argparse.Namespace) -> None:
    from fqgan_hf.demo import run

    quiet_libraries(arguments)
    run(arguments.output_dir, seed=arguments.seed, quick=arguments.quick)


# ---- fqgan reconstruct ----------------------------------------------------------------------------------------------


def add_reconstruct_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files; a row of the grid each")
    parser.add_argument(
        "--model", default=DEMO_PIPELINE, help="tokenizer or pipeline: a folder or a Hub id; default: %(default)s"
    )
    parser.add_argument("--out", type=Path, default=Path("reconstruction.png"), help="the grid; default: %(default)s")
    parser.add_argument(
        "--size", type=positive_int, help="scale and crop to this many pixels a side; default: the model's own size"
    )
    add_device_argument(parser)


def run_reconstruct(arguments: argparse.Namespace) -> None:
    check_image_path(arguments.out)
    missing = [str(path) for path in arguments.images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no file {missing[0]}")
    if arguments.out.exists() and any(arguments.out.samefile(path) for path in arguments.images):
        raise ValueError(f"--out {arguments.out} is one of the images: it would be overwritten")
    folder = resolve_folder(arguments.model)
    if folder_kind(folder) == "FARForImageGeneration":
        raise ValueError(
            f"--model {arguments.model} is a generator and reads no images: give a tokenizer or a pipeline"
        )
    quiet_libraries(arguments)
    from tqdm import tqdm

    from fqgan_hf.analysis import CodebookUsage, image_grid
    from fqgan_hf.modeling.image_processing_fqgan import load_image

    pipe = load_tokenizer_pipeline(folder).to(choose_device(arguments.device))
    config, processor = pipe.vqmodel.config, pipe.image_processor
    check_reconstruct_size(pipe, arguments.size)
    names, captions = codebook_names(config.num_codebooks), reconstruction_captions(config.num_codebooks)
    row_captions = [path.name for path in arguments.images] if len(arguments.images) > 1 else None
    blanks = [[blank_picture(path, processor, arguments.size)] * len(captions) for path in arguments.images]
    check_image_format(arguments.out, image_grid(blanks, captions, row_captions))

    total = CodebookUsage(config.num_codebooks, config.codebook_size)
    rows, lines, bad = [], [], []
    with block_progress(pipe.vqmodel, len(arguments.images), num_decodings=len(captions) - 1):
        for path in arguments.images:
            try:
                result = reconstruct(pipe, load_image(path, max_pixels=processor.max_pixels), arguments.size)
            except (ValueError, OSError) as error:
                if len(arguments.images) == 1:
                    raise
                bad.append(path.name)
                tqdm.write(f"{path} is left out: {first_line(error)}", file=sys.stderr)
                continue
            usage = CodebookUsage(config.num_codebooks, config.codebook_size).update(result.codes)
            total.merge(usage)
            rows.append((path, result))
            lines.append(f"{path}: PSNR {result.psnr:.2f} dB, {describe_usage(usage, names)}")
    if not rows:
        raise ValueError(f"none of {len(bad)} images could be read, nothing was written")
    row_captions = [path.name for path, _ in rows] if row_captions else None
    save_image(image_grid([result.pictures for _, result in rows], captions, row_captions), arguments.out)
    if len(rows) > 1:
        lines.append(f"together: {describe_usage(total, names)}")
    print("\n".join([*lines, f"wrote {arguments.out}"]), flush=True)
    if bad:
        raise ValueError(f"{len(bad)} of {len(arguments.images)} images were left out: {', '.join(bad)}")


def check_reconstruct_size(pipe: "FQGANPipeline", size: int | None) -> None:
    """Raise `ValueError` for a size that the tokenizer cannot encode; a word where it will take long."""
    if size is None:
        return
    model, factor = pipe.vqmodel, pipe.vqmodel.downsample_factor
    if size % factor:
        raise ValueError(f"--size must be divisible by the downsampling factor {factor}, got {size}")
    if size**2 > pipe.image_processor.max_pixels:
        raise ValueError(f"--size must give at most {pipe.image_processor.max_pixels:,} pixels, got {size} x {size}")
    trained = model.config.sample_size
    if size > trained and (size // factor) ** 2 >= 4096:
        print(
            f"at {size} pixels {(size // factor) ** 2:,} positions attend to each other: that part takes "
            f"{(size / trained) ** 4:,.0f} times as long as at {trained} pixels",
            file=sys.stderr,
        )


def blank_picture(path: Path, processor, size: int | None) -> "Image.Image":
    """A picture of the size that the reconstruction of a file will have, from its header."""
    from PIL import Image

    size = processor.size if size is None else size
    if size is not None:
        return Image.new("RGB", (size["width"], size["height"]) if isinstance(size, dict) else (size, size))
    try:
        with Image.open(path) as image:
            is_turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientation
            width, height = image.size[::-1] if is_turned else image.size
    except Exception:  # it will be left out, with the reason
        width = height = 1
    return Image.new("RGB", (width, height) if width * height <= processor.max_pixels else (1, 1))


@contextmanager
def block_progress(model: "FQGANModel", num_images: int, num_decodings: int) -> Iterator[None]:
    """A bar that moves with every block of encoder and decoder: one image may take minutes. Shown after a second."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from tqdm import tqdm

    kinds = (ResnetBlock2D, Attention, BasicTransformerBlock)
    encoding, decoding = (
        [block for part in parts for block in part.modules() if isinstance(block, kinds)]
        for parts in ((model.encoder, model.branches), (model.decoder,))
    )
    total = num_images * (len(encoding) + num_decodings * len(decoding))
    with tqdm(total=total, desc="reconstructing", unit="block", delay=1) as bar:
        hooks = [block.register_forward_hook(lambda *_: bar.update() and None) for block in (*encoding, *decoding)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def describe_usage(usage, names: list[str]) -> str:
    """Codes used of each codebook, in words."""
    used = ", ".join(f"{name} {number}" for name, number in zip(names, usage.num_used.tolist(), strict=True))
    return f"codes used of {usage.codebook_size} at {usage.num_positions} positions: {used}"


# ---- fqgan generate -------------------------------------------------------------------------------------------------


def add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=DEMO_PIPELINE, help="FARPipeline: a folder or a Hub id; default: %(default)s"
    )
    parser.add_argument("--class_labels", nargs="+", required=True, metavar="LABEL", help="class ids or names")
    parser.add_argument("--num_images_per_label", type=positive_int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="a picture: a grid with a row per label; any other name: a folder of single images; default: %(default)s",
    )
    parser.add_argument("--seed", type=seed_int, help="default: a random one, which is printed")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="images at a time; default: %(default)s")
    add_sampling_arguments(parser)
    add_device_argument(parser)


def run_generate(arguments: argparse.Namespace) -> None:
    as_grid = is_image_path(arguments.out) and not arguments.out.is_dir()
    if as_grid:
        check_image_path(arguments.out)
    elif arguments.out.exists() and not arguments.out.is_dir():
        raise ValueError(f"--out must be a picture (.png, .jpg, ...) or a folder, got the file {arguments.out}")
    else:
        check_writable(arguments.out / "0.png")
    num_each = arguments.num_images_per_label
    if len(arguments.class_labels) * num_each > MAX_GENERATED:
        raise ValueError(
            f"--num_images_per_label must give at most {MAX_GENERATED:,} images, got {len(arguments.class_labels)} x "
            f"{num_each} (`fqgan sample` writes any number)"
        )
    folder = resolve_generating_pipeline(arguments.model)
    labels, names = read_labels(folder, arguments.class_labels)
    quiet_libraries(arguments)
    import secrets

    from PIL import Image

    from fqgan_hf import optimize
    from fqgan_hf.analysis import image_grid

    pipe = load_generating_pipeline(folder).to(choose_device(arguments.device))
    if as_grid:
        size = pipe.vqmodel.config.sample_size
        blanks = [[Image.new("RGB", (size, size))] * num_each] * len(labels)
        check_image_format(arguments.out, image_grid(blanks, row_captions=names))
    optimize(pipe, compile=False)  # the same images; to compile takes longer than a few of them
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    images = generate_images(
        pipe,
        [label for label in labels for _ in range(num_each)],
        seed=seed,
        batch_size=arguments.batch_size,
        guidance_scale=single_or_list(arguments.guidance_scale),
        temperature=single_or_list(arguments.temperature),
        top_k=single_or_list(arguments.top_k),
        top_p=single_or_list(arguments.top_p),
        guidance_schedule=arguments.guidance_schedule,
        do_sample=not arguments.greedy,
    )
    rows = [images[i : i + num_each] for i in range(0, len(images), num_each)]
    if as_grid:
        save_image(image_grid(rows, row_captions=names), arguments.out)
        print(f"wrote {arguments.out} (seed {seed})")
        return
    digits = len(str(len(images) - 1))
    numbers = iter(range(len(images)))
    for row, name in zip(rows, names, strict=True):
        slug = re.sub(r"\W+", "_", name.split(",")[0]).strip("_").lower()[:80]
        for image in row:
            save_image(image, arguments.out / f"{next(numbers):0{digits}d}_{slug}.png")
    print(f"wrote {len(images)} images to {arguments.out}{os.sep} (seed {seed})")


def read_labels(folder: Path, words: list[str]) -> tuple[list[int], list[str]]:
    """
    Class ids of what was typed, and their names as captions, from the configuration alone.

    Raises:
        ValueError: For labels that the model does not have.
    """
    from fqgan_hf.labels import class_names, resolve_labels

    config = read_json(folder / "transformer" / "config.json")
    num_classes, id2label = config.get("num_classes"), config.get("id2label")
    if not isinstance(num_classes, int) or not isinstance(id2label or {}, dict):
        raise ValueError(f"{folder / 'transformer' / 'config.json'} must give num_classes and id2label")
    names = class_names(id2label)
    labels = resolve_labels(parse_labels(words), num_classes, names)
    return labels, [names.get(label, f"class {label}") for label in labels]


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


# ---- fqgan sample ---------------------------------------------------------------------------------------------------


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
    from fqgan_hf.sample import SamplingRun, dealt_folder, sample

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


# ---- fqgan convert --------------------------------------------------------------------------------------------------


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="published checkpoint; with --to-original a model folder")
    parser.add_argument("target", type=Path, help="model folder to write; with --to-original a .pt file")
    parser.add_argument("--to-original", action="store_true", help="write the published layout")
    parser.add_argument(
        "--force", action="store_true", help="replace files of the target, but only those that a conversion writes"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="configuration that a checkpoint does not tell, such as num_attention_heads=4 grid_height=8 grid_width=8",
    )


def run_convert(arguments: argparse.Namespace) -> None:
    source, target = arguments.source, arguments.target
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}")
    overrides = parse_overrides(arguments.overrides)
    if arguments.to_original:
        if overrides:
            raise ValueError("--set changes a configuration, which the published layout does not have (--to-original)")
        if source.is_file():
            raise ValueError(f"with --to-original the source must be a model folder, got the file {source}")
        if target.is_dir():
            raise ValueError(f"with --to-original the target must be a file, got the folder {target}")
        if target.exists() and not arguments.force:
            raise FileExistsError(f"{target} is there already; --force overwrites it")
        quiet_libraries(arguments)
        from fqgan_hf.conversion import convert_to_original

        convert_to_original(source, target)
        print(f"wrote {target} in the published layout")
        return
    if source.is_dir():
        raise ValueError(
            f"the source must be a checkpoint file, got the folder {source} (did you mean --to-original?)"
        )
    if target.exists() and not target.is_dir():
        raise ValueError(f"the target must be a folder, got the file {target}")
    if target.is_dir() and any(target.iterdir()) and not arguments.force:
        raise FileExistsError(f"{target} is there already; --force replaces the files that a conversion writes")
    check_writable(target / "config.json")
    quiet_libraries(arguments)
    from fqgan_hf.conversion import convert_checkpoint

    model = convert_checkpoint(source, target, arguments.force, **overrides)
    print(f"wrote {target}: {type(model).__name__}, {model.num_parameters() / 1e6:.1f} M parameters")


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`["num_attention_heads=4"]` -> `{"num_attention_heads": 4}`; values are JSON, or text where they are not."""
    overrides = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"--set must be given as NAME=VALUE, got {pair!r}")
        if name in overrides:
            raise ValueError(f"--set gives {name} twice")
        try:
            overrides[name] = json.loads(value)
        except (ValueError, RecursionError):
            overrides[name] = value
    return overrides


# ---- fqgan info -----------------------------------------------------------------------------------------------------


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="tokenizer, generator or pipeline: a folder or a Hub id")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_info(arguments: argparse.Namespace) -> None:
    folder = resolve_folder(arguments.model)
    folder_kind(folder)
    quiet_libraries(arguments)
    facts = collect_facts(folder)
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(format_facts(facts)))


# ---- The command ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One subcommand: `add_arguments` fills its parser, `run` does it; an error there becomes one line on stderr."""

    name: str
    summary: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


# A new subcommand is one more entry here.
COMMANDS = (
    Command(
        "demo",
        "train and evaluate everything on handwritten digits, in minutes",
        "Train a tokenizer and a generator on scikit-learn's bundled handwritten digits, generate every class, and\n"
        "write models, pictures and a report. Needs no download and no GPU; takes less than 5 minutes on 2 cores.",
        "  fqgan demo --output_dir outputs/demo --seed 0",
        add_demo_arguments,
        run_demo,
    ),
    Command(
        "reconstruct",
        "images through a tokenizer: pictures, PSNR and codes used",
        "Reconstruct images from all of their codes and from each codebook alone; write the pictures as a grid and\n"
        "print PSNR and codes used.",
        "  fqgan reconstruct photo.jpg --model outputs/demo/pipeline --out grid.png\n"
        "  fqgan reconstruct *.jpg --model user/fqgan-dual-f16 --size 512 --out grid.png",
        add_reconstruct_arguments,
        run_reconstruct,
    ),
    Command(
        "generate",
        "images of given classes",
        "Generate images of classes given by id or by name. The same seed gives the same images, whatever the batch\n"
        "size.",
        "  fqgan generate --model outputs/demo/pipeline --class_labels 3 seven --num_images_per_label 4 --seed 0\n"
        '  fqgan generate --model user/far-base --class_labels 3 "golden retriever" --guidance_scale 2 1.5 --out out/',
        add_generate_arguments,
        run_generate,
    ),
    Command(
        "sample",
        "many images in shards, by several processes, stopped and continued at will",
        "Generate images of all classes, or of given ones, in turn, and write them in shards of PNG, npz or parquet\n"
        "files. Stopped anywhere, the same command goes on with what is missing. Several processes write the same\n"
        "files: accelerate launch -m fqgan_hf.cli sample ...",
        "  fqgan sample --model outputs/demo/pipeline --num 1000 --output_dir outputs/samples\n"
        "  fqgan sample --model user/far-base --num 50000 --batch_size 128 --dtype bfloat16 --format npz "
        "--output_dir out/",
        add_sample_arguments,
        run_sample,
    ),
    Command(
        "convert",
        "published checkpoints to from_pretrained folders, and back",
        "Convert a published tokenizer or generator checkpoint, recognised by its keys and shapes, to a folder for\n"
        "from_pretrained, or back. Nothing in the checkpoint is executed.",
        "  fqgan convert checkpoint.pt out/\n"
        "  fqgan convert far.pt out/ --set num_attention_heads=4 grid_height=4 grid_width=4\n"
        "  fqgan convert --to-original out/ checkpoint.pt",
        add_convert_arguments,
        run_convert,
    ),
    Command(
        "info",
        "what a model or pipeline is: codebooks, grid, parameters, fingerprint",
        "Tell what a folder or Hub repository holds, without loading the model.",
        "  fqgan info outputs/demo/pipeline\n  fqgan info user/fqgan-dual-f16 --json",
        add_info_arguments,
        run_info,
    ),
)


class OneLineParser(argparse.ArgumentParser):
    """argparse, with usage errors in one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {first_line(ValueError(message))} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `fqgan` with all its subcommands."""
    from fqgan_hf import __version__

    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks and warnings")
    parser = OneLineParser(
        prog="fqgan",
        description="Factorized image tokenizers (FQGAN) and autoregressive image generation (FAR).",
        epilog="`fqgan COMMAND --help` has the options and examples of a command. Start with: fqgan demo",
        parents=[debug],
    )
    parser.add_argument("--version", action="version", version=f"fqgan-hf {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[debug],
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv (`list[str]`, *optional*): Arguments; by default those of the process.

    Returns:
        `int`: The exit status.
    """
    arguments = build_parser().parse_args(argv)
    debug = getattr(arguments, "debug", False)
    return run_command(f"fqgan {arguments.command}", lambda: arguments.run(arguments), debug)


def program() -> None:
    """`fqgan` as the shell starts it."""
    leave(main())


if __name__ == "__main__":
    program()
