# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Published checkpoints: parity with recorded outputs, the way back, and what must be refused."""

import argparse
import os
import random
import re
import zipfile
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from fqgan_hf.conversion import (
    convert_checkpoint,
    convert_state_dict,
    convert_to_original,
    load_published_state_dict,
    to_published_state_dict,
)
from fqgan_hf.files import sha256
from fqgan_hf.hub.card_info import CardInfo
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


CODEBOOKS = {"dual": ("visual", "semantic"), "triple": ("visual", "semantic_mid", "semantic_high")}
TINY_FAR = {"num_attention_heads": 4, "grid_height": 4, "grid_width": 4}  # what shapes do not tell
PUBLISHED_WEIGHTS = {"codebook": 1.0, "commitment": 0.25, "entropy": 0.03}


def make_tokenizer(num_codebooks=2, levels=3, **settings):
    sizes = {"block_out_channels": (16,) * (levels - 1) + (32,), "sample_size": 4 * 2 ** (levels - 1)}
    return tiny.tokenizer(num_codebooks, **{"layers_per_block": 2, **sizes, **settings})


def make_generator(num_codebooks=2, **settings):
    return tiny.generator(num_codebooks, **{"hidden_size": 128, "intermediate_size": None, **settings})


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["dual", "triple"])
def test_tokenizer_computes_what_the_published_code_computes(shared_dir, tmp_path, kind):
    convert_checkpoint(shared_dir / f"fixtures/official_fqgan_{kind}_ds16_tiny.pt", tmp_path)
    model = FQGANModel.from_pretrained(tmp_path)
    expected = load_file(shared_dir / f"fixtures/official_fqgan_{kind}_ds16_tiny.expected.safetensors")
    with torch.no_grad():
        output = model(expected["pixel_values"], return_losses=True)
    for k, name in enumerate(CODEBOOKS[kind]):
        assert torch.equal(output.codes[:, k], expected[f"codes.{name}"])
        for term, weight in PUBLISHED_WEIGHTS.items():
            value = getattr(output.losses, term)[k] * weight
            assert abs(value - expected[f"{term}_loss.{name}"]) < 1e-5, (term, name)
        if k > 0:
            assert (output.feature_predictions[k] - expected[f"feature.{name}"]).abs().max() < 1e-4
    assert abs(0.1 * output.losses.disentanglement - expected["disentanglement_loss"]) < 1e-5
    assert (output.sample - expected["reconstruction"]).abs().max() < 1e-4
    assert (model.decode_codes(output.codes).sample - expected["reconstruction"]).abs().max() < 1e-4


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["dual", "triple"])
def test_generator_computes_what_the_published_code_computes(shared_dir, tmp_path, kind):
    convert_checkpoint(shared_dir / f"fixtures/official_far_{kind}_tiny.pt", tmp_path, **TINY_FAR)
    model = FARForImageGeneration.from_pretrained(tmp_path)
    expected = load_file(shared_dir / f"fixtures/official_far_{kind}_tiny.expected.safetensors")
    codes = expected["codes"]
    with torch.no_grad():
        output = model(class_labels=expected["class_labels"], codes=codes, labels=codes)
    for k in range(codes.shape[-1]):
        assert (output.logits[:, :, k] - expected[f"logits.{k}"]).abs().max() < 1e-4
    assert abs(output.loss - expected["loss"]) < 1e-5
    for scale in (1.0, 2.0):
        greedy = model.generate(class_labels=expected["greedy_labels"], guidance_scale=scale, do_sample=False)
        assert torch.equal(greedy, expected[f"greedy_codes.cfg{scale}"])


@pytest.mark.parity
@pytest.mark.parametrize("name", ["fqgan_dual_ds16", "fqgan_triple_ds16", "far_dual", "far_triple"])
def test_every_fixture_converts_back_to_the_letter(shared_dir, tmp_path, name):
    source = shared_dir / f"fixtures/official_{name}_tiny.pt"
    convert_checkpoint(source, tmp_path / "ours", **(TINY_FAR if "far" in name else {}))
    convert_to_original(tmp_path / "ours", tmp_path / "back.pt")
    original, back = load_published_state_dict(source), load_published_state_dict(tmp_path / "back.pt")
    original = {key: value for key, value in original.items() if not key.endswith("codebook_used")}
    assert back.keys() == original.keys()
    assert all(torch.equal(back[key], original[key]) for key in original)


