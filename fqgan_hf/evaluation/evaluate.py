# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How good a tokenizer is, and a generator on top of it, and any set of images, beside held-out images.

    network = load_network("inception")
    reference = Reference.measure(images, network, resolution=256)
    evaluate_tokenizer(model, reference, network)["frechet_distance"]
    evaluate_generator(pipe, reference, network, num_images=5000, settings=SamplingSettings(guidance_scale=1.75))
    evaluate_images(samples, reference, network)

Images are streamed: none is kept once it has been judged, so memory does not grow with their number. In several
processes of an `accelerate launch` each judges its share, and all get the figures of the whole.

Shapes: B batch, K codebooks, H W pixels, D features.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from PIL import Image

from fqgan_hf.evaluation.code_figures import CodeFigures, code_cross_entropy
from fqgan_hf.evaluation.features import ImageNetwork
from fqgan_hf.evaluation.images import LabelledImages
from fqgan_hf.evaluation.judging import SetStatistics
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.evaluation.reference import Clock, Judge, Reference, common_classes, shared_batches
from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.inference import generate_batches
from fqgan_hf.pipelines.labels import class_names
from fqgan_hf.pipelines.pipeline_far import FARPipeline
from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline


# Measures of an image beside its original, by their names in results: `(original, reconstruction) -> (B,)`.
SIMILARITIES = {"psnr": psnr}


