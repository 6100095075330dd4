# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a generator in training is given besides codes: from a batch of the data to the inputs of its conditions.

Shapes: B batch, T positions, K codebooks, L tokens of a prompt, E width of a text encoder, Pm positions and Km
codebooks of a map.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fqgan_hf.pipelines import prompts
from fqgan_hf.pretrained import load_pretrained
from fqgan_hf.training.far.condition_options import DEFAULT_CONDITIONS
from fqgan_hf.training.far.text_tokenizer import build_text_tokenizer


if TYPE_CHECKING:
    from fqgan_hf.training.far.arguments import GeneratorArguments
    from fqgan_hf.training.far.generator_data import GeneratorData

TOKENIZER_FOLDER = "tokenizer"  # beside a generator with a text encoder of its own, as in its pipeline
SAMPLED_VALUES = 1024  # of each tensor of a text encoder, in its fingerprint
UNKNOWN_SHARE = 0.1  # of the words that a text encoder is trained on: prompts will have words that captions had not


@dataclass(frozen=True)
class GeneratorConditions:
    """
    The conditions of a training, with what encodes captions.

    A frozen text encoder runs on every batch. To keep its states would take far more room than the codes (77 x 512
    numbers for each caption of CLIP's smallest), and it costs a few percent of a step: it only goes forward.

    Args:
        names (`Sequence[str]`): "class", "text" and "map", in the generator's order.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Of the text encoder, wherever that is.
        text_encoder (`PreTrainedModel`, *optional*): A frozen one.
        num_text_tokens (`int`): L.
    """

    names: Sequence[str] = DEFAULT_CONDITIONS
    tokenizer: PreTrainedTokenizerBase | None = None
    text_encoder: PreTrainedModel | None = None
    num_text_tokens: int = 0

    def inputs(self, batch: dict[str, Any], device: torch.device, training: bool = False) -> dict[str, torch.Tensor]:
        """
        What the generator's `forward` takes besides codes.

        Args:
            batch (`dict`): With `class_labels (B,)`, `caption`, a list of B texts, and `map_codes (B, Pm, Km)`, as
                far as the conditions need them.
            device (`torch.device`): Where the generator is.
            training (`bool`):
                Some words become unknown ones, where the text encoder is trained along: it would learn nothing of
                these otherwise. Drawn from torch's own generator.

        Returns:
            `dict`: `class_labels (B,)`, `text (B, L)` or `(B, L, E)`, `text_mask (B, L)`, `map_codes (B, Pm, Km)`.
        """
        found = {}
        if "class" in self.names:
            found["class_labels"] = batch["class_labels"]
        if "text" in self.names:
            with _without_warnings():  # which would name every caption that is cut
                found["text"], found["text_mask"] = prompts.encode_prompts(
                    batch["caption"], self.tokenizer, self.text_encoder, self.num_text_tokens, device, "caption"
                )
            if training and self.text_encoder is None:
                found["text"] = self._with_unknown_words(found["text"])
        if "map" in self.names:
            found["map_codes"] = batch["map_codes"]
        return found

    def _with_unknown_words(self, text: torch.Tensor) -> torch.Tensor:
        special = torch.tensor(self.tokenizer.all_special_ids, device=text.device)
        unknown = (torch.rand(text.shape, device=text.device) < UNKNOWN_SHARE) & ~torch.isin(text, special)
        return text.masked_fill(unknown, self.tokenizer.unk_token_id)

    def to(self, device: torch.device) -> None:
        """Move the text encoder, if there is one, to a device."""
        if self.text_encoder is not None:
            self.text_encoder.to(device)

    @property
    def saved_parts(self) -> dict[str, Any]:
        """What belongs to the trained model, by subfolder: the tokenizer of a text encoder that is part of it."""
        is_own = self.tokenizer is not None and self.text_encoder is None
        return {TOKENIZER_FOLDER: self.tokenizer} if is_own else {}

    @property
    def pipeline_parts(self) -> dict[str, Any]:
        """Components of a pipeline, by name."""
        parts = {"tokenizer": self.tokenizer, "text_encoder": self.text_encoder}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def state(self) -> dict[str, str]:
        """What checkpoints say of it, besides the generator's configuration; see `check_resumable`."""
        return {} if self.text_encoder is None else {"text_encoder": weights_fingerprint(self.text_encoder)}


