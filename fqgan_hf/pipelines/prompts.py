# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts -> what a generator reads of them: token ids, or the states of a frozen text encoder.

    tokenizer, text_encoder = load_text_encoder("openai/clip-vit-base-patch32")
    text, text_mask = encode_prompts(["a red apple"], tokenizer, text_encoder, config.num_text_tokens)

A text encoder reads its prompts as it was trained to, padded on the right. Generators have padding first, so that the
last token of a prompt is the last of its piece of the prefix, however long it is.

Shapes: B prompts, L `num_text_tokens`, E width of the text encoder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    CLIPTextModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from fqgan_hf.failures import first_line


logger = transformers_logging.get_logger(__name__)

CLIP_TYPES = ("clip", "clip_text_model")


def load_text_encoder(
    name_or_path: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """
    A pretrained text encoder with its tokenizer, frozen and in evaluation mode.

    Args:
        name_or_path (`str` or `Path`): Hub id or local folder of a text model of transformers: CLIP, of which the
            text model is taken; T5 and other encoder-decoders, of which `encode_prompts` asks the encoder; or an
            encoder such as BERT.
        dtype (`torch.dtype`): Of its weights.

    Returns:
        Tokenizer and text encoder; `text_encoder.config.hidden_size` is a generator's `text_hidden_size`.

    Raises:
        OSError: It cannot be loaded.
        ValueError: Weights are missing, so that a part of it would be random, or its tokenizer cannot pad.
    """
    name = str(name_or_path)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would list the weights of every other tower
    try:
        # What a model draws for weights that the checkpoint replaces must not move anybody else's draws.
        with torch.random.fork_rng(devices=[]):
            model_type = AutoConfig.from_pretrained(name).model_type
            model_class = AutoModel
            if model_type in CLIP_TYPES:
                model_class = CLIPTextModel
            elif model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
                model_class = AutoModelForTextEncoding
            model, info = model_class.from_pretrained(name, dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the library's are of every kind
        raise OSError(
            f"text encoder {name!r} cannot be loaded by transformers, from the Hub or a local folder with its "
            f"config.json, weights and tokenizer: {first_line(error)}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    # Only a sentence's pooled state passes through a pooler, which many checkpoints lack; nobody reads it here.
    if missing := sorted(key for key in info["missing_keys"] if "pooler." not in key):
        raise ValueError(f"text encoder {name!r} lacks the weights {missing[:5]}")
    check_tokenizer(tokenizer)
    return tokenizer, model.requires_grad_(False).eval()


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `ValueError` for what is no tokenizer of texts, or one that cannot pad."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"tokenizer must be a tokenizer of transformers, got {type(tokenizer).__name__}")
    if tokenizer.pad_token_id is None:
        raise ValueError("tokenizer must have a pad_token: prompts of different lengths are padded")


def check_prompts(prompts: Any, name: str = "prompt") -> list[str]:
    """
    Prompts as a list.

    Args:
        prompts (`str` or `Sequence[str]`): One or several.
        name (`str`): What errors call them.

    Raises:
        ValueError: There is none, or one is empty or no string.
    """
    listed = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(listed, (list, tuple)) or not listed or not all(isinstance(one, str) for one in listed):
        raise ValueError(f"{name} must be a string or a non-empty list of strings, got {prompts!r:.80}")
    empty = [index for index, one in enumerate(listed) if not one.strip()]
    if empty:
        raise ValueError(f"{name} must say something, got {listed[empty[0]]!r} (number {empty[0]} of {len(listed)})")
    return list(listed)


def unknown_words(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """
    The words of a prompt that mean nothing to a text encoder, as they were written: those that its tokenizer has no
    token for. A tokenizer of parts of words has one for almost everything.
    """
    if tokenizer.unk_token_id is None or not tokenizer.is_fast:
        return []
    found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [prompt[start:end] for token, (start, end) in pairs if token == tokenizer.unk_token_id]


def warn_of_unknown_words(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, name: str = "prompt") -> None:
    """Name those words of prompts that mean nothing to a text encoder."""
    for prompt in dict.fromkeys(prompts):
        if unknown := unknown_words(prompt, tokenizer):
            logger.warning_once(f"{name}: the text encoder does not know {', '.join(map(repr, unknown))}")


@torch.no_grad()
def encode_prompts(
    prompts: str | Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: PreTrainedModel | None,
    num_text_tokens: int,
    device: torch.device | str | None = None,
    name: str = "prompt",
) -> tuple[torch.Tensor, torch.BoolTensor]:
    """
    What generators read of prompts: `text` and `text_mask`.

    A prompt that is too long is cut, with a warning that quotes what is lost. What a prompt becomes does not depend on
    the prompts beside it.

    Args:
        prompts (`str` or `Sequence[str]`): One or several.
        tokenizer (`PreTrainedTokenizerBase`): Of the text encoder, wherever that is.
        text_encoder (`PreTrainedModel`, *optional*):
            A frozen one, of which the last hidden states are taken. None: the ids are what the generator reads, which
            has a text encoder of its own.
        num_text_tokens (`int`): L, special tokens included.
        device (`torch.device`, *optional*): Where it is computed and given; by default where the text encoder is.
        name (`str`): What errors and warnings call the prompts.

    Returns:
        `text`, token ids `(B, L)` or states `(B, L, E)`, and `text_mask (B, L)`, True for tokens. Padding comes first.

    Raises:
        ValueError: A prompt is empty, or nothing of it is left by the tokenizer, or L has no room for words.
    """
    prompts = check_prompts(prompts, name)
    check_tokenizer(tokenizer)
    length = min(num_text_tokens, tokenizer.model_max_length)
    num_special = tokenizer.num_special_tokens_to_add()
    if length <= num_special:
        raise ValueError(f"num_text_tokens must be above the {num_special} special tokens of a prompt, got {length}")
    _warn_of_lost_words(prompts, tokenizer, length, name)
    inputs = tokenizer(
        prompts,
        padding="max_length",  # and not as the longest of these prompts: sums of another shape round differently
        padding_side="right",
        truncation=True,
        max_length=length,
        return_attention_mask=True,
        return_tensors="pt",
    )
    if device is None:
        device = "cpu" if text_encoder is None else text_encoder.device
    text, mask = inputs["input_ids"].to(device), inputs["attention_mask"].to(device)
    wordless = (mask.sum(dim=1) == 0).nonzero().flatten().tolist()
    if wordless:
        raise ValueError(f"{name} must have words that the tokenizer knows, got {prompts[wordless[0]]!r}")
    fill = tokenizer.pad_token_id
    if text_encoder is not None:
        is_whole = getattr(text_encoder.config, "is_encoder_decoder", False)
        encoder = text_encoder.get_encoder() if is_whole else text_encoder
        text, fill = encoder(input_ids=text, attention_mask=mask).last_hidden_state, 0.0
    return _padding_first(text, mask.bool(), num_text_tokens, fill)


def _padding_first(
    text: torch.Tensor, mask: torch.Tensor, length: int, fill: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row `(B, l, ...)` rolled so that padding comes first, in `length` columns."""
    order = mask.long().argsort(dim=1, stable=True)
    mask = F.pad(mask.gather(1, order), (length - mask.shape[1], 0), value=False)
    text = text[torch.arange(len(text), device=text.device)[:, None], order]
    sides = [0, 0] * (text.ndim - 2) + [length - text.shape[1], 0]
    return F.pad(text, sides, value=fill), mask


def _warn_of_lost_words(prompts: list[str], tokenizer: PreTrainedTokenizerBase, length: int, name: str) -> None:
    room = length - tokenizer.num_special_tokens_to_add()
    for prompt in dict.fromkeys(prompts):
        # The library would warn, too, without saying what is lost.
        ids = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
        if len(ids["input_ids"]) <= room:
            continue
        lost = tokenizer.decode(ids["input_ids"][room:])
        if tokenizer.is_fast:  # knows where each token stands: words can be quoted as they were written
            lost = prompt[ids["offset_mapping"][room][0] :]
        logger.warning_once(
            f"{name} is too long and was cut: this generator reads {length} tokens of it, special ones included; "
            f"lost: {lost!r}"
        )