@pytest.mark.parametrize("num_codebooks", [2, 3])
@pytest.mark.parametrize("levels", [4, 5])  # f = 8 and f = 16
@pytest.mark.parametrize("with_heads", [False, True])
def test_tokenizer_round_trip(num_codebooks, levels, with_heads):
    heads = (None, 8, 16)[:num_codebooks] if with_heads else None
    model = make_tokenizer(num_codebooks, levels, feature_dims=heads)
    back = convert_state_dict(
        to_published_state_dict(model), adapter_num_heads=2, feature_num_heads=2, norm_num_groups=8
    )
    assert {k: v for k, v in back.config.items() if not k.startswith("_") and v is not None} == {
        k: v
        for k, v in model.config.items()
        if not k.startswith("_") and v is not None and (with_heads or k != "feature_num_layers")
    } | ({} if with_heads else {"feature_num_layers": 3})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.parameters(), strict=True))


@pytest.mark.parametrize("settings", [{}, {"num_codebooks": 3}, {"num_key_value_heads": 1}])
def test_generator_round_trip(settings):
    model = make_generator(**settings)
    back = convert_state_dict(to_published_state_dict(model), grid_height=4, grid_width=4)  # 64 channels a head: found
    assert back.config.to_diff_dict() == model.config.to_diff_dict()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.parameters(), strict=True))


