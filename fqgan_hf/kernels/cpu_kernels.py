# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Inference on an AVX-512 processor: what a generator samples with and a tokenizer finds codes with.

These are thin layers over `cpu_kernels.cpp`, which `optimize` puts in the place of a model's own. They give the same
numbers up to the order of sums, and no gradients. The source is compiled at its first use; the library is kept in the
cache of huggingface_hub, for this source, compiler and processor.

Shapes: D hidden size, S rows or positions of this call, K codebooks, N codes in a codebook, d code dimension.
"""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.utils import logging
from huggingface_hub import cached_assets_path
from torch import nn
from transformers import StaticLayer

from fqgan_hf.files import atomic_path
from fqgan_hf.kernels.packed_linear import Int8Linear, PackedLinear
from fqgan_hf.modeling.quantizer_fqgan import nearest_by_cosine
from fqgan_hf.modeling.transformer_blocks import Attention, RMSNorm, Rotary, SwiGLU


logger = logging.get_logger(__name__)

SOURCE = Path(__file__).with_name("cpu_kernels.cpp")
# Without -fopenmp at linking, OpenMP is that of the running torch: one pool of threads, of the size set there.
COMPILE = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-c"]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as in cpu_kernels.cpp
LANES = 16  # numbers that the kernels take at a time: as many as a register holds


class KernelsUnavailableError(RuntimeError):
    """Why this machine has no kernels."""


@functools.cache
def load_kernels() -> ctypes.CDLL:
    """
    The compiled library.

    Raises:
        KernelsUnavailableError: If the processor has no AVX-512 (or `ATEN_CPU_CAPABILITY` forbids it), or there is no
            C++ compiler that builds for it with the OpenMP of this torch, as g++ does. `$CXX` names one, else it is
            `c++` or `g++`.
    """
    if os.name != "posix" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        raise KernelsUnavailableError("they are for processors with AVX-512, under a POSIX system")
    compilers = filter(None, map(shutil.which, ("c++", "g++")))
    compiler = shlex.split(os.environ.get("CXX", "")) or list(compilers)[:1]
    if not compiler:
        raise KernelsUnavailableError("there is no C++ compiler: install g++, or name one by $CXX")
    try:
        kernels = ctypes.CDLL(str(build(compiler)), mode=os.RTLD_NOW)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise KernelsUnavailableError(f"{shlex.join(compiler)} failed on {SOURCE.name}: {reason[-500:]}") from error
    declare(kernels)
    return kernels


@functools.cache
def kernels_available() -> bool:
    """Whether there are kernels; a warning says why a processor with AVX-512 has none."""
    try:
        load_kernels()
    except KernelsUnavailableError as error:
        if torch.backends.cpu.get_cpu_capability() == "AVX512":
            logger.warning(f"Sampling will be slower than this processor allows: {error}")
        return False
    return True


def run(command: list[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def build(compiler: list[str]) -> Path:
    """Path of the shared library, compiled unless it is there already."""
    version = run([*compiler, "--version"])
    # What -march=native means here: a home folder may be shared between processors.
    target = run([*compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    content = "\0".join([SOURCE.read_text(encoding="utf-8"), version, target, *COMPILE])
    folder = cached_assets_path("fqgan_hf", namespace="kernels", subfolder="cpu")
    library = folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.so"
    if not library.exists():
        print(f"compiling kernels for this processor into {folder}, once: some seconds", file=sys.stderr, flush=True)
        with atomic_path(library) as linked:
            compiled = linked.with_suffix(".o")
            run([*compiler, *COMPILE, str(SOURCE), "-o", str(compiled)])
            run([*compiler, "-shared", str(compiled), "-o", str(linked)])
    return library


def declare(kernels: ctypes.CDLL) -> None:
    """Argument types of the functions in `cpu_kernels.cpp`."""
    integer, size, address, real = ctypes.c_int, ctypes.c_long, ctypes.c_void_p, ctypes.c_float
    arguments = {
        "outputs_of_block": [],
        "depth": [integer],
        "depth_int8": [],
        "linear": [integer, *[address] * 4, *[size] * 3, integer],
        "linear_int8": [integer, *[address] * 6, *[size] * 3, integer],
        "rms_norm": [integer, *[address] * 3, *[size] * 2, real],
        "swiglu": [integer, *[address] * 2, *[size] * 2],
        "attention": [integer, *[address] * 6, *[size] * 6, integer],
        "nearest": [*[address] * 3, *[size] * 3, integer],
    }
    for name, types in arguments.items():
        if hasattr(kernels, name):  # the int8 functions need a processor with VNNI
            function = getattr(kernels, name)
            function.argtypes = types
            function.restype = size if name.startswith(("depth", "outputs")) else None


def int8_kernels_available() -> bool:
    """Whether there are kernels with int8 products, which take a processor with VNNI."""
    return kernels_available() and hasattr(load_kernels(), "linear_int8")


def checked(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`tensor`, contiguous. The kernels see addresses only, so another device or dtype must not get there."""
    if tensor.dtype != dtype or not tensor.is_cpu:
        raise RuntimeError(f"expected {dtype} on the CPU, got {tensor.dtype} on {tensor.device}")
    return tensor.contiguous()


