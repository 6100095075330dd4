# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`optimize`: a pipeline, a tokenizer or a generator set up for inference by one call.

    pipe = optimize(FARPipeline.from_pretrained("org/far-base"), dtype=torch.bfloat16)

Sampling reads every weight of the generator once a position, so its speed on a CPU is that of the memory and of how
well the matrix products use it. Here each `nn.Linear` is exchanged for one whose weight lies as oneDNN's kernels read
it, in its own dtype or in int8. The weight moves: there is no second copy of it.
"""

from typing import TypeVar

import torch
from diffusers import DiffusionPipeline
from torch import nn

from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


Model = TypeVar("Model", FARForImageGeneration, FQGANModel, DiffusionPipeline)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
QUANTIZATIONS = (None, "int8")
PACKED_FOR_ROWS = 16  # rows of the product that the layout is chosen for; others run at nearly the same speed


def optimize(
    model: Model, dtype: torch.dtype | None = None, quantization: str | None = None, compile: bool = True
) -> Model:
    """
    Prepare a model for inference, in place: evaluation mode, no gradients, the layout that its device reads fastest.

    A tokenizer's convolutions become channels-last. A generator's matrices are packed for oneDNN on a CPU; on a GPU
    its position step is compiled and captured as a CUDA graph at the first use of each batch size. Call it last, with
    the model on its device: packed weights stay where they are.

    Args:
        model ([`FARForImageGeneration`], [`FQGANModel`] or a pipeline of them): Changed in place.
        dtype (`torch.dtype`, *optional*):
            `torch.float32`, `torch.bfloat16` or `torch.float16`; by default unchanged. On a CPU without AMX, bf16
            makes a generator faster, since it reads half as much, and a tokenizer slower.
        quantization (`str`, *optional*):
            `"int8"` stores the generator's matrices in 8 bits, one scale an output, and rounds what they multiply to 8
            bits, one scale a row. CPU only; such a model cannot be saved. It changes the samples.
        compile (`bool`, defaults to `True`):
            On a GPU, compile. On a CPU it is one or the other, since the compiler cannot read packed weights: at batch
            1 in fp32, `transformer.compile()` instead of this function is faster after half a minute.

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
    generators = [part for part in parts if isinstance(part, FARForImageGeneration)]
    tokenizers = [part for part in parts if isinstance(part, FQGANModel)]
    if not generators and not tokenizers:
        raise TypeError(
            f"model must be an FQGANModel, a FARForImageGeneration or a pipeline of them, got {type(model).__name__}"
        )
    if quantization and not any(generator.device.type == "cpu" for generator in generators):
        raise ValueError(f"quantization={quantization!r} needs a FARForImageGeneration on the CPU")
    if quantization and not torch.backends.mkldnn.is_available():
        raise ValueError(f"quantization={quantization!r} needs a torch that is built with oneDNN")

    for tokenizer in tokenizers:
        tokenizer.requires_grad_(False).eval()
        tokenizer.to(memory_format=torch.channels_last)
        if dtype not in (None, tokenizer.dtype):  # diffusers warns of any cast
            tokenizer.to(dtype)
    for generator in generators:
        generator.requires_grad_(False).eval()
        generator.to(dtype=dtype or generator.dtype)
        if generator.device.type == "cpu":
            if quantization == "int8":
                pack_linears(generator, Int8Linear)
            elif onednn_multiplies(generator.dtype):
                pack_linears(generator, PackedLinear)
        elif generator.device.type == "cuda" and compile:
            generator.compile(fullgraph=True, mode="reduce-overhead")
    return model


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN, and oneDNN products of this dtype on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype != torch.float16 or torch.ops.mkldnn._is_mkldnn_fp16_supported()


class PackedLinear(nn.Module):
    """
    `nn.Linear` for inference on a CPU, with its weight in oneDNN's blocked order: the same sums in another order.

    Args:
        linear (`nn.Linear`): On the CPU. It gives up its weight.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.dtype = linear.weight.dtype
        weight, linear.weight = linear.weight.detach(), None
        self.pack(weight)

    def pack(self, weight: torch.Tensor) -> None:
        """Take over a weight `(out_features, in_features)`. What is kept is no buffer: it cannot be moved or cast."""
        self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        """`(rows, in_features)` -> `(rows, out_features)`, with the bias."""
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed_weight, self.bias, "none", [], "")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rows = self.multiply(hidden_states.reshape(-1, self.in_features))
        return rows.view(*hidden_states.shape[:-1], self.out_features)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.packed_weight.to_dense()

    def _apply(self, fn, recurse=True):
        moved = fn(torch.empty(0, dtype=self.dtype))
        if moved.device.type != "cpu" or moved.dtype != self.dtype:
            raise RuntimeError(
                f"weights packed by optimize() stay on the CPU in {self.dtype}, this would make them {moved.dtype} on "
                f"{moved.device}: load the model again and optimize it there"
            )
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Linear(PackedLinear):
    """As `PackedLinear`, with an int8 weight (a scale an output) and inputs rounded to 8 bits (a scale a row)."""

    def pack(self, weight: torch.Tensor) -> None:
        weight = weight.float()
        largest = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        levels = (weight / largest[:, None] * 127).round().to(torch.int8)
        self.packed_weight = torch.ops.onednn.qlinear_prepack(levels, None)
        self.scale = largest / 127**2  # of the product of two levels, for a row whose largest entry is 1
        self.zero_point = torch.zeros(self.out_features, dtype=torch.int32)

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        entries = rows.float()
        largest = entries.abs().amax(dim=-1, keepdim=True)
        # The fast kernels take unsigned inputs: levels -127 to 127, rounded, become 1 to 255 around a zero point 128.
        # A row of zeros gets arbitrary levels, which its scale of 0 turns into 0 again.
        levels = (entries * (127 / largest)).add_(128.5).to(torch.uint8)
        weight = self.packed_weight, self.scale, self.zero_point
        output = 1.0, 0, torch.float32, "none", [], ""  # scale, zero point, dtype and what is fused: nothing
        products = torch.ops.onednn.qlinear_pointwise(levels, 1.0, 128, *weight, None, *output)
        products = products.mul_(largest).to(rows.dtype)
        return products if self.bias is None else products + self.bias

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        raise ValueError("int8 weights cannot be saved: save the model before optimize(..., quantization='int8')")


def pack_linears(module: nn.Module, kind: type[PackedLinear]) -> None:
    """Exchange every `nn.Linear` below `module`, one after another, so that memory holds one of them twice at most."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, kind(child))
        else:
            pack_linears(child, kind)
