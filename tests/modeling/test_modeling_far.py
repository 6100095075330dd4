# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FAR's teacher-forced side: sizes, losses, heads, rotary embedding, saving and loading, bad input."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from fqgan_hf.modeling.code_layout import grid_to_sequence, sequence_to_grid
from fqgan_hf.modeling.conditioning import Condition
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.configuration_generator import HEAD_TYPES
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.transformer_blocks import OFF_GRID, grid_places, rotary_embedding


def make_generator(num_codebooks=2, **settings) -> FARForImageGeneration:
    return tiny.generator(num_codebooks, spread=0.1, **{"grid_height": 3, **settings})


def inputs(model, batch=3):
    config = model.config
    codes = torch.randint(0, config.codebook_size, (batch, config.num_positions, config.num_codebooks))
    return {"class_labels": torch.arange(batch), "codes": codes}


@pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_loss_is_the_mean_cross_entropy_of_the_codebooks(num_codebooks, head_type):
    model = make_generator(num_codebooks, head_type=head_type)
    batch = inputs(model)
    output = model(**batch, labels=batch["codes"])
    assert output.logits.shape == (3, 12, num_codebooks, 32)
    for k in range(num_codebooks):
        expected = F.cross_entropy(output.logits[:, :, k].reshape(-1, 32), batch["codes"][:, :, k].reshape(-1))
        assert torch.allclose(output.codebook_losses[k], expected)
    assert torch.allclose(output.loss, output.codebook_losses.mean())


def test_a_new_model_predicts_every_code_alike():
    model = FARForImageGeneration(make_generator().config)
    assert all(not head.weight.any() for head in model.lm_heads)
    output = model(**inputs(model), labels=inputs(model)["codes"])
    assert torch.allclose(output.loss, torch.tensor(32.0).log())


@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_logits_see_only_what_comes_before(head_type):
    model = make_generator(3, head_type=head_type)
    batch = inputs(model, batch=1)
    before = model(**batch).logits
    position, codebook = 5, 1
    changed = batch["codes"].clone()
    changed[0, position, codebook] = (changed[0, position, codebook] + 1) % 32
    after = model(class_labels=batch["class_labels"], codes=changed).logits
    differs = (before != after).any(-1)[0]
    assert not differs[:position].any()
    # Within the position only the factorized head's later codebooks see the code.
    assert differs[position].tolist() == [False, False, head_type == "ar"]
    assert differs[position + 1 :].all()


def test_first_positions_alone_give_the_same_logits():
    model = make_generator()
    batch = inputs(model)
    whole = model(**batch).logits
    part = model(class_labels=batch["class_labels"], codes=batch["codes"][:, :5]).logits
    assert torch.allclose(whole[:, :5], part, atol=1e-5)


def test_evaluation_of_one_sample_and_ignored_labels():
    model = make_generator()
    batch = inputs(model, batch=1)
    labels = batch["codes"].clone()
    labels[:, 6:] = -100
    output = model(**batch, labels=labels)
    part = model(class_labels=batch["class_labels"], codes=batch["codes"][:, :6], labels=batch["codes"][:, :6])
    assert torch.allclose(output.loss, part.loss, atol=1e-5)


@pytest.mark.parametrize("name", ["label", "attention_mask", "class_label"])
def test_forward_refuses_what_it_does_not_know(name):
    """`label=codes` was swallowed, and the loss was None."""
    model = make_generator()
    batch = inputs(model)
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        model(**batch, **{name: batch["codes"]})
    assert model(**batch, labels=batch["codes"], return_dict=False)[0].ndim == 0  # transformers' own


def test_class_dropout_acts_in_training_only():
    model = make_generator(class_dropout=0.999999, token_dropout=0.0, residual_dropout=0.0, ffn_dropout=0.0)
    batch = inputs(model)
    null = {"class_labels": torch.full((3,), 10), "codes": batch["codes"]}
    evaluated, unconditional = model(**batch).logits, model(**null).logits
    assert not torch.allclose(evaluated, unconditional)
    assert torch.allclose(model.train()(**batch).logits, unconditional, atol=1e-5)


