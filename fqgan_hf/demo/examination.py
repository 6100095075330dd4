# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Generated digits and their judge, whatever they were generated for.

Shapes: N images, H W pixels, K codebooks, h w grid.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from fqgan_hf.demo.digits import DIGIT_NAMES
from fqgan_hf.evaluation.evaluate import evaluate_generator
from fqgan_hf.evaluation.features import ImageNetwork
from fqgan_hf.evaluation.reference import Reference
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.pipelines.inference import generate_images


if TYPE_CHECKING:
    from fqgan_hf.pipelines.pipeline_far import FARPipeline


BATCH_SIZE = 250


@dataclass(frozen=True)
class Examination:
    """
    A pipeline, and what its images are judged by.

    Args:
        pipe ([`FARPipeline`]): Generates.
        reference ([`Reference`]): The held-out digits as the judge sees them.
        judge ([`ImageNetwork`]): Tells digits apart.
        num_images (`int`): To generate.
        seed (`int`): Of the generated digits.
        settings ([`SamplingSettings`]): How their codes are drawn.
    """

    pipe: "FARPipeline"
    reference: Reference
    judge: ImageNetwork
    num_images: int
    seed: int
    settings: SamplingSettings

    def of_classes(self, num_shown: int) -> tuple[dict[str, Any], list[list[Image.Image]]]:
        """Figures of digits of each class, and `num_shown` of each; see `evaluate_generator`."""
        return evaluate_generator(
            self.pipe, self.reference, self.judge, num_images=self.num_images, seed=self.seed, batch_size=BATCH_SIZE,
            settings=self.settings, num_shown=num_shown,
        )  # fmt: skip

    def generate(self, given: dict[str, list[Any]]) -> torch.Tensor:
        """Codes `(N, K, h, w)` of one image for each of the N values of an argument of the pipeline."""
        return generate_images(
            self.pipe, given, seed=self.seed, batch_size=BATCH_SIZE, settings=self.settings, output_type="codes"
        )

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> list[Image.Image]:
        """The N pictures of codes `(N, K, h, w)`, as the pipeline gives them."""
        images: list[Image.Image] = []
        for batch in codes.split(BATCH_SIZE):
            images += self.pipe.image_processor.postprocess(self.pipe.vqmodel.decode_codes(batch).sample)
        return images

    @torch.no_grad()
    def reconstruct(self, images: list[Image.Image]) -> list[Image.Image]:
        """What the tokenizer leaves of pictures: no generator on top of it can be better."""
        pixel_values = self.pipe.image_processor(images)["pixel_values"]
        return self.decode(
            torch.cat([self.pipe.vqmodel.encode(part).codes for part in pixel_values.split(BATCH_SIZE)])
        )

    def class_consistency(self, images: list[Image.Image], labels: list[int]) -> float:
        """The share of pictures that the judge takes for what they should be."""
        parts = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
        predictions = torch.cat([self.judge(part).predictions for part in parts])
        return (predictions == torch.tensor(labels)).double().mean().item()

    def recognize(self, images: list[Image.Image], labels: list[int]) -> dict[str, Any]:
        """
        How the judge classifies generated digits, and how far they are from held-out ones.

        Args:
            images (`list` of N pictures): The digits.
            labels (`list` of N `int`): What they should be.

        Returns:
            `dict`: As `of_classes`.
        """
        judge = self.reference.judge(self.judge, len(images))
        for indices in torch.arange(len(images)).split(BATCH_SIZE):
            batch = indices.tolist()
            judge.update([images[i] for i in batch], batch, torch.tensor([labels[i] for i in batch]))
        statistics = judge.statistics
        counts = zip(DIGIT_NAMES, statistics.hits.tolist(), statistics.counts.tolist(), strict=True)
        return {
            "num_images": len(images),
            **judge.compare(self.reference),
            "class_consistency": statistics.accuracy,
            "class_consistency_by_class": {name: hits / count for name, hits, count in counts if count},
            "guidance_scale": self.settings.guidance_scale,
            "top_k": self.settings.top_k,
            "parameters": self.pipe.transformer.num_parameters(),
        }