def pack(weight: torch.Tensor, depth: int) -> torch.Tensor:
    """
    Put a weight into the order in which `cpu_kernels.cpp` reads it: `(out, in)` -> `(out / block, in / depth, block,
    depth)`, filled up with zeros.

    For few rows a product is limited by how fast the weight comes from memory, and memory is fastest when read in one
    direction. The kernel computes `block` outputs at a time and goes through their inputs in steps of `depth`, the
    inputs that one instruction adds up: so a step's `block * depth` numbers lie together, and the steps of a block one
    after another. Invariant: `packed[o // block, i // depth, o % block, i % depth] == weight[o, i]`.
    """
    block = load_kernels().outputs_of_block()
    # Zeros add nothing to a sum, and surplus outputs are cut off. Inputs are read LANES at a time, whatever the depth.
    padding = 0, -weight.shape[1] % LANES, 0, -weight.shape[0] % block
    padded = F.pad(weight, padding) if any(padding) else weight
    return padded.unflatten(0, (-1, block)).unflatten(2, (-1, depth)).transpose(1, 2).contiguous()


class KernelLinear(PackedLinear):
    """`nn.Linear` with its weight in the order of `pack`."""

    def pack(self, weight: torch.Tensor) -> None:
        self.packed_weight = pack(weight, load_kernels().depth(DTYPES[self.dtype]))
        self.prepare(self.packed_weight)

    def prepare(self, packed_weight: torch.Tensor) -> None:
        """Note the padded sizes, and pad the bias like the outputs: the kernel knows of no other."""
        blocks, steps, block, depth = packed_weight.shape
        self.padded_in, self.padded_out = steps * depth, blocks * block
        self.padded_bias = None
        if self.bias is not None:
            self.padded_bias = F.pad(self.bias.detach().float(), (0, self.padded_out - self.out_features))

    def unpack(self) -> torch.Tensor:
        weight = self.packed_weight.transpose(1, 2).reshape(self.padded_out, self.padded_in)
        return weight[: self.out_features, : self.in_features].contiguous()

    def run(self, *arguments: int | None) -> None:
        """Call the kernel."""
        load_kernels().linear(*arguments)

    @property
    def weights(self) -> tuple[torch.Tensor, ...]:
        """What the kernel reads, in its order."""
        return (self.packed_weight,)

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        if self.padded_in != self.in_features:
            rows = F.pad(rows, (0, self.padded_in - self.in_features))
        rows = checked(rows, self.dtype)
        outputs = torch.empty(len(rows), self.padded_out, dtype=self.dtype)
        self.run(
            DTYPES[self.dtype],
            rows.data_ptr(),
            *[weight.data_ptr() for weight in self.weights],
            None if self.padded_bias is None else self.padded_bias.data_ptr(),
            outputs.data_ptr(),
            len(rows),
            self.padded_in,
            self.padded_out,
            torch.get_num_threads(),
        )
        return outputs if self.padded_out == self.out_features else outputs[:, : self.out_features].contiguous()


class KernelInt8Linear(Int8Linear, KernelLinear):
    """As `KernelLinear`, in 8 bits."""

    def pack(self, weight: torch.Tensor) -> None:
        levels, scale = self.quantize(weight)
        self.packed_weight = pack(levels, load_kernels().depth_int8())
        self.prepare(self.packed_weight)
        padding = 0, self.padded_out - self.out_features
        self.scale = F.pad(scale, padding)
        # The kernel multiplies unsigned inputs, level + 128. What the 128 adds to each sum is known beforehand.
        self.zero = F.pad(128 * levels.sum(dim=1, dtype=torch.int32), padding)

    def run(self, *arguments: int | None) -> None:
        load_kernels().linear_int8(*arguments)

    @property
    def weights(self) -> tuple[torch.Tensor, ...]:
        return self.packed_weight, self.scale, self.zero


