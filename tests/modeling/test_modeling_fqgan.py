# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FQGANModel: shapes for every K and f, losses and gradients, subsets of codebooks, saving and loading, bad input."""

import json

import pytest
import tiny
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from safetensors.torch import load_file, save_file

from fqgan_hf.modeling import blocks_fqgan, modeling_fqgan
from fqgan_hf.modeling.blocks_fqgan import InPlaceResnetBlock2D, TransposedUpsample2D
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


def make_tokenizer(num_codebooks=2, levels=3, **settings) -> FQGANModel:
    sizes = {"block_out_channels": (16,) * (levels - 1) + (32,), "sample_size": 4 * 2 ** (levels - 1)}
    return tiny.tokenizer(num_codebooks, **{**sizes, **settings})


@pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
def test_round_trip_shapes_for_every_k(num_codebooks):
    model = make_tokenizer(num_codebooks)
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    encoded = model.encode(pixels)
    assert encoded.codes.shape == (2, num_codebooks, 4, 4)
    assert encoded.codes.dtype == torch.long
    assert encoded.latents.shape == (2, 4 * num_codebooks, 4, 4)
    assert encoded.losses is None
    from_codes = model.decode_codes(encoded.codes).sample
    assert from_codes.shape == pixels.shape
    # The three ways to pixels agree: from codes, from latents (which are already codes), and in one go.
    assert torch.allclose(from_codes, model.decode(encoded.latents).sample, atol=1e-5)
    assert torch.allclose(from_codes, model.decode(encoded.latents, force_not_quantize=True).sample, atol=1e-5)
    assert torch.allclose(from_codes, model(pixels).sample, atol=1e-5)


@pytest.mark.parametrize("levels", [3, 4, 5, 6])
def test_downsampling_factor_follows_the_levels(levels):
    model = make_tokenizer(levels=levels)
    factor = 2 ** (levels - 1)
    assert model.downsample_factor == factor
    codes = model.encode(torch.zeros(1, 3, 2 * factor, 3 * factor)).codes
    assert codes.shape == (1, 2, 2, 3)


def test_other_image_sizes_interpolate_the_positions():
    model = make_tokenizer(feature_dims=(None, 8))
    adapter = model.branches[0].adapter
    assert adapter.positions(4, 4) is adapter.position_embedding
    with torch.no_grad():  # grows by 1 a row and by 10 a column
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        adapter.position_embedding.copy_((rows + 10 * columns).reshape(16, 1).expand(16, 32))
    positions = adapter.positions(8, 8).reshape(8, 8, 32)[..., 0]
    down, right = positions.diff(dim=0), positions.diff(dim=1)
    assert (down[1:-1] > 0.3).all() and (down[1:-1] < 0.7).all()
    assert torch.allclose(right, 10 * down.T, atol=1e-3)
    output = model(torch.zeros(1, 3, 24, 32), return_losses=True)
    assert output.sample.shape == (1, 3, 24, 32)
    assert output.feature_predictions[1].shape == (1, 1 + 6 * 8, 8)


def test_one_codebook_has_no_adapter_unless_asked():
    assert FQGANModel.from_config(make_tokenizer(1, adapter_num_layers=None).config).branches[0].adapter is None
    assert make_tokenizer(1, adapter_num_layers=2).branches[0].adapter is not None
    assert make_tokenizer(2, adapter_num_layers=None).config.adapter_num_layers == 6


def test_published_sizes():
    """111.3 M and 131.7 M parameters (f = 16, without feature heads); feature heads come on top."""
    with torch.device("meta"):
        counts = [sum(p.numel() for p in FQGANModel(num_codebooks=k).parameters()) for k in (2, 3)]
    assert [round(count / 1e6, 1) for count in counts] == [111.3, 131.7]


