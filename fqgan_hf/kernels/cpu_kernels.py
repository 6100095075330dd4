# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What FAR samples and FQGAN looks codes up with on an AVX-512 processor: modules over `cpu_kernels.cpp`.

`optimize` exchanges a model's modules for these. They give the same numbers up to the order of sums, and no gradients.
The source is compiled at its first use; the library is kept in the cache of huggingface_hub, for this source, compiler
and processor.
"""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.utils import logging
from huggingface_hub import cached_assets_path
from torch import nn

from fqgan_hf.files import fsync
from fqgan_hf.kernels.packed_linear import Int8Linear, PackedLinear
from fqgan_hf.modeling.quantizer_fqgan import FactorizedQuantizer
from fqgan_hf.modeling.transformer_blocks import Attention, RMSNorm, SwiGLU


logger = logging.get_logger(__name__)

SOURCE = Path(__file__).with_name("cpu_kernels.cpp")
# Without -fopenmp at linking, OpenMP is that of the running torch: one pool of threads, of the size set there.
COMPILE = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-c"]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as in cpu_kernels.cpp
LANES = 16  # entries that the kernels take at a time


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
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            compiled, linked = Path(temporary, "kernels.o"), Path(temporary, "kernels.so")
            run([*compiler, *COMPILE, str(SOURCE), "-o", str(compiled)])
            run([*compiler, "-shared", str(compiled), "-o", str(linked)])
            fsync(linked)
            linked.replace(library)
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
    """`(out, in)` -> `(out / block, in / depth, block, depth)`, filled up with zeros; see `cpu_kernels.cpp`."""
    block = load_kernels().outputs_of_block()
    padding = 0, -weight.shape[1] % LANES, 0, -weight.shape[0] % block  # inputs are read LANES at a time
    padded = F.pad(weight, padding) if any(padding) else weight
    return padded.unflatten(0, (-1, block)).unflatten(2, (-1, depth)).transpose(1, 2).contiguous()


class KernelLinear(PackedLinear):
    """In the order of `cpu_kernels.cpp`: reads at the speed of the memory for few rows."""

    def pack(self, weight):
        self.packed_weight = pack(weight, load_kernels().depth(DTYPES[self.dtype]))
        self.prepare(self.packed_weight)

    def prepare(self, packed_weight: torch.Tensor) -> None:
        blocks, steps, block, depth = packed_weight.shape
        self.padded_in, self.padded_out = steps * depth, blocks * block
        self.padded_bias = None
        if self.bias is not None:
            self.padded_bias = F.pad(self.bias.detach().float(), (0, self.padded_out - self.out_features))

    def unpack(self):
        weight = self.packed_weight.transpose(1, 2).reshape(self.padded_out, self.padded_in)
        return weight[: self.out_features, : self.in_features].contiguous()

    def run(self, *arguments) -> None:
        load_kernels().linear(*arguments)

    @property
    def weights(self) -> tuple[torch.Tensor, ...]:
        """What the kernel reads, in its order."""
        return (self.packed_weight,)

    def multiply(self, rows):
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

    def pack(self, weight):
        levels, scale = self.quantize(weight)
        self.packed_weight = pack(levels, load_kernels().depth_int8())
        self.prepare(self.packed_weight)
        padding = 0, self.padded_out - self.out_features
        self.scale = F.pad(scale, padding)
        self.zero = F.pad(128 * levels.sum(dim=1, dtype=torch.int32), padding)  # inputs come around a level of 128

    def run(self, *arguments):
        load_kernels().linear_int8(*arguments)

    @property
    def weights(self):
        return self.packed_weight, self.scale, self.zero


class KernelRMSNorm(RMSNorm):
    def forward(self, hidden_states):
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
    def forward(self, hidden_states):
        gate_up = self.gate_up_proj(hidden_states)
        outputs = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
        width = outputs.shape[-1]
        load_kernels().swiglu(
            DTYPES[gate_up.dtype], gate_up.data_ptr(), outputs.data_ptr(), outputs.numel() // width, width
        )
        return self.dropout(self.down_proj(outputs))


class KernelAttention(Attention):
    """One query a sample over the filled slots of a cache, by one kernel; anything else as `Attention` does it."""

    def forward(self, hidden_states, rotary, cache_layer=None, attention_mask=None, num_cached=None):
        batch, length, _ = hidden_states.shape
        if length > 1 or cache_layer is None or num_cached is None:
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
        cache_layer.cumulative_length.fill_(num_cached)
        return self.dropout(self.o_proj(attention))


class KernelQuantizer(FactorizedQuantizer):
    """Finds the nearest codes without writing the cosines to memory."""

    @torch.no_grad()
    def nearest(self, latents, codebooks=None):
        if not latents.is_cpu or latents.shape[-1] != self.codebook_dim:
            return super().nearest(latents, codebooks)
        codebooks = self.normalized_codebooks() if codebooks is None else codebooks
        latents = checked(latents.float(), torch.float32)
        codes = torch.empty(latents.shape[:2], dtype=torch.long)
        for k in range(self.num_codebooks):
            columns = checked(codebooks[k].unflatten(0, (-1, LANES)).transpose(1, 2), torch.float32)
            load_kernels().nearest(
                latents[k].data_ptr(),
                columns.data_ptr(),
                codes[k].data_ptr(),
                latents.shape[1],
                self.codebook_size,
                self.codebook_dim,
                torch.get_num_threads(),
            )
        return codes


def adopt_kernels(model: nn.Module) -> None:
    """Give the modules of `model` the classes above, where their sizes allow it."""
    for module in model.modules():
        if type(module) is RMSNorm and module.weight.numel() % LANES == 0:
            module.__class__ = KernelRMSNorm
        elif type(module) is SwiGLU and module.down_proj.in_features % LANES == 0:
            module.__class__ = KernelSwiGLU
        elif type(module) is Attention and module.head_dim % LANES == 0 and module.head_dim >= 2 * LANES:
            module.__class__ = KernelAttention
        elif type(module) is FactorizedQuantizer and module.codebook_size % LANES == 0:
            module.__class__ = KernelQuantizer