@contextmanager
def _without_warnings() -> Iterator[None]:
    logger = logging.getLogger(prompts.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def load_conditions(
    args: "GeneratorArguments", data: "GeneratorData", names: Sequence[str], num_text_tokens: int
) -> GeneratorConditions:
    """
    The conditions of a run, with the text encoder or the tokenizer that its options ask for.

    Args:
        args (`GeneratorArguments`): `text_encoder` and `pretrained_model_name_or_path` are read.
        data (`GeneratorData`): Where the words come from, if the generator gets a text encoder of its own.
        names (`Sequence[str]`): The conditions.
        num_text_tokens (`int`): L.

    Raises:
        ValueError, OSError: The text encoder cannot be loaded, or knows no prompts of this length.
    """
    if "text" not in names:
        return GeneratorConditions(names)
    text_encoder = None
    if args.text_encoder is not None:
        tokenizer, text_encoder = prompts.load_text_encoder(args.text_encoder)
    elif args.pretrained_model_name_or_path is not None:
        option = "pretrained_model_name_or_path"
        tokenizer = load_pretrained(
            AutoTokenizer, args.pretrained_model_name_or_path, option, subfolder=TOKENIZER_FOLDER
        )
    else:
        tokenizer = build_text_tokenizer(data.captions(), num_text_tokens)
    if num_text_tokens > tokenizer.model_max_length:
        raise ValueError(
            f"num_text_tokens must be at most {tokenizer.model_max_length}, the longest prompt that the text encoder "
            f"reads, got {num_text_tokens}"
        )
    least = tokenizer.num_special_tokens_to_add() + 1
    if num_text_tokens < least:
        raise ValueError(
            f"num_text_tokens must be at least {least}, a word with its special tokens, got {num_text_tokens}"
        )
    return GeneratorConditions(names, tokenizer, text_encoder, num_text_tokens)


def weights_fingerprint(model: PreTrainedModel) -> str:
    """What tells a frozen model from others: SHA-256 of names, shapes and values, of large tensors some of them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // SAMPLED_VALUES)].cpu().contiguous()
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def empty_inputs(config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Inputs of one image for a generator's conditions, of which only shapes and dtypes matter."""
    names = getattr(config, "conditions", DEFAULT_CONDITIONS)
    found = {}
    if "class" in names:
        found["class_labels"] = torch.zeros(1, dtype=torch.long)
    if "text" in names:
        shape = (1, config.num_text_tokens)
        is_own = config.text_vocab_size is not None
        found["text"] = (
            torch.zeros(shape, dtype=torch.long) if is_own else torch.zeros(*shape, config.text_hidden_size)
        )
        found["text_mask"] = torch.ones(shape, dtype=torch.bool)
    if "map" in names:
        found["map_codes"] = torch.zeros(1, config.num_map_positions, config.map_num_codebooks, dtype=torch.long)
    return found


def describe_conditions(config: PreTrainedConfig) -> str:
    """The conditions in words, for the block at the start of a run."""
    names = getattr(config, "conditions", DEFAULT_CONDITIONS)
    words = []
    for name in names:
        if name == "class":
            words.append(f"{config.num_classes} classes")
        elif name == "text":
            known = "" if config.text_vocab_size is None else f" of a vocabulary of {config.text_vocab_size:,}"
            words.append(f"captions of {config.num_text_tokens} tokens{known}")
        else:
            words.append(
                f"maps of {config.num_map_positions} positions x {config.map_num_codebooks} codes of "
                f"{config.map_codebook_size}"
            )
    return ", ".join(words)
