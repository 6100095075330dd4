# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Class, text and map as prefixes: padding, nulls, a scale for each, codes that are given, bad input."""

from dataclasses import replace

import pytest
import tiny
import torch

from fqgan_hf.modeling.conditioning import Condition, drop_conditions, join_conditions
from fqgan_hf.modeling.transformer_blocks import OFF_GRID


TEXT = {"conditions": ["text"], "text_vocab_size": 11, "num_text_tokens": 5}
STATES = {"conditions": ["text"], "text_hidden_size": 24, "num_text_tokens": 5}
MAP = {"conditions": ["map"], "map_num_codebooks": 2, "map_codebook_size": 7}
ALL = {**TEXT, **MAP, "conditions": ["map", "class", "text"], "map_grid_height": 2, "map_grid_width": 2}
KINDS = pytest.mark.parametrize("settings", [TEXT, STATES, MAP, ALL], ids=["text", "states", "map", "all"])


def make(settings, **more):
    return tiny.generator(2, **settings, **more)


def inputs_of(model, batch=2):
    """Random conditions; the prompts are of different lengths."""
    config, given = model.config, {}
    if "class" in config.conditions:
        given["class_labels"] = torch.randint(config.num_classes, (batch,))
    if "map" in config.conditions:
        given["map_codes"] = torch.randint(7, (batch, config.num_map_positions, 2))
    if "text" in config.conditions:
        lengths = torch.arange(batch) % 4 + 2
        given["text_mask"] = torch.arange(5) >= 5 - lengths[:, None]
        is_ids = config.text_vocab_size is not None
        given["text"] = torch.randint(11, (batch, 5)) if is_ids else torch.randn(batch, 5, 24)
    return given


def greedy_by_force(model, prefixes, weights):
    """Greedy codes by whole forward passes under each set of conditions, without cache or sampler."""
    config = model.config
    codes = torch.zeros(len(prefixes[0][0].embeddings), config.num_positions, config.num_codebooks, dtype=torch.long)
    for position in range(config.num_positions):
        for k in range(config.num_codebooks):
            scores = [model(condition=conditions, codes=codes).logits[:, position, k] for conditions in prefixes]
            guided = scores[0]
            for weight, weaker, stronger in zip(weights, scores, scores[1:], strict=False):
                guided = guided + weight * (stronger - weaker)
            codes[:, position, k] = guided.argmax(-1)
    return codes


def nulls_of(conditions):
    return [replace(c, embeddings=c.null.expand_as(c.embeddings), mask=c.null_mask) for c in conditions]


