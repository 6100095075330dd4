# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the generators have in common: code tables, backbone, factorized head, conditions, and how they are loaded.

    conditions, codes -> embeddings -> backbone -> one state per position -> head -> K distributions of codes

Only `embed_conditions` and what checks its arguments know of class ids, prompts and maps.

Shapes: B batch, P positions of the prefix, T positions of the image (grid_height * grid_width), K codebooks, V
codebook size, D hidden size, S positions of this call, L tokens of a prompt, E width of a text encoder, Km codebooks
of a map's tokenizer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from .checkpoint_checks import require_complete, require_fitting_files
from .checkpoint_files import weight_files
from .conditioning import Condition, MapCondition, TextCondition, as_conditions, class_condition
from .configuration_generator import GeneratorConfig
from .factorized_head import CodeClassifier, FactorizedHead
from .transformer_blocks import RMSNorm, TransformerLayer


class GeneratorPreTrainedModel(PreTrainedModel):
    config: GeneratorConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerLayer"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, CodeClassifier):
            init.zeros_(module.weight)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            init.normal_(module.weight, mean=0.0, std=std)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any):
        """
        Load as transformers does, from safetensors only; in addition missing, superfluous or non-finite weights raise
        `ValueError`, those of a local folder before anything is allocated.
        """
        with_info = kwargs.pop("output_loading_info", False)
        kwargs["use_safetensors"] = True  # whatever is asked for (pipelines do): a pickle could run code
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if folder.is_dir() and kwargs.get("state_dict") is None:
            config = kwargs.get("config")
            config = config if isinstance(config, PreTrainedConfig) else cls.config_class.from_pretrained(str(folder))
            with torch.device("meta"):
                model = cls(config)
            require_fitting_files(model, weight_files(folder, "model", kwargs.get("variant")), folder)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        require_complete(model, info, str(pretrained_model_name_or_path))
        return (model, info) if with_info else model


