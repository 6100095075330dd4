# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The kernels and the modules over them: the numbers of the modules that they replace; how they are compiled."""

import copy
import os
import stat
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import StaticLayer

from fqgan_hf.kernels.cpu_kernels import (
    KernelAttention,
    KernelInt8Linear,
    KernelLinear,
    KernelRMSNorm,
    KernelSwiGLU,
    adopt_kernels,
    int8_kernels_available,
    kernel_nearest,
    kernels_available,
)
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.quantizer_fqgan import FactorizedQuantizer, nearest_by_cosine
from fqgan_hf.modeling.transformer_blocks import OFF_GRID, Attention, RMSNorm, SwiGLU, rotary_embedding


needs_kernels = pytest.mark.skipif(not kernels_available(), reason="needs AVX-512 and a C++ compiler")
needs_int8 = pytest.mark.skipif(not int8_kernels_available(), reason="needs AVX512_VNNI and a C++ compiler")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float32: 5e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}  # relative to the largest entry


@pytest.fixture(autouse=True)
def reproducible():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def config(**kwargs) -> FARConfig:
    settings = {"hidden_size": 128, "num_attention_heads": 4, "grid_height": 5, "grid_width": 4, "codebook_size": 32}
    return FARConfig(**settings | kwargs)


def rotary_of(settings, *cells):
    places = [divmod(cell, settings.grid_width) if cell >= 0 else (OFF_GRID, OFF_GRID) for cell in cells]
    return rotary_embedding(torch.tensor(places, dtype=torch.float32), settings.head_dim, settings.rope_theta)


def assert_near(actual, expected, dtype):
    assert actual.dtype == dtype and actual.shape == expected.shape
    scale = expected.abs().max().item()
    torch.testing.assert_close(actual.float(), expected.float(), atol=ROUNDING[dtype] * scale, rtol=0)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(64, 96), (100, 70), (3, 1)])
@pytest.mark.parametrize("rows", [(), (1,), (2, 1), (7,), (8,), (9,), (77,), (0,)])
def test_product_equals_that_of_linear(dtype, bias, sizes, rows):
    linear = nn.Linear(*sizes, bias=bias, dtype=dtype)
    inputs = torch.randn(*rows, sizes[0], dtype=dtype)
    exact = nn.functional.linear(inputs.double(), linear.weight.double(), linear.bias.double() if bias else None)
    outputs = KernelLinear(linear)(inputs)
    if exact.numel():
        assert_near(outputs, exact, dtype)
    assert outputs.shape == exact.shape and outputs.is_contiguous()


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_comes_back_as_it_was(dtype):
    linear = nn.Linear(100, 70, dtype=dtype)
    expected = copy.deepcopy(linear.state_dict())
    packed = KernelLinear(linear).state_dict()
    assert packed.keys() == expected.keys()
    assert all(torch.equal(packed[name], expected[name]) for name in expected)


@needs_int8
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_int8_product_is_near_that_of_linear_row_by_row(dtype, bias):
    linear = nn.Linear(250, 70, bias=bias, dtype=dtype)
    sizes = torch.tensor([1e-3, 1.0, 1e3, 0.0], dtype=dtype)
    inputs = torch.randn(4, 1, 250, dtype=dtype) * sizes[:, None, None]
    expected = linear(inputs)
    outputs = KernelInt8Linear(linear)(inputs)
    assert outputs.dtype == dtype and outputs.shape == expected.shape
    for row in range(3):  # rows of very different size in one batch: each has its own scale
        assert (outputs[row] - expected[row]).norm() < 0.02 * expected[row].norm()
    assert torch.equal(outputs[3], expected[3])


@needs_int8
def test_int8_product_is_exact_where_nothing_is_rounded():
    levels = torch.randint(-127, 128, (70, 100)).float()
    levels[:, 0] = 127  # the largest of each output, so that scales are 1
    linear = nn.Linear(100, 70, bias=False)
    linear.weight.copy_(levels)
    inputs = torch.randint(-127, 128, (5, 100)).float()
    inputs[:, 0] = 127
    torch.testing.assert_close(KernelInt8Linear(linear)(inputs), inputs @ levels.T, rtol=1e-6, atol=0)


@needs_int8
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", [KernelLinear, KernelInt8Linear])
def test_a_row_that_is_not_finite_spoils_itself_alone(kind, broken):
    inputs = torch.randn(3, 64)
    inputs[1, 5] = broken
    finite = kind(nn.Linear(64, 32))(inputs).isfinite()
    assert finite[[0, 2]].all() and not finite[1].any()