@KINDS
@torch.no_grad()
def test_both_loops_sample_what_whole_passes_say(settings):
    model = make(settings, grid_height=2)
    given = inputs_of(model)
    conditions = model.embed_conditions(**given)
    expected = greedy_by_force(model, [nulls_of(conditions), conditions], [2.0])
    assert torch.equal(model.generate(**given, guidance_scale=2.0, do_sample=False), expected)
    by_library = model.generate(**given, guidance_scale=2.0, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(by_library.codes, expected)
    # An image does not depend on the others in its batch, however long their prompts are.
    alone = model.generate(**{name: value[:1] for name, value in given.items()}, guidance_scale=2.0, do_sample=False)
    assert torch.equal(alone, expected[:1])


@torch.no_grad()
def test_each_condition_may_have_a_scale_of_its_own():
    model = make(ALL, grid_height=2)
    given = inputs_of(model)
    conditions = model.embed_conditions(**given)
    nulls = nulls_of(conditions)
    steps = [[*conditions[:number], *nulls[number:]] for number in range(4)]
    expected = greedy_by_force(model, steps, [3.0, 1.5, 0.5])
    scales = {"text": 0.5, "map": 3.0, "class": 1.5}  # named, so their order does not matter
    for extras in ({}, {"return_dict_in_generate": True}):
        found = model.generate(**given, guidance_scale=scales, do_sample=False, **extras)
        assert torch.equal(found.codes if extras else found, expected)
    together = model.generate(**given, guidance_scale=1.5, do_sample=False)
    assert torch.equal(model.generate(**given, guidance_scale=dict.fromkeys(scales, 1.5), do_sample=False), together)
    with pytest.raises(ValueError, match="guidance_scale must name each condition of the generator, map, class, text"):
        model.generate(**given, guidance_scale={"text": 2.0})


@KINDS
def test_padding_is_not_seen_and_everything_else_is(settings):
    model = make(settings)
    given = inputs_of(model)
    codes = torch.randint(32, (2, 16, 2))
    logits = model(**given, codes=codes).logits
    for name, value in given.items():
        if name == "text_mask":
            continue
        for position in range(value.shape[1]) if value.ndim > 1 else [...]:
            changed = value.clone()
            changed[:, position] = (changed[:, position] + 1) % 7
            differs = (model(**{**given, name: changed}, codes=codes).logits != logits).flatten(1).any(1)
            is_seen = given["text_mask"][:, position] if name == "text" else torch.ones(2, dtype=torch.bool)
            assert torch.equal(differs, is_seen)
    assert logits.isfinite().all()


def test_a_negative_prompt_takes_the_place_of_the_null():
    model = make(TEXT, grid_height=2)
    given = inputs_of(model)
    other = inputs_of(model, batch=4)
    negative = {"negative_text": other["text"][2:], "negative_text_mask": other["text_mask"][2:]}
    codes = model.generate(**given, **negative, guidance_scale=3.0, do_sample=False)
    (condition,) = model.embed_conditions(**given)
    (away,) = model.embed_conditions(text=other["text"][2:], text_mask=other["text_mask"][2:])
    assert torch.equal(codes, greedy_by_force(model, [[away], [condition]], [3.0]))
    assert not torch.equal(codes, model.generate(**given, guidance_scale=3.0, do_sample=False))


def test_training_shows_nulls():
    model = make(ALL, class_dropout=0.5)
    conditions = model.embed_conditions(**inputs_of(model, batch=4000))
    kept = torch.stack(drop_conditions(conditions, 0.5)).float()
    # None for half of them; of the others each is there for half, independently.
    assert torch.allclose(kept.mean(1), torch.full((3,), 0.25), atol=0.03)
    assert abs(kept.amax(0).mean().item() - 0.5 * (1 - 0.5**3)) < 0.03
    prefix = join_conditions(conditions, [False] * 3)
    assert prefix.mask.sum(1).tolist() == [4 + 1 + 1] * 4000  # of a prompt's null one position is seen
    assert drop_conditions(conditions, 0.0) == [True] * 3


def test_places_on_the_grid():
    model = make(ALL)
    prefix = join_conditions(model.embed_conditions(**inputs_of(model)), [True] * 3)
    # A map of 2x2 cells over 4x4: centres of cells stay where they are. Text lies at the origin, a class nowhere.
    map_places = [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
    assert prefix.places.tolist() == [*map_places, [OFF_GRID, OFF_GRID], *([[0.0, 0.0]] * 5)]


@pytest.mark.parametrize("num_codebooks", [1, 2, 3])
def test_codes_that_are_given_stay(num_codebooks):
    model = tiny.generator(num_codebooks, grid_height=3)
    rows = {"class_labels": [1, 2], "guidance_scale": 2.0}
    sampled = model.generate(**rows, generator=[torch.Generator().manual_seed(i) for i in range(2)])
    known = torch.randint(32, sampled.shape).where(torch.rand(sampled.shape) < 0.5, -1)
    known[:, :2] = 5  # whole positions at the beginning, read in one pass
    for extras in ({}, {"return_dict_in_generate": True}):
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        found = model.generate(**rows, generator=generators, known_codes=known, **extras)
        found = found.codes if extras else found
        assert torch.equal(found[known >= 0], known[known >= 0])
    # What is given conditions what comes after it, and the draws are those of their places.
    again = sampled.clone()
    again[:, 6:] = -1
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    assert torch.equal(model.generate(**rows, generator=generators, known_codes=again), sampled)
    with pytest.raises(ValueError, match="known_codes must be -1 where codes are to be generated, got none"):
        model.generate(**rows, known_codes=sampled)


def test_a_condition_must_be_of_one_shape():
    with pytest.raises(ValueError, match=r"condition must have shape .*, got \(3, 0, 8\)"):
        Condition(torch.zeros(3, 0, 8))
    with pytest.raises(ValueError, match=r"condition must be embeddings, .* got torch.int64"):
        Condition(torch.zeros(3, 1, 8).long())
    with pytest.raises(ValueError, match=r"null of a condition must have shape .* got \(2, 1, 8\)"):
        Condition(torch.zeros(3, 1, 8), torch.zeros(2, 1, 8))
    with pytest.raises(ValueError, match="mask of a condition must be booleans"):
        Condition(torch.zeros(3, 1, 8), mask=torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (TEXT, {"text": None}, "text must be given: this generator was trained for text"),
        (TEXT, {"class_labels": torch.zeros(2).long()}, "class_labels cannot be given: .* trained for text"),
        (TEXT, {"text": torch.zeros(2, 5)}, "text must be int64 or int32, got torch.float32"),
        (TEXT, {"text": torch.full((2, 5), 11)}, r"text must be in \[0, 10\], got 11 to 11"),
        (TEXT, {"text": torch.zeros(2, 6).long()}, r"text must have shape \(2, 5\), got \(2, 6\)"),
        (TEXT, {"text_mask": torch.ones(2, 5)}, "text_mask must be booleans, got torch.float32"),
        (STATES, {"text": torch.zeros(2, 5, 23)}, r"text must have shape \(2, 5, 24\), got \(2, 5, 23\)"),
        (MAP, {"map_codes": torch.full((2, 16, 2), 7)}, r"map_codes must be in \[0, 6\], got 7 to 7"),
        (MAP, {"map_codes": torch.zeros(2, 15, 2).long()}, r"map_codes must have shape \(2, 16, 2\)"),
    ],
)
def test_bad_input_is_named(settings, change, message):
    model = make(settings)
    given = {**inputs_of(model), **change}
    with pytest.raises(ValueError, match=message):
        model(**given, codes=torch.zeros(2, 16, 2).long())
    with pytest.raises(ValueError, match=message):
        model.generate(**given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditions": []}, "conditions must be some of"),
        ({"conditions": ["class", "class"]}, "conditions must be some of .* each once"),
        ({"conditions": ["sound"]}, "conditions must be some of .* got"),
        ({"conditions": "class"}, "conditions must be some of"),
        ({"conditions": ["text"]}, "one of text_hidden_size .* and text_vocab_size .* must be given"),
        ({**TEXT, "text_hidden_size": 8}, "one of text_hidden_size .* and text_vocab_size .* must be given"),
        ({"conditions": ["map"], "map_num_codebooks": 1}, "map_codebook_size must be given for the condition 'map'"),
    ],
)
def test_bad_configurations_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make(settings)


@KINDS
def test_saved_and_loaded(settings, tmp_path):
    model = make(settings)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    given, codes = inputs_of(model), torch.randint(32, (2, 16, 2))
    assert loaded.config.conditions == tuple(settings["conditions"])
    assert torch.equal(loaded(**given, codes=codes).logits, model(**given, codes=codes).logits)
