# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How good a tokenizer is, and a generator on top of it, on held-out images, judged by any image network.

    network = FeatureNetwork("path/to/network")
    reference = Reference.measure(images, network, resolution=32)
    evaluate_tokenizer(model, reference, network)["frechet_distance"]
    evaluate_generator(pipe, reference, network, num_images=5000, settings=SamplingSettings(guidance_scale=1.75))

Images are streamed: none is kept once it has been judged, so memory does not grow with their number.

Shapes: B batch, K codebooks, H W pixels, D features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fqgan_hf.evaluation.codebooks import CodebookUsage, codebook_overlap
from fqgan_hf.evaluation.features import FeatureNetwork
from fqgan_hf.evaluation.images import LabelledImages, image_batches
from fqgan_hf.evaluation.metrics import FeatureStatistics, frechet_distance, psnr
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.inference import choose_device, generate_batches, join_pipeline
from fqgan_hf.pipelines.labels import class_names
from fqgan_hf.pipelines.pipeline_far import FARPipeline
from fqgan_hf.pretrained import load_pretrained


# Positions from which the overlap of codebooks is estimated, the first ones: 8 MB per codebook hold them.
MAX_OVERLAP_POSITIONS = 2**21


@dataclass
class Reference:
    """
    Held-out images as a feature network sees them.

    Args:
        images (`LabelledImages`): All of them.
        resolution (`int`): Side in pixels at which they are judged.
        num_images (`int`): Only the first ones count.
        statistics (`FeatureStatistics`): Of their features.
        accuracy (`float`, *optional*): The network's accuracy on them. None if it does not know their classes.
    """

    images: LabelledImages
    resolution: int
    num_images: int
    statistics: FeatureStatistics
    accuracy: float | None

    @classmethod
    def measure(
        cls,
        images: LabelledImages,
        network: FeatureNetwork,
        *,
        resolution: int,
        num_images: int | None = None,
        batch_size: int = 100,
    ) -> "Reference":
        """Pass the first `num_images` pictures, by default all, through the network."""
        num_images = len(images) if num_images is None else min(num_images, len(images))
        reference = cls(images, resolution, num_images, FeatureStatistics(), None)
        # Class ids are compared, so they must mean the same.
        judge = _Judge(network, reads_classes=network.label_names == images.label_names)
        for pixel_values, labels in reference.batches(batch_size):
            judge.update(FQGANImageProcessor().postprocess(pixel_values), labels)
        reference.statistics, reference.accuracy = judge.statistics, judge.accuracy
        return reference

    def batches(self, batch_size: int, multiple_of: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pixels `(B, 3, H, W)` in [-1, 1] and labels `(B,)`, batch after batch."""
        return image_batches(
            self.images, resolution=self.resolution, num_images=self.num_images, batch_size=batch_size,
            multiple_of=multiple_of,
        )  # fmt: skip


class _Judge:
    """Accumulates what a network says of images: statistics of features, and hits by class where it reads classes."""

    def __init__(self, network: FeatureNetwork, reads_classes: bool):
        self.network = network
        self.statistics = FeatureStatistics()
        num_classes = len(network.label_names) if reads_classes else 0
        self.hits = torch.zeros(num_classes, dtype=torch.long)
        self.counts = torch.zeros(num_classes, dtype=torch.long)

    @classmethod
    def beside(cls, reference: Reference, network: FeatureNetwork) -> "_Judge":
        return cls(network, reads_classes=reference.accuracy is not None)

    def update(self, images: Sequence[Image.Image], labels: torch.Tensor) -> None:
        features, predictions = self.network(images)
        self.statistics.update(features)
        if len(self.counts):
            known = labels >= 0  # -1: an image without a class
            self.counts += torch.bincount(labels[known], minlength=len(self.counts))
            self.hits += torch.bincount(labels[known & (predictions == labels)], minlength=len(self.counts))

    @property
    def accuracy(self) -> float | None:
        """Share of images whose predicted class is their label."""
        return self.hits.sum().item() / self.counts.sum().item() if self.counts.sum() else None

    def distance(self, reference: Reference) -> float:
        """Frechet distance of the features to those of the reference."""
        theirs, ours = self.statistics, reference.statistics
        return frechet_distance(theirs.mu, theirs.sigma, ours.mu, ours.sigma)


@torch.no_grad()
def evaluate_tokenizer(
    model: FQGANModel,
    reference: Reference,
    network: FeatureNetwork,
    batch_size: int = 100,
    each_codebook: bool = False,
) -> dict[str, Any]:
    """
    Quality of the reconstructions of held-out images, and what the codes are like.

    Args:
        model ([`FQGANModel`]): On any device.
        reference ([`Reference`]): Measured by the same network.
        network ([`FeatureNetwork`]): The judge.
        batch_size (`int`): Images at a time.
        each_codebook (`bool`): Also judge reconstructions from each codebook alone (arXiv 2411.16681, Figure 3).

    Returns:
        `dict`: `frechet_distance` and `psnr` (dB) of the reconstructions; `classifier_accuracy`, the network's on the
        reconstructions; `usage`, `codes_used` and `perplexity` of each codebook; `overlap`, the normalised mutual
        information of two codebooks above chance (mean over the pairs; None for one codebook); `bits_per_position`;
        `parameters` without and `training_only_parameters` of the feature heads. With `each_codebook`, a list of that
        name with `psnr` and `classifier_accuracy` of each.
    """
    config = model.config
    model = model.eval()
    processor = FQGANImageProcessor()
    alone = range(config.num_codebooks) if each_codebook else ()
    judges = {k: _Judge.beside(reference, network) for k in ("all", *alone)}
    ratios = dict.fromkeys(judges, 0.0)
    usage = CodebookUsage(config.num_codebooks, config.codebook_size)
    kept, num_kept = [], 0
    for pixel_values, labels in reference.batches(batch_size, model.downsample_factor):
        output = model(pixel_values.to(model.device))
        codes = output.codes.cpu()
        usage.update(codes)
        if num_kept < MAX_OVERLAP_POSITIONS:
            kept.append(codes.int())
            num_kept += codes[:, 0].numel()
        samples = {"all": output.sample}
        samples |= {k: model.decode_codes(output.codes, codebooks=[k]).sample for k in alone}
        for k, sample in samples.items():
            sample = sample.float().cpu()
            judges[k].update(processor.postprocess(sample), labels)
            ratios[k] += psnr(pixel_values, sample).sum().item()
    heads = sum(parameter.numel() for parameter in model.feature_heads.parameters())
    figures = {
        "num_images": reference.num_images,
        "frechet_distance": judges["all"].distance(reference),
        "psnr": ratios["all"] / reference.num_images,
        "classifier_accuracy": judges["all"].accuracy,
        "usage": usage.usage.tolist(),
        "codes_used": usage.num_used.tolist(),
        "perplexity": usage.perplexity.tolist(),
        "overlap": _mean_overlap(kept),
        "num_codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "grid": list(kept[0].shape[2:]),
        "bits_per_position": config.num_codebooks * torch.tensor(float(config.codebook_size)).log2().item(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()) - heads,
        "training_only_parameters": heads,
    }
    if each_codebook:
        figures["each_codebook"] = [
            {"psnr": ratios[k] / reference.num_images, "classifier_accuracy": judges[k].accuracy} for k in alone
        ]
    return figures


def _mean_overlap(batches: list[torch.Tensor]) -> float | None:
    """Mean over the pairs of codebooks, from batches of codes `(B, K, h, w)`."""
    if batches[0].shape[1] == 1:
        return None
    sequences = torch.cat([batch.transpose(0, 1).flatten(1) for batch in batches], dim=1)
    pairs = codebook_overlap(sequences[None, :, :MAX_OVERLAP_POSITIONS], adjusted=True)
    return pairs[~torch.eye(len(pairs), dtype=torch.bool)].mean().item()


@torch.no_grad()
def evaluate_generator(
    pipe: FARPipeline,
    reference: Reference,
    network: FeatureNetwork,
    *,
    num_images: int,
    seed: int = 0,
    batch_size: int = 100,
    settings: SamplingSettings | None = None,
    num_shown: int = 0,
) -> tuple[dict[str, Any], list[list[Image.Image]]]:
    """
    Class-balanced samples against held-out images.

    Args:
        pipe ([`FARPipeline`]): On any device.
        reference, network: See `evaluate_tokenizer`.
        num_images (`int`): To generate; rounded down to the same number of each class, at least one.
        seed (`int`): Image i comes from `image_generator(seed, i)`.
        batch_size (`int`): Images at a time.
        settings ([`SamplingSettings`], *optional*): How codes are sampled.
        num_shown (`int`): Images of each class to return, the first ones.

    Returns:
        `tuple`: A `dict` of `frechet_distance`; `class_consistency`, the share of images whose class by the network is
        the one asked for, and `class_consistency_by_class`, both None unless data, network and generator have the
        same classes; the guidance, `top_k`, and `parameters` of the generator. And `num_shown` images of each class.
    """
    settings = settings or SamplingSettings()
    config = pipe.transformer.config
    # Class after class in turn, so that every batch holds all of them.
    labels = list(range(config.num_classes)) * max(1, num_images // config.num_classes)
    is_judged = reference.accuracy is not None and _has_classes(config, network.label_names)
    judge = _Judge(network, reads_classes=is_judged)
    shown: list[list[Image.Image]] = [[] for _ in range(config.num_classes)]
    place = 0
    for images in generate_batches(pipe, labels, seed=seed, batch_size=batch_size, settings=settings):
        asked = labels[place : place + len(images)]
        place += len(images)
        judge.update(images, torch.tensor(asked))
        for label, image in zip(asked, images, strict=True):
            if len(shown[label]) < num_shown:
                shown[label].append(image)
    by_class = None
    if judge.accuracy is not None:
        by_class = dict(zip(_class_titles(config), (judge.hits / judge.counts).tolist(), strict=True))
    figures = {
        "num_images": len(labels),
        "frechet_distance": judge.distance(reference),
        "class_consistency": judge.accuracy,
        "class_consistency_by_class": by_class,
        "guidance_scale": settings.guidance_scale,
        "top_k": settings.top_k,
        "parameters": pipe.transformer.num_parameters(),
    }
    return figures, shown


def _has_classes(config: FARConfig, names: Sequence[str]) -> bool:
    """Whether a generator's classes are those of these names, in that order, as far as it names them."""
    own = class_names(config.id2label)
    return config.num_classes == len(names) and all(own.get(i, name) == name for i, name in enumerate(names))


def _class_titles(config: FARConfig) -> list[str]:
    """A different name for each class: its id where it has none, and beside a name that several share (ImageNet)."""
    names = class_names(config.id2label)
    titles = [names.get(i, str(i)) for i in range(config.num_classes)]
    return [f"{title} ({i})" if titles.count(title) > 1 else title for i, title in enumerate(titles)]


def evaluate(
    images: LabelledImages,
    tokenizer: str | Path,
    feature_extractor: str | Path,
    generator: str | Path | None = None,
    *,
    resolution: int | None = None,
    num_generated_images: int = 5000,
    seed: int = 0,
    batch_size: int = 100,
    settings: SamplingSettings | None = None,
    num_shown: int = 0,
) -> tuple[dict[str, Any], dict[str, list[Image.Image]]]:
    """
    Load a tokenizer, and a generator on top of it, and judge them on held-out images.

    Args:
        images (`LabelledImages`): From [`~fqgan_hf.evaluation.images.load_images`].
        tokenizer, feature_extractor, generator (`str` or `Path`): Folders or Hub ids.
        resolution (`int`, *optional*): Side in pixels; by default the tokenizer's `sample_size`.
        num_generated_images, seed, batch_size, settings, num_shown: See `evaluate_generator`.

    Returns:
        `tuple`: Figures under `held_out`, `tokenizer` and, with a generator, `generator`, see `evaluate_tokenizer` and
        `evaluate_generator`; and the first `num_shown` generated images of each class by its name.

    Raises:
        ValueError: Something cannot be loaded, or tokenizer and generator do not belong together.
    """
    device = choose_device()
    model = load_pretrained(FQGANModel, tokenizer, "tokenizer").to(device)
    network = FeatureNetwork(feature_extractor, device)
    reference = Reference.measure(
        images, network, resolution=resolution or model.config.sample_size, batch_size=batch_size
    )
    figures = {
        "held_out": {
            "source": images.source,
            "num_images": reference.num_images,
            "classifier_accuracy": reference.accuracy,
        },
        "tokenizer": evaluate_tokenizer(model, reference, network, batch_size),
    }
    if generator is None:
        return figures, {}
    pipe = join_pipeline(tokenizer, generator).to(device)
    figures["generator"], shown = evaluate_generator(
        pipe, reference, network, num_images=num_generated_images, seed=seed, batch_size=batch_size,
        settings=settings, num_shown=num_shown,
    )  # fmt: skip
    return figures, dict(zip(_class_titles(pipe.transformer.config), shown, strict=True))
