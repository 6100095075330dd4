# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From the name of a model to its images: resolve, load, choose a device, generate in batches by one seed rule.

    pipe = load_pipeline("outputs/demo/pipeline")
    images = generate_images(pipe, [3, 7, 7], seed=0)

Importing this file costs nothing: the functions import the libraries, after they have checked what can be checked.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.failures import first_line
from fqgan_hf.hub.facts import folder_kind
from fqgan_hf.hub.kinds import KINDS
from fqgan_hf.hub.resolve import resolve_folder
from fqgan_hf.hub.variants import stored_variant


if TYPE_CHECKING:
    import torch
    from PIL import Image

    from fqgan_hf.modeling.code_sampling import SamplingSettings
    from fqgan_hf.pipelines.pipeline_fqgan import FQGANPipeline
    from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline


# ---- Resolve and load -----------------------------------------------------------------------------------------------


def quiet_libraries(debug: bool = False) -> None:
    """
    Import transformers and diffusers, and hide their warnings and loading bars for the rest of the process.

    A command calls it once its cheap checks are done, so that nothing stands between its own lines.

    Args:
        debug (`bool`): Do nothing: everything stays visible.
    """
    if debug:
        return
    import warnings

    import diffusers
    import transformers

    warnings.filterwarnings("ignore")
    for library in (transformers, diffusers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def resolve_pipeline(model: str | Path, option: str = "model") -> Path:
    """
    The local folder of a pipeline with a generator, downloaded first if need be; the model is not loaded.

    Args:
        model (`str` or `Path`): A folder or a Hub id.
        option (`str`): What errors call it.

    Raises:
        ValueError: It is something else.
        FileNotFoundError: See `resolve_folder`.
    """
    folder = resolve_folder(model)
    kind = folder_kind(folder)
    if kind.role != "pipeline" or not kind.generates:
        accepted = " or a ".join(str(one) for one in KINDS if one.role == "pipeline" and one.generates)
        raise ValueError(f"{option} must be a {accepted} (tokenizer and generator together), {model} is a {kind}")
    return folder


def resolve_tokenizer(model: str | Path, option: str = "model") -> Path:
    """
    The local folder of a tokenizer, or of a pipeline that has one, downloaded first if need be; nothing is loaded.

    Args:
        model, option: See `resolve_pipeline`.

    Raises:
        ValueError: It is a generator, or something else.
        FileNotFoundError: See `resolve_folder`.
    """
    folder = resolve_folder(model)
    if folder_kind(folder).role == "generator":
        raise ValueError(f"{option} {model} is a generator and reads no images: give a tokenizer or a pipeline")
    return folder


def load_pipeline(model: str | Path, device: str = "auto") -> "GeneratorPipeline":
    """
    A saved pipeline of tokenizer and generator, ready to generate.

    Args:
        model (`str` or `Path`): A folder or a Hub id of a [`FARPipeline`] or a [`CodeDiffusionPipeline`].
        device (`str`): See `choose_device`.

    Raises:
        ValueError: It is something else, it is damaged, or the device cannot be used.
        FileNotFoundError: See `resolve_folder`.
    """
    folder = resolve_pipeline(model)
    device = choose_device(device)
    from fqgan_hf.pretrained import load_pretrained

    pipeline_class = folder_kind(folder).load_class()
    return load_pretrained(pipeline_class, folder, "model", variant=stored_variant(folder)).to(device)


def load_tokenizer(model: str | Path, device: str = "auto") -> "FQGANPipeline":
    """
    The image -> codes -> image pipeline of a tokenizer's folder, or of any pipeline that has one.

    Args:
        model, device: See `load_pipeline`.

    Raises:
        ValueError: It has no tokenizer, it is damaged, or the device cannot be used.
        FileNotFoundError: See `resolve_folder`.
    """
    folder = resolve_tokenizer(model)
    device = choose_device(device)
    from fqgan_hf import FQGANImageProcessor, FQGANModel, FQGANPipeline
    from fqgan_hf.pretrained import load_pretrained

    model_folder, processor_folder = folder, folder
    if folder_kind(folder).role == "pipeline":
        model_folder, processor_folder = folder / "vqmodel", folder / "image_processor"
    vqmodel = load_pretrained(FQGANModel, model_folder, "model", variant=stored_variant(model_folder)).eval()
    if (processor_folder / "preprocessor_config.json").is_file():
        image_processor = load_pretrained(FQGANImageProcessor, processor_folder, "model")
    else:
        image_processor = FQGANImageProcessor(size=vqmodel.config.sample_size, multiple_of=vqmodel.downsample_factor)
    return FQGANPipeline(vqmodel=vqmodel, image_processor=image_processor).to(device)


def join_pipeline(
    tokenizer: str | Path,
    generator: str | Path,
    text_encoder: str | Path | None = None,
    map_tokenizer: str | Path | None = None,
) -> "GeneratorPipeline":
    """
    A tokenizer and a generator that were saved apart, as one pipeline on the CPU, ready to generate.

    What a training leaves beside a generator, the scheduler and the tokenizer of a text encoder of its own, is found
    there: in its subfolders `scheduler` and `tokenizer`.

    Args:
        tokenizer (`str` or `Path`): Folder or Hub id of an [`FQGANModel`] with its [`FQGANImageProcessor`].
        generator (`str` or `Path`): Of a [`FARForImageGeneration`] or a [`CodeDiffusionTransformer`].
        text_encoder (`str` or `Path`, *optional*): The frozen one that the generator was trained with, if any.
        map_tokenizer (`str` or `Path`, *optional*): Of an [`FQGANModel`], where it was trained for maps.

    Raises:
        ValueError: One of them cannot be loaded, or they do not belong together.
    """
    from transformers import AutoTokenizer

    from fqgan_hf import CodeDiffusionScheduler, FQGANImageProcessor, FQGANModel
    from fqgan_hf.pipelines.prompts import load_text_encoder
    from fqgan_hf.pretrained import load_pretrained

    folder = resolve_folder(generator)
    kind = folder_kind(folder)
    pipelines = [one for one in KINDS if one.role == "pipeline" and one.components.get("transformer") == str(kind)]
    if not pipelines:
        raise ValueError(f"generator: {str(generator)!r} cannot be loaded as a generator, it is a {kind}")
    parts = {
        "vqmodel": load_pretrained(FQGANModel, tokenizer, "tokenizer").eval(),
        "transformer": load_pretrained(kind.load_class(), folder, "generator").eval(),
        "image_processor": load_pretrained(FQGANImageProcessor, tokenizer, "tokenizer"),
    }
    for name, loader in (("scheduler", CodeDiffusionScheduler), ("tokenizer", AutoTokenizer)):
        if (folder / name).is_dir():
            parts[name] = load_pretrained(loader, folder / name, f"generator's {name}")
    if text_encoder is not None:
        parts["tokenizer"], parts["text_encoder"] = load_text_encoder(text_encoder)
    if map_tokenizer is not None:
        parts["map_vqmodel"] = load_pretrained(FQGANModel, map_tokenizer, "map_tokenizer").eval()
    if "scheduler" in pipelines[0].components and "scheduler" not in parts:
        raise ValueError(f"generator: {str(generator)!r} must have its scheduler in a subfolder `scheduler`")
    return pipelines[0].load_class()(**parts)


def choose_device(name: str = "auto") -> str:
    """
    A torch device that can be used here.

    Args:
        name (`str`): Such as "cpu", "cuda:1" or "mps"; "auto" is a GPU where there is one.

    Raises:
        ValueError: The device cannot be used.
    """
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


# ---- Generate -------------------------------------------------------------------------------------------------------


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


def generate_batches(
    pipe: "GeneratorPipeline",
    given: Sequence[int] | Mapping[str, Sequence[Any]],
    *,
    seed: int,
    batch_size: int = 16,
    settings: "SamplingSettings | None" = None,
    indices: Sequence[int] | None = None,
    output_type: str = "pil",
    on_step_end: Callable[..., dict[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Iterator[Any]:
    """
    Generate one image for each label, prompt or map, batch after batch, each batch when it is asked for.

    An image draws from `image_generator(seed, its index)`: it depends neither on `batch_size` nor on the other images,
    up to the rounding of sums of another shape. The pipeline's own progress bar is switched off.

    Args:
        pipe ([`FARPipeline`] or [`CodeDiffusionPipeline`]): On its device.
        given (`Sequence[int]` or `Mapping[str, Sequence]`):
            Class ids, or arguments of the pipeline with one value per image: `{"prompt": [...], "image": [...]}`.
        seed (`int`): At least 0.
        batch_size (`int`): Images at a time, at least 1.
        settings ([`SamplingSettings`], *optional*): How codes are drawn; by default as the pipeline does.
        indices (`Sequence[int]`, *optional*): Place of each image among those of the seed; by default 0, 1, ...
        output_type (`str`): `"pil"`, `"np"`, `"pt"` or `"codes"`; see [`FARPipeline`].
        on_step_end (`Callable`, *optional*): The pipeline's `callback_on_step_end`.
        arguments (`Mapping`, *optional*): What else the pipeline is called with, the same for all images.

    Yields:
        What `pipe(...).images` is of each batch: by default a list of PIL images.

    Raises:
        ValueError: As the pipeline does, before the first batch is computed.
    """
    given = given if isinstance(given, Mapping) else {"class_labels": given}
    number = num_given(given)
    indices = range(number) if indices is None else indices
    arguments = {**({} if settings is None else settings.arguments()), **(arguments or {})}
    pipe.set_progress_bar_config(disable=True)
    for start in range(0, number, batch_size):
        batch = slice(start, start + batch_size)
        yield pipe(
            **{name: values[batch] for name, values in given.items()},
            generator=[image_generator(seed, index) for index in indices[batch]],
            output_type=output_type,
            callback_on_step_end=on_step_end,
            **arguments,
        ).images


def num_given(given: Sequence[int] | Mapping[str, Sequence[Any]]) -> int:
    """How many images `generate_batches` makes of what it is given; `ValueError` where that is not one number."""
    if not isinstance(given, Mapping):
        return len(given)
    numbers = {name: len(values) for name, values in given.items()}
    if len(set(numbers.values())) != 1:
        raise ValueError(f"given must have as many values of each name, got {numbers}")
    return next(iter(numbers.values()))


def generate_images(
    pipe: "GeneratorPipeline",
    given: Sequence[int] | Mapping[str, Sequence[Any]],
    *,
    seed: int,
    batch_size: int = 16,
    settings: "SamplingSettings | None" = None,
    output_type: str = "pil",
    arguments: Mapping[str, Any] | None = None,
) -> "list[Image.Image] | torch.Tensor":
    """
    Generate one image for each label, prompt or map, with a progress bar: `fqgan generate` from Python.

    Example:

        pipe = load_pipeline("outputs/demo/pipeline")
        images = generate_images(pipe, [3, 7], seed=0, settings=SamplingSettings(guidance_scale=1.5))

    Args:
        pipe, given, seed, batch_size, settings, arguments: See `generate_batches`.
        output_type (`str`): `"pil"`, or `"codes"` for the codes alone.

    Returns:
        `list[PIL.Image.Image]`, or the codes `(images, num_codebooks, height, width)`.

    Raises:
        ValueError: As the pipeline does, before anything is computed.
    """
    import torch
    from tqdm import tqdm

    if output_type not in ("pil", "codes"):
        raise ValueError(f'output_type must be "pil" or "codes", got {output_type!r}')
    number, progress_bar = num_given(given), None

    def on_step_end(pipe, step, timestep, tensors) -> dict[str, Any]:
        nonlocal progress_bar
        if progress_bar is None:  # arguments that are refused get no bar
            progress_bar = tqdm(total=number * pipe.num_timesteps, desc="generating", unit="step")
        progress_bar.update(len(tensors["codes"]))
        return {}

    try:
        batches = list(
            generate_batches(
                pipe, given, seed=seed, batch_size=batch_size, settings=settings, output_type=output_type,
                on_step_end=on_step_end, arguments=arguments,
            )
        )  # fmt: skip
    finally:
        if progress_bar is not None:
            progress_bar.close()
    if output_type == "codes":
        return torch.cat(batches)
    return [image for batch in batches for image in batch]
