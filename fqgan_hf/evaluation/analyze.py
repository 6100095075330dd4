# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the codebooks of a tokenizer hold, in numbers and pictures: `fqgan analyze` from Python.

    result = analyze("outputs/demo/pipeline", "path/to/images", "analysis")

writes `report.html`, which needs no other file, its pictures in `figures/`, and every number in `analysis.json`: the
same bytes for the same model, images, seed, libraries and kind of machine.

Source: Figures 3 and 4 of arXiv 2411.16681.
"""

import contextlib
import io
import reprlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from tqdm import tqdm

from fqgan_hf.evaluation.analysis_figures import draw
from fqgan_hf.evaluation.analysis_numbers import MAX_PROBE_CLASSES, MAX_TSNE_POINTS
from fqgan_hf.evaluation.analysis_report import render_report
from fqgan_hf.evaluation.analysis_results import NUM_PATCH_CODES, measure
from fqgan_hf.evaluation.analysis_survey import MAX_KEPT_POSITIONS, ShuffledImages, Survey
from fqgan_hf.evaluation.features import ImageNetwork, load_network
from fqgan_hf.evaluation.image_batches import image_batches
from fqgan_hf.evaluation.image_sets import open_image_set
from fqgan_hf.evaluation.images import LabelledImages
from fqgan_hf.files import check_writable, read_json, remove, staged_folder, write_json
from fqgan_hf.hub.facts import codebook_names
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.option_checks import check_seed
from fqgan_hf.pipelines.inference import load_tokenizer


if TYPE_CHECKING:
    from matplotlib.figure import Figure


FORMAT_VERSION = 1
REPORT, RESULT, FIGURES = "report.html", "analysis.json", "figures"
NUM_PATCHES = 6  # kept of each code
LIBRARIES = ("fqgan-hf", "torch", "diffusers", "numpy", "pillow", "matplotlib", "scikit-learn")


def analyze(
    model: str | Path,
    images: str | Path,
    output_dir: str | Path,
    *,
    split: str | None = None,
    features: str | Path | None = None,
    num_images: int = 1000,
    resolution: int | None = None,
    num_shown: int = 6,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "auto",
    show_progress: bool = True,
    **image_options: Any,
) -> dict[str, Any]:
    """
    Write a report of what a tokenizer's codebooks hold.

    Args:
        model (`str` or `Path`): A tokenizer, or a pipeline that has one: a folder or a Hub id.
        images (`str` or `Path`): See [`~fqgan_hf.evaluation.image_sets.open_image_set`].
        output_dir (`str` or `Path`): Folder for the report; one that is there is replaced.
        split (`str`, *optional*): Of `images`, where they are a dataset.
        features (`str` or `Path`, *optional*): A classifier of the images' classes, a vision network of
            transformers: what it makes of reconstructions is reported, too.
        num_images (`int`): To look at, drawn by the seed; all of them if there are fewer.
        resolution (`int`, *optional*): Side in pixels to which images are resized and cropped; by default the
            tokenizer's `sample_size`.
        num_shown (`int`): Images of which pictures are shown.
        seed (`int`): Of all choices.
        batch_size (`int`): Images at a time.
        device (`str`): See [`~fqgan_hf.pipelines.inference.choose_device`].
        show_progress (`bool`): A bar over the images.
        **image_options: Of `open_image_set`, such as `image_column`.

    Returns:
        `dict`: The content of `analysis.json`; see `measure`.

    Raises:
        ValueError: An argument is out of range, the classifier knows other classes, or something cannot be read.
        FileNotFoundError: Something is not there.
        ImportError: matplotlib or scikit-learn is not installed.
    """
    for name, value in (("num_images", num_images), ("num_shown", num_shown), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    check_seed("seed", seed)
    if missing := [name for name in ("matplotlib", "sklearn") if find_spec(name) is None]:
        raise ImportError(f"analyze needs {' and '.join(missing)}: pip install 'fqgan-hf[eval]'")
    output_dir = Path(output_dir)
    check_writable(output_dir / REPORT)
    tokenizer = load_tokenizer(model, device).vqmodel
    resolution = resolution or tokenizer.config.sample_size
    if resolution % tokenizer.downsample_factor:
        raise ValueError(f"resolution must be divisible by {tokenizer.downsample_factor}, got {resolution}")
    chosen = ShuffledImages(open_image_set(images, split, **image_options), num_images, seed)
    network = None if features is None else _load_classifier(features, chosen, tokenizer.device)
    survey = survey_images(tokenizer, chosen, network, resolution, num_shown, batch_size, show_progress)
    result = {
        "format_version": FORMAT_VERSION,
        "model": {"name": _name(model), **_describe_model(tokenizer)},
        "images": _describe_images(chosen, resolution, survey),
        "classifier": None if network is None else network.description,
        "settings": {
            "seed": seed, "num_shown": num_shown, "num_patch_codes": NUM_PATCH_CODES, "num_patches": NUM_PATCHES,
            "max_kept_positions": MAX_KEPT_POSITIONS, "max_tsne_points": MAX_TSNE_POINTS,
            "max_probe_classes": MAX_PROBE_CLASSES,
        },
        "versions": {name: version(name) for name in LIBRARIES},
        **measure(tokenizer, survey, chosen, seed),
    }  # fmt: skip
    drawn = draw(tokenizer, survey, chosen, result, seed)
    _write(output_dir, result, drawn)
    return result


def survey_images(
    model: FQGANModel,
    images: LabelledImages,
    network: ImageNetwork | None,
    resolution: int,
    num_shown: int,
    batch_size: int,
    show_progress: bool,
) -> Survey:
    """Pass all images through a tokenizer; see `analyze` and [`~fqgan_hf.evaluation.analysis_survey.Survey`]."""
    survey = Survey(model, network, num_shown, NUM_PATCHES)
    batches = image_batches(images, resolution=resolution, batch_size=batch_size, multiple_of=model.downsample_factor)
    with tqdm(total=len(images), desc="looking at images", unit="image", disable=not show_progress) as bar:
        for indices, pixel_values, labels in batches:
            survey.update(indices, pixel_values, labels)
            bar.update(len(indices))
    return survey


def _name(model: str | Path) -> str:
    """A folder without the folders above it, which are nobody's business; a Hub id as it is."""
    return Path(model).resolve().name if Path(model).is_dir() else str(model)