class KernelRMSNorm(RMSNorm):
    """`RMSNorm` in one pass over its input."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        hidden_states = checked(hidden_states, weight.dtype)
        outputs = torch.empty_like(hidden_states)
        width = weight.shape[0]
        load_kernels().rms_norm(
            DTYPES[weight.dtype],
            hidden_states.data_ptr(),
            weight.data_ptr(),
            outputs.data_ptr(),
            hidden_states.numel() // width,
            width,
            self.eps,
        )
        return outputs


class KernelSwiGLU(SwiGLU):
    """`SwiGLU` whose gate acts in one pass over both halves."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate_up = self.gate_up_proj(hidden_states)
        outputs = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
        width = outputs.shape[-1]
        load_kernels().swiglu(
            DTYPES[gate_up.dtype], gate_up.data_ptr(), outputs.data_ptr(), outputs.numel() // width, width
        )
        return self.dropout(self.down_proj(outputs))


class KernelAttention(Attention):
    """One query per sample over the filled slots of a cache, by one kernel; anything else as `Attention` does it."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        rotary: Rotary,
        cache_layer: StaticLayer | None = None,
        attention_mask: torch.Tensor | None = None,
        num_cached: int | None = None,
    ) -> torch.Tensor:
        batch, length, _ = hidden_states.shape
        if length > 1 or cache_layer is None or num_cached is None or attention_mask is not None:
            return super().forward(hidden_states, rotary, cache_layer, attention_mask, num_cached)
        qkv = self.qkv_proj(hidden_states)
        if not cache_layer.is_initialized:
            states = qkv.new_empty(batch, self.num_key_value_heads, 1, self.head_dim)
            cache_layer.lazy_initialization(states, states)
        keys, values = cache_layer.keys, cache_layer.values
        expected = (batch, self.num_key_value_heads, cache_layer.max_cache_len, self.head_dim), qkv.dtype
        if (tuple(keys.shape), keys.dtype) != expected or not 0 < num_cached <= cache_layer.max_cache_len:
            raise RuntimeError(
                f"expected a cache of shape {expected[0]} in {expected[1]} with room for {num_cached} positions, "
                f"got {tuple(keys.shape)} in {keys.dtype}"
            )
        # The kernel rotates, writes key and value into slot num_cached - 1, and attends to the slots up to it.
        cos, sin = (checked(table, torch.float32) for table in rotary)
        attention = qkv.new_empty(batch, 1, self.num_heads * self.head_dim)
        load_kernels().attention(
            DTYPES[qkv.dtype],
            qkv.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            attention.data_ptr(),
            batch,
            self.num_heads,
            self.num_key_value_heads,
            self.head_dim,
            cache_layer.max_cache_len,
            num_cached - 1,
            torch.get_num_threads(),
        )
        cache_layer.cumulative_length.fill_(num_cached)  # what `cache_layer.update` would have counted
        return self.dropout(self.o_proj(attention))


def kernel_nearest(latents: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """`nearest_by_cosine` without writing the cosines to memory."""
    num_codebooks, size, dim = codebooks.shape
    if not latents.is_cpu or latents.shape[-1] != dim or size % LANES:
        return nearest_by_cosine(latents, codebooks)
    latents = checked(latents.float(), torch.float32)
    codes = torch.empty(latents.shape[:2], dtype=torch.long)
    for k in range(num_codebooks):
        # (size, dim) -> (size / LANES, dim, LANES): one entry of LANES codes lies together.
        columns = checked(codebooks[k].unflatten(0, (-1, LANES)).transpose(1, 2), torch.float32)
        load_kernels().nearest(
            latents[k].data_ptr(),
            columns.data_ptr(),
            codes[k].data_ptr(),
            latents.shape[1],
            size,
            dim,
            torch.get_num_threads(),
        )
    return codes


def adopt_kernels(model: nn.Module) -> None:
    """
    Give the blocks of `model` the classes above, and its quantizer the search above, where their sizes allow it.

    A quantizer of whatever class is asked for what it can exchange. A block must be of the very class: a subclass may
    compute something else, or have methods of its own that it would lose.
    """
    for module in model.modules():
        if type(module) is RMSNorm and module.weight.numel() % LANES == 0:
            module.__class__ = KernelRMSNorm
        elif type(module) is SwiGLU and module.down_proj.in_features % LANES == 0:
            module.__class__ = KernelSwiGLU
        elif type(module) is Attention and module.head_dim % LANES == 0 and module.head_dim >= 2 * LANES:
            module.__class__ = KernelAttention
        elif hasattr(module, "code_search") and module.codebook_size % LANES == 0:
            module.code_search = kernel_nearest
