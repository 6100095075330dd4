# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""optimize: the same codes and images, less time; what it refuses; what it leaves in memory."""

import copy
import ctypes
import subprocess
import sys

import pytest
import tiny
import torch
from torch import nn

from fqgan_hf import (
    FARForImageGeneration,
    FQGANPipeline,
    optimize,
)
from fqgan_hf.kernels import optimization, packed_linear
from fqgan_hf.kernels.cpu_kernels import int8_kernels_available, kernel_nearest, kernels_available
from fqgan_hf.kernels.packed_linear import OneDNNInt8Linear, OneDNNLinear, PackedLinear
from fqgan_hf.modeling.conditioning import Condition


@pytest.fixture(params=["kernels", "oneDNN"])
def products(request, monkeypatch):
    """Both ways in which a CPU's generators are packed, wherever this machine has both."""
    if request.param == "oneDNN":
        monkeypatch.setattr(optimization, "kernels_available", lambda: False)
        monkeypatch.setattr(optimization, "int8_kernels_available", lambda: False)
    elif not int8_kernels_available():
        pytest.skip("no kernels of our own: they need AVX-512 with VNNI and a C++ compiler")
    return request.param


def make_transformer():
    return tiny.generator(hidden_size=64, intermediate_size=None)


def make_pipeline():
    return tiny.pipeline(hidden_size=64, intermediate_size=None)


def logits(model):
    codes = torch.randint(32, (3, 16, 2), generator=torch.Generator().manual_seed(1))
    return model(class_labels=torch.tensor([1, 2, 3]), codes=codes).logits.detach()


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(), (1,), (2, 1), (17,)])
def test_onednn_layer_equals_the_plain_one(bias, rows):
    linear = nn.Linear(100, 70, bias=bias)
    inputs = torch.randn(*rows, 100)
    expected = linear(inputs)
    torch.testing.assert_close(OneDNNLinear(linear)(inputs), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("saturates", [None, True], ids=["this-processor", "saturating"])
def test_onednn_int8_layer_is_near_the_plain_one_row_by_row(saturates, bias, dtype, monkeypatch):
    if saturates:
        monkeypatch.setattr(packed_linear, "int8_products_saturate", lambda: True)
    linear = nn.Linear(256, 70, bias=bias, dtype=dtype)
    inputs = torch.randn(4, 1, 256, dtype=dtype) * torch.tensor([1e-3, 1.0, 1e3, 0.0], dtype=dtype)[:, None, None]
    expected = linear(inputs)
    outputs = OneDNNInt8Linear(linear)(inputs)
    assert outputs.dtype == dtype and outputs.shape == expected.shape
    for row in range(3):  # rows of very different size in one batch: each has its own scale
        assert (outputs[row] - expected[row]).norm() < 0.02 * expected[row].norm()
    assert torch.equal(outputs[3], expected[3])


def test_packed_generator_gives_the_same_logits_and_codes(products):
    model = make_transformer()
    settings = {"class_labels": [1, 2, 3], "guidance_scale": 2.0, "top_k": 20}
    expected = logits(model), model.generate(**settings, generator=generator())
    assert optimize(model) is model
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    torch.testing.assert_close(logits(model), expected[0], atol=5e-5, rtol=0)
    assert torch.equal(model.generate(**settings, generator=generator()), expected[1])
    library_loop = model.generate(**settings, generator=generator(), return_dict_in_generate=True)
    assert torch.equal(library_loop.codes, expected[1])


def test_packed_generator_takes_a_condition_of_several_positions(products):
    model = make_transformer()
    condition, null = torch.randn(2, 3, 64), torch.randn(1, 3, 64)
    settings = {"condition": Condition(condition, null), "guidance_scale": 2.0}
    expected = model.generate(**settings, generator=generator())
    assert torch.equal(optimize(model).generate(**settings, generator=generator()), expected)


@pytest.mark.parametrize(("settings", "share"), [({"dtype": torch.bfloat16}, 1.1), ({"quantization": "int8"}, 3.0)])
def test_less_precision_stays_near(products, settings, share):
    model = make_transformer()
    expected = logits(model)
    plain_bf16 = (logits(copy.deepcopy(model).bfloat16()) - expected).norm()
    optimize(model, **settings)
    assert 0 < (logits(model) - expected).norm() < share * plain_bf16
    model.generate(class_labels=[1, 2], guidance_scale=2.0)


def test_packed_pipeline_gives_the_same_images(products):
    pipe = make_pipeline()
    expected = pipe([1, 5], generator=generator(), output_type="np").images
    optimize(pipe)
    assert pipe.vqmodel.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    images = pipe([1, 5], generator=generator(), output_type="np").images
    assert abs(images - expected).max() < 1e-4


def test_tokenizer_and_its_pipeline_keep_their_codes():
    vqmodel = tiny.tokenizer()
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = vqmodel.encode(pixels).codes
    assert torch.equal(optimize(vqmodel).encode(pixels).codes, expected)
    assert (vqmodel.quantizer.code_search is kernel_nearest) == kernels_available()
    pipe = optimize(FQGANPipeline(vqmodel, make_pipeline().image_processor), dtype=torch.bfloat16)
    assert pipe.vqmodel.dtype == torch.bfloat16 and not any(p.requires_grad for p in pipe.vqmodel.parameters())
    assert (pipe.vqmodel.encode(pixels.bfloat16()).codes == expected).float().mean() > 0.8


def test_packed_model_is_saved_as_it_was(products, tmp_path):
    model = make_transformer()
    expected = logits(model)
    optimize(model).save_pretrained(tmp_path)
    assert torch.equal(logits(FARForImageGeneration.from_pretrained(tmp_path)), expected)


def test_int8_model_refuses_to_be_saved(products, tmp_path):
    model = optimize(make_transformer(), quantization="int8")
    with pytest.raises(ValueError, match="int8 weights cannot be saved: save the model before"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("move", [lambda m: m.to(torch.bfloat16), lambda m: m.to("meta"), lambda m: m.half()])
def test_packed_weights_refuse_to_be_moved_or_cast(products, move):
    model = optimize(make_transformer())
    model.to("cpu", torch.float32)  # where they are
    with pytest.raises(RuntimeError, match="stay on the CPU in torch.float32"):
        move(model)


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (make_transformer, {"dtype": "bf16"}, ValueError, "dtype must be None or one of .* got 'bf16'"),
        (make_transformer, {"dtype": torch.int8}, ValueError, "dtype must be None or one of"),
        (make_transformer, {"quantization": "int4"}, ValueError, "quantization must be one of .* got 'int4'"),
        (tiny.tokenizer, {"quantization": "int8"}, ValueError, "needs a generator on the CPU"),
        (lambda: nn.Linear(1, 1), {}, TypeError, "model must be an FQGANModel, .* got Linear"),
    ],
)
def test_bad_arguments_change_nothing(model, arguments, error, message):
    model = model()
    before = repr(model)
    with pytest.raises(error, match=message):
        optimize(model, **arguments)
    assert repr(model) == before and all(p.requires_grad for p in model.parameters())