@needs_int8
@pytest.mark.parametrize("kind", [KernelLinear, KernelInt8Linear])
def test_the_number_of_threads_and_the_other_rows_change_no_bit(kind):
    layer, inputs = kind(nn.Linear(256, 512)), torch.randn(100, 256)
    expected, threads = layer(inputs), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(layer(inputs), expected)
        assert torch.equal(layer(inputs[17:22]), expected[17:22])
    finally:
        torch.set_num_threads(threads)


@needs_kernels
def test_inputs_of_another_dtype_are_refused():
    with pytest.raises(RuntimeError, match="expected torch.float32 on the CPU, got torch.float64 on cpu"):
        KernelLinear(nn.Linear(16, 16))(torch.randn(2, 16).double())
    with pytest.raises(RuntimeError, match="got torch.float32 on meta"):
        KernelLinear(nn.Linear(16, 16))(torch.empty(2, 16, device="meta"))


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_and_perceptron_equal_the_plain_ones(dtype):
    norm, mlp = RMSNorm(128, 1e-5), SwiGLU(config()).eval()
    nn.init.normal_(norm.weight)
    norm, mlp, inputs = norm.to(dtype), mlp.to(dtype), 3 * torch.randn(2, 5, 128, dtype=dtype)
    expected = norm(inputs), mlp(inputs)
    adopt_kernels(norm), adopt_kernels(mlp)
    assert type(norm) is KernelRMSNorm and type(mlp) is KernelSwiGLU
    assert_near(norm(inputs), expected[0], dtype)
    assert_near(mlp(inputs), expected[1], dtype)


@needs_kernels
def test_silu_keeps_its_limits():
    mlp = SwiGLU(config()).eval()
    adopt_kernels(mlp)
    mlp.gate_up_proj, mlp.down_proj = nn.Identity(), nn.Identity()
    gate = torch.tensor([-1e30, -200.0, -88.0, -1.0, 0.0, 1.0, 100.0, 1e30, torch.inf, torch.nan] + [0.5] * 6)
    expected = nn.functional.silu(gate)
    torch.testing.assert_close(mlp(torch.cat([gate, torch.ones(16)])), expected, equal_nan=True, rtol=1e-6, atol=1e-37)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 4, 32), (4, 2, 64), (3, 1, 48), (2, 2, 128)])
def test_attention_equals_the_plain_one_at_every_position(dtype, heads, kv_heads, head_dim):
    settings = config(hidden_size=heads * head_dim, num_attention_heads=heads, num_key_value_heads=kv_heads)
    plain = Attention(settings).eval().to(dtype)
    fused = copy.deepcopy(plain)
    adopt_kernels(fused)
    assert type(fused) is KernelAttention
    exact = copy.deepcopy(plain).float()
    modules, caches, outputs = (exact, plain, fused), [StaticLayer(20) for _ in range(3)], [[], [], []]
    for position in range(20):
        states = 4 * torch.randn(3, 1, heads * head_dim, dtype=dtype)
        rotary = rotary_of(settings, position - 1)
        for module, cache, found in zip(modules, caches, outputs, strict=True):
            module_dtype = module.o_proj.weight.dtype
            found.append(module(states.to(module_dtype), rotary, cache, num_cached=position + 1))
            assert found[-1].dtype == module_dtype and found[-1].shape == states.shape
    expected, unfused, found = (torch.stack(entries).float() for entries in outputs)
    assert (found - expected).norm() < max(1.1 * (unfused - expected).norm(), 1e-6 * expected.norm())
    assert caches[1].get_seq_length() == caches[2].get_seq_length() == 20
    assert_near(caches[2].keys, caches[1].keys, dtype)
    assert torch.equal(caches[2].values, caches[1].values)


@needs_kernels
def test_attention_takes_in_several_positions_as_the_plain_one():
    plain = Attention(config()).eval()
    fused = copy.deepcopy(plain)
    adopt_kernels(fused)
    states, rotary = torch.randn(2, 6, 128), rotary_of(config(), *range(-1, 5))
    caches = StaticLayer(20), StaticLayer(20)
    for module, cache in zip((plain, fused), caches, strict=True):
        module(states[:, :5], tuple(table[:5] for table in rotary), cache, num_cached=5)
    last = states[:, 5:], tuple(table[5:] for table in rotary)
    expected = plain(*last, caches[0], num_cached=6)
    assert_near(fused(*last, caches[1], num_cached=6), expected, torch.float32)


@needs_kernels
def test_attention_refuses_a_cache_that_does_not_fit():
    attention, cache, rotary = (
        Attention(config()).eval(),
        StaticLayer(2),
        rotary_of(config(), 0),
    )
    adopt_kernels(attention)
    attention(torch.randn(2, 1, 128), rotary, cache, num_cached=1)
    with pytest.raises(RuntimeError, match="with room for 3 positions"):
        attention(torch.randn(2, 1, 128), rotary, cache, num_cached=3)
    with pytest.raises(RuntimeError, match=r"expected a cache of shape \(3, 4, 2, 32\)"):
        attention(torch.randn(3, 1, 128), rotary, cache, num_cached=2)


