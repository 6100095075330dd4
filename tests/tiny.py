# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Models small enough for any test, of the real classes: `tokenizer()`, `generator()` and `pipeline()`.

Keywords change settings of the configuration. What is random about the weights comes from torch's global generator,
which each test finds in the same state.
"""

from typing import Any

import torch

from fqgan_hf import FARConfig, FARForImageGeneration, FARPipeline, FQGANImageProcessor, FQGANModel


# 16x16 pixels -> 4x4 positions.
TOKENIZER = {
    "block_out_channels": (16, 16, 32),
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": 16,
    "codebook_size": 32,
    "codebook_dim": 4,
    "adapter_num_layers": 1,
    "adapter_num_heads": 2,
    "feature_num_layers": 1,
    "feature_num_heads": 2,
}
BACKBONE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_head_layers": 1,
}
GENERATOR = {"codebook_size": 32, "num_classes": 10, "grid_height": 4, "grid_width": 4, **BACKBONE}


def tokenizer(num_codebooks: int = 2, **settings: Any) -> FQGANModel:
    """A tokenizer in evaluation mode."""
    return FQGANModel(**{**TOKENIZER, "num_codebooks": num_codebooks, **settings}).eval()


def generator(num_codebooks: int = 2, spread: float = 0.3, **settings: Any) -> FARForImageGeneration:
    """
    A generator in evaluation mode.

    Its matrices are redrawn with standard deviation `spread`: as they are initialized the output matrices are zero and
    the others so small that class, position and earlier codes hardly matter, which would hide most mistakes.
    """
    model = FARForImageGeneration(FARConfig(**{**GENERATOR, "num_codebooks": num_codebooks, **settings})).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=spread)
    return model


def pipeline(
    num_codebooks: int = 2,
    tokenizer_settings: dict[str, Any] | None = None,
    processor_settings: dict[str, Any] | None = None,
    **generator_settings: Any,
) -> FARPipeline:
    """A tokenizer and a generator that knows its fingerprint, with an image processor; without a progress bar."""
    vqmodel = tokenizer(num_codebooks, **(tokenizer_settings or {}))
    transformer = generator(num_codebooks, tokenizer_fingerprint=vqmodel.fingerprint(), **generator_settings)
    size = {"size": vqmodel.config.sample_size, "multiple_of": vqmodel.downsample_factor}
    pipe = FARPipeline(vqmodel, transformer, FQGANImageProcessor(**{**size, **(processor_settings or {})}))
    pipe.set_progress_bar_config(disable=True)
    return pipe