@pytest.mark.parametrize("num_condition", [1, 3])
def test_a_condition_is_a_prefix_of_embeddings(num_condition):
    """Every token sees it, none is taken for a part of it, and its null takes its place in training."""
    model = make_generator(class_dropout=0.999999, token_dropout=0.0, residual_dropout=0.0, ffn_dropout=0.0)
    codes = inputs(model)["codes"]
    embeddings = torch.randn(3, num_condition, 32).requires_grad_()
    condition = Condition(embeddings)
    null = torch.randn(1, num_condition, 32)
    output = model(condition=condition, codes=codes, labels=codes)
    assert output.logits.shape == (3, 12, 2, 32)
    for position in (0, 11):
        (gradient,) = torch.autograd.grad(output.logits[:, position].square().sum(), embeddings, retain_graph=True)
        assert (gradient.abs().amax(-1) > 0).all()
    unconditional = model(condition=Condition(null.expand(3, -1, -1)), codes=codes).logits
    assert not torch.allclose(output.logits, unconditional)
    trained = model.train()(condition=Condition(embeddings, null), codes=codes).logits
    assert torch.allclose(trained, unconditional, atol=1e-5)
    assert torch.allclose(model(condition=condition, codes=codes).logits, output.logits, atol=1e-5)  # no null


def test_a_class_is_a_condition_of_one_position():
    model = make_generator()
    batch = inputs(model)
    (condition,) = model.embed_conditions(batch["class_labels"])
    assert condition.embeddings.shape == condition.null.shape == (3, 1, 32)
    assert torch.equal(model(condition=condition, codes=batch["codes"]).logits, model(**batch).logits)
    unconditional = model(class_labels=torch.full((3,), 10), codes=batch["codes"]).logits
    null = replace(condition, embeddings=condition.null)
    assert torch.equal(model(condition=[null], codes=batch["codes"]).logits, unconditional)


def test_flat_codes_give_the_logits_of_the_next_code():
    model = make_generator(3)
    batch = inputs(model)
    logits = model(**batch).logits.flatten(1, 2)
    flat = batch["codes"].flatten(1)
    for length in (0, 1, 2, 3, 17, 35):
        output = model(class_labels=batch["class_labels"], input_ids=flat[:, :length])
        assert torch.allclose(output.logits[:, 0], logits[:, length], atol=1e-5)


def test_published_sizes():
    """Base 417 M, Large 901 M parameters."""
    with torch.device("meta"):
        sizes = [FARForImageGeneration(c).num_parameters() for c in (FARConfig.base(), FARConfig.large())]
    assert [round(size / 1e6) for size in sizes] == [417, 901]
    assert FARConfig.base(num_codebooks=3).num_codebooks == 3
    assert FARConfig.large(num_hidden_layers=2).num_hidden_layers == 2


def test_rotary_embedding_turns_by_row_and_by_column():
    # head_dim 16: frequencies 1, 0.1, 0.01, 0.001 by row, then the same by column
    places = torch.cat([torch.full((1, 2), OFF_GRID), grid_places(3, 4)])
    cos, sin = rotary_embedding(places, head_dim=16, theta=10000.0)
    assert not cos[:1].any() and not sin[:1].any()  # off the grid: the class
    assert torch.equal(cos[1], torch.ones(16)) and not sin[1].any()  # unrotated at the origin, where text lies
    frequencies = 10000.0 ** -(torch.arange(4) / 4)
    row, column = 2, 1
    angles = torch.cat([row * frequencies, column * frequencies]).repeat(2)
    assert torch.allclose(cos[1 + row * 4 + column], angles.cos(), atol=1e-6)
    assert torch.allclose(sin[1 + row * 4 + column], angles.sin(), atol=1e-6)


