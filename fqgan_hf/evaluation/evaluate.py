# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How good a tokenizer is, and a generator on top of it, on held-out images: see `fqgan_hf.training.evaluation`.

Shapes: B batch, N images, D features, C classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from fqgan_hf import FARPipeline
from fqgan_hf.evaluation.codebooks import CodebookUsage, codebook_overlap
from fqgan_hf.evaluation.features import FeatureNetwork
from fqgan_hf.evaluation.images import LabelledImages, ProcessedImages, load_images
from fqgan_hf.evaluation.metrics import FeatureStatistics, frechet_distance, psnr
from fqgan_hf.evaluation.pictures import image_grid, save_image
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.inference import generate_images
from fqgan_hf.pretrained import load_pretrained


if TYPE_CHECKING:
    from fqgan_hf.training.evaluation import EvaluationArguments


@dataclass
class Reference:
    """
    The held-out images as the judge sees them.

    Args:
        images (`LabelledImages`): All of them.
        resolution (`int`): Side in pixels at which they are judged.
        num_images (`int`): Only the first ones count.
        statistics (`FeatureStatistics`): Of their features.
        accuracy (`float`, *optional*): Share that the judge reads as labelled. None if it cannot read these classes.
    """

    images: LabelledImages
    resolution: int
    num_images: int
    statistics: FeatureStatistics
    accuracy: float | None

    @classmethod
    def measure(
        cls, images: LabelledImages, resolution: int, num_images: int, network: FeatureNetwork, batch_size: int = 100
    ) -> "Reference":
        """Pass the first `num_images` pictures through the network."""
        num_images = min(num_images, len(images))
        reference = cls(images, resolution, num_images, FeatureStatistics(), None)
        # Class ids are compared, so they must mean the same.
        can_read = network.label_names == images.label_names
        num_correct = 0
        for pixel_values, labels in reference.batches(batch_size):
            features, read = network(FQGANImageProcessor().postprocess(pixel_values))
            reference.statistics.update(features)
            if can_read:
                num_correct += int((read == labels).sum())
        if can_read:
            reference.accuracy = num_correct / num_images
        return reference

    def batches(self, batch_size: int, multiple_of: int = 1):
        """Yields pixels `(B, 3, H, W)` in [-1, 1] and labels `(B,)`."""
        processor = FQGANImageProcessor(size=self.resolution, multiple_of=multiple_of)
        dataset = ProcessedImages(self.images, range(self.num_images), processor)
        for batch in DataLoader(dataset, batch_size):
            yield batch["pixel_values"], batch["label"]

    def distance(self, statistics: FeatureStatistics) -> float:
        """Frechet distance of other pictures' features to these."""
        return frechet_distance(statistics.mu, statistics.sigma, self.statistics.mu, self.statistics.sigma)


@torch.no_grad()
def evaluate_tokenizer(
    model: FQGANModel, reference: Reference, network: FeatureNetwork, batch_size: int = 100
) -> dict[str, Any]:
    """
    Quality of the reconstructions of held-out images, and what the codes are like.

    Returns:
        `dict`: `frechet_distance` and `psnr` (dB) of the reconstructions; `read_as_labelled`, the share of them that
        the judge reads as the original's label; `usage`, `codes_used` and `perplexity` of each codebook; `overlap`,
        the normalised mutual information of two codebooks above chance (mean over the pairs; None for one codebook);
        `bits_per_position`; `parameters` without and `training_only_parameters` of the feature heads.
    """
    config = model.config
    model = model.eval()
    statistics = FeatureStatistics()
    usage = CodebookUsage(config.num_codebooks, config.codebook_size)
    ratios, codes, num_correct = [], [], 0
    for pixel_values, labels in reference.batches(batch_size, model.downsample_factor):
        output = model(pixel_values.to(model.device))
        reconstructions = output.sample.float().cpu()
        features, read = network(FQGANImageProcessor().postprocess(reconstructions))
        statistics.update(features)
        ratios.append(psnr(pixel_values, reconstructions))
        usage.update(output.codes)
        codes.append(output.codes.cpu())
        if reference.accuracy is not None:
            num_correct += int((read == labels).sum())
    overlap = None
    if config.num_codebooks > 1:
        pairs = codebook_overlap(torch.cat(codes), adjusted=True)
        overlap = pairs[~torch.eye(len(pairs), dtype=torch.bool)].mean().item()
    heads = sum(parameter.numel() for parameter in model.feature_heads.parameters())
    return {
        "num_images": reference.num_images,
        "frechet_distance": reference.distance(statistics),
        "psnr": torch.cat(ratios).mean().item(),
        "read_as_labelled": None if reference.accuracy is None else num_correct / reference.num_images,
        "usage": usage.usage.tolist(),
        "codes_used": usage.num_used.tolist(),
        "perplexity": usage.perplexity.tolist(),
        "overlap": overlap,
        "num_codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "grid": list(codes[0].shape[2:]),
        "bits_per_position": config.num_codebooks * torch.tensor(float(config.codebook_size)).log2().item(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()) - heads,
        "training_only_parameters": heads,
    }