def test_training_losses_and_gradients_reach_every_weight():
    model = make_tokenizer(3, feature_dims=(None, 8, 16)).train()
    output = model(torch.rand(2, 3, 16, 16) * 2 - 1, return_losses=True)
    assert output.feature_predictions[0] is None
    assert [f.shape for f in output.feature_predictions[1:]] == [(2, 17, 8), (2, 17, 16)]
    assert torch.allclose(output.commit_loss, (output.losses.codebook + 0.25 * output.losses.commitment).sum())
    features = sum(f[:, 0].square().sum() for f in output.feature_predictions[1:])
    (output.sample.square().mean() + output.commit_loss + features).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without


def test_representation_gradient_reaches_head_codebook_and_encoder():
    model = make_tokenizer(2, feature_dims=(None, 8)).train()
    model(torch.rand(2, 3, 16, 16), return_losses=True).feature_predictions[1][:, 0].square().sum().backward()
    assert model.quantizer.embedding.grad[1].abs().sum() > 0
    assert not model.quantizer.embedding.grad[0].any()  # the visual codebook has no head
    assert model.feature_heads[1].upscale[0].weight.grad.abs().sum() > 0
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_changes_nothing():
    model = make_tokenizer(feature_dims=(None, 8)).train()
    pixels = torch.rand(1, 3, 16, 16)

    def gradients():
        model.zero_grad()
        output = model(pixels, return_losses=True)
        (output.sample.square().mean() + output.feature_predictions[1].square().mean()).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    model.enable_gradient_checkpointing()
    assert model.branches[0].adapter.gradient_checkpointing and model.encoder.gradient_checkpointing
    for a, b in zip(plain, gradients(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_slicing_gives_the_same_images_a_few_at_a_time(monkeypatch):
    model = make_tokenizer()
    pixels = torch.rand(5, 3, 16, 16)
    plain = model(pixels)
    monkeypatch.setattr(modeling_fqgan, "SLICE_PIXELS", 2 * 16 * 16 + 1)
    sizes = []
    for part in (model.encoder, model.decoder):
        part.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    model.enable_slicing()
    sliced = model(pixels)
    assert sizes == [2, 2, 1] * 2
    assert torch.equal(plain.codes, sliced.codes)
    assert torch.allclose(plain.sample, sliced.sample, atol=1e-5)
    monkeypatch.setattr(modeling_fqgan, "SLICE_PIXELS", 1)
    assert torch.equal(plain.codes, model.encode(pixels).codes)  # never fewer than one image
    model.disable_slicing()
    with pytest.raises(NotImplementedError, match="enable_slicing"):
        model.enable_tiling()


@pytest.fixture
def transposed_upsampling(monkeypatch):
    monkeypatch.setattr(blocks_fqgan, "MIN_TRANSPOSED_POSITIONS", 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_upsampling_by_a_transposed_convolution(layout, dtype, atol, transposed_upsampling):
    block = Upsample2D(16, use_conv=True, out_channels=24).to(dtype, memory_format=layout).requires_grad_(False)
    hidden_states = torch.randn(2, 16, 5, 7, dtype=dtype).to(memory_format=layout)
    expected = block(hidden_states)
    block.__class__ = TransposedUpsample2D
    assert torch.equal(block(hidden_states), expected)  # with gradients enabled, the library's own
    with torch.no_grad():
        faster = block(hidden_states)
    assert faster.shape == (2, 24, 10, 14)
    assert faster.is_contiguous(memory_format=layout)
    assert torch.allclose(faster, expected, atol=atol)
    assert not torch.equal(faster, expected)  # another order of summation: the transposed convolution ran


@pytest.mark.parametrize("out_channels", [16, 32])
def test_residual_block_without_gradients_is_the_librarys_own(out_channels):
    block = ResnetBlock2D(in_channels=16, out_channels=out_channels, groups=8, temb_channels=None)
    hidden_states = torch.randn(2, 16, 5, 7)
    before = hidden_states.clone()
    expected = block(hidden_states, None)
    block.__class__ = InPlaceResnetBlock2D
    with torch.no_grad():
        assert torch.equal(block(hidden_states), expected)
    assert torch.equal(hidden_states, before)
    assert torch.equal(block(hidden_states, None), expected)  # with gradients enabled


def test_other_activations_keep_the_librarys_residual_block():
    def classes(model):
        return {type(module) for module in model.modules() if isinstance(module, ResnetBlock2D)}

    assert classes(make_tokenizer()) == {InPlaceResnetBlock2D}
    assert classes(make_tokenizer(act_fn="gelu")) == {ResnetBlock2D}


@torch.no_grad()
def test_channels_last_changes_nothing(transposed_upsampling):
    model = make_tokenizer(3)
    pixels = torch.rand(2, 3, 24, 32) * 2 - 1
    expected = model(pixels)
    model.to(memory_format=torch.channels_last)
    layouts = []
    for block in (model.encoder.down_blocks[-1], model.encoder.mid_block, model.branches[0].conv_out):
        block.register_forward_hook(
            lambda module, inputs, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
        )
    for given in (pixels, pixels.to(memory_format=torch.channels_last)):
        output = model(given)
        assert torch.equal(output.codes, expected.codes)
        assert torch.allclose(output.sample, expected.sample, atol=1e-4)
        assert torch.allclose(model.decode_codes(output.codes).sample, expected.sample, atol=1e-4)
    assert layouts == [True] * 6  # converted once, by the first convolution


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_channels_last_stays_near_fp32(dtype, transposed_upsampling):
    model = make_tokenizer()
    codes = torch.randint(0, 32, (2, 2, 4, 4))
    expected = model.decode_codes(codes).sample
    model.to(dtype).to(memory_format=torch.channels_last)
    assert (model.decode_codes(codes).sample.float() - expected).abs().mean() < 0.02
    assert model.encode(torch.rand(2, 3, 16, 16, dtype=dtype)).codes.shape == (2, 2, 4, 4)


def test_feature_heads_are_not_run_without_losses():
    model = make_tokenizer(feature_dims=(None, 8))
    model.feature_heads[1].register_forward_hook(lambda *_: pytest.fail("a feature head ran at inference"))
    model(torch.zeros(1, 3, 16, 16))


def test_decode_codes_from_some_codebooks_fills_the_rest_with_the_mean_code():
    model = make_tokenizer(2)
    codes = torch.randint(0, 32, (2, 2, 4, 4))
    only_first = model.decode_codes(codes, codebooks=[0]).sample
    other = codes.clone()
    other[:, 1] = torch.randint(0, 32, (2, 4, 4))
    assert torch.equal(only_first, model.decode_codes(other, codebooks=[0]).sample)  # codebook 1 has no say
    assert not torch.allclose(only_first, model.decode_codes(codes).sample)
    # The decoder's input is then the average over all codes that could stand there.
    latents = model.codes_to_latents(codes)
    mean = model.quantizer.normalized_codebooks()[1].mean(0)
    latents[:, 4:] = mean[None, :, None, None]
    assert torch.allclose(only_first, model.decode(latents, force_not_quantize=True).sample, atol=1e-6)
    assert torch.equal(model.decode_codes(codes, codebooks=[0, 1]).sample, model.decode_codes(codes).sample)


def test_decode_moves_latents_to_their_nearest_codes_without_the_quantizers_forward(monkeypatch):
    """`forward` may draw at random, as regularized quantizers do in training; decoding depends on the latents only."""
    model = make_tokenizer(3)
    latents = torch.randn(2, 12, 4, 5)
    rows = latents.unflatten(1, (3, 4)).permute(1, 0, 3, 4, 2).flatten(1, 3)
    codes = model.quantizer.nearest(rows).unflatten(1, (2, 4, 5)).transpose(0, 1)
    expected = model.decode_codes(codes).sample
    model.quantizer.register_forward_hook(lambda *_: pytest.fail("the quantizer's forward ran"))
    assert torch.equal(model.decode(latents).sample, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.decode(latents).sample.isfinite().all()


def test_bf16_model_works_and_its_codes_are_those_of_its_own_latents():
    model = make_tokenizer().to(torch.bfloat16)
    pixels = torch.rand(2, 3, 16, 16).bfloat16()
    output = model(pixels)
    assert output.sample.dtype == torch.bfloat16
    features = model.encode_features(pixels)
    assert torch.equal(model.quantizer(features.float()).codes, output.codes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.zeros(1, 3, 18, 16)), "divisible by the downsampling factor 4, got 18x16"),
        (lambda m: m.encode(torch.zeros(1, 1, 16, 16)), r"pixel_values must have shape \(batch, 3, height, width\)"),
        (lambda m: m.encode(torch.zeros(3, 16, 16)), "pixel_values must have shape"),
        (
            lambda m: m.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)),
            "must be floating point .* got torch.uint8",
        ),
        (lambda m: m.decode(torch.zeros(1, 4, 4, 4)), r"h must have shape \(batch, 8, height, width\)"),
        (lambda m: m.decode_codes(torch.zeros(1, 2, 4, 4)), "codes must be integers of shape"),
        (lambda m: m.decode_codes(torch.zeros(1, 3, 4, 4, dtype=torch.long)), "codes must be integers of shape"),
        (lambda m: m.decode_codes(torch.full((1, 2, 4, 4), 32)), r"codes must be in \[0, 31\], got 32 to 32"),
        (lambda m: m.decode_codes(torch.full((1, 2, 4, 4), -1)), r"codes must be in \[0, 31\]"),
        (lambda m: m.decode_codes(torch.zeros(1, 2, 4, 4).long(), codebooks=[2]), r"codebooks must be .* \[0, 1\]"),
        (lambda m: m.decode_codes(torch.zeros(1, 2, 4, 4).long(), codebooks=[]), "codebooks must be"),
        (lambda m: make_tokenizer(0), r"num_codebooks must be an integer in \[1, 64\], got 0"),
        (lambda m: make_tokenizer(2, layers_per_block=10**9), r"layers_per_block must be an integer in \[1, 64\]"),
        (
            lambda m: make_tokenizer(2, block_out_channels=16),
            "block_out_channels must be a list of 1 to 10 .* got 16",
        ),
        (
            lambda m: make_tokenizer(2, block_out_channels=(16,) * 11),
            "block_out_channels must be a list of 1 to 10 widths",
        ),
        (lambda m: make_tokenizer(2, block_out_channels=(16, "16")), "block_out_channels must be an integer in"),
        (lambda m: make_tokenizer(2, act_fn="rle"), "act_fn must be one of swish, silu, .*, got 'rle'"),
        (lambda m: make_tokenizer(2, entropy_temperature=0), "entropy_temperature must be a number in"),
        (lambda m: make_tokenizer(2, feature_dims=8), r"feature_dims must have one entry per codebook \(2\), got 8"),
        (lambda m: FQGANModel.from_config({"num_codebook": 3}), "no setting num_codebook: did you mean num_codebooks"),
        (lambda m: make_tokenizer(2, sample_size=18), "sample_size must be a multiple of the downsampling factor 4"),
        (lambda m: make_tokenizer(2, norm_num_groups=5), "divisible by norm_num_groups = 5"),
        (lambda m: make_tokenizer(2, adapter_num_heads=5), "adapter_num_heads must divide"),
        (lambda m: make_tokenizer(2, feature_dims=(8,)), r"feature_dims must have one entry per codebook \(2\)"),
        (lambda m: make_tokenizer(2, feature_dims=(None, 7)), "feature_dims must be None or multiples"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_tokenizer())


def test_latents_that_are_not_finite_raise():
    """They were quantized to some code in silence."""
    model = make_tokenizer()
    pixels = torch.rand(2, 3, 16, 16)
    pixels[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="latents of these images are not finite: pixel_values hold NaN"):
        model.encode(pixels)
    model.encode(pixels, return_losses=True)  # training counts such steps and goes on
    with torch.no_grad():
        model.encoder.conv_in.weight.fill_(6e4)
    with pytest.raises(ValueError, match="or weights overflow in torch.float16"):
        model.half().encode(torch.ones(1, 3, 16, 16).half())


def test_save_and_load(tmp_path):
    model = make_tokenizer(3, feature_dims=(None, 8, 16))
    pixels = torch.rand(1, 3, 16, 16)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == "FQGANModel"
    assert not {"num_vq_embeddings", "vq_embed_dim", "down_block_types"} & set(config)  # nothing of VQModel leaks in
    loaded = FQGANModel.from_pretrained(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(pixels).sample, model(pixels).sample)
    assert loaded.fingerprint() == model.fingerprint()


def test_save_and_load_variant_dtype_and_shards(tmp_path):
    model = make_tokenizer()
    model.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "diffusion_pytorch_model.fp16.safetensors").is_file()
    half = FQGANModel.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert half.dtype == torch.float16
    assert half.fingerprint() == model.fingerprint()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    assert len(list((tmp_path / "sharded").glob("*-of-*.safetensors"))) > 1
    sharded = FQGANModel.from_pretrained(tmp_path / "sharded")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), sharded.parameters(), strict=True))