def test_gradient_checkpointing_changes_nothing():
    model = make_generator(token_dropout=0.0, residual_dropout=0.0, ffn_dropout=0.0, class_dropout=0.0).train()
    batch = inputs(model)

    def gradients():
        model.zero_grad()
        model(**batch, labels=batch["codes"]).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    model.gradient_checkpointing_enable()
    for a, b in zip(plain, gradients(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_grouped_query_attention_equals_repeated_heads():
    grouped, full = make_generator(num_key_value_heads=1), make_generator()
    state = grouped.state_dict()
    for name in [name for name in state if "qkv_proj" in name]:
        query, key, value = state[name].split([32, 16, 16])
        state[name] = torch.cat([query, key, key, value, value])
    full.load_state_dict(state)
    batch = inputs(full)
    assert torch.allclose(grouped(**batch).logits, full(**batch).logits, atol=1e-5)


def test_grids_and_sequences_convert_both_ways():
    grid = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)  # 3 codebooks, 2 rows, 4 columns
    sequence = grid_to_sequence(grid)
    assert sequence.shape == (2, 8, 3)
    assert sequence[1, 5].tolist() == grid[1, :, 1, 1].tolist()  # position 5 is row 1, column 1
    assert torch.equal(sequence_to_grid(sequence, 2, 4), grid)
    with pytest.raises(ValueError, match=r"codes must have shape \(batch, 6, num_codebooks\) for a 2x3 grid"):
        sequence_to_grid(sequence, 2, 3)
    with pytest.raises(ValueError, match="codes must have shape"):
        grid_to_sequence(sequence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_through_the_auto_classes(tmp_path, dtype):
    model = make_generator(3, id2label={i: f"class {i}" for i in range(10)}, tokenizer_fingerprint="abc").to(dtype)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is FARConfig and config.id2label[3] == "class 3" and config.tokenizer_fingerprint == "abc"
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is FARForImageGeneration and loaded.dtype == dtype and not loaded.training
    batch = inputs(model)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_incomplete_or_broken_checkpoints_are_refused(tmp_path):
    make_generator().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)

    def broken(change):
        changed = dict(weights)
        change(changed)
        save_file(changed, path, metadata={"format": "pt"})
        return FARForImageGeneration.from_pretrained(tmp_path)

    with pytest.raises(ValueError, match="1 missing keys, among them norm.weight"):
        broken(lambda w: w.pop("norm.weight"))
    with pytest.raises(ValueError, match="unexpected keys, among them surplus"):
        broken(lambda w: w.update(surplus=torch.zeros(1)))
    with pytest.raises(ValueError, match="non-finite weights in norm.weight"):
        broken(lambda w: w.update({"norm.weight": torch.full((32,), torch.inf)}))
    with pytest.raises(ValueError, match="norm.weight must be of a floating type .*, got I64"):
        broken(lambda w: w.update({"norm.weight": torch.ones(32).long()}))
    with pytest.raises(ValueError, match=r"do not fit the configuration .* norm.weight \(31,\) instead of \(32,\)"):
        broken(lambda w: w.update({"norm.weight": torch.ones(31)}))
    save_file(weights, path, metadata={"format": "pt"})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        FARForImageGeneration.from_pretrained(tmp_path)


@pytest.mark.timeout(60)
def test_a_configuration_that_asks_for_more_than_its_weights_hold_is_refused_at_once(tmp_path):
    """Nothing is allocated for it: that many parameters would not fit into any machine."""
    make_generator().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "hidden_size": 2**16, "intermediate_size": 2**18, "num_hidden_layers": 500}))
    with pytest.raises(ValueError, match=r"not a complete FARForImageGeneration .* missing keys, among them layers"):
        FARForImageGeneration.from_pretrained(tmp_path)
    path.write_text(json.dumps({**config, "codebook_size": 2**24}))
    with pytest.raises(ValueError, match="do not fit the configuration beside them: .* code_embedding.weight"):
        FARForImageGeneration.from_pretrained(tmp_path)


