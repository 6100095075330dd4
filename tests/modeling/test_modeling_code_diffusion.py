# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The network of discrete diffusion: what a state sees, teacher forcing against sampling, guidance, bad input."""

import pytest
import torch
from transformers import AutoModel

from fqgan_hf.modeling.code_sampling import SamplingSettings, codebook_warpers
from fqgan_hf.modeling.conditioning import guidance_prefix, join_conditions
from fqgan_hf.modeling.configuration_code_diffusion import CodeDiffusionConfig
from fqgan_hf.modeling.configuration_generator import HEAD_TYPES
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler


SCHEDULER = CodeDiffusionScheduler(codebook_size=32)

SIZES = {
    "codebook_size": 32,
    "num_classes": 10,
    "grid_height": 3,
    "grid_width": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_head_layers": 1,
}


def make(num_codebooks=2, **settings) -> CodeDiffusionTransformer:
    config = CodeDiffusionConfig(**{**SIZES, "num_codebooks": num_codebooks, **settings})
    model = CodeDiffusionTransformer(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(model, batch=3):
    config = model.config
    shape = (batch, config.num_positions, config.num_codebooks)
    return {
        "codes": torch.randint(config.codebook_size + 1, shape),
        "timesteps": torch.randint(1, 101, (batch,)),
        "clean_codes": torch.randint(config.codebook_size, shape),
        "class_labels": torch.randint(config.num_classes, (batch,)),
    }


@pytest.mark.parametrize("head_type", HEAD_TYPES)
@pytest.mark.parametrize("num_codebooks", [1, 2, 3])
@torch.no_grad()
def test_codes_are_drawn_from_what_the_teacher_forced_form_says(num_codebooks, head_type):
    model = make(num_codebooks, head_type=head_type)
    given = inputs(model)
    conditions = model.embed_conditions(class_labels=given["class_labels"])
    hidden = model.backbone(given["codes"], given["timesteps"], join_conditions(conditions, [True]))
    uniforms = torch.rand(given["codes"].shape, dtype=torch.float64)
    codes, log_probs = model.sample_codes(hidden, SCHEDULER.draw_codes, uniforms)
    expected = model(**{**given, "clean_codes": codes}).logits.log_softmax(-1)
    torch.testing.assert_close(log_probs, expected.gather(-1, codes[..., None])[..., 0], atol=5e-5, rtol=0)
    # The code is where its uniform number falls in the cumulative distribution.
    cumulative = expected.double().exp().cumsum(-1)
    upper = cumulative.gather(-1, codes[..., None])[..., 0]
    assert ((upper > uniforms - 1e-5) & (upper - log_probs.exp() < uniforms + 1e-5)).all()
    likeliest = SamplingSettings(top_k=1).per_codebook(num_codebooks)
    greedy, _ = model.sample_codes(hidden, SCHEDULER.draw_codes, uniforms, codebook_warpers(likeliest, 32))
    assert torch.equal(greedy[:, :, 0], expected[:, :, 0].argmax(-1))


@torch.no_grad()
def test_the_factorized_head_sees_the_earlier_codes_of_its_position_and_no_others():
    model = make(3)
    given = inputs(model)
    logits = model(**given).logits
    changed = given["clean_codes"].clone()
    changed[:, 5, 1] = (changed[:, 5, 1] + 1) % 32
    differs = (model(**{**given, "clean_codes": changed}).logits != logits).flatten(3).any(3).any(0)
    expected = torch.zeros(12, 3, dtype=torch.bool)
    expected[5, 2] = True
    assert torch.equal(differs, expected)


@pytest.mark.parametrize("time_conditioning", ["adaln", "none"])
@torch.no_grad()
def test_every_position_sees_every_state_the_class_and_the_time(time_conditioning):
    model = make(time_conditioning=time_conditioning)
    given = inputs(model)
    logits = model(**given).logits
    for position in (0, 11):
        changed = given["codes"].clone()
        changed[:, position] = (changed[:, position] + 1) % 33
        assert (model(**{**given, "codes": changed}).logits != logits).flatten(2).any(2).all()
    labels = (given["class_labels"] + 1) % 10
    # A class lies off the grid: its key is 0, its value is seen.
    assert (model(**{**given, "class_labels": labels}).logits != logits).flatten(2).any(2).all()
    later = model(**{**given, "timesteps": given["timesteps"] % 100 + 1}).logits
    assert torch.equal(later, logits) is (time_conditioning == "none")


@torch.no_grad()
def test_guidance_is_on_log_probabilities():
    """l_u + s (l_c - l_u), renormalised, each codebook with a scale of its own."""
    model = make(2)
    given = inputs(model)
    conditions = model.embed_conditions(class_labels=given["class_labels"])
    prefix = guidance_prefix(conditions, 1)
    twice = (given["codes"].repeat(2, 1, 1), given["timesteps"].repeat(2))
    hidden = model.backbone(*twice, prefix)
    uniforms = torch.rand(given["codes"].shape, dtype=torch.float64)
    weights = torch.tensor([[3.0, 1.5]])
    codes, log_probs = model.sample_codes(hidden, SCHEDULER.draw_codes, uniforms, weights=weights)
    null = {**given, "class_labels": torch.full((3,), 10), "clean_codes": codes}
    conditional = model(**{**given, "clean_codes": codes}).logits.log_softmax(-1)
    unconditional = model(**null).logits.log_softmax(-1)
    scales = torch.tensor([3.0, 1.5])[:, None]
    guided = (unconditional + scales * (conditional - unconditional)).log_softmax(-1)
    torch.testing.assert_close(log_probs, guided.gather(-1, codes[..., None])[..., 0], atol=2e-4, rtol=0)


@torch.no_grad()
def test_a_larger_grid_spreads_over_the_trained_one():
    model = make(1)
    prefix = join_conditions(model.embed_conditions(class_labels=torch.tensor([1])), [True])
    times = torch.tensor([7])
    plain = torch.randint(33, (1, 12, 1))
    same = model.backbone(plain, times, prefix, grid=(3, 4))
    assert torch.equal(same, model.backbone(plain, times, prefix))
    # Every cell four times: softmax weights are shared out, so the mean of the four is near the cell's own state.
    larger = plain.unflatten(1, (3, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    states = model.backbone(larger, times, prefix, grid=(6, 8))
    pooled = states.unflatten(1, (3, 2, 4, 2)).mean((2, 4)).flatten(1, 2)
    similarity = torch.cosine_similarity(pooled, same, dim=-1).mean()
    shuffled = torch.cosine_similarity(pooled, same.roll(5, 1), dim=-1).mean()
    assert similarity > 0.95 > shuffled


def test_class_dropout_acts_in_training_only():
    dropouts = dict.fromkeys(("token_dropout", "residual_dropout", "ffn_dropout"), 0.0)
    model = make(class_dropout=0.999999, **dropouts)
    given = inputs(model)
    unconditional = model(**{**given, "class_labels": torch.full((3,), 10)}).logits
    assert not torch.allclose(model(**given).logits, unconditional)
    assert torch.allclose(model.train()(**given).logits, unconditional, atol=1e-5)


def test_saved_and_loaded(tmp_path):
    model = make(3, head_type="mlp", time_conditioning="none")
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    given = inputs(model)
    assert type(loaded) is CodeDiffusionTransformer
    assert torch.equal(loaded(**given).logits, model(**given).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": None}, "codes and timesteps must both be given"),
        ({"clean_codes": None}, "clean_codes must be given for head_type 'ar'"),
        ({"codes": torch.zeros(3, 12, 2)}, "codes must be int64 or int32, got torch.float32"),
        ({"codes": torch.zeros(3, 11, 2).long()}, r"codes must have shape \(batch, 12, 2\), got \(3, 11, 2\)"),
        ({"timesteps": torch.zeros(2).long()}, r"timesteps must have shape \(3,\), got \(2,\)"),
        ({"class_labels": None}, "class_labels must be given: this generator was trained for class"),
        ({"class_labels": torch.tensor([1, 2, 11])}, r"class_labels must be in \[0, 10\], got 1 to 11"),
    ],
)
def test_bad_input_is_named(change, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        model(**{**inputs(model), **change})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_conditioning": "sinus"}, "time_conditioning must be one of .* got 'sinus'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps must be an integer in"),
        ({"num_train_timestep": 10}, "has no setting num_train_timestep: did you mean num_train_timesteps"),
    ],
)
def test_bad_configurations_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_the_sizes_of_the_paper():
    assert CodeDiffusionConfig.small().hidden_size == 192
    assert (CodeDiffusionConfig.base().num_hidden_layers, CodeDiffusionConfig.imagenet().hidden_size) == (19, 512)
