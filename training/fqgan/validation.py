# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How well a tokenizer reconstructs images that it was not trained on."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader

from fqgan_hf.evaluation.codebooks import CodebookUsage
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.evaluation.pictures import image_grid
from fqgan_hf.files import atomic_path
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.loop import evaluation_mode


@torch.no_grad()
def validate(
    accelerator: Accelerator, model: FQGANModel, dataloader: DataLoader, folder: Path, step: int
) -> dict[str, float]:
    """
    PSNR and codebook usage on held-out images; the first ones go to `folder` beside their reconstructions.

    Args:
        accelerator (`Accelerator`): Of the run; every process calls this.
        model (`FQGANModel`): Not wrapped.
        dataloader (`DataLoader`): Of held-out images, prepared.
        folder (`Path`): Where `step-{step}.png` goes.
        step (`int`): Optimizer steps done.

    Returns:
        `dict`: `validation/psnr` in dB, `validation/l1`, and for each codebook `validation/usage/{k}` and
        `validation/perplexity/{k}`.
    """
    usage = CodebookUsage(model.config.num_codebooks, model.config.codebook_size)
    ratios, errors, shown = [], [], None
    with evaluation_mode(model):
        for batch in dataloader:
            images = batch["pixel_values"]
            output = model(images)
            reconstructions, codes, images = accelerator.gather_for_metrics((output.sample, output.codes, images))
            ratios.append(psnr(images, reconstructions))
            errors.append((images - reconstructions.clamp(-1, 1)).abs().flatten(1).mean(1))
            usage.update(codes)
            shown = (images[:8], reconstructions[:8]) if shown is None else shown
    if accelerator.is_main_process:
        rows = [FQGANImageProcessor().postprocess(images.float().cpu()) for images in shown]
        save_pictures(rows, folder, step)
    return {
        "validation/psnr": torch.cat(ratios).mean().item(),
        "validation/l1": torch.cat(errors).mean().item(),
        **usage_figures(usage),
    }


def save_pictures(rows: Sequence[Sequence[Image.Image]], folder: Path, step: int) -> None:
    """Write a row of pictures and one of their reconstructions to `step-{step}.png`."""
    picture = image_grid(rows, row_captions=["original", "reconstruction"])
    with atomic_path(folder / f"step-{step:08d}.png") as temporary:
        picture.save(temporary)


def usage_figures(usage: CodebookUsage) -> dict[str, float]:
    """`validation/usage/{k}` and `validation/perplexity/{k}` of each codebook."""
    figures = {}
    for k in range(usage.num_codebooks):
        figures[f"validation/usage/{k}"] = usage.usage[k].item()
        figures[f"validation/perplexity/{k}"] = usage.perplexity[k].item()
    return figures