def test_incomplete_or_broken_checkpoints_are_refused(tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)

    def broken(change):
        changed = dict(weights)
        change(changed)
        save_file(changed, path)
        return FQGANModel.from_pretrained(tmp_path)

    with pytest.raises(ValueError, match="1 missing keys, among them quantizer.embedding"):
        broken(lambda w: w.pop("quantizer.embedding"))
    with pytest.raises(ValueError, match="unexpected keys, among them surplus"):
        broken(lambda w: w.update(surplus=torch.zeros(1)))
    with pytest.raises(ValueError, match="non-finite weights in decoder.conv_out.bias"):
        broken(lambda w: w.update({"decoder.conv_out.bias": torch.full((3,), torch.nan)}))
    with pytest.raises(ValueError, match="decoder.conv_out.bias must be of a floating type .*, got I64"):
        broken(lambda w: w.update({"decoder.conv_out.bias": torch.zeros(3).long()}))
    save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="diffusion_pytorch_model.safetensors is damaged"):
        FQGANModel.from_pretrained(tmp_path)


@pytest.mark.timeout(60)
def test_a_configuration_that_asks_for_more_than_its_weights_hold_is_refused_at_once(tmp_path):
    """Nothing is allocated for it: that many parameters would not fit into any machine."""
    make_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "codebook_size": 2**24, "codebook_dim": 4096}))
    with pytest.raises(ValueError, match=r"do not fit the configuration .* instead of \(4096, 16, 1, 1\)"):
        FQGANModel.from_pretrained(tmp_path)


def test_damaged_shards_are_named(tmp_path):
    make_tokenizer().save_pretrained(tmp_path, max_shard_size="50KB")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    content = index.read_text()
    shard = sorted(tmp_path.glob("*-of-*.safetensors"))[1]
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"lacks '{shard.name}', which {index.name} names"):
        FQGANModel.from_pretrained(tmp_path)
    for damage in (content[:50], "[1]", '{"weight_map": 3}', content.replace(shard.name, "../" + shard.name)):
        index.write_text(damage)
        with pytest.raises((ValueError, FileNotFoundError), match=r"index.json is damaged|lacks '\.\./"):
            FQGANModel.from_pretrained(tmp_path)


def test_pickles_are_not_loaded(tmp_path):
    model = make_tokenizer()
    model.save_config(tmp_path)
    torch.save(model.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="diffusion_pytorch_model.bin is a pickle, which is not loaded"):
        FQGANModel.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        FQGANModel.from_pretrained(tmp_path, use_safetensors=False)