@pytest.mark.parametrize("wrap", ["raw", "model", "ema", "state_dict", "module", "safetensors"])
def test_wrapped_and_raw_state_dicts_are_found(tmp_path, wrap):
    model = make_generator()
    state = to_published_state_dict(model)
    path = tmp_path / ("checkpoint.safetensors" if wrap == "safetensors" else "checkpoint.pt")
    if wrap == "safetensors":
        save_file(state, path)
    elif wrap == "raw":
        torch.save(state, path)
    elif wrap == "module":
        torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        content = {"optimizer": {"lr": 1.0}, "steps": 3, "args": argparse.Namespace(gpt_model="FAR-B"), wrap: state}
        if wrap == "ema":  # the averaged weights win over the last ones
            content["model"] = {key: torch.zeros_like(value) for key, value in state.items()}
        torch.save(content, path)
    converted = convert_checkpoint(path, tmp_path / "out", grid_height=4, grid_width=4)
    assert torch.equal(converted.layers[0].self_attn.qkv_proj.weight, model.layers[0].self_attn.qkv_proj.weight)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_does_not_execute(tmp_path, legacy):
    marker = tmp_path / "executed"
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": {}, "args": Malicious(marker)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="was refused: it must be a whole torch or safetensors file"):
        load_published_state_dict(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the file really is malicious


def test_missing_and_unknown_keys_are_named():
    state = to_published_state_dict(make_generator())
    grid = {"grid_height": 4, "grid_width": 4}
    with pytest.raises(ValueError, match="1 missing keys: norm.weight"):
        convert_state_dict({k: v for k, v in state.items() if k != "norm.weight"}, **grid)
    with pytest.raises(ValueError, match="1 unknown keys: layers.0.lora"):
        convert_state_dict(state | {"layers.0.lora": torch.zeros(1)}, **grid)
    state = to_published_state_dict(make_tokenizer())
    with pytest.raises(ValueError, match="missing keys: post_quant_conv.weight"):
        convert_state_dict({k: v for k, v in state.items() if k != "post_quant_conv.weight"})
    with pytest.raises(ValueError, match="neither a published tokenizer .* nor a published generator"):
        convert_state_dict({"weight": torch.zeros(1)})


def test_unexpected_shapes_are_named():
    state = to_published_state_dict(make_generator())
    state["norm.weight"] = torch.ones(3)
    with pytest.raises(ValueError, match=r"unexpected shape: norm.weight: \(3,\) instead of \(128,\)"):
        convert_state_dict(state, grid_height=4, grid_width=4)


@pytest.mark.parametrize("make", [make_tokenizer, make_generator])
def test_any_wrong_tensor_is_named(make):
    """Sixty of them, by a fixed seed: other shapes, other types, values that are not finite."""
    state = to_published_state_dict(make())
    settings = {"adapter_num_heads": 2, "norm_num_groups": 8}
    if make is make_generator:
        settings = {"grid_height": 4, "grid_width": 4, "num_attention_heads": 2}
    changes = [
        lambda t: t[None], lambda t: t[0], lambda t: t.new_zeros(()), lambda t: t.new_zeros(0),
        lambda t: torch.cat([t, t[:1]]), lambda t: t.flatten(), lambda t: t.new_zeros(1, 1, 1, 1, 1),
        lambda t: t.long(), lambda t: t.to(torch.complex64), lambda t: t.bool(),
        lambda t: t / 0, lambda t: torch.full_like(t, torch.nan),
    ]  # fmt: skip
    rng = random.Random(0)
    for change in changes * 5:
        name = rng.choice(sorted(state))
        wrong = change(state[name])
        if wrong.shape == state[name].shape and wrong.dtype == state[name].dtype and wrong.isfinite().all():
            continue  # a vector flattened
        with pytest.raises(ValueError) as caught:
            convert_state_dict({**state, name: wrong}, **settings)
        # Sizes of some tensors tell the configuration, which then does not fit others.
        tells = "conv1|conv_in|conv_out|embedding|post_quant_conv|wqkv|w1"
        assert name in str(caught.value) or re.search(tells, name), (name, str(caught.value))
        assert re.search("unexpected shape|expected layout|must be|must hold|must divide", str(caught.value))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_attention_head": 4}, r"no setting num_attention_head \(the nearest is num_attention_heads\)"),
        ({"grid_heigth": 4}, r"no setting grid_heigth \(the nearest is grid_height\)"),
        ({"sample_size": 64}, r"no setting sample_size \(the nearest is .*\), accepted are \["),  # a tokenizer's
        ({"num_attention_heads": "four"}, "num_attention_heads must be an integer in .*, got 'four'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be an integer in .*, got 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer in"),
        ({"codebook_size": 2**24}, "unexpected shape: .* instead of"),
        ({"hidden_size": 256, "num_attention_heads": 4}, "unexpected shape"),
    ],
)
def test_settings_that_are_wrong_are_refused(overrides, message):
    """`--set num_attention_head=4 grid_heigth=4` wrote a model that was not the one asked for."""
    state = to_published_state_dict(make_generator())
    with pytest.raises(ValueError, match=message):
        convert_state_dict(state, **overrides)


def test_force_replaces_what_a_conversion_writes_and_nothing_else(tmp_path):
    """It deleted its own source, and every other *.safetensors of the folder."""
    source = tmp_path / "far.safetensors"
    save_file(to_published_state_dict(make_generator()), source)
    before = source.read_bytes()
    for name in ("other.safetensors", "model.fp16.safetensors", "notes.txt", "config.json"):
        (tmp_path / name).write_text("mine")
    grid = {"grid_height": 4, "grid_width": 4}
    with pytest.raises(FileExistsError, match="is there already and not empty"):
        convert_checkpoint(source, tmp_path, **grid)
    model = convert_checkpoint(source, tmp_path, force=True, **grid)
    assert source.read_bytes() == before
    assert [(tmp_path / n).read_text() for n in ("other.safetensors", "model.fp16.safetensors", "notes.txt")] == [
        "mine"
    ] * 3
    loaded = FARForImageGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.norm.weight, model.norm.weight)
    convert_checkpoint(source, tmp_path, force=True, **grid)  # and again
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_a_checkpoint_is_never_replaced_by_its_conversion(tmp_path, link):
    folder, source = tmp_path / "out", tmp_path / "far.safetensors"
    folder.mkdir()
    save_file(to_published_state_dict(make_generator()), source)
    if link is None:
        source = source.rename(folder / "model.safetensors")
    else:
        link(source, folder / "model.safetensors")
    before = source.read_bytes()
    with pytest.raises(FileExistsError, match=r"model\.safetensors would replace the checkpoint itself"):
        convert_checkpoint(source, folder, force=True, grid_height=4, grid_width=4)
    assert source.read_bytes() == before and os.listdir(folder) == ["model.safetensors"]