def test_without_kernels_and_onednn_the_matrices_stay_and_int8_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(optimization, "kernels_available", lambda: False)
    monkeypatch.setattr(optimization, "int8_kernels_available", lambda: False)
    model = make_transformer()
    expected = logits(model)
    with pytest.raises(ValueError, match="needs a torch that is built with oneDNN"):
        optimize(model, quantization="int8")
    assert torch.equal(logits(optimize(model)), expected)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


MEMORY_SCRIPT = """
import sys, torch
from fqgan_hf import FARConfig, FARForImageGeneration, optimize
config = FARConfig(num_codebooks=2, codebook_size=64, num_classes=4, grid_height=2, grid_width=2, hidden_size=1024,
                   num_hidden_layers=3, num_attention_heads=16)
with torch.device("meta"):
    model = FARForImageGeneration(config)
model = model.to_empty(device="cpu")
for parameter in model.parameters():
    torch.nn.init.constant_(parameter, 0.01)
def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
weights = sum(p.numel() * 4 for p in model.parameters())
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forgets the peak until now
before = resident("VmRSS")
optimize(model, quantization=None if sys.argv[1] == "None" else sys.argv[1])
print((resident("VmRSS") - before) / weights, (resident("VmHWM") - before) / weights)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("quantization", "growth"), [(None, 0.05), ("int8", -0.7)])
def test_there_is_no_second_copy_of_the_weights(quantization, growth):
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(quantization)]
    after, peak = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert after < growth
    assert peak < 0.3


@pytest.mark.gpu
def test_cuda_graphs_give_the_same_codes_at_every_batch_size():
    model = make_transformer().cuda()
    calls = [{"class_labels": [1] * n, "guidance_scale": 2.0, "top_k": 20} for n in (1, 3, 1)]
    eager = [model.generate(**call, generator=generator()) for call in calls]
    optimize(model)
    for call, codes in zip(calls, eager, strict=True):
        assert torch.equal(model.generate(**call, generator=generator()), codes)


FAULTS = """
import resource
import torch
from fqgan_hf import CodeDiffusionConfig, CodeDiffusionTransformer, optimize

config = CodeDiffusionConfig(
    codebook_size=64, num_classes=3, grid_height=16, grid_width=16, hidden_size=256, num_hidden_layers=2,
    num_attention_heads=4, head_type="linear",
)
model = optimize(CodeDiffusionTransformer(config))
codes, times = torch.zeros(8, 256, config.num_codebooks, dtype=torch.long), torch.ones(8, dtype=torch.long)
def pages(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        model(codes=codes, timesteps=times, class_labels=torch.zeros(8, dtype=torch.long))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / steps
with torch.no_grad():
    pages(2)
    print(pages(4))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs a C library with mallopt")
def test_steps_use_the_memory_of_the_step_before():
    """In a process of its own: without `optimize`'s word to the C library it is some 10,000 pages per step."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1000, done.stdout
