# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`optimize`: a pipeline, a tokenizer or a generator set up for inference by one call.

    pipe = optimize(FARPipeline.from_pretrained("org/far-base"), dtype=torch.bfloat16)

Sampling reads every weight of the generator once per position, so on a CPU it is memory-bound. Here each `nn.Linear`
is exchanged for one whose weight lies in the order in which the products read it, in its own dtype or in int8: those
of `cpu_kernels` where the processor has AVX-512 and there is a C++ compiler, those of oneDNN elsewhere. The weight
moves: there is no second copy of it.
"""

import ctypes
import sys
from typing import TypeVar

import torch
from diffusers import DiffusionPipeline
from torch import nn

from fqgan_hf.kernels.cpu_kernels import (
    KernelInt8Linear,
    KernelLinear,
    adopt_kernels,
    int8_kernels_available,
    kernels_available,
)
from fqgan_hf.kernels.packed_linear import OneDNNInt8Linear, OneDNNLinear, PackedLinear, onednn_multiplies
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.modeling.modeling_generator import CodeGenerator


Model = TypeVar("Model", CodeGenerator, FQGANModel, DiffusionPipeline)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
QUANTIZATIONS = (None, "int8")

KEPT_BYTES = 256 * 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def optimize(
    model: Model, dtype: torch.dtype | None = None, quantization: str | None = None, compile: bool = True
) -> Model:
    """
    Prepare a model for inference, in place: evaluation mode, no gradients, the layout that its device reads fastest.

    A tokenizer's convolutions become channels-last. A generator's matrices are packed on a CPU, where the first call
    on a machine may compile for some seconds; on a GPU its step is compiled and captured as a CUDA graph at the first
    use of each batch size. Call it last, with the model on its device: packed weights stay where they are.

    Args:
        model ([`FARForImageGeneration`], [`CodeDiffusionTransformer`], [`FQGANModel`] or a pipeline of them):
            Changed in place.
        dtype (`torch.dtype`, *optional*):
            `torch.float32`, `torch.bfloat16` or `torch.float16`; by default unchanged. On a CPU bf16 makes a
            generator faster, since it reads half as much; a tokenizer only where the processor multiplies bf16 faster
            than fp32 (AMX, or AVX512_BF16 as AMD has it).
        quantization (`str`, *optional*):
            `"int8"` stores the generator's matrices in 8 bits, one scale per output, and rounds what they multiply to
            8 bits, one scale per row. CPU only; such a model cannot be saved. It changes the samples.
        compile (`bool`, defaults to `True`):
            On a GPU, `compile` the generator. On a CPU torch's compiler cannot read packed weights.

    Returns:
        The same object.

    Raises:
        TypeError: If there is nothing to optimize.
        ValueError: For a dtype or quantization that is not supported, before anything is changed.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype must be None or one of {DTYPES}, got {dtype!r}")
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be one of {QUANTIZATIONS}, got {quantization!r}")
    parts = list(model.components.values()) if isinstance(model, DiffusionPipeline) else [model]
    generators = [part for part in parts if isinstance(part, CodeGenerator)]
    tokenizers = [part for part in parts if isinstance(part, FQGANModel)]
    if not generators and not tokenizers:
        raise TypeError(f"model must be an FQGANModel, a generator or a pipeline of them, got {type(model).__name__}")
    if quantization and not any(generator.device.type == "cpu" for generator in generators):
        raise ValueError(f"quantization={quantization!r} needs a generator on the CPU")
    if quantization and not (torch.backends.mkldnn.is_available() or int8_kernels_available()):
        raise ValueError(f"quantization={quantization!r} needs a torch that is built with oneDNN, or AVX512_VNNI")

    for tokenizer in tokenizers:
        tokenizer.requires_grad_(False).eval()
        tokenizer.to(memory_format=torch.channels_last)
        if dtype not in (None, tokenizer.dtype):  # diffusers warns of any cast
            tokenizer.to(dtype)
        if tokenizer.device.type == "cpu" and kernels_available():
            adopt_kernels(tokenizer)
    for generator in generators:
        generator.requires_grad_(False).eval()
        generator.to(dtype=dtype or generator.dtype)
        if generator.device.type == "cpu":
            pack_generator(generator, quantization)
            return_freed_memory()
            keep_freed_memory()
        elif generator.device.type == "cuda" and compile:
            generator.compile(fullgraph=True, mode="reduce-overhead")
    return model


def pack_generator(generator: CodeGenerator, quantization: str | None) -> None:
    """Exchange the modules of a generator on the CPU for the fastest that there are here."""
    int8 = quantization == "int8"
    if int8_kernels_available() if int8 else kernels_available():
        adopt_kernels(generator)
        pack_linears(generator, KernelInt8Linear if int8 else KernelLinear)
    elif int8:
        pack_linears(generator, OneDNNInt8Linear)
    elif onednn_multiplies(generator.dtype):
        pack_linears(generator, OneDNNLinear)


def return_freed_memory() -> None:
    """Give the system back what the C library keeps of freed weights; only glibc needs to be told."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> None:
    """
    Have the C library keep what a step frees for the next one, up to `KEPT_BYTES`: glibc hands the states of a
    long sequence back to the system after every product, and gets them again page by page, each page zeroed.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 4)


def pack_linears(module: nn.Module, kind: type[PackedLinear]) -> None:
    """Exchange every `nn.Linear` below `module`, one after another, so that memory holds one of them twice at most."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, kind(child))
        else:
            pack_linears(child, kind)
