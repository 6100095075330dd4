# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Models small enough for any test, of the real classes: `tokenizer()`, `generator()`, `pipeline()` and more.

Keywords change settings of the configuration. What is random about the weights comes from torch's global generator,
which each test finds in the same state.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from fqgan_hf import (
    CodeDiffusionConfig,
    CodeDiffusionPipeline,
    CodeDiffusionScheduler,
    CodeDiffusionTransformer,
    FARConfig,
    FARForImageGeneration,
    FARPipeline,
    FQGANImageProcessor,
    FQGANModel,
)


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


def map_tokenizer(num_labels: int | None = 5, **settings: Any) -> FQGANModel:
    """A tokenizer of label maps, or of pictures without `num_labels`: one codebook of 16 codes."""
    return tokenizer(1, **{"num_labels": num_labels, "codebook_size": 16, **settings})


def generator(num_codebooks: int = 2, spread: float = 0.3, **settings: Any) -> FARForImageGeneration:
    """
    A generator in evaluation mode.

    Its matrices are redrawn with standard deviation `spread`: as they are initialized the output matrices are zero and
    the others so small that class, position and earlier codes hardly matter, which would hide most mistakes.
    """
    return _spread(
        FARForImageGeneration(FARConfig(**{**GENERATOR, "num_codebooks": num_codebooks, **settings})), spread
    )


def diffusion_generator(num_codebooks: int = 2, spread: float = 0.3, **settings: Any) -> CodeDiffusionTransformer:
    """A generator by diffusion of 10 timesteps, as `generator` makes them."""
    settings = {**GENERATOR, "num_train_timesteps": 10, "num_codebooks": num_codebooks, **settings}
    return _spread(CodeDiffusionTransformer(CodeDiffusionConfig(**settings)), spread)


def _spread(model: Any, spread: float) -> Any:
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=spread)
    return model.eval()


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


def conditional_pipeline(
    *conditions: str,
    kind: str = "far",
    num_codebooks: int = 2,
    text: str | None = "clip",
    num_labels: int | None = 5,
    scheduler_settings: dict[str, Any] | None = None,
    tokenizer_settings: dict[str, Any] | None = None,
    **generator_settings: Any,
) -> FARPipeline | CodeDiffusionPipeline:
    """
    A pipeline for any conditions, with all that it needs for them; without a progress bar.

    Args:
        conditions: Of the generator; by default "class".
        kind: "far" or "diffusion".
        text: Kind of `text_encoder`; None for one that is part of the generator.
        num_labels: Of the map tokenizer; None for one of pictures.
    """
    vqmodel, parts, settings = tokenizer(num_codebooks, **(tokenizer_settings or {})), {}, {}
    if "text" in conditions:
        parts["tokenizer"] = text_tokenizer()
        settings = {"num_text_tokens": 8, "text_vocab_size": len(parts["tokenizer"])}
        if text is not None:
            parts["text_encoder"] = text_encoder(text)
            settings = {"num_text_tokens": 8, "text_hidden_size": 16}
    if "map" in conditions:
        parts["map_vqmodel"] = map_tokenizer(num_labels)
        fingerprint = parts["map_vqmodel"].fingerprint()
        settings |= {"map_num_codebooks": 1, "map_codebook_size": 16, "map_tokenizer_fingerprint": fingerprint}
    settings |= {"conditions": list(conditions or ["class"]), "tokenizer_fingerprint": vqmodel.fingerprint()}
    settings |= generator_settings
    parts |= {"vqmodel": vqmodel, "image_processor": FQGANImageProcessor(size=16, multiple_of=4)}
    if kind == "far":
        pipe = FARPipeline(transformer=generator(num_codebooks, **settings), **parts)
    else:
        transformer = diffusion_generator(num_codebooks, **settings)
        scheduler = CodeDiffusionScheduler(
            transformer.config.codebook_size, transformer.config.num_train_timesteps, **(scheduler_settings or {})
        )
        pipe = CodeDiffusionPipeline(transformer=transformer, scheduler=scheduler, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---- Text -----------------------------------------------------------------------------------------------------------

WORDS = ("a", "red", "green", "blue", "apple", "pear", "house", "with", "small", "window", "on", "the", "table")
TEXT_ENCODERS = {
    "clip": lambda size: CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16, eos_token_id=3, bos_token_id=2, pad_token_id=0,
        )
    ),
    "t5": lambda size: T5EncoderModel(
        T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    ),
    "bert": lambda size: BertModel(
        BertConfig(
            vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16,
        )
    ),
}  # fmt: skip


def text_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words: <pad> 0, <unk> 1, <bos> 2, <eos> 3, then `WORDS`; case does not count."""
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    vocabulary = {word: i for i, word in enumerate((*special.values(), *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=16, **special)


def text_encoder(kind: str = "clip") -> Any:
    """A text encoder of width 16 for `text_tokenizer()`, frozen: "clip", "t5" or "bert"."""
    return TEXT_ENCODERS[kind](len(WORDS) + 4).requires_grad_(False).eval()
