# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How well a tokenizer reconstructs images that it was not trained on."""

from pathlib import Path

import torch

from fqgan_hf.evaluation.codebooks import CodebookUsage
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.evaluation.pictures import image_grid
from fqgan_hf.files import atomic_path
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor


@torch.no_grad()
def validate(accelerator, model, dataloader, folder: Path, step: int) -> dict[str, float]:
    """PSNR and codebook usage on held-out images; the first ones go to `folder` beside their reconstructions."""
    model = accelerator.unwrap_model(model).eval()
    usage = CodebookUsage(model.config.num_codebooks, model.config.codebook_size)
    ratios, errors, shown = [], [], None
    for batch in dataloader:
        images = batch["pixel_values"]
        output = model(images)
        reconstructions, codes, images = accelerator.gather_for_metrics((output.sample, output.codes, images))
        ratios.append(psnr(images, reconstructions))
        errors.append((images - reconstructions.clamp(-1, 1)).abs().flatten(1).mean(1))
        usage.update(codes)
        shown = (images[:8], reconstructions[:8]) if shown is None else shown
    model.train()
    if accelerator.is_main_process:
        rows = [FQGANImageProcessor().postprocess(images.float().cpu()) for images in shown]
        picture = image_grid(rows, row_captions=["original", "reconstruction"])
        with atomic_path(folder / f"step-{step:08d}.png") as temporary:
            picture.save(temporary)
    metrics = {
        "validation/psnr": torch.cat(ratios).mean().item(),
        "validation/l1": torch.cat(errors).mean().item(),
    }
    for k in range(model.config.num_codebooks):
        metrics[f"validation/usage/{k}"] = usage.usage[k].item()
        metrics[f"validation/perplexity/{k}"] = usage.perplexity[k].item()
    return metrics
