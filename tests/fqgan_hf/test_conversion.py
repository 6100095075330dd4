"""Published checkpoints: parity with recorded outputs, the way back, and what must be refused."""

import argparse
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fqgan_hf.conversion import (
    convert_checkpoint,
    convert_state_dict,
    convert_to_original,
    load_published_state_dict,
    to_published_state_dict,
)
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


CODEBOOKS = {"dual": ("visual", "semantic"), "triple": ("visual", "semantic_mid", "semantic_high")}
TINY_FAR = {"num_attention_heads": 4, "grid_height": 4, "grid_width": 4}  # what shapes do not tell
PUBLISHED_WEIGHTS = {"codebook": 1.0, "commitment": 0.25, "entropy": 0.03}


def tiny_tokenizer(num_codebooks=2, levels=3, **kwargs):
    settings = {
        "block_out_channels": (16,) * (levels - 1) + (32,),
        "norm_num_groups": 8,
        "layers_per_block": 2,
        "latent_channels": 16,
        "sample_size": 4 * 2 ** (levels - 1),
        "num_codebooks": num_codebooks,
        "codebook_size": 32,
        "codebook_dim": 4,
        "adapter_num_layers": 1,
        "adapter_num_heads": 2,
        "feature_num_layers": 1,
        "feature_num_heads": 2,
    }
    return FQGANModel(**settings | kwargs).eval()


def tiny_generator(num_codebooks=2, **kwargs):
    settings = {
        "num_codebooks": num_codebooks,
        "codebook_size": 32,
        "num_classes": 10,
        "grid_height": 4,
        "grid_width": 4,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_head_layers": 1,
    }
    return FARForImageGeneration(FARConfig(**settings | kwargs)).eval()


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
    model = tiny_tokenizer(num_codebooks, levels, feature_dims=heads)
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
    model = tiny_generator(**settings)
    back = convert_state_dict(to_published_state_dict(model), grid_height=4, grid_width=4)  # 64 channels a head: found
    assert back.config.to_diff_dict() == model.config.to_diff_dict()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.parameters(), strict=True))


@pytest.mark.parametrize("wrap", ["raw", "model", "ema", "state_dict", "module", "safetensors"])
def test_wrapped_and_raw_state_dicts_are_found(tmp_path, wrap):
    model = tiny_generator()
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
    state = to_published_state_dict(tiny_generator())
    grid = {"grid_height": 4, "grid_width": 4}
    with pytest.raises(ValueError, match="1 missing keys: norm.weight"):
        convert_state_dict({k: v for k, v in state.items() if k != "norm.weight"}, **grid)
    with pytest.raises(ValueError, match="1 unknown keys: layers.0.lora"):
        convert_state_dict(state | {"layers.0.lora": torch.zeros(1)}, **grid)
    state = to_published_state_dict(tiny_tokenizer())
    with pytest.raises(ValueError, match="missing keys: post_quant_conv.weight"):
        convert_state_dict({k: v for k, v in state.items() if k != "post_quant_conv.weight"})
    with pytest.raises(ValueError, match="neither a published tokenizer .* nor a published generator"):
        convert_state_dict({"weight": torch.zeros(1)})


def test_unexpected_shapes_are_named():
    state = to_published_state_dict(tiny_generator())
    state["norm.weight"] = torch.ones(3)
    with pytest.raises(ValueError, match=r"unexpected shape: norm.weight \(3,\) instead of \(128,\)"):
        convert_state_dict(state, grid_height=4, grid_width=4)


def test_unreadable_files_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError, match="checkpoint must be a file"):
        load_published_state_dict(path)
    torch.save({"model": to_published_state_dict(tiny_generator())}, path)
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
        (lambda: tiny_tokenizer(4), "the published layout exists for 2 and 3 codebooks, got 4"),
        (lambda: tiny_tokenizer(2, adapter_num_layers=0), "the published layout has adapters"),
        (lambda: tiny_tokenizer(2, feature_dims=(8, None)), "no feature head on the visual codebook"),
        (lambda: tiny_generator(head_type="linear"), "for head_type 'ar' only"),
    ],
)
def test_what_the_published_layout_cannot_hold_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        to_published_state_dict(model())


def test_writing_the_published_layout_leaves_no_partial_file(tmp_path, monkeypatch):
    tiny_generator().save_pretrained(tmp_path / "ours")
    target = tmp_path / "back.pt"
    target.write_text("what was there before")

    def fail(content, path):
        Path(path).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        convert_to_original(tmp_path / "ours", target)
    assert target.read_text() == "what was there before"