class CodeGenerator(GeneratorPreTrainedModel):
    """
    Tables, backbone and head of a generator.

    Args:
        config (`GeneratorConfig`).
        num_states (`int`): Rows of each codebook's table of input embeddings: V, and more for states that are no code.
        is_causal (`bool`): Whether a position sees those before it only.
        is_modulated (`bool`): Whether the backbone knows a time.
    """

    def __init__(self, config: GeneratorConfig, num_states: int, is_causal: bool, is_modulated: bool = False):
        super().__init__(config)
        self.num_states = num_states
        if "class" in config.conditions:
            self.class_embedding = nn.Embedding(config.num_classes + 1, config.hidden_size)
        # The K code tables, one below the other; the head reads the same table as the input.
        self.code_embedding = nn.Embedding(config.num_codebooks * num_states, config.hidden_size)
        self.aggregation = nn.Linear(config.num_codebooks * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.token_dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(config, is_causal, is_modulated) for _ in range(config.num_hidden_layers)
        )
        self.head = FactorizedHead(config)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_heads = nn.ModuleList(
            CodeClassifier(config.hidden_size, config.codebook_size, bias=False) for _ in range(config.num_codebooks)
        )
        if "text" in config.conditions:
            self.text_condition = TextCondition(config)
        if "map" in config.conditions:
            self.map_condition = MapCondition(config)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.code_embedding

    def embed_codes(self, codes: torch.Tensor, first_codebook: int = 0) -> torch.Tensor:
        """Embeddings `(..., k, D)` of codes `(..., k)` of the codebooks `first_codebook, first_codebook + 1, ...`."""
        offsets = torch.arange(first_codebook, first_codebook + codes.shape[-1], device=codes.device)
        return self.code_embedding(codes + offsets * self.num_states)

    def embed_tokens(self, codes: torch.Tensor) -> torch.Tensor:
        """Input embeddings `(B, S, D)` of whole tokens `(B, S, K)`."""
        return self.aggregation(self.embed_codes(codes).flatten(-2))

    def embed_conditions(
        self,
        class_labels: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
        negative_text: torch.Tensor | None = None,
        negative_text_mask: torch.Tensor | None = None,
        map_codes: torch.Tensor | None = None,
    ) -> list[Condition]:
        """
        The conditions of the configuration, in its order; a subclass may make its own.

        Args:
            class_labels (`torch.LongTensor` of shape `(B,)`): In [0, num_classes]; num_classes is the null class.
            text (`torch.Tensor`): Token ids `(B, L)` where `text_vocab_size` is set, else states `(B, L, E)`.
            text_mask (`torch.BoolTensor` of shape `(B, L)`): False for padding, which comes first.
            negative_text, negative_text_mask: As these, in place of the learned null.
            map_codes (`torch.LongTensor` of shape `(B, P, Km)`): In [0, map_codebook_size).
        """
        conditions = []
        for name in self.config.conditions:
            if name == "class":
                conditions.append(class_condition(self.class_embedding, class_labels, self.config.null_class_id))
            elif name == "text":
                null, null_mask = self.text_condition.null(text.shape[1])
                if negative_text is not None:
                    null, null_mask = self.text_condition(negative_text, negative_text_mask), negative_text_mask
                embeddings = self.text_condition(text, text_mask)
                conditions.append(Condition(embeddings, null.to(embeddings.dtype), text_mask, null_mask))
            else:
                embeddings = self.map_condition(map_codes)
                null = self.map_condition.null_embedding.weight[None].expand(1, embeddings.shape[1], -1)
                places = self.map_condition.places(embeddings.device)
                conditions.append(Condition(embeddings, null, places=places))
        return conditions

    def conditions_of(
        self,
        inputs: dict[str, torch.Tensor | None],
        condition: Condition | Sequence[Condition] | None,
        batch_size: int | None,
    ) -> list[Condition]:
        """
        The conditions of a call.

        Args:
            inputs (`dict`): What `embed_conditions` takes, None for what is not given.
            condition (`Condition` or sequence of them, *optional*): In place of all inputs.
            batch_size (`int`, *optional*): B, where it is known.

        Raises:
            ValueError: Something is missing, superfluous or does not fit.
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        if condition is None:
            self.check_condition_inputs(batch_size, **given)
            return self.embed_conditions(**given)
        if given:
            raise ValueError(f"condition takes the place of {', '.join(given)}: only one of them can be given")
        return as_conditions(condition, self.config.hidden_size, batch_size)

    def check_condition_inputs(self, batch_size: int | None, **inputs: torch.Tensor | None) -> None:
        """
        Raise `ValueError` unless what `embed_conditions` takes is there and fits the configuration and each other.

        Args:
            batch_size (`int`, *optional*): B, where it is known.
            **inputs: As of `embed_conditions`.
        """
        config = self.config
        required = {"class": ("class_labels",), "text": ("text", "text_mask"), "map": ("map_codes",)}
        wanted = [name for condition in config.conditions for name in required[condition]]
        accepted = [*wanted, *(("negative_text", "negative_text_mask") if "text" in config.conditions else ())]
        given = [name for name, value in inputs.items() if value is not None]
        wrong = [name for name in given if name not in accepted]
        if wrong:
            raise ValueError(
                f"{wrong[0]} cannot be given: this generator was trained for {', '.join(config.conditions)}"
            )
        missing = [name for name in wanted if inputs.get(name) is None]
        if missing:
            raise ValueError(
                f"{' and '.join(missing)} must be given: this generator was trained for {', '.join(config.conditions)}"
            )
        batch_size = len(inputs[wanted[0]]) if batch_size is None else batch_size
        for name in given:
            self._check_input(name, inputs[name], batch_size)

    def _check_input(self, name: str, value: torch.Tensor, batch_size: int) -> None:
        shape, kind, limit = self._expected(name.removeprefix("negative_"), batch_size)
        kinds = {"int64 or int32": (torch.long, torch.int), "booleans": (torch.bool,)}
        if not (value.dtype in kinds[kind] if kind in kinds else value.is_floating_point()):
            raise ValueError(f"{name} must be {kind}, got {value.dtype}")
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
        # On a GPU to look would mean to wait for it; embeddings complain there by themselves.
        if limit is not None and value.is_cpu and value.numel() and not 0 <= value.min() <= value.max() < limit:
            raise ValueError(f"{name} must be in [0, {limit - 1}], got {value.min().item()} to {value.max().item()}")

    def _expected(self, name: str, batch_size: int) -> tuple[tuple[int, ...], str, int | None]:
        """Shape, dtype in words, and number of values of an input."""
        config, integers = self.config, "int64 or int32"
        if name == "class_labels":
            return (batch_size,), integers, config.num_classes + 1
        if name == "map_codes":
            shape = (batch_size, config.num_map_positions, config.map_num_codebooks)
            return shape, integers, config.map_codebook_size
        prompt = (batch_size, config.num_text_tokens)
        if name == "text_mask":
            return prompt, "booleans", None
        if config.text_vocab_size is not None:
            return prompt, integers, config.text_vocab_size
        return (*prompt, config.text_hidden_size), "of a floating point dtype", None
