# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Weight files of a model's folder: which they are, and what their headers say. It needs no library.

A safetensors file begins with the length of its header (8 bytes, little endian), then the header, JSON that gives each
tensor's type, shape and place in the rest of the file.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
# Types of floating-point weights, with the bytes of one value.
FLOATING = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
BYTES_OF = {
    **FLOATING,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16"), 2),
    **dict.fromkeys(("U32", "I32"), 4),
    **dict.fromkeys(("U64", "I64", "C64"), 8),
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file: its type as the format spells it, its shape, and its bytes' place."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def blocks(self, size: int = 1 << 20) -> Iterator[bytes]:
        """Its bytes, little endian and row by row, `size` at a time."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            for place in range(self.start, self.end, size):
                yield file.read(min(size, self.end - place))


def weight_files(folder: str | os.PathLike, stem: str, variant: str | None = None) -> list[Path]:
    """
    The files that a model's weights are loaded from: one, or those that an index names.

    Args:
        folder (`str` or `os.PathLike`): A local folder.
        stem (`str`): "model" (transformers) or "diffusion_pytorch_model" (diffusers).
        variant (`str`, *optional*): See `from_pretrained`.

    Raises:
        FileNotFoundError: There are no weights that may be loaded.
        ValueError: The index is damaged, or there are two sets of weights.
    """
    folder = Path(folder)
    suffix = f".{variant}" if variant else ""
    whole, index = folder / f"{stem}{suffix}.safetensors", folder / f"{stem}.safetensors.index{suffix}.json"
    if whole.is_file() and index.is_file():  # which of them is read depends on the library
        raise ValueError(
            f"{folder} holds weights twice, as {whole.name} and by {index.name}: remove what is not meant"
        )
    if whole.is_file():
        return [whole]
    if not index.is_file():
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        hint = f"; {pickles[0]} is a pickle, which is not loaded since it could run code" if pickles else ""
        raise FileNotFoundError(f"{folder} holds no weights: there is no {whole.name}{hint}")
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is damaged: {error}") from error
    paths = [folder / name for name in sorted(names)]
    for name, path in zip(sorted(names), paths, strict=True):
        if Path(name).name != name or not path.is_file():
            raise FileNotFoundError(f"{folder} lacks {name!r:.80}, which {index.name} names")
    return paths


def read_header(path: str | os.PathLike) -> dict[str, StoredTensor]:
    """
    The tensors of a safetensors file by name. Of the file no more than its header is read.

    Raises:
        ValueError: The file is damaged: cut off, or with a header that does not describe the rest of it.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise ValueError(f"its header would be {length} bytes long, the file has {size}")
            header = json.loads(file.read(length).decode("utf-8"))
        tensors = {name: _tensor(path, 8 + length, entry) for name, entry in header.items() if name != "__metadata__"}
        end = 8 + length
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
            if tensor.start != end or tensor.end - tensor.start != tensor.numel * BYTES_OF[tensor.dtype]:
                raise ValueError("its tensors do not lie one behind the other")
            end = tensor.end
        if end != size:
            raise ValueError(f"its tensors need {end} bytes, the file has {size}")
    except KeyError as error:
        raise ValueError(f"{path} is damaged: a tensor has no known {error.args[0]!r:.80}") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return tensors


def _tensor(path: Path, data: int, entry: dict[str, Any]) -> StoredTensor:
    """What the header says of a tensor; `data` is where the bytes after the header begin."""
    shape, offsets = entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets]
    if (
        len(offsets) != 2
        or len(shape) > 32
        or not all(type(number) is int and 0 <= number < 2**48 for number in numbers)
    ):
        raise ValueError(f"a tensor of shape {shape!r:.80} at {offsets!r:.80}")
    return StoredTensor(path, str(entry["dtype"]), tuple(shape), data + offsets[0], data + offsets[1])