@needs_kernels
@pytest.mark.parametrize(("size", "dim", "positions"), [(1024, 8, 133), (16, 1, 3), (4096, 5, 64)])
def test_lookup_finds_the_codes_of_the_plain_one(size, dim, positions):
    quantizer = FactorizedQuantizer(2, size, dim)
    nn.init.normal_(quantizer.embedding)
    latents = torch.randn(2, positions, dim)
    if dim == 1:  # only signs differ: the first of equal codes counts
        quantizer.embedding.copy_(torch.tensor([1.0, -1.0]).repeat(size // 2).view(1, size, 1).expand(2, -1, -1))
    exact = (latents.double() @ quantizer.normalized_codebooks().double().transpose(1, 2)).argmax(-1)
    adopt_kernels(quantizer)
    assert type(quantizer) is FactorizedQuantizer and quantizer.code_search is kernel_nearest
    assert torch.equal(quantizer.nearest(latents), exact)
    maps = latents.unflatten(1, (positions, 1)).permute(3, 0, 1, 2)[None].transpose(1, 2)
    assert torch.equal(quantizer(maps).codes[0, ..., 0], exact)


@needs_kernels
def test_sizes_that_do_not_fit_keep_their_modules():
    for module in (RMSNorm(24, 1e-5), Attention(config(hidden_size=64))):
        kind = type(module)
        adopt_kernels(module)
        assert type(module) is kind
    quantizer = FactorizedQuantizer(1, 50, 8)
    adopt_kernels(quantizer)
    assert quantizer.code_search is nearest_by_cosine


class OtherQuantizer(FactorizedQuantizer):
    """As a later one may be: other losses, the same search."""


class OtherNorm(RMSNorm):
    def forward(self, hidden_states):
        return super().forward(hidden_states) + 1


def test_a_quantizer_is_asked_for_what_it_can_and_a_block_for_its_class():
    """`OtherQuantizer` kept the slow search: it was not of the very class."""
    model = nn.ModuleList([OtherQuantizer(2, 64, 8), OtherNorm(32, 1e-5)])
    adopt_kernels(model)
    assert type(model[0]) is OtherQuantizer and model[0].code_search is kernel_nearest
    assert copy.deepcopy(model)[0].code_search is kernel_nearest
    assert type(model[1]) is OtherNorm


# ---- Compilation, each time in a process of its own -----------------------------------------------------------------

SCRIPT = """
from fqgan_hf.kernels.cpu_kernels import kernels_available
print(kernels_available())
"""


def run_script(tmp_path, **environment):
    environment = {**os.environ, "HF_ASSETS_CACHE": str(tmp_path / "assets"), **environment}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1] == "True", done.stderr


def counting_compiler(tmp_path, command='exec c++ "$@"'):
    """A compiler that writes down how it is called."""
    path = tmp_path / "compiler"
    path.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n{command}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@needs_kernels
def test_compiled_once_and_complete_or_absent(tmp_path):
    compiler = counting_compiler(tmp_path)
    for _ in range(2):
        assert run_script(tmp_path, CXX=compiler)[0]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum("cpu_kernels.cpp" in call for call in calls) == 1
    assert [path.suffix for path in (tmp_path / "assets").rglob("*") if path.is_file()] == [".so"]


@needs_kernels
@pytest.mark.parametrize(
    ("command", "reason"), [("echo out of order >&2; exit 1", "out of order"), ("exit 0", "failed on cpu_kernels.cpp")]
)
def test_a_compiler_that_fails_is_named_and_leaves_nothing(tmp_path, command, reason):
    compiler = counting_compiler(tmp_path, command)
    available, messages = run_script(tmp_path, CXX=compiler)
    assert not available and compiler in messages and reason in messages
    assert messages.count("Sampling will be slower") == 1
    assert not [path for path in (tmp_path / "assets").rglob("*") if path.is_file()]


@needs_kernels
def test_without_a_compiler_one_is_asked_for(tmp_path):
    available, messages = run_script(tmp_path, CXX="", PATH=str(tmp_path))
    assert not available and "there is no C++ compiler: install g++, or name one by $CXX" in messages


def test_a_processor_without_avx512_gets_no_warning(tmp_path):
    available, messages = run_script(tmp_path, ATEN_CPU_CAPABILITY="avx2")
    assert not available and "Sampling will be slower" not in messages
