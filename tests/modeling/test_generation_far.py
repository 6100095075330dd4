# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling: both loops agree, guidance, reproducible draws, per-codebook settings, the library's extras, bad input."""

import pytest
import tiny
import torch
from torch._dynamo.utils import counters
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
)
from transformers.generation.streamers import BaseStreamer

from fqgan_hf.modeling.code_sampling import NO_CODE, guidance_weights, select_codes
from fqgan_hf.modeling.conditioning import Condition
from fqgan_hf.modeling.configuration_generator import HEAD_TYPES
from fqgan_hf.modeling.modeling_far import FARForImageGeneration


def make_generator(num_codebooks=2, **settings) -> FARForImageGeneration:
    return tiny.generator(num_codebooks, **{"grid_height": 3, **settings})


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


SAMPLING = {"guidance_scale": 2.0, "temperature": 1.1, "top_k": 20, "top_p": 0.9}


@pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_both_loops_give_the_same_codes(num_codebooks, head_type):
    model = make_generator(num_codebooks, head_type=head_type, num_key_value_heads=1)
    settings = SAMPLING | {"class_labels": [1, 2, 3]}
    position_loop = model.generate(**settings, generator=generators(0, 1, 2))
    assert position_loop.shape == (3, 12, num_codebooks)
    library_loop = model.generate(**settings, generator=generators(0, 1, 2), return_dict_in_generate=True)
    assert torch.equal(library_loop.codes, position_loop)
    assert torch.equal(library_loop.sequences.reshape(3, 12, num_codebooks), position_loop)


@pytest.mark.parametrize("head_type", HEAD_TYPES)
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_the_cache_changes_nothing(head_type, guidance_scale):
    model = make_generator(3, head_type=head_type)
    settings = SAMPLING | {"class_labels": [1, 2], "guidance_scale": guidance_scale}
    cached = model.generate(**settings, generator=generators(0, 1))
    assert torch.equal(model.generate(**settings, generator=generators(0, 1), use_cache=False), cached)


@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_greedy_codes_are_the_argmax_of_the_teacher_forced_logits(head_type):
    model = make_generator(3, head_type=head_type)
    codes = model.generate(class_labels=[1, 2], do_sample=False)
    logits = model(class_labels=torch.tensor([1, 2]), codes=codes).logits
    assert torch.equal(logits.argmax(-1), codes)


def test_greedy_guidance_acts_as_its_formula_with_one_scale_per_codebook():
    model, labels = make_generator(2), torch.tensor([4, 5])
    scales = torch.tensor([3.0, 1.5])
    codes = model.generate(class_labels=labels, guidance_scale=scales.tolist(), do_sample=False)
    conditional = model(class_labels=labels, codes=codes).logits
    unconditional = model(class_labels=torch.full((2,), 10), codes=codes).logits
    guided = unconditional + scales[:, None] * (conditional - unconditional)
    assert torch.equal(guided.argmax(-1), codes)
    assert not torch.equal(conditional.argmax(-1), codes)


@pytest.mark.parametrize("scale", [1.0, [1.0, 1.0]])
def test_guidance_1_computes_no_second_half(scale):
    model, batches = make_generator(), []
    model.layers[0].register_forward_pre_hook(lambda _, args: batches.append(args[0].shape[0]))
    model.generate(class_labels=[1, 2, 3], guidance_scale=scale)
    assert set(batches) == {3}
    batches.clear()
    model.generate(class_labels=[1, 2, 3], guidance_scale=[1.0, 1.5])
    assert set(batches) == {6}


def test_guidance_schedules():
    constant = guidance_weights([3.0, 1.0], 5)
    assert torch.equal(constant, torch.tensor([[3.0, 1.0]]).expand(5, 2))
    assert torch.allclose(guidance_weights([3.0], 5, "linear")[:, 0], torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]))
    cosine = guidance_weights([3.0], 5, "power-cosine", power=1.0)[:, 0]
    expected = 1 + (1 - torch.cos(torch.pi * torch.linspace(0, 1, 5)))
    assert torch.allclose(cosine, expected, atol=1e-6)
    late = guidance_weights([3.0], 5, "power-cosine", power=4.0)[:, 0]
    assert late[2] < cosine[2] and torch.allclose(late[[0, 4]], torch.tensor([1.0, 3.0]))
    assert guidance_weights([3.0], 4, interval=(0.25, 0.75))[:, 0].tolist() == [1.0, 3.0, 3.0, 1.0]


