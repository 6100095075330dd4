# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan evaluate` and `fqgan statistics` from Python: from names to a result that says how it came about.

    result = evaluate(tokenizer="user/fqgan-dual", reference="imagenet/val", features="inception")
    result["figures"]["frechet_distance"], result["protocol"], result["cost"]

All processes of an `accelerate launch` call it with the same arguments and share the work.
"""

import json
import math
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image

from fqgan_hf.evaluation.evaluate import code_likelihood, evaluate_images, evaluate_tokenizer
from fqgan_hf.evaluation.features import ImageNetwork, load_network
from fqgan_hf.evaluation.image_sets import open_image_set
from fqgan_hf.evaluation.judging import PROTOCOL
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.evaluation.reference import Clock, Reference, has_arrays
from fqgan_hf.evaluation.similarity import LPIPS, l1, l2, ssim
from fqgan_hf.evaluation_results import FORMAT_VERSION
from fqgan_hf.files import sha256
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.generation_files import MapFile
from fqgan_hf.pipelines.inference import load_pipeline, load_tokenizer, resolve_pipeline
from fqgan_hf.pipelines.sample import fill_folder
from fqgan_hf.pipelines.sample_run import SamplingRun
from fqgan_hf.pipelines.sharing import joined_processes


MAX_HELD_OUT = 2000  # images whose codes' likelihood is measured
MIN_SSIM_PIXELS = 11
DESCRIPTION = "description"  # the array of a statistics file that says what it is of
# Of a sampling run, what a result says.
MADE_WITH = ("weights_sha256", "seed", "sampling", "prompts", "maps", "negative_prompt", "num_inference_steps")


def evaluate(
    reference: str | Path,
    *,
    tokenizer: str | Path | None = None,
    samples: str | Path | None = None,
    pipeline: str | Path | None = None,
    features: str | Path = "inception",
    inception_weights: str | Path | None = None,
    split: str | None = None,
    samples_split: str | None = None,
    resolution: int | None = None,
    num_images: int | None = None,
    lpips: str | Path | None = None,
    num_samples: int = 50_000,
    samples_dir: str | Path | None = None,
    seed: int = 0,
    settings: SamplingSettings | None = None,
    prompts: Sequence[str] | None = None,
    maps: Sequence[Image.Image | MapFile] | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    show_progress: bool = True,
    **image_options: Any,
) -> dict[str, Any]:
    """
    Judge a tokenizer's reconstructions, a set of images, or what a pipeline generates, beside reference images.

    Exactly one of `tokenizer`, `samples` and `pipeline` is given.

    Args:
        reference (`str` or `Path`): Images, see `open_image_set`, or an .npz file of statistics. A tokenizer
            reconstructs these images; statistics are enough for the others, without precision and recall.
        tokenizer (`str` or `Path`, *optional*): A tokenizer or a pipeline that has one: a folder or a Hub id.
        samples (`str` or `Path`, *optional*): Images, see `open_image_set`.
        pipeline (`str` or `Path`, *optional*): A [`FARPipeline`] or [`CodeDiffusionPipeline`], sampled from.
        features (`str` or `Path`): `"inception"`, or any vision network of transformers: a folder or a Hub id.
        inception_weights (`str` or `Path`, *optional*): Their file, where they are not in torch's cache.
        split, samples_split (`str`, *optional*): Of `reference` and of `samples`, where these are datasets.
        resolution (`int`, *optional*): Side in pixels to which reference images are resized and cropped; by default
            the tokenizer's `sample_size`, and otherwise none: they are judged as they are.
        num_images (`int`, *optional*): Only the first ones of the reference.
        lpips (`str` or `Path`, *optional*): `"vgg"` or a vision network: also measure LPIPS with that backbone.
        num_samples (`int`): Of a pipeline.
        samples_dir (`str` or `Path`, *optional*): Where a pipeline's samples are kept, so that an interrupted run goes
            on. Required with `pipeline`.
        seed (`int`), settings ([`SamplingSettings`], *optional*), prompts, maps, negative_prompt, num_inference_steps:
            Of a pipeline's samples, as [`~fqgan_hf.pipelines.sample_run.SamplingRun.describe`] takes them.
        batch_size (`int`): Images at a time in each process.
        device (`str`): See [`~fqgan_hf.pipelines.inference.choose_device`].
        show_progress (`bool`): Bars over the images.
        **image_options: Of `open_image_set` for the reference, such as `image_column`.

    Returns:
        `dict`: The result; see `fqgan_hf.evaluation_results`.

    Raises:
        ValueError: The arguments do not fit together, or something is damaged, or of another kind or network.
        FileNotFoundError: Something is not there.
    """
    subjects = {"tokenizer": tokenizer, "samples": samples, "pipeline": pipeline}
    given = [name for name, value in subjects.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of tokenizer, samples and pipeline must be given, got {given or 'none'}")
    conditions = {
        "prompts": prompts, "maps": maps, "negative_prompt": negative_prompt,
        "num_inference_steps": num_inference_steps,
    }  # fmt: skip
    if pipeline is None:
        if superfluous := [name for name, value in conditions.items() if value is not None]:
            raise ValueError(f"{superfluous[0]} can be given with pipeline only, got {given[0]}")
    elif samples_dir is None:
        raise ValueError("samples_dir must be given with pipeline: there its samples are kept")
    started, clock = perf_counter(), Clock()
    if pipeline is not None:  # before the reference is measured: it says what of the arguments is wrong
        folder = resolve_pipeline(pipeline)
        run = SamplingRun.describe(
            folder, model_name=str(pipeline), num=num_samples, seed=seed, settings=settings, format="npz", **conditions
        )
    common = {"batch_size": batch_size, "clock": clock, "show_progress": show_progress}
    subject: dict[str, Any] = {given[0]: str(subjects[given[0]])}
    with joined_processes(device) as (_, here):
        model = None if tokenizer is None else load_tokenizer(tokenizer, here).vqmodel
        if model is not None:
            resolution = resolution or model.config.sample_size
        network = load_network(features, here, inception_weights)
        network_memory = _networks_memory(network, model, resolution or 64, batch_size)
        real, of_reference = open_reference(
            reference, network, split=split, resolution=resolution, num_images=num_images, **common, **image_options
        )
        protocol = {"network": network.description, "reference": of_reference, **PROTOCOL}
        if model is not None:
            if real.images is None:
                raise ValueError(
                    f"reference must be images, for a tokenizer to reconstruct, got statistics: {reference}"
                )
            similarities, protocol["similarities"] = _similarities(resolution, lpips, here)
            figures = evaluate_tokenizer(model, real, network, round_trip=True, similarities=similarities, **common)
            subject["fingerprint"] = model.fingerprint()
        else:
            if pipeline is not None:
                with clock("sampling"):
                    fill_folder(folder, run, samples_dir, batch_size=batch_size, device=device)
                samples, samples_split = samples_dir, None
                subject |= {name: value for name, value in run.as_json().items() if name in MADE_WITH}
            images = open_image_set(samples, samples_split)
            subject["fingerprint"] = images.fingerprint
            figures = evaluate_images(images, real, network, **common)
            if pipeline is not None:
                with clock("held-out codes"):
                    pipe = load_pipeline(folder, here)
                    figures["code_likelihood"] = code_likelihood(pipe, real, MAX_HELD_OUT, batch_size, show_progress)
        return {
            "format_version": FORMAT_VERSION,
            "kind": "generation" if model is None else "reconstruction",
            "figures": figures,
            "protocol": {**protocol, "num_images": figures["num_images"]},
            "subject": subject,
            "warnings": _warnings(real, figures["num_images"]),
            "environment": _environment(here),
            "cost": _cost(clock, perf_counter() - started, network_memory),
        }


def open_reference(
    source: str | Path,
    network: ImageNetwork,
    *,
    split: str | None = None,
    resolution: int | None = None,
    num_images: int | None = None,
    batch_size: int = 64,
    clock: Clock | None = None,
    show_progress: bool = False,
    **image_options: Any,
) -> tuple[Reference, dict[str, Any]]:
    """
    A reference by its name, and what a protocol says of it.

    Of an .npz file that holds both, as ADM's do, the statistics are those of the file, and the images serve precision
    and recall.

    Args:
        source, split, resolution, num_images, **image_options: As `reference` and so on of `evaluate`.
        network ([`ImageNetwork`]): Passes over images; statistics must be its own.
        batch_size, clock, show_progress: See [`Reference.measure`].

    Raises:
        ValueError: Statistics of another network, or what is there cannot be read.
    """
    path = Path(source)
    statistics, described = None, {}
    if split is None and path.suffix == ".npz" and path.is_file() and has_arrays(path, "mu", "sigma"):
        statistics = Reference.load(path)
        described = _described(path, network, statistics)
        if not has_arrays(path, "arr_0"):
            return statistics, described
    images = open_image_set(source, split, **image_options)
    reference = Reference.measure(
        images, network, resolution=resolution, num_images=num_images, batch_size=batch_size, clock=clock,
        show_progress=show_progress,
    )  # fmt: skip
    if statistics is not None:
        reference.statistics.pooled = statistics.statistics.pooled
        reference.statistics.spatial = statistics.statistics.spatial
    described = {
        "source": images.source,
        "fingerprint": images.fingerprint,
        "num_images": reference.num_images,
        "resolution": resolution,
    } | ({"statistics": described["fingerprint"]} if described else {})
    return reference, described


def write_statistics(
    source: str | Path,
    out: str | Path,
    features: str | Path = "inception",
    inception_weights: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> Reference:
    """
    Measure images and write their statistics: `fqgan statistics` from Python.

    Args:
        source (`str` or `Path`): Images, see `open_image_set`.
        out (`str` or `Path`): An .npz file: `mu` and `sigma`, of spatial features `mu_s` and `sigma_s`, `count`, and
            `description`, a JSON text that says network and images.
        features, inception_weights, device: See `evaluate`.
        **options: Of `open_reference`.

    Raises:
        ValueError: Fewer than two images, or they cannot be read.
    """
    with joined_processes(device) as (state, here):
        network = load_network(features, here, inception_weights)
        reference, described = open_reference(source, network, **options)
        if state.is_main_process:
            text = json.dumps({"network": network.description, "reference": described})
            reference.save(out, **{DESCRIPTION: np.array(text)})
        state.wait_for_everyone()
    return reference


def _described(path: Path, network: ImageNetwork, found: Reference) -> dict[str, Any]:
    """What a protocol says of a file of statistics; `ValueError` for those of another network."""
    theirs, ours = found.statistics.pooled.num_features, network([Image.new("RGB", (64, 64))]).pooled.shape[1]
    if theirs != ours:
        raise ValueError(
            f"reference {path} holds statistics of {theirs} features, the network {network.description['name']!r} "
            f"gives {ours}"
        )
    described = {"source": path.name, "fingerprint": sha256(path), "num_images": found.num_images, "resolution": None}
    if has_arrays(path, DESCRIPTION):
        with np.load(path, allow_pickle=False) as arrays:
            content = json.loads(str(arrays[DESCRIPTION]))
        theirs, ours = (json.loads(json.dumps(value)) for value in (content["network"], network.description))
        if differences := [name for name in ours if name not in ("name", "class") and ours[name] != theirs.get(name)]:
            raise ValueError(
                f"reference {path} holds statistics of another network, {theirs.get('name')!r} rather than "
                f"{ours['name']!r}: {', '.join(differences)} differ"
            )
        described = content["reference"]
    return described


def _similarities(
    resolution: int, lpips: str | Path | None, device: str
) -> tuple[dict[str, Callable], dict[str, Any]]:
    """Measures of an image beside its original, and what a protocol says of them."""
    measures: dict[str, Callable] = {"psnr": psnr, "l1": l1, "l2": l2}
    described: dict[str, Any] = {"levels": "8 bits"}
    if resolution >= MIN_SSIM_PIXELS:
        measures["ssim"] = ssim
        described["ssim"] = {"torchmetrics": version("torchmetrics"), "window": "Gaussian, 11 pixels, sigma 1.5"}
    if lpips is not None:
        measures["lpips"] = LPIPS(lpips, device)
        described["lpips"] = measures["lpips"].description
    return measures, described


def _warnings(reference: Reference, num_images: int) -> list[str]:
    """What the reader of the figures should know."""
    num_features = reference.statistics.pooled.num_features
    counts = {"images": num_images, "reference images": reference.num_images}
    return [
        f"{count} {name} are not more than the {num_features} features: their covariance is singular, and the Frechet "
        "distance is too large by an amount that depends on their number"
        for name, count in counts.items()
        if count is not None and count <= num_features
    ]


def _environment(device: str) -> dict[str, Any]:
    """On what, with what, and when."""
    libraries = ("fqgan-hf", "torch", "transformers", "diffusers", "numpy", "pillow", "datasets")
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "date": date.today().isoformat(),
        "device": card or device,
        "processes": PartialState().num_processes,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in libraries},
    }


def _peak_memory() -> float:
    """Most memory this process has held so far, in MB; NaN on Windows."""
    try:
        import resource
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


@torch.no_grad()
def _networks_memory(network: ImageNetwork, model: FQGANModel | None, size: int, batch_size: int) -> float:
    """What the process holds after a batch has passed through the network and, where there is one, the tokenizer."""
    network([Image.new("RGB", (size, size))] * batch_size)
    if model is not None:
        model(torch.zeros(batch_size, 3, size, size, device=model.device))
    return _peak_memory()


def _cost(clock: Clock, seconds: float, network_memory: float) -> dict[str, Any]:
    """Seconds of each part, the network's share of them, and memory: of this process."""
    return {
        "seconds": round(seconds, 2),
        "parts": {name: round(value, 2) for name, value in clock.seconds.items()},
        "network_share": round(clock.seconds.get("network", 0.0) / seconds, 4),
        "peak_memory_mb": round(_peak_memory(), 1),
        "peak_memory_above_networks_mb": round(_peak_memory() - network_memory, 1),
    }
