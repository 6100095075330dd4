# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of FAR, the autoregressive generator over factorized codes (arXiv 2411.16681)."""

from .configuration_generator import GeneratorConfig


class FARConfig(GeneratorConfig):
    r"""
    Configuration of a [`FARForImageGeneration`]; the settings are those of [`GeneratorConfig`].

    The defaults are FAR-Base on 16x16 grids of two 16384-code codebooks.

    Args:
        use_cache (`bool`, *optional*, defaults to `True`): What transformers reads; see `generate`.
    """

    model_type = "far"

    use_cache: bool = True

    @classmethod
    def base(cls, **kwargs) -> "FARConfig":
        """FAR-Base: 24 layers of width 1024 and 3 head layers, 417 M parameters for K = 2 and V = 16384."""
        return cls(
            **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "num_head_layers": 3} | kwargs
        )

    @classmethod
    def large(cls, **kwargs) -> "FARConfig":
        """FAR-Large: 36 layers of width 1280 and 4 head layers, 901 M parameters for K = 2 and V = 16384."""
        return cls(
            **{"hidden_size": 1280, "num_hidden_layers": 36, "num_attention_heads": 20, "num_head_layers": 4} | kwargs
        )