def test_guidance_interval_leaves_the_other_positions_alone():
    model, label = make_generator(), torch.tensor([4])
    codes = model.generate(class_labels=label, guidance_scale=4.0, guidance_interval=(0.5, 1.0), do_sample=False)
    conditional = model(class_labels=label, codes=codes).logits
    unconditional = model(class_labels=torch.tensor([10]), codes=codes).logits
    guided = unconditional + 4.0 * (conditional - unconditional)
    assert torch.equal(codes[:, :6], conditional.argmax(-1)[:, :6])
    assert torch.equal(codes[:, 6:], guided.argmax(-1)[:, 6:])


def test_an_images_draws_do_not_depend_on_its_batch():
    model = make_generator()
    together = model.generate(class_labels=[1, 2, 3], **SAMPLING, generator=generators(7, 8, 9))
    alone = model.generate(class_labels=[2], **SAMPLING, generator=generators(8))
    assert torch.equal(together[1:2], alone)


def test_the_same_generator_state_gives_the_same_codes_and_another_seed_others():
    model = make_generator()
    first = model.generate(class_labels=[1, 2], generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, model.generate(class_labels=[1, 2], generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(first, model.generate(class_labels=[1, 2], generator=torch.Generator().manual_seed(4)))
    torch.manual_seed(5)
    default = model.generate(class_labels=[1, 2])
    torch.manual_seed(5)
    assert torch.equal(default, model.generate(class_labels=[1, 2]))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("given", [1, 5, 11])
def test_prefix_codes_are_continued(given, streamed):
    model = make_generator()
    settings = SAMPLING | {"class_labels": [1, 2]}
    whole = model.generate(**settings, generator=generators(0, 1))
    # The draws of a position are its own, so continuing an image's beginning gives the image.
    again = model.generate(
        **settings, generator=generators(0, 1), prefix_codes=whole[:, :given], return_dict_in_generate=streamed
    )
    assert torch.equal(again.codes if streamed else again, whole)
    other = (whole[:, :given] + 1) % 32
    continued = model.generate(**settings, generator=generators(0, 1), prefix_codes=other)
    assert torch.equal(continued[:, :given], other)


def test_num_return_sequences_repeats_each_label():
    model = make_generator()
    codes = model.generate(class_labels=[1, 2], num_return_sequences=2, generator=generators(0, 1, 2, 3))
    expected = model.generate(class_labels=[1, 1, 2, 2], generator=generators(0, 1, 2, 3))
    assert torch.equal(codes, expected)


def test_sampling_follows_the_distribution_and_never_takes_impossible_codes():
    scores = torch.tensor([[0.1, 0.2, 0.0, 0.7]]).log().expand(20000, 4)
    codes = select_codes(scores, torch.rand(20000, dtype=torch.float64))
    frequency = torch.bincount(codes, minlength=4) / 20000
    assert torch.allclose(frequency, torch.tensor([0.1, 0.2, 0.0, 0.7]), atol=0.015)
    edge = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    masked = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, 4)
    assert select_codes(masked, edge).tolist() == [1, 2]


def brute_force_codes(model, condition, null, scale):
    """Greedy codes, one at a time, each by two forward passes over everything: no cache, no loop of the library."""
    config = model.config
    codes = torch.zeros(len(condition), config.num_positions, config.num_codebooks, dtype=torch.long)
    for position in range(config.num_positions):
        for k in range(config.num_codebooks):
            conditional = model(condition=Condition(condition), codes=codes).logits[:, position, k]
            null_condition = Condition(null.expand_as(condition))
            unconditional = model(condition=null_condition, codes=codes).logits[:, position, k]
            codes[:, position, k] = (unconditional + scale * (conditional - unconditional)).argmax(-1)
    return codes


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_condition_of_several_positions(scale):
    model = make_generator(2, num_key_value_heads=1)
    condition, null = torch.randn(2, 3, 32), torch.randn(1, 3, 32)
    settings = {"condition": Condition(condition, null), "guidance_scale": scale}
    greedy = model.generate(**settings, do_sample=False)
    assert torch.equal(greedy, brute_force_codes(model, condition, null, scale))
    if scale != 1.0:
        other = model.generate(
            **settings | {"condition": Condition(condition, torch.randn(1, 3, 32))}, do_sample=False
        )
        assert not torch.equal(other, greedy)
    settings = SAMPLING | settings
    sampled = model.generate(**settings, generator=generators(0, 1))
    streamed = model.generate(**settings, generator=generators(0, 1), return_dict_in_generate=True)
    assert torch.equal(streamed.codes, sampled) and torch.equal(streamed.sequences, sampled.flatten(1))
    assert torch.equal(model.generate(**settings, generator=generators(0, 1), use_cache=False), sampled)
    for extras in ({}, {"return_dict_in_generate": True}):
        again = model.generate(**settings, generator=generators(0, 1), prefix_codes=sampled[:, :5], **extras)
        assert torch.equal(again.codes if extras else again, sampled)
    repeated = model.generate(**settings, generator=generators(0, 1, 2, 3), num_return_sequences=2)
    assert torch.equal(repeated[0], sampled[0])
    torch._dynamo.reset()
    model.compile(backend="eager", fullgraph=True)
    assert torch.equal(model.generate(**settings, generator=generators(0, 1)), sampled)


class Triptych(FARForImageGeneration):
    """A class, once more, and the parity of its number: three positions."""

    def __init__(self, config):
        super().__init__(config)
        self.parity_embedding = torch.nn.Embedding(3, config.hidden_size)

    def embed_conditions(self, class_labels):
        (condition,) = super().embed_conditions(class_labels)
        parity = self.parity_embedding(torch.stack([class_labels % 2, torch.full_like(class_labels, 2)]))[:, :, None]
        both, nulls = ([tensor, tensor] for tensor in (condition.embeddings, condition.null))
        return [Condition(torch.cat([*both, parity[0]], 1), torch.cat([*nulls, parity[1]], 1))]


def test_a_subclass_makes_its_own_condition_of_class_labels():
    model = Triptych(make_generator().config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    greedy = model.generate(class_labels=[1, 2], guidance_scale=2.0, do_sample=False)
    (condition,) = model.embed_conditions(torch.tensor([1, 2]))
    assert condition.embeddings.shape == (2, 3, 32)
    assert torch.equal(greedy, brute_force_codes(model, condition.embeddings, condition.null, 2.0))
    library_loop = model.generate(
        class_labels=[1, 2], guidance_scale=2.0, do_sample=False, return_dict_in_generate=True
    )
    assert torch.equal(library_loop.codes, greedy)
    logits = model(class_labels=torch.tensor([1, 2]), codes=greedy, labels=greedy)
    assert logits.logits.shape == (2, 12, 2, 32) and logits.loss.isfinite()


@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("streamed", [False, True])
def test_logits_that_are_not_finite_raise(do_sample, streamed):
    """They gave the last code everywhere. Weights that overflow in half precision, or far too much guidance."""
    model = make_generator()
    extras = {"return_dict_in_generate": True} if streamed else {}
    settings = {"class_labels": [1, 2], "do_sample": do_sample, **extras}
    with torch.no_grad():
        model.lm_heads[1].weight[3] = torch.inf
    with pytest.raises(ValueError, match="logits of image 0 are not finite at position 0, codebook 1"):
        model.generate(**settings)
    model = make_generator()
    with pytest.raises(ValueError, match="are not finite at position 0, codebook 0: guidance_scale is too large"):
        model.generate(**settings, guidance_scale=3e38)
    with torch.no_grad():
        model.code_embedding.weight.fill_(torch.nan)  # the second position is the first to see them
    with pytest.raises(ValueError, match="position 0, codebook 1"):
        model.generate(**settings)


@pytest.mark.parametrize("uniform", [None, 0.5])
def test_no_distribution_gives_no_code(uniform):
    scores = torch.tensor(
        [[0.0, 1.0], [0.0, torch.nan], [torch.inf, 0.0], [-torch.inf, -torch.inf], [-torch.inf, 0.0]]
    )
    uniforms = None if uniform is None else torch.full((5,), uniform, dtype=torch.float64)
    assert select_codes(scores, uniforms).tolist() == [1, NO_CODE, NO_CODE, NO_CODE, 1]


def test_top_k_and_temperature_act_by_codebook():
    model = make_generator(2)
    codes = model.generate(class_labels=[1], top_k=[1, 0], temperature=[1.0, 100.0], generator=generators(0))
    logits = model(class_labels=torch.tensor([1]), codes=codes).logits
    assert torch.equal(codes[..., 0], logits[..., 0, :].argmax(-1))  # top-1
    assert not torch.equal(codes[..., 1], logits[..., 1, :].argmax(-1))  # nearly uniform


@pytest.mark.parametrize("extras", [{}, {"logits_processor": [MinPLogitsWarper(0.01)]}])
def test_a_position_callback_sees_every_position_and_can_stop(extras):
    model, seen = make_generator(), []
    codes = model.generate(
        class_labels=[1, 2], callback_on_position=lambda t, c: seen.append((t, tuple(c.shape))), **extras
    )
    assert seen == [(t, (2, t + 1, 2)) for t in range(12)] and codes.shape == (2, 12, 2)
    stopped = model.generate(class_labels=[1, 2], callback_on_position=lambda t, c: t == 4, **extras)
    assert stopped.shape == (2, 5, 2)


class Favour(LogitsProcessor):
    """A user's own processor: only code 3, in codebook 1."""

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] % 2 == 1:
            scores = torch.full_like(scores, -torch.inf)
            scores[:, 3] = 0.0
        return scores


class StopAfter(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 9, dtype=torch.bool)


class Recorder(BaseStreamer):
    def __init__(self):
        self.values, self.ended = [], False

    def put(self, value):
        self.values.append(value.clone())

    def end(self):
        self.ended = True


def test_the_librarys_processors_criteria_and_streamers_work():
    model = make_generator(2)
    codes = model.generate(class_labels=[1, 2], guidance_scale=2.0, logits_processor=[Favour()])
    assert (codes[..., 1] == 3).all() and not (codes[..., 0] == 3).all()
    partial = model.generate(class_labels=[1, 2], stopping_criteria=[StopAfter()])
    assert partial.shape == (2, 4, 2)  # 9 codes are 4 complete positions
    streamer = Recorder()
    codes = model.generate(class_labels=[1, 2], streamer=streamer)
    assert streamer.ended and torch.equal(torch.stack(streamer.values[1:], 1).reshape(2, 12, 2), codes)


def test_scores_are_the_processed_ones_and_logits_the_raw_ones():
    model = make_generator(2)
    output = model.generate(
        class_labels=[1], top_k=5, return_dict_in_generate=True, output_scores=True, output_logits=True
    )
    assert len(output.scores) == len(output.logits) == 24
    logits = model(class_labels=torch.tensor([1]), codes=output.codes).logits.flatten(1, 2)[0]
    assert torch.allclose(torch.cat(output.logits), logits, atol=1e-5)
    assert all(torch.isfinite(s).sum() == 5 for s in output.scores)


def test_generation_config_supplies_what_is_left_out():
    model = make_generator(2)
    model.generation_config = GenerationConfig(guidance_scale=2.0, top_k=3, do_sample=True)
    expected = make_generator(2)
    expected.load_state_dict(model.state_dict())
    codes = model.generate(class_labels=[1], generator=generators(0))
    assert torch.equal(
        codes, expected.generate(class_labels=[1], guidance_scale=2.0, top_k=3, generator=generators(0))
    )
    overruled = model.generate(class_labels=[1], guidance_scale=1.0, top_k=0, generator=generators(0))
    assert torch.equal(overruled, expected.generate(class_labels=[1], generator=generators(0)))


def test_one_compiled_graph_serves_every_position_and_call():
    model = make_generator(2)
    settings = SAMPLING | {"class_labels": [1, 2, 3]}
    eager = model.generate(**settings, generator=generators(0, 1, 2))
    torch._dynamo.reset()
    counters.clear()
    model.compile(backend="eager", fullgraph=True)
    for _ in range(2):
        assert torch.equal(model.generate(**settings, generator=generators(0, 1, 2)), eager)
    assert counters["stats"]["unique_graphs"] == 1


def test_cache_slots_are_allocated_once_per_call(monkeypatch):
    model, allocations = make_generator(2), []
    from transformers import StaticLayer

    original = StaticLayer.lazy_initialization
    monkeypatch.setattr(
        StaticLayer, "lazy_initialization", lambda self, *args: allocations.append(self) or original(self, *args)
    )
    model.generate(class_labels=[1, 2])
    assert len(allocations) == len(set(map(id, allocations))) == 3  # two backbone layers, one head layer


CONDITION = {"class_labels": None, "condition": Condition(torch.zeros(1, 3, 32))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": [10]}, r"class_labels must be in \[0, 9\], got 10"),
        ({"class_labels": [-1]}, r"class_labels must be in \[0, 9\], got -1"),
        ({"class_labels": [1.5]}, r"class_labels must be a non-empty list of integers, got \[1.5\]"),
        ({"class_labels": [True]}, "class_labels must be a non-empty list of integers"),
        ({"class_labels": []}, "class_labels must be a non-empty list of integers"),
        ({"class_labels": torch.zeros(2)}, "class_labels must be integers of shape .* got torch.float32"),
        ({"class_labels": torch.zeros(2, 1).long()}, "class_labels must be integers of shape"),
        ({"class_labels": None}, "class_labels must be given: this generator was trained for class"),
        ({"condition": Condition(torch.zeros(1, 1, 32))}, "condition takes the place of class_labels"),
        ({"text": torch.zeros(1, 3).long()}, "text cannot be given: this generator was trained for class"),
        (CONDITION | {"guidance_scale": 2.0}, "condition must have a null where there is guidance"),
        (
            CONDITION | {"condition": Condition(torch.zeros(1, 2, 16))},
            r"condition must have shape \(1, .*\(1, 2, 16\)",
        ),
        ({"guidance_scale": -1.0}, "guidance_scale must be one value or one per codebook, at least 0, got -1.0"),
        ({"guidance_scale": [1.0, 2.0, 3.0]}, "guidance_scale must be one value or 2 values"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be"),
        ({"guidance_scale": "2"}, "guidance_scale must be"),
        ({"temperature": 0.0}, "temperature must be .* above 0, got 0.0"),
        ({"temperature": []}, r"temperature must be .* got \[\]"),
        ({"do_sample": 1}, "do_sample must be True or False, got 1"),
        ({"guidance_interval": 0.5}, "guidance_interval must be .* got 0.5"),
        ({"top_k": -1}, "top_k must be"),
        ({"top_k": 1.5}, "top_k must be .* integers"),
        ({"top_p": 0.0}, r"top_p must be .* in \(0, 1\]"),
        ({"guidance_schedule": "cosine"}, "guidance_schedule must be one of .* got 'cosine'"),
        ({"guidance_power": 0}, "guidance_power must be above 0"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval must be"),
        ({"generator": [torch.Generator()] * 3}, "generator must be one torch.Generator or a list of 1, got 3"),
        ({"generator": 3}, "generator must be a torch.Generator"),
        ({"prefix_codes": torch.zeros(1, 3).long()}, "prefix_codes must be integers of shape"),
        ({"prefix_codes": torch.zeros(1, 12, 2).long()}, r"prefix_codes must be .* \(1, 0 to 11 positions, 2\)"),
        ({"prefix_codes": torch.full((1, 2, 2), 32)}, r"prefix_codes must be in \[0, 31\], got 32 to 32"),
        ({"num_beams": 4}, "does not support num_beams"),
        ({"repetition_penalty": 1.2, "assistant_model": None}, "does not support assistant_model, repetition_penalty"),
        ({"logits_processor": [RepetitionPenaltyLogitsProcessor(1.2)]}, "RepetitionPenaltyLogitsProcessor is not"),
    ],
)
def test_bad_input_is_named_before_any_computation(arguments, message):
    model = make_generator(2)
    model.layers[0].register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=message):
        model.generate(**{"class_labels": [1]} | arguments)
