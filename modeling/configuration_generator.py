# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the configurations of the generators have in common: codes, grid, transformer, head and conditions."""

from dataclasses import fields

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .configuration_checks import Setting, check_label_names, check_names, check_setting


HEAD_TYPES = ("ar", "linear", "mlp")
CONDITIONS = ("class", "text", "map")

SETTINGS = {
    "num_codebooks": Setting(int, 1, 64),
    "codebook_size": Setting(int, 1, 2**24),
    "num_classes": Setting(int, 1, 1_000_000),
    "grid_height": Setting(int, 1, 4096),
    "grid_width": Setting(int, 1, 4096),
    "hidden_size": Setting(int, 1, 2**16),
    "intermediate_size": Setting(int, 1, 2**18, optional=True),
    "num_hidden_layers": Setting(int, 1, 1024),
    "num_attention_heads": Setting(int, 1, 1024),
    "num_key_value_heads": Setting(int, 1, 1024, optional=True),
    "num_head_layers": Setting(int, 0, 1024),
    "rms_norm_eps": Setting(float, 0, 1),
    "rope_theta": Setting(float, 1e-3, 1e12),
    "token_dropout": Setting(float, 0, 1),
    "residual_dropout": Setting(float, 0, 1),
    "ffn_dropout": Setting(float, 0, 1),
    "class_dropout": Setting(float, 0, 1),
    "initializer_range": Setting(float, 0, 100),
    "text_hidden_size": Setting(int, 1, 2**16, optional=True),
    "text_vocab_size": Setting(int, 1, 2**24, optional=True),
    "num_text_tokens": Setting(int, 1, 4096),
    "num_text_layers": Setting(int, 0, 1024),
    "map_num_codebooks": Setting(int, 1, 64, optional=True),
    "map_codebook_size": Setting(int, 1, 2**24, optional=True),
    "map_grid_height": Setting(int, 1, 4096, optional=True),
    "map_grid_width": Setting(int, 1, 4096, optional=True),
}


