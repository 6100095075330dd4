# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the libraries only warn about when they load a checkpoint, and a user needs to know."""

import torch


def require_complete(model: torch.nn.Module, loading_info: dict, source: str) -> None:
    """
    Raise unless every weight of `model` came from the checkpoint and is finite.

    Args:
        model: The loaded model.
        loading_info: What `from_pretrained(..., output_loading_info=True)` returned beside it.
        source: Where it came from, for the message.

    Raises:
        ValueError: If keys were missing or superfluous, or weights are NaN or infinite.
    """
    for kind in ("missing_keys", "unexpected_keys"):
        if loading_info[kind]:
            names = sorted(loading_info[kind])
            raise ValueError(
                f"{source} is not a complete {type(model).__name__} checkpoint: "
                f"{len(names)} {kind.replace('_', ' ')}, among them {', '.join(names[:3])}"
            )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all():
            raise ValueError(f"{source} holds non-finite weights in {name}")
