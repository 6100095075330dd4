# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Training of a tokenizer on label maps: what goes into it, and how well maps come out.

Shapes: B batch, N labels, H W pixels.
"""

import colorsys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader

from fqgan_hf.evaluation.codebooks import CodebookUsage
from fqgan_hf.evaluation.label_maps import confusion_counts, label_iou
from fqgan_hf.modeling.label_maps_fqgan import one_hot_labels
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.loop import evaluation_mode
from fqgan_hf.training.fqgan.validation import save_pictures, usage_figures


GOLDEN_SECTION = 0.618034  # as a share of the circle: hues that follow each other differ, however many there are


def network_input(images: torch.Tensor, num_labels: int | None) -> torch.Tensor:
    """What a tokenizer is given: pictures `(B, 3, H, W)` as they are, label maps `(B, H, W)` as `(B, N, H, W)`."""
    return images if num_labels is None else one_hot_labels(images, num_labels)


def label_colors(num_labels: int) -> np.ndarray:
    """A colour for each label, uint8 `(num_labels, 3)`; label 0, which is often the background, is white."""
    hues = [(i * GOLDEN_SECTION) % 1 for i in range(num_labels)]
    colors = [colorsys.hsv_to_rgb(hue, 0.75, 0.6 + 0.35 * (i % 2)) for i, hue in enumerate(hues)]
    return (255 * np.array([(1.0, 1.0, 1.0), *colors[1:]])).round().astype(np.uint8)


def paint(label_maps: torch.Tensor, num_labels: int) -> list[Image.Image]:
    """Label maps `(B, H, W)` as RGB pictures."""
    return [Image.fromarray(picture) for picture in label_colors(num_labels)[label_maps.cpu().numpy()]]


@torch.no_grad()
def validate_label_maps(
    accelerator: Accelerator, model: FQGANModel, dataloader: DataLoader, folder: Path, step: int
) -> dict[str, float]:
    """
    Figures of held-out label maps, in place of `validate`.

    Args:
        accelerator, model, folder, step: See `validate`.
        dataloader (`DataLoader`): Of held-out label maps, prepared.

    Returns:
        `dict`: `validation/pixel_accuracy`, `validation/miou` of the pixels of all maps together (see `mean_iou`), and
        usage and perplexity of the codebooks as `validate` gives them.
    """
    num_labels = model.config.num_labels
    usage = CodebookUsage(model.config.num_codebooks, model.config.codebook_size)
    counts, shown = torch.zeros(num_labels, num_labels, dtype=torch.int64, device=accelerator.device), None
    with evaluation_mode(model):
        for batch in dataloader:
            labels = batch["pixel_values"]
            output = model(network_input(labels, num_labels))
            found = (output.sample.argmax(1), output.codes, labels)
            predictions, codes, labels = accelerator.gather_for_metrics(found)
            counts += confusion_counts(labels, predictions, num_labels)
            usage.update(codes)
            shown = (labels[:8], predictions[:8]) if shown is None else shown
    if accelerator.is_main_process:
        save_pictures([paint(label_maps, num_labels) for label_maps in shown], folder, step)
    return {
        "validation/pixel_accuracy": (counts.trace() / counts.sum()).item(),
        "validation/miou": label_iou(counts).nanmean().item(),
        **usage_figures(usage),
    }