def test_weights_that_a_loader_would_take_for_the_new_ones_are_not_left_there(tmp_path):
    torch.save(to_published_state_dict(make_tokenizer()), tmp_path / "a.pt")
    make_tokenizer().save_pretrained(tmp_path / "out", max_shard_size="50KB")
    before = sorted(os.listdir(tmp_path / "out"))
    with pytest.raises(FileExistsError, match=r"safetensors\.index\.json would stay beside the new weights"):
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "out", force=True, norm_num_groups=8, adapter_num_heads=2)
    assert sorted(os.listdir(tmp_path / "out")) == before


def test_a_part_of_the_model_is_not_replaced_by_the_published_file(tmp_path):
    make_generator().save_pretrained(tmp_path / "ours")
    before = (tmp_path / "ours" / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="is a part of the model itself"):
        convert_to_original(tmp_path / "ours", tmp_path / "ours" / "model.safetensors")
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == before
    convert_to_original(tmp_path / "ours", tmp_path / "ours" / "new.pt")


def test_a_flipped_bit_is_found(tmp_path):
    """Torch files have checksums, which torch does not compare."""
    path = tmp_path / "checkpoint.pt"
    state = to_published_state_dict(make_generator())
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    place = content.find(state["tok_embeddings_1.weight"].numpy().tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)
    name = "tok_embeddings_1.weight"
    assert not torch.equal(torch.load(path)[name], state[name])
    with pytest.raises(ValueError, match=r"was refused: .* \(the checksum of its part .* is wrong"):
        load_published_state_dict(path)


def test_compressed_parts_are_refused(tmp_path):
    """A small file could hold more than any disk."""
    torch.save({"norm.weight": torch.zeros(8)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.namelist():
            new.writestr(part, old.read(part))
    with pytest.raises(ValueError, match="compressed parts"):
        load_published_state_dict(tmp_path / "b.pt")


def test_unreadable_files_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError, match="checkpoint must be a file"):
        load_published_state_dict(path)
    torch.save({"model": to_published_state_dict(make_generator())}, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="was refused"):
        load_published_state_dict(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="was refused"):
        load_published_state_dict(path)
    torch.save([1, 2, 3], path)
    with pytest.raises(ValueError, match="must be a state dict or hold one under 'ema', 'model', 'state_dict'"):
        load_published_state_dict(path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: make_tokenizer(4), "the published layout exists for 2 and 3 codebooks, got 4"),
        (lambda: make_tokenizer(2, adapter_num_layers=0), "the published layout has adapters"),
        (lambda: make_tokenizer(2, feature_dims=(8, None)), "no feature head on the visual codebook"),
        (lambda: make_generator(head_type="linear"), "for head_type 'ar' only"),
    ],
)
def test_what_the_published_layout_cannot_hold_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        to_published_state_dict(model())


def test_writing_the_published_layout_leaves_no_partial_file(tmp_path, monkeypatch):
    make_generator().save_pretrained(tmp_path / "ours")
    target = tmp_path / "back.pt"
    target.write_text("what was there before")

    def fail(content, path):
        Path(path).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        convert_to_original(tmp_path / "ours", target)
    assert target.read_text() == "what was there before"


def test_a_conversion_says_where_it_comes_from(tmp_path):
    """For the card: the licence of the published weights stays that of what is made of them."""
    torch.save({"model": to_published_state_dict(make_generator())}, tmp_path / "vq.pt")
    convert_checkpoint(tmp_path / "vq.pt", tmp_path / "out", **TINY_FAR)
    info = CardInfo.read(tmp_path / "out")
    assert info.license == "cc-by-nc-4.0"
    assert info.converted_from == f"the checkpoint `vq.pt` (SHA-256 `{sha256(tmp_path / 'vq.pt')}`)"