@torch.no_grad()
def evaluate_generator(
    pipe: FARPipeline,
    reference: Reference,
    network: FeatureNetwork,
    num_images: int,
    batch_size: int = 100,
    guidance_scale: float = 2.0,
    top_k: int = 0,
    seed: int = 0,
) -> tuple[dict[str, Any], list[list[Image.Image]]]:
    """
    Class-balanced samples against held-out images.

    Args:
        num_images (`int`): To generate; rounded down to the same number for each class, at least one.

    Returns:
        `tuple`: `frechet_distance`; `read_as_asked`, the share that the judge reads as the class asked for, also by
        class; `parameters` of the generator. And the first eight images of each class.
    """
    config = pipe.transformer.config
    names = [config.id2label[i] for i in range(config.num_classes)]
    per_class = max(1, num_images // config.num_classes)
    # Class after class in turn, so that every batch holds all of them.
    labels = list(range(config.num_classes)) * per_class
    statistics, reads = FeatureStatistics(), []
    rows: list[list[Image.Image]] = [[] for _ in names]
    pipe.set_progress_bar_config(disable=True)
    settings = SamplingSettings(guidance_scale=guidance_scale, top_k=top_k)
    images = generate_images(pipe, labels, seed=seed, batch_size=batch_size, settings=settings)
    for start in range(0, len(images), batch_size):
        features, read = network(images[start : start + batch_size])
        statistics.update(features)
        if reference.accuracy is not None:
            reads.append(read)
    for label, image in zip(labels, images, strict=True):
        if len(rows[label]) < 8:
            rows[label].append(image)
    share, by_class = None, None
    if reads:
        asked = torch.tensor(labels)
        as_asked = torch.cat(reads) == asked
        share = as_asked.float().mean().item()
        by_class = {name: as_asked[asked == i].float().mean().item() for i, name in enumerate(names)}
    figures = {
        "num_images": len(images),
        "frechet_distance": reference.distance(statistics),
        "read_as_asked": share,
        "read_as_asked_by_class": by_class,
        "guidance_scale": guidance_scale,
        "top_k": top_k,
        "parameters": pipe.transformer.num_parameters(),
    }
    return figures, rows


def load_pipeline(tokenizer: str | Path, generator: str | Path) -> FARPipeline:
    """The trained parts as one pipeline."""
    return FARPipeline(
        vqmodel=load_pretrained(FQGANModel, tokenizer, "tokenizer").eval(),
        transformer=load_pretrained(FARForImageGeneration, generator, "generator").eval(),
        image_processor=load_pretrained(FQGANImageProcessor, tokenizer, "tokenizer"),
    )


def evaluate(args: "EvaluationArguments") -> dict[str, Any]:
    """Figures of what the arguments name, as `output_file` gets them; the samples go to `sample_grid`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_pretrained(FQGANModel, args.tokenizer, "tokenizer").to(device)
    network = FeatureNetwork(args.feature_extractor, device)
    images = load_images(args)
    resolution = args.resolution or model.config.sample_size
    reference = Reference.measure(images, resolution, len(images), network, args.batch_size)
    figures = {
        "held_out": {"source": images.source, "num_images": len(images), "read_as_labelled": reference.accuracy},
        "tokenizer": evaluate_tokenizer(model, reference, network, args.batch_size),
    }
    if args.generator is not None:
        pipe = load_pipeline(args.tokenizer, args.generator).to(device)
        figures["generator"], rows = evaluate_generator(
            pipe,
            reference,
            network,
            args.num_generated_images,
            args.batch_size,
            args.guidance_scale,
            args.top_k,
            args.seed,
        )
        if args.sample_grid is not None:
            names = [pipe.transformer.config.id2label[i] for i in range(len(rows))]
            save_image(image_grid(rows, row_captions=names, min_cell_size=64, padding=4), args.sample_grid)
    return figures
