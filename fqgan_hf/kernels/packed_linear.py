# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`nn.Linear` for inference on a CPU, with its weight in the order in which a product reads it.

A packed layer takes over the weight of the layer that it stands for, so that there is no second copy. What it keeps is
no parameter or buffer: it cannot be moved, cast or trained.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn


PACKED_FOR_ROWS = 16  # rows of the product that oneDNN's layout is chosen for; others run at nearly the same speed


class PackedLinear(nn.Module):
    """
    What packed layers share. Subclasses `pack` a weight, `multiply` rows by it and `unpack` it for saving.

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
        """Take over a weight `(out_features, in_features)`."""
        raise NotImplementedError

    def unpack(self) -> torch.Tensor:
        """The weight again."""
        raise NotImplementedError

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        """`(rows, in_features)` -> `(rows, out_features)`, with the bias."""
        raise NotImplementedError

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rows = self.multiply(hidden_states.reshape(-1, self.in_features))
        return rows.view(*hidden_states.shape[:-1], self.out_features)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.unpack()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        # What `to`, `half`, `cuda` and the like come down to. The packed weight is no parameter and would stay behind.
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
    """An int8 weight with one scale per output; inputs are rounded to 8 bits, one scale per row. Cannot be saved."""

    def unpack(self) -> torch.Tensor:
        raise ValueError("int8 weights cannot be saved: save the model before optimize(..., quantization='int8')")

    @staticmethod
    def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels from -127 to 127 and the fp32 scale of each output: `weight` is about `levels * scale[:, None]`."""
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        return (weight / scale[:, None]).round_().to(torch.int8), scale


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN, and oneDNN products of this dtype on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype != torch.float16 or torch.ops.mkldnn._is_mkldnn_fp16_supported()


class OneDNNLinear(PackedLinear):
    """In oneDNN's blocked order: the same sums in another order."""

    def pack(self, weight: torch.Tensor) -> None:
        self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)

    def unpack(self) -> torch.Tensor:
        return self.packed_weight.to_dense()

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed_weight, self.bias, "none", [], "")


def onednn_int8_product(
    levels: torch.Tensor, zero_point: int, packed_weight: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Rows of uint8 `levels - zero_point` times a prepacked int8 weight, each output times its `scale`, in fp32."""
    zero_points = torch.zeros(len(scale), dtype=torch.int32)  # of the weight
    output = 1.0, 0, torch.float32, "none", [], ""  # scale, zero point, dtype and what is fused: nothing
    return torch.ops.onednn.qlinear_pointwise(
        levels, 1.0, zero_point, packed_weight, scale, zero_points, None, *output
    )


@cache
def int8_products_saturate() -> bool:
    """Whether oneDNN's sums of two products of 8 bits overflow 16 bits, as on processors without VNNI."""
    inputs, weight = torch.full((1, 64), 255, dtype=torch.uint8), torch.full((8, 64), 127, dtype=torch.int8)
    packed_weight = torch.ops.onednn.qlinear_prepack(weight, None)
    return bool((onednn_int8_product(inputs, 0, packed_weight, torch.ones(8)) != 255 * 127 * 64).any())


class OneDNNInt8Linear(Int8Linear):
    """In oneDNN's own order of int8 weights."""

    def pack(self, weight: torch.Tensor) -> None:
        levels, scale = self.quantize(weight)
        self.packed_weight = torch.ops.onednn.qlinear_prepack(levels, None)
        self.scale = scale / 127  # of the product of two levels, for a row whose largest entry is 1

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        entries = rows.float()
        largest = entries.abs().amax(dim=-1, keepdim=True)
        # The fast kernels take unsigned inputs: levels -127 to 127, rounded, become 1 to 255 around a zero point 128.
        # A row of zeros gets arbitrary levels, which its scale of 0 turns into 0 again.
        levels = (entries * (127 / largest)).add_(128.5).to(torch.uint8)
        weight = self.packed_weight, self.scale
        if int8_products_saturate():  # but not those of halves of the levels, whose zero points add up to 128, too
            halves = levels // 2
            products = onednn_int8_product(halves, 64, *weight) + onednn_int8_product(levels - halves, 64, *weight)
        else:
            products = onednn_int8_product(levels, 128, *weight)
        products = products.mul_(largest).to(rows.dtype)
        return products if self.bias is None else products + self.bias