class GeneratorConfig(PreTrainedConfig):
    r"""
    Settings of every generator of codes; [`FARConfig`] and [`CodeDiffusionConfig`] add theirs.

    Args:
        num_codebooks (`int`, *optional*, defaults to 2): K, the sub-tokens of one position; visual first.
        codebook_size (`int`, *optional*, defaults to 16384): V, the codes in each codebook.
        num_classes (`int`, *optional*, defaults to 1000): Classes. The id `num_classes` is the null class of guidance.
        grid_height, grid_width (`int`, *optional*, defaults to 16): The code grid; any rectangle.
        hidden_size (`int`, *optional*, defaults to 1024): D.
        intermediate_size (`int`, *optional*):
            Width of the SwiGLU layers; defaults to 8/3 of `hidden_size` rounded up to a multiple of 256.
        num_hidden_layers (`int`, *optional*, defaults to 24): Blocks of the backbone.
        num_attention_heads (`int`, *optional*, defaults to 16).
        num_key_value_heads (`int`, *optional*): Fewer than `num_attention_heads` for grouped-query attention.
        head_type (`str`, *optional*, defaults to `"ar"`):
            How a position's K sub-tokens are predicted from the backbone's state: `"ar"`, one after another by causal
            blocks (the factorized head); `"linear"` or `"mlp"`, independently by K classifiers (the paper's Table 4).
        num_head_layers (`int`, *optional*, defaults to 3): Blocks of the factorized head.
        rms_norm_eps (`float`, *optional*, defaults to 1e-5).
        rope_theta (`float`, *optional*, defaults to 10000.0): Base of the 2-D rotary embedding.
        token_dropout, residual_dropout, ffn_dropout (`float`, *optional*, defaults to 0.1):
            Dropout of the input embeddings, of attention outputs and of feed-forward outputs.
        class_dropout (`float`, *optional*, defaults to 0.1):
            Share of training samples whose conditions become their nulls, for classifier-free guidance. With several
            conditions each one does so by itself for this share of the other samples, too.
        initializer_range (`float`, *optional*, defaults to 0.02).
        tokenizer_fingerprint (`str`, *optional*):
            `FQGANModel.fingerprint()` of the tokenizer whose codes this model was trained on; pipelines check it.
        conditions (`list[str]`, *optional*, defaults to `["class"]`):
            What the codes are generated for, in the order of the prefix: "class", "text" and "map", each at most once.
        text_hidden_size (`int`, *optional*): Width of the states of a frozen text encoder, for the condition "text".
        text_vocab_size (`int`, *optional*): Tokens of a text encoder that is part of the generator, in place of that.
        num_text_tokens (`int`, *optional*, defaults to 77): Length of a prompt, padding included.
        num_text_layers (`int`, *optional*, defaults to 2): Blocks of the text encoder that is part of the generator.
        map_num_codebooks, map_codebook_size (`int`, *optional*):
            K and V of the tokenizer whose codes are the condition "map".
        map_grid_height, map_grid_width (`int`, *optional*): Its grid; by default that of the image.
        map_tokenizer_fingerprint (`str`, *optional*): Its `fingerprint()`.

    Raises:
        ValueError: A value is of the wrong type or out of bounds, or a name is nearly that of a setting.
    """

    attribute_map = {"vocab_size": "codebook_size"}

    num_codebooks: int = 2
    codebook_size: int = 16384
    num_classes: int = 1000
    grid_height: int = 16
    grid_width: int = 16
    hidden_size: int = 1024
    intermediate_size: int | None = None
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    head_type: str = "ar"
    num_head_layers: int = 3
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    token_dropout: float = 0.1
    residual_dropout: float = 0.1
    ffn_dropout: float = 0.1
    class_dropout: float = 0.1
    initializer_range: float = 0.02
    tokenizer_fingerprint: str | None = None
    conditions: list[str] | tuple[str, ...] = ("class",)
    text_hidden_size: int | None = None
    text_vocab_size: int | None = None
    num_text_tokens: int = 77
    num_text_layers: int = 2
    map_num_codebooks: int | None = None
    map_codebook_size: int | None = None
    map_grid_height: int | None = None
    map_grid_width: int | None = None
    map_tokenizer_fingerprint: str | None = None

    def __post_init__(self, **kwargs):
        check_names(kwargs, (field.name for field in fields(self)), type(self).__name__)
        for name, setting in SETTINGS.items():
            setattr(self, name, check_setting(name, getattr(self, name), setting))
        check_label_names(self.id2label)
        if kwargs.get("num_labels") is not None:  # the library makes that many names
            check_setting("num_labels", kwargs["num_labels"], SETTINGS["num_classes"])
        # `dtype` is a field of the library's; its old name may still come from a file, and warns when it is read.
        for name, value in (("dtype", getattr(self, "dtype", None)), ("torch_dtype", kwargs.get("torch_dtype"))):
            if isinstance(value, str) and not isinstance(getattr(torch, value, None), torch.dtype):
                raise ValueError(f"{name} must be a type of torch's tensors such as 'float32', got {value!r:.80}")
        for name in ("tokenizer_fingerprint", "map_tokenizer_fingerprint"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} must be a string or None, got {value!r:.80}")
        if self.intermediate_size is None:
            self.intermediate_size = -(-(8 * self.hidden_size // 3) // 256) * 256
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        self._check_together()
        self._check_conditions()
        super().__post_init__(**kwargs)

    def _check_together(self) -> None:
        """Raise `ValueError` for settings that exclude each other."""
        if self.head_type not in HEAD_TYPES:
            raise ValueError(f"head_type must be one of {HEAD_TYPES}, got {self.head_type!r:.80}")
        if self.head_type == "ar" and self.num_head_layers < 1:
            raise ValueError(f"num_head_layers must be at least 1 for head_type 'ar', got {self.num_head_layers}")
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                "hidden_size must be a multiple of 4 * num_attention_heads (rotary pairs by row and by column), "
                f"got {self.hidden_size} for {self.num_attention_heads} heads"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads must divide num_attention_heads = {self.num_attention_heads}, "
                f"got {self.num_key_value_heads}"
            )
        for name in ("token_dropout", "residual_dropout", "ffn_dropout", "class_dropout"):
            if getattr(self, name) == 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}")

    def _check_conditions(self) -> None:
        """Raise `ValueError` for conditions that are unknown, or whose settings are missing or too many."""
        given = self.conditions
        is_list = isinstance(given, (list, tuple)) and all(isinstance(name, str) for name in given)
        if not is_list or not given or len(set(given)) < len(given) or set(given) - set(CONDITIONS):
            raise ValueError(f"conditions must be some of {CONDITIONS}, each once, got {given!r:.80}")
        self.conditions = tuple(given)
        if "text" in given and (self.text_hidden_size is None) == (self.text_vocab_size is None):
            raise ValueError(
                "one of text_hidden_size (of a frozen text encoder) and text_vocab_size (of one that is part of the "
                f"generator) must be given for the condition 'text', got {self.text_hidden_size} and "
                f"{self.text_vocab_size}"
            )
        if "map" in given:
            for name in ("map_num_codebooks", "map_codebook_size"):
                if getattr(self, name) is None:
                    raise ValueError(f"{name} must be given for the condition 'map', got None")
            self.map_grid_height = self.map_grid_height or self.grid_height
            self.map_grid_width = self.map_grid_width or self.grid_width

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As the library does; `ValueError`, too, for what its own settings do not accept."""
        try:
            return super().from_dict(config_dict, **kwargs)
        except (AttributeError, TypeError, StrictDataclassError) as error:
            raise ValueError(f"a {cls.__name__} cannot be read from this configuration: {error}") from error

    @property
    def num_positions(self) -> int:
        """T, the positions of one image."""
        return self.grid_height * self.grid_width

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def null_class_id(self) -> int:
        """The class id that stands for "no class" in classifier-free guidance."""
        return self.num_classes

    @property
    def num_map_positions(self) -> int:
        """Positions of a map, one after another in its grid."""
        return self.map_grid_height * self.map_grid_width