@torch.no_grad()
def evaluate_tokenizer(
    model: FQGANModel,
    reference: Reference,
    network: ImageNetwork,
    batch_size: int = 100,
    each_codebook: bool = False,
    round_trip: bool = False,
    similarities: Mapping[str, Any] = SIMILARITIES,
    clock: Clock | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """
    Quality of the reconstructions of held-out images, and what the codes are like.

    Args:
        model ([`FQGANModel`]): On any device.
        reference ([`Reference`]): Images measured by the same network.
        network ([`ImageNetwork`]): The judge.
        batch_size (`int`): Images at a time.
        each_codebook (`bool`): Also judge reconstructions from each codebook alone (arXiv 2411.16681, Figure 3).
        round_trip (`bool`): Also encode the reconstructions, to see which codes survive; costs another encoding.
        similarities (`Mapping[str, Callable]`): Measures of an image beside its original, by name.
        clock ([`Clock`], *optional*): Gets the times of `reading`, `tokenizer`, `network` and `statistics`.
        show_progress (`bool`): A bar over the images.

    Returns:
        `dict`: What `compare_sets` gives of the reconstructions, `num_images`, the mean of each similarity, `psnr` in
        dB; `classifier_accuracy`, the network's on the reconstructions; what `CodeFigures` gives of the codes, with
        `codes_kept`, the share of codes that survive, of each codebook; `parameters` without and
        `training_only_parameters` of the feature heads. With `each_codebook`, a list of that name with `psnr` and
        `classifier_accuracy` of each.
    """
    config = model.config
    model = model.eval()
    processor = FQGANImageProcessor()
    alone = range(config.num_codebooks) if each_codebook else ()
    clock = clock or Clock()
    judges = {k: reference.judge(network, reference.num_images, clock) for k in ("all", *alone)}
    sums = {k: dict.fromkeys(similarities if k == "all" else SIMILARITIES, 0.0) for k in judges}
    codes_seen = CodeFigures(config.num_codebooks, config.codebook_size)
    for indices, pixel_values, labels in reference.batches(
        batch_size, clock, "reconstructing", show_progress, model.downsample_factor
    ):
        with clock("tokenizer"):
            output = model(pixel_values.to(model.device))
            samples = {"all": output.sample.float().cpu()}
            for k in alone:
                samples[k] = model.decode_codes(output.codes, codebooks=[k]).sample.float().cpu()
            again = model.encode(output.sample.clamp(-1, 1)).codes if round_trip else None
        with clock("statistics"):
            codes_seen.update(output.codes, indices, again)
        for k, sample in samples.items():
            judges[k].update(processor.postprocess(sample), indices, labels)
            with clock("similarities"):
                for name in sums[k]:
                    sums[k][name] += similarities[name](pixel_values, sample).sum().item()
    compared = judges["all"].compare(reference)
    means = _means(sums, reference.num_images)
    heads = sum(parameter.numel() for parameter in model.feature_heads.parameters())
    figures = {
        "num_images": reference.num_images,
        **compared,
        **means["all"],
        "classifier_accuracy": judges["all"].statistics.accuracy,
        **codes_seen.gather().compute(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()) - heads,
        "training_only_parameters": heads,
    }
    if each_codebook:
        figures["each_codebook"] = [
            {"psnr": means[k]["psnr"], "classifier_accuracy": judges[k].statistics.gather().accuracy} for k in alone
        ]
    return figures


def _means(sums: dict[Any, dict[str, float]], num_images: int) -> dict[Any, dict[str, float]]:
    """From the sums of every process the means over all images."""
    everywhere = gather_object([sums])
    return {
        k: {name: sum(found[k][name] for found in everywhere) / num_images for name in names}
        for k, names in sums.items()
    }


@torch.no_grad()
def evaluate_images(
    images: LabelledImages,
    reference: Reference,
    network: ImageNetwork,
    *,
    resolution: int | None = None,
    num_images: int | None = None,
    batch_size: int = 100,
    clock: Clock | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """
    A set of images beside held-out ones.

    Args:
        images (`LabelledImages`): See [`~fqgan_hf.evaluation.image_sets.open_image_set`].
        reference, network: See `evaluate_tokenizer`.
        resolution (`int`, *optional*): Side in pixels to which they are resized and cropped; without it they are
            judged as they are.
        num_images (`int`, *optional*): Only the first ones.
        batch_size, clock, show_progress: See `evaluate_tokenizer`.

    Returns:
        `dict`: `num_images`, what `compare_sets` gives, and `class_consistency`, the share of images whose class by
        the network is their label, with `class_consistency_by_class`; None unless both have the same classes, by their
        names, or of an .npz file by their numbers.

    Raises:
        ValueError: Images of different sizes, or of an .npz file a label that is none of the network's classes.
    """
    num_images = len(images) if num_images is None else min(num_images, len(images))
    names = common_classes(images, network)
    judge, processor = Judge(network, SetStatistics(num_images, names), clock or Clock()), FQGANImageProcessor()
    for indices, pixel_values, labels in shared_batches(
        images, resolution, num_images, batch_size, judge.clock, "judging", show_progress
    ):
        judge.update(processor.postprocess(pixel_values), indices, labels)
    return {"num_images": num_images, **judge.compare(reference), **_consistency(judge.statistics, names)}


@torch.no_grad()
def evaluate_generator(
    pipe: FARPipeline,
    reference: Reference,
    network: ImageNetwork,
    *,
    num_images: int,
    seed: int = 0,
    batch_size: int = 100,
    settings: SamplingSettings | None = None,
    num_shown: int = 0,
) -> tuple[dict[str, Any], list[list[Image.Image]]]:
    """
    Class-balanced samples against held-out images, on one process. `fqgan sample` and `evaluate_images` do it in
    several, and go on after an interruption.

    Args:
        pipe ([`FARPipeline`]): On any device.
        reference, network: See `evaluate_tokenizer`.
        num_images (`int`): To generate; rounded down to the same number of each class, at least one.
        seed (`int`): Image i comes from `image_generator(seed, i)`.
        batch_size (`int`): Images at a time.
        settings ([`SamplingSettings`], *optional*): How codes are sampled.
        num_shown (`int`): Images of each class to return, the first ones.

    Returns:
        `tuple`: A `dict` as of `evaluate_images`, in which classes are judged only where data, network and generator
        have the same, with the guidance, `top_k`, and `parameters` of the generator. And `num_shown` images of each
        class.
    """
    settings = settings or SamplingSettings()
    config = pipe.transformer.config
    # Class after class in turn, so that every batch holds all of them.
    labels = list(range(config.num_classes)) * max(1, num_images // config.num_classes)
    is_judged = reference.accuracy is not None and _has_classes(config, network.label_names)
    judge = Judge(network, SetStatistics(len(labels), network.label_names if is_judged else None))
    shown: list[list[Image.Image]] = [[] for _ in range(config.num_classes)]
    place = 0
    for images in generate_batches(pipe, labels, seed=seed, batch_size=batch_size, settings=settings):
        indices = range(place, place + len(images))
        asked = [labels[index] for index in indices]
        place += len(images)
        judge.update(images, list(indices), torch.tensor(asked))
        for label, image in zip(asked, images, strict=True):
            if len(shown[label]) < num_shown:
                shown[label].append(image)
    figures = {
        "num_images": len(labels),
        **judge.compare(reference),
        **_consistency(judge.statistics, class_titles(config)),
        "guidance_scale": settings.guidance_scale,
        "top_k": settings.top_k,
        "parameters": pipe.transformer.num_parameters(),
    }
    return figures, shown


@torch.no_grad()
def code_likelihood(
    pipe: GeneratorPipeline, reference: Reference, num_images: int, batch_size: int = 100, show_progress: bool = False
) -> list[float] | None:
    """
    Negative log-likelihood of the codes of held-out images under a generator, given their classes.

    Args:
        pipe ([`GeneratorPipeline`]): Tokenizer and generator.
        reference ([`Reference`]): With images.
        num_images (`int`): Only the first ones.
        batch_size, show_progress: See `evaluate_tokenizer`.

    Returns:
        `list[float]`: Of each codebook, in nats per position. Or None where the images lack the generator's classes,
        the generator reads something else than classes, or it is one by diffusion, of which `code_cross_entropy` gives
        no likelihood.
    """
    config = pipe.transformer.config
    if not isinstance(pipe, FARPipeline) or list(config.conditions) != ["class"]:
        return None
    if reference.images is None or not _has_classes(config, reference.images.label_names):
        return None
    sums, count = torch.zeros(config.num_codebooks, dtype=torch.float64), 0
    size = pipe.vqmodel.config.sample_size
    num_images = min(num_images, reference.num_images)
    for _, pixel_values, labels in shared_batches(
        reference.images, size, num_images, batch_size, Clock(), "held-out codes", show_progress,
        pipe.vqmodel.downsample_factor,
    ):  # fmt: skip
        known = labels >= 0
        grid = pipe.vqmodel.encode(pixel_values[known].to(pipe.vqmodel.device)).codes
        losses = code_cross_entropy(pipe.transformer, labels[known].to(grid.device), grid_to_sequence(grid))
        sums += losses.sum(0).double().cpu()
        count += len(losses)
    everywhere = gather_object([(sums, count)])
    total = sum(count for _, count in everywhere)
    return (sum(sums for sums, _ in everywhere) / total).tolist() if total else None


def _consistency(statistics: SetStatistics, titles: Sequence[str] | None) -> dict[str, Any]:
    """Share of images whose class by the network is the one asked for, in all and of each class; None: not judged."""
    by_class = None
    if statistics.accuracy is not None:
        shares = (statistics.hits / statistics.counts).tolist()
        by_class = {title: share for title, share in zip(titles, shares, strict=True) if not math.isnan(share)}
    return {"class_consistency": statistics.accuracy, "class_consistency_by_class": by_class}


def _has_classes(config: FARConfig, names: Sequence[str]) -> bool:
    """Whether a generator's classes are those of these names, in that order, as far as it names them."""
    own = class_names(config.id2label)
    return config.num_classes == len(names) and all(own.get(i, name) == name for i, name in enumerate(names))


def class_titles(config: FARConfig) -> list[str]:
    """A different name for each class: its id where it has none, and beside a name that several share (ImageNet)."""
    names = class_names(config.id2label)
    titles = [names.get(i, str(i)) for i in range(config.num_classes)]
    return [f"{title} ({i})" if titles.count(title) > 1 else title for i, title in enumerate(titles)]
