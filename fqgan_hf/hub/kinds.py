# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The kinds of object that we publish: one table, which everything that treats kinds differently reads.

    KINDS                       every row
    kind_of(model)              the row of an object
    kind_named("FQGANModel")    the row of a name, as configurations have it

A new kind is one row here, one line under TYPE_CHECKING in `fqgan_hf/__init__.py`, and one card in `model_cards/`.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """
    One of our classes, as folders and the libraries that read them know it.

    Args:
        class_name (`str`): Name of the class, by which every configuration tells what it configures.
        module (`str`): Where the class is defined.
        role (`str`): What it does: "tokenizer", "generator", "scheduler", "image processor" or "pipeline".
        config_file (`str`): The file of its own folder that tells the kind.
        auto_class (`str`, *optional*): The libraries' class that loads it by its code files. Pipelines have none.
        config_class (`str`, *optional*):
            "file.Class" of its configuration, where that is a class of its own (transformers); elsewhere the model's
            `__init__` says what can be configured (diffusers).
        model_type (`str`, *optional*): How transformers' `config.json` names the kind.
        weights_stem (`str`, *optional*): What the names of its weight files begin with.
        card (`str`, *optional*): Template of its model card, in `model_cards/`.
        components (`Mapping[str, str]`, *optional*): A pipeline's subfolders, with the names of their classes.
        optional (`Mapping[str, str]`, *optional*): Those that may be missing; of a library's classes "".
    """

    class_name: str
    module: str
    role: str
    config_file: str = "config.json"
    auto_class: str | None = None
    config_class: str | None = None
    model_type: str | None = None
    weights_stem: str | None = None
    card: str | None = None
    components: Mapping[str, str] = field(default_factory=dict, hash=False)
    optional: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return self.class_name

    @property
    def code_name(self) -> str:
        """Name of the file in `modeling/` that goes to the Hub beside the weights, without its suffix."""
        return self.module.rpartition(".")[2]

    @property
    def auto_map(self) -> dict[str, str]:
        """What `auto_map` in the configuration says: which class of which code file an auto class loads."""
        config = {"AutoConfig": self.config_class} if self.config_class else {}
        return {**config, self.auto_class: f"{self.code_name}.{self.class_name}"}

    @property
    def generates(self) -> bool:
        """Whether it makes images of nothing but a condition: a generator, or a pipeline that has one."""
        return self.role == "generator" or any(kind_named(name).generates for name in self.components.values())

    def load_class(self) -> type:
        """The class itself, which its libraries are imported for."""
        return getattr(importlib.import_module(self.module), self.class_name)

    def parts(self, obj: Any) -> list[tuple[str, "ModelKind", Any]]:
        """What an object of ours is saved as: subfolder, "" for the folder itself, kind and object of each part."""
        if self.role != "pipeline":
            return [("", self, obj)]
        parts = [(name, _BY_NAME.get(type(part).__name__), part) for name, part in obj.components.items()]
        return [(name, kind, part) for name, kind, part in parts if kind is not None]  # others are the libraries'


# What pipelines of generators may have besides what they need: text tokenizer and encoder, and a tokenizer of maps.
CONDITIONING = {"tokenizer": "", "text_encoder": "", "map_vqmodel": "FQGANModel"}

KINDS = (
    ModelKind(
        class_name="FQGANModel",
        module="fqgan_hf.modeling.modeling_fqgan",
        role="tokenizer",
        auto_class="AutoModel",
        weights_stem="diffusion_pytorch_model",
        card="fqgan.md",
    ),
    ModelKind(
        class_name="FARForImageGeneration",
        module="fqgan_hf.modeling.modeling_far",
        role="generator",
        auto_class="AutoModel",
        config_class="configuration_far.FARConfig",
        model_type="far",
        weights_stem="model",
        card="far.md",
    ),
    ModelKind(
        class_name="CodeDiffusionTransformer",
        module="fqgan_hf.modeling.modeling_code_diffusion",
        role="generator",
        auto_class="AutoModel",
        config_class="configuration_code_diffusion.CodeDiffusionConfig",
        model_type="code_diffusion",
        weights_stem="model",
        card="code_diffusion.md",
    ),
    ModelKind(
        class_name="CodeDiffusionScheduler",
        module="fqgan_hf.modeling.scheduling_code_diffusion",
        role="scheduler",
        config_file="scheduler_config.json",
    ),
    ModelKind(
        class_name="FQGANImageProcessor",
        module="fqgan_hf.modeling.image_processing_fqgan",
        role="image processor",
        config_file="preprocessor_config.json",
        auto_class="AutoImageProcessor",
    ),
    ModelKind(
        class_name="FARPipeline",
        module="fqgan_hf.pipelines.pipeline_far",
        role="pipeline",
        config_file="model_index.json",
        card="far_pipeline.md",
        components={
            "vqmodel": "FQGANModel",
            "transformer": "FARForImageGeneration",
            "image_processor": "FQGANImageProcessor",
        },
        optional=CONDITIONING,
    ),
    ModelKind(
        class_name="CodeDiffusionPipeline",
        module="fqgan_hf.pipelines.pipeline_code_diffusion",
        role="pipeline",
        config_file="model_index.json",
        card="code_diffusion_pipeline.md",
        components={
            "vqmodel": "FQGANModel",
            "transformer": "CodeDiffusionTransformer",
            "scheduler": "CodeDiffusionScheduler",
            "image_processor": "FQGANImageProcessor",
        },
        optional=CONDITIONING,
    ),
    ModelKind(
        class_name="FQGANPipeline",
        module="fqgan_hf.pipelines.pipeline_fqgan",
        role="pipeline",
        config_file="model_index.json",
        card="fqgan_pipeline.md",
        components={"vqmodel": "FQGANModel", "image_processor": "FQGANImageProcessor"},
    ),
)

_BY_NAME = {kind.class_name: kind for kind in KINDS}


def kind_named(class_name: str) -> ModelKind:
    """The row of a class's name; raises `KeyError` for a name that is none of ours."""
    return _BY_NAME[class_name]


def kind_of(obj: Any) -> ModelKind:
    """
    The row of an object that can be published.

    Told by the class's name: a model that came as remote code has a class of its own, and no other has these names.

    Raises:
        ValueError: It has no card, so it cannot be published by itself.
    """
    kind = _BY_NAME.get(type(obj).__name__)
    if kind is None or kind.card is None:
        names = ", ".join(kind.class_name for kind in KINDS if kind.card)
        raise ValueError(f"only {names} can be exported, got {type(obj).__name__}")
    return kind


def kind_in_config(config: Mapping[str, Any]) -> ModelKind | None:
    """
    The row that the content of a `config.json` or `model_index.json` names, None for what is none of ours.

    Args:
        config (`Mapping`): With transformers' `model_type`, or with the `_class_name` that diffusers writes.
    """
    name = config.get("_class_name")
    if isinstance(name, list) and name:  # ["file", "class"] where the folder carries its own code
        name = name[-1]
    named = _BY_NAME.get(name) if isinstance(name, str) else None
    model_type = config.get("model_type")
    return next((kind for kind in KINDS if kind.model_type and kind.model_type == model_type), named)
