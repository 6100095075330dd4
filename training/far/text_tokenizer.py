# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A tokenizer of whole words, for a text encoder that is trained along with its generator."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


SPECIAL_TOKENS = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
MAX_WORDS = 30_000  # the most frequent ones of the captions; all others are <unk>


def build_text_tokenizer(captions: Iterable[str], num_text_tokens: int) -> PreTrainedTokenizerFast:
    """
    A tokenizer whose vocabulary is the words of some captions; neither case nor order of the captions matter.

    Args:
        captions (`Iterable[str]`): Of the training images.
        num_text_tokens (`int`): Length of a prompt, special tokens included.

    Returns:
        `PreTrainedTokenizerFast`: A text becomes `<bos>`, its words and marks, `<eos>`.
    """
    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate(SPECIAL_TOKENS.values())}, "<unk>"))
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # words, and marks between them
    counts = Counter(
        word
        for caption in captions
        for word, _ in words.pre_tokenizer.pre_tokenize_str(words.normalizer.normalize_str(caption))
    )
    # Sorted by number, then by letter: the same for the same captions, in whatever order and version of the library.
    known = sorted(counts, key=lambda word: (-counts[word], word))[:MAX_WORDS]
    vocabulary = {word: i for i, word in enumerate([*SPECIAL_TOKENS.values(), *known])}
    words.model = models.WordLevel(vocabulary, SPECIAL_TOKENS["unk_token"])
    ends = [(token, vocabulary[token]) for token in (SPECIAL_TOKENS["bos_token"], SPECIAL_TOKENS["eos_token"])]
    words.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=num_text_tokens, **SPECIAL_TOKENS)