def test_pickles_are_not_loaded(tmp_path):
    model = make_generator()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pytorch_model.bin is a pickle, which is not loaded"):
        FARForImageGeneration.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        FARForImageGeneration.from_pretrained(tmp_path, use_safetensors=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head_type": "rnn"}, "head_type must be one of"),
        ({"num_codebooks": 0}, r"num_codebooks must be an integer in \[1, 64\], got 0"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers must be an integer in \[1, 1,024\], got 1000000000"),
        ({"hidden_size": "32"}, "hidden_size must be an integer in .*, got '32'"),
        ({"hidden_size": 32.0}, "hidden_size must be an integer in .*, got 32.0"),
        ({"num_codebooks": True}, "num_codebooks must be an integer in .*, got True"),
        ({"rope_theta": float("nan")}, "rope_theta must be a number in .*, got nan"),
        ({"num_labels": 10**9}, "num_labels must be an integer in .*, got 1000000000"),
        ({"id2label": [1]}, r"id2label must map class ids to names, got \[1\]"),
        ({"id2label": {"x": "y"}}, "id2label must map class ids to names"),
        ({"dtype": "float99"}, "dtype must be a type of torch's tensors such as 'float32', got 'float99'"),
        ({"tokenizer_fingerprint": 3}, "tokenizer_fingerprint must be a string or None, got 3"),
        ({"num_head_layer": 4}, "FARConfig has no setting num_head_layer: did you mean num_head_layers"),
        ({"hidden_size": 36}, r"hidden_size must be a multiple of 4 \* num_attention_heads"),
        ({"num_key_value_heads": 3, "num_attention_heads": 8}, "num_key_value_heads must divide"),
        ({"class_dropout": 1.0}, "class_dropout must be below 1, got 1.0"),
        ({"class_dropout": -0.1}, r"class_dropout must be a number in \[0, 1\], got -0.1"),
        ({"num_head_layers": 0}, "num_head_layers must be at least 1"),
    ],
)
def test_bad_configurations_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make_generator(**settings)


def test_whole_numbers_are_numbers():
    """As some programs write JSON."""
    assert make_generator(rope_theta=10000).config.rope_theta == 10000.0
    assert isinstance(make_generator(rope_theta=10000, token_dropout=0).config.rope_theta, float)


CONDITION = {"class_labels": None, "condition": Condition(torch.zeros(3, 2, 32))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": None}, "codes .* must be given besides what they are generated for"),
        ({"class_labels": None}, "class_labels must be given: this generator was trained for class"),
        ({"text": torch.zeros(3, 2).long()}, "text cannot be given: this generator was trained for class"),
        ({"condition": CONDITION["condition"]}, "condition takes the place of class_labels"),
        (CONDITION | {"condition": Condition(torch.zeros(2, 2, 32))}, r"condition must have shape \(3, 1 or more "),
        (CONDITION | {"condition": torch.zeros(3, 2, 32)}, "condition must be a Condition or a list of them, got T"),
        ({"codes": torch.zeros(3, 12, 2)}, "codes must be int64 or int32, got torch.float32"),
        ({"class_labels": torch.zeros(3)}, "class_labels must be int64 or int32, got torch.float32"),
        ({"codes": torch.zeros(3, 12, 3).long()}, r"codes must have shape \(batch, 1 to 12 positions, 2\)"),
        ({"codes": torch.zeros(3, 13, 2).long()}, "codes must have shape"),
        ({"class_labels": torch.zeros(2).long()}, r"class_labels must have shape \(3,\), got \(2,\)"),
        ({"labels": torch.zeros(3, 11, 2).long()}, "labels must have the shape of codes"),
    ],
)
def test_bad_input_is_named(change, message):
    model = make_generator()
    with pytest.raises(ValueError, match=message):
        model(**inputs(model) | change)


def test_config_on_disk_is_plain(tmp_path):
    make_generator(intermediate_size=None).config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "far" and stored["intermediate_size"] == 256 and stored["num_key_value_heads"] == 2
