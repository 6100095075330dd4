# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a configuration of FQGAN may ask for. What its settings mean: see `FQGANModel`."""

from collections.abc import Mapping
from typing import Any

from diffusers.models.activations import ACT2CLS

from .configuration_checks import Setting, check_setting


WIDTH = Setting(int, 1, 2**16)
MAX_LEVELS = 10
SETTINGS = {
    "in_channels": Setting(int, 1, 1024),
    "out_channels": Setting(int, 1, 1024),
    "layers_per_block": Setting(int, 1, 64),
    "latent_channels": WIDTH,
    "norm_num_groups": WIDTH,
    "sample_size": Setting(int, 1, 2**14),
    "num_codebooks": Setting(int, 1, 64),
    "codebook_size": Setting(int, 1, 2**24),
    "codebook_dim": Setting(int, 1, 4096),
    "adapter_num_layers": Setting(int, 0, 64, optional=True),
    "adapter_num_heads": Setting(int, 1, 1024),
    "feature_num_layers": Setting(int, 1, 64),
    "feature_num_heads": Setting(int, 1, 1024),
    "entropy_temperature": Setting(float, 1e-6, 1e6),
    "mask_ratio": Setting(float, 0.0, 1.0),
    "num_labels": Setting(int, 2, 1024, optional=True),
}
PICTURE_CHANNELS = 3
QUANTIZER_TYPES = ("nearest", "gumbel", "regularized")
TOKEN_LOGITS = ("linear", "cosine")


def check_config(config: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a setting of the wrong type, out of bounds, or at odds with another."""
    for name, setting in SETTINGS.items():
        check_setting(name, config[name], setting)
    for name, choices in (("quantizer_type", QUANTIZER_TYPES), ("token_logits", TOKEN_LOGITS)):
        if config[name] not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {config[name]!r:.80}")
    if not isinstance(config["mask_shared"], bool):
        raise ValueError(f"mask_shared must be True or False, got {config['mask_shared']!r:.80}")
    num_labels = config["num_labels"]
    for name in ("in_channels", "out_channels") if num_labels is not None else ():
        if config[name] not in (PICTURE_CHANNELS, num_labels):  # the former is what is there where nothing is said
            raise ValueError(f"{name} must be num_labels = {num_labels} or left out, got {config[name]}")
    channels, groups = config["block_out_channels"], config["norm_num_groups"]
    if not isinstance(channels, (list, tuple)) or not 1 <= len(channels) <= MAX_LEVELS:
        raise ValueError(f"block_out_channels must be a list of 1 to {MAX_LEVELS} widths, got {channels!r:.80}")
    for width in channels:
        check_setting("block_out_channels", width, WIDTH)
    if any(width % groups for width in channels):
        raise ValueError(f"block_out_channels must be divisible by norm_num_groups = {groups}, got {channels}")
    if not isinstance(config["act_fn"], str) or config["act_fn"] not in ACT2CLS:
        raise ValueError(f"act_fn must be one of {', '.join(ACT2CLS)}, got {config['act_fn']!r:.80}")
    factor, size = 2 ** (len(channels) - 1), config["sample_size"]
    if size % factor:
        raise ValueError(
            f"sample_size must be a multiple of the downsampling factor {factor} ({len(channels)} levels in "
            f"block_out_channels), got {size}"
        )
    if config["adapter_num_layers"] and channels[-1] % config["adapter_num_heads"]:
        raise ValueError(
            f"adapter_num_heads must divide block_out_channels[-1] = {channels[-1]}, got {config['adapter_num_heads']}"
        )
    widths, heads = config["feature_dims"], config["feature_num_heads"]
    if widths is None:
        return
    if not isinstance(widths, (list, tuple)) or len(widths) != config["num_codebooks"]:
        raise ValueError(
            f"feature_dims must have one entry per codebook ({config['num_codebooks']}), got {widths!r:.80}"
        )
    for width in widths:
        if width is not None and check_setting("feature_dims", width, WIDTH) % heads:
            raise ValueError(f"feature_dims must be None or multiples of feature_num_heads = {heads}, got {widths}")
