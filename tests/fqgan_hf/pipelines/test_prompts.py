# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts to ids and states, with tiny text encoders of every kind."""

import logging

import pytest
import tiny
import torch
from transformers import BartConfig, BartModel, CLIPConfig, CLIPModel, CLIPVisionConfig

from fqgan_hf.pipelines.prompts import encode_prompts, load_text_encoder, unknown_words


PROMPTS = ["a red apple", "the small house with a green window"]


@pytest.mark.parametrize("length", [9, 12, 20])
def test_ids_have_their_padding_first(length):
    text, mask = encode_prompts(PROMPTS, tiny.text_tokenizer(), None, length)
    words = {word: i + 4 for i, word in enumerate(tiny.WORDS)}
    for row, there, prompt in zip(text.tolist(), mask.tolist(), PROMPTS, strict=True):
        ids = [2, *(words[word] for word in prompt.split()), 3]
        padding = length - len(ids)
        assert row == [0] * padding + ids
        assert there == [False] * padding + [True] * len(ids)


@pytest.mark.parametrize("kind", ["clip", "t5", "bert"])
def test_states_are_those_of_the_prompt_without_padding(kind):
    tokenizer, encoder = tiny.text_tokenizer(), tiny.text_encoder(kind)
    text, mask = encode_prompts(PROMPTS, tokenizer, encoder, 20)
    assert text.shape == (2, 20, 16) and mask.dtype == torch.bool
    for i, prompt in enumerate(PROMPTS):
        expected = encoder(**tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)).last_hidden_state
        torch.testing.assert_close(text[i, mask[i]], expected[0], atol=1e-5, rtol=1e-4)
        assert not mask[i, : 20 - expected.shape[1]].any()
        alone, _ = encode_prompts(prompt, tokenizer, encoder, 20)
        assert torch.equal(alone[0], text[i]), "no prompt depends on those beside it"


def test_a_long_prompt_is_cut_with_a_warning_that_quotes_the_rest(caplog):
    with caplog.at_level(logging.WARNING):
        text, mask = encode_prompts("A red Apple on the Small  Table", tiny.text_tokenizer(), None, 6)
    assert mask.all() and text[0, 0] == 2 and text[0, -1] == 3
    assert "reads 6 tokens" in caplog.text and "lost: 'the Small  Table'" in caplog.text
    caplog.clear()
    encode_prompts("a red apple on", tiny.text_tokenizer(), None, 6)
    assert not caplog.text


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", r"prompt must say something, got '' \(number 0 of 1\)"),
        (["a", " \n"], r"prompt must say something, got ' \\n' \(number 1 of 2\)"),
        ([], r"prompt must be a string or a non-empty list of strings, got \[\]"),
        (["a", 3], "prompt must be a string or a non-empty list of strings"),
        (None, "prompt must be a string or a non-empty list of strings, got None"),
    ],
)
def test_bad_prompts(prompts, message):
    with pytest.raises(ValueError, match=message):
        encode_prompts(prompts, tiny.text_tokenizer(), None, 8)


def test_words_that_are_not_known(caplog):
    tokenizer = tiny.text_tokenizer()
    assert unknown_words("A red Spaceship!", tokenizer) == ["Spaceship", "!"]
    with caplog.at_level(logging.WARNING):
        tiny.conditional_pipeline("text", text=None)(prompt="a red spaceship", negative_prompt="ogre")
    assert "prompt: the text encoder does not know 'spaceship'" in caplog.text
    assert "negative_prompt: the text encoder does not know 'ogre'" in caplog.text


def test_what_cannot_be_tokenized():
    tokenizer = tiny.text_tokenizer()
    with pytest.raises(ValueError, match="num_text_tokens must be above the 2 special tokens of a prompt, got 2"):
        encode_prompts("a", tokenizer, None, 2)
    with pytest.raises(ValueError, match="tokenizer must be a tokenizer of transformers, got str"):
        encode_prompts("a", "words", None, 8)
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="tokenizer must have a pad_token"):
        encode_prompts("a", tokenizer, None, 8)


def clip():
    text = tiny.text_encoder("clip").config
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))


def bart():
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 32))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(vocab_size=17, d_model=16, max_position_embeddings=16, pad_token_id=0, **sizes, **heads)
    return BartModel(config)


@pytest.mark.parametrize(
    ("model", "loaded"),
    [
        (clip, "CLIPTextModel"),
        (lambda: tiny.text_encoder("clip"), "CLIPTextModel"),
        (lambda: tiny.text_encoder("t5"), "T5EncoderModel"),
        (lambda: tiny.text_encoder("bert"), "BertModel"),
        (bart, "BartModel"),
    ],
)
def test_loading(model, loaded, tmp_path):
    model = model().eval()
    model.save_pretrained(tmp_path)
    tiny.text_tokenizer().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    tokenizer, encoder = load_text_encoder(tmp_path)
    assert type(encoder).__name__ == loaded
    assert encoder.config.hidden_size == 16
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(before, torch.get_rng_state())
    text, mask = encode_prompts(PROMPTS, tokenizer, encoder, 16)
    assert text.shape == (2, 16, 16) and mask.sum(1).tolist() == [5, 9]
    original = {"CLIPModel": lambda: model.text_model, "BartModel": lambda: model.get_encoder()}
    original = original.get(type(model).__name__, lambda: model)()
    inputs = tokenizer(PROMPTS[0], return_tensors="pt", return_token_type_ids=False)
    torch.testing.assert_close(text[0, mask[0]], original(**inputs).last_hidden_state[0], atol=1e-5, rtol=1e-4)


def test_loading_what_is_not_there(tmp_path):
    with pytest.raises(OSError, match="text encoder .* cannot be loaded by transformers"):
        load_text_encoder(tmp_path)