def _describe_model(model: FQGANModel) -> dict[str, Any]:
    config = model.config
    return {
        "fingerprint": model.fingerprint(),
        "codebooks": codebook_names(config.num_codebooks, config.feature_dims),
        **{name: config[name] for name in ("num_codebooks", "codebook_size", "codebook_dim", "quantizer_type")},
        "downsample_factor": model.downsample_factor,
        "sample_size": config.sample_size,
    }


def _describe_images(images: ShuffledImages, resolution: int, survey: Survey) -> dict[str, Any]:
    return {
        "source": images.source,
        "fingerprint": images.fingerprint,
        "num_available": len(images.images),
        "num_images": survey.num_images,
        "num_classes": None if images.label_names == ["unlabelled"] else len(images.label_names),
        "resolution": resolution,
        "grid": list(survey.grid),
    }


def _load_classifier(name: str | Path, images: LabelledImages, device: torch.device) -> ImageNetwork:
    network = load_network(name, device)
    if network.label_names is None or list(network.label_names) != list(images.label_names):
        ours, theirs = (reprlib.repr(list(names or [])) for names in (images.label_names, network.label_names))
        raise ValueError(
            f"features must be a classifier of the images' classes {ours}, got {name} of classes {theirs}"
        )
    return network


def _write(output_dir: Path, result: dict[str, Any], drawn: dict[str, Any]) -> None:
    """The files of an analysis, all of them or none, in place of those of an earlier one."""
    encoded = {name: _png(picture) for name, picture in drawn.items()}
    result["figures"] = [f"{FIGURES}/{name}.png" for name in encoded]
    with staged_folder(output_dir) as folder:
        (folder / FIGURES).mkdir()
        for name, content in encoded.items():
            (folder / FIGURES / f"{name}.png").write_bytes(content)
        (folder / REPORT).write_text(render_report(result, encoded), encoding="utf-8")
        write_json(folder / RESULT, result)
        _remove_figures(output_dir, keep=result["figures"])


def _remove_figures(output_dir: Path, keep: Sequence[str]) -> None:
    """Pictures that an earlier analysis there has written, and this one has not."""
    if not (output_dir / RESULT).is_file():
        return
    with contextlib.suppress(ValueError, TypeError):  # damaged, or not ours: it is replaced all the same
        for name in set(read_json(output_dir / RESULT).get("figures", ())) - set(keep):
            remove(output_dir / FIGURES / Path(name).name)


def _png(picture: "Image.Image | Figure") -> bytes:
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, "PNG")
    else:
        picture.savefig(buffer, format="png")
    return buffer.getvalue()
