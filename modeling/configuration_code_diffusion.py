# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of the discrete diffusion generator over factorized codes (arXiv 2111.14822, 2205.16007)."""

from .configuration_checks import Setting, check_setting
from .configuration_generator import GeneratorConfig


TIME_CONDITIONINGS = ("adaln", "none")


class CodeDiffusionConfig(GeneratorConfig):
    r"""
    Configuration of a [`CodeDiffusionTransformer`]; the other settings are those of [`GeneratorConfig`].

    Args:
        time_conditioning (`str`, *optional*, defaults to `"adaln"`):
            `"adaln"`: the time scales and shifts what each norm of the backbone gives; `"none"`: the network is not
            told the time, of which the masked positions say enough.
        num_train_timesteps (`int`, *optional*, defaults to 100): T of the diffusion, the largest time.

    Raises:
        ValueError: A value is of the wrong type or out of bounds, or a name is nearly that of a setting.
    """

    model_type = "code_diffusion"

    time_conditioning: str = "adaln"
    num_train_timesteps: int = 100

    def __post_init__(self, **kwargs):
        check_setting("num_train_timesteps", self.num_train_timesteps, Setting(int, 1, 100_000))
        if self.time_conditioning not in TIME_CONDITIONINGS:
            raise ValueError(f"time_conditioning must be one of {TIME_CONDITIONINGS}, got {self.time_conditioning!r}")
        super().__post_init__(**kwargs)

    @classmethod
    def small(cls, **kwargs) -> "CodeDiffusionConfig":
        """The sizes of VQ-Diffusion-S: 18 layers of width 192."""
        return cls(**{"hidden_size": 192, "num_hidden_layers": 18, "num_attention_heads": 12} | kwargs)

    @classmethod
    def base(cls, **kwargs) -> "CodeDiffusionConfig":
        """The sizes of VQ-Diffusion-B: 19 layers of width 1024."""
        return cls(**{"hidden_size": 1024, "num_hidden_layers": 19, "num_attention_heads": 16} | kwargs)

    @classmethod
    def imagenet(cls, **kwargs) -> "CodeDiffusionConfig":
        """The sizes of VQ-Diffusion on ImageNet: 24 layers of width 512."""
        return cls(**{"hidden_size": 512, "num_hidden_layers": 24, "num_attention_heads": 16} | kwargs)
