# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Factorized visual tokenizers (FQGAN) and generators of their codes, autoregressive (FAR) or by diffusion."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.checkout import folders_beside
from fqgan_hf.hub.kinds import KINDS
from fqgan_hf.hub.registration import register_with_diffusers


__path__ += folders_beside(Path(__file__).parent)
__version__ = "0.1.0"

# Public names and the modules that define them, which are imported when a name is first used.
_MODULE_OF = {
    **{kind.class_name: kind.module for kind in KINDS},
    "CardInfo": "fqgan_hf.hub.card_info",
    "CodeDiffusionConfig": "fqgan_hf.modeling.configuration_code_diffusion",
    "FARConfig": "fqgan_hf.modeling.configuration_far",
    "SamplingSettings": "fqgan_hf.modeling.code_sampling",
    "collect_facts": "fqgan_hf.hub.facts",
    "convert_checkpoint": "fqgan_hf.conversion",
    "decode_to_folder": "fqgan_hf.codes.decode",
    "encode_images": "fqgan_hf.codes.encode",
    "export": "fqgan_hf.hub.export",
    "generate_images": "fqgan_hf.pipelines.inference",
    "load_metric": "fqgan_hf.evaluation.modules",
    "load_pipeline": "fqgan_hf.pipelines.inference",
    "load_text_encoder": "fqgan_hf.pipelines.prompts",
    "load_tokenizer": "fqgan_hf.pipelines.inference",
    "optimize": "fqgan_hf.kernels.optimization",
    "pull_folder": "fqgan_hf.hub.pull",
    "push_folder": "fqgan_hf.hub.publish",
    "push_space": "fqgan_hf.hub.space",
    "push_to_hub": "fqgan_hf.hub.push",
    "sample_to_folder": "fqgan_hf.pipelines.sample",
}

__all__ = sorted([*_MODULE_OF, "__version__"])

if TYPE_CHECKING:  # the same table for programs that read the source
    from fqgan_hf.codes.decode import decode_to_folder
    from fqgan_hf.codes.encode import encode_images
    from fqgan_hf.conversion import convert_checkpoint
    from fqgan_hf.evaluation.modules import load_metric
    from fqgan_hf.hub.card_info import CardInfo
    from fqgan_hf.hub.export import export
    from fqgan_hf.hub.facts import collect_facts
    from fqgan_hf.hub.publish import push_folder
    from fqgan_hf.hub.pull import pull_folder
    from fqgan_hf.hub.push import push_to_hub
    from fqgan_hf.hub.space import push_space
    from fqgan_hf.kernels.optimization import optimize
    from fqgan_hf.modeling.code_sampling import SamplingSettings
    from fqgan_hf.modeling.configuration_code_diffusion import CodeDiffusionConfig
    from fqgan_hf.modeling.configuration_far import FARConfig
    from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
    from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
    from fqgan_hf.modeling.modeling_far import FARForImageGeneration
    from fqgan_hf.modeling.modeling_fqgan import FQGANModel
    from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler
    from fqgan_hf.pipelines.inference import generate_images, load_pipeline, load_tokenizer
    from fqgan_hf.pipelines.pipeline_code_diffusion import CodeDiffusionPipeline
    from fqgan_hf.pipelines.pipeline_far import FARPipeline
    from fqgan_hf.pipelines.pipeline_fqgan import FQGANPipeline
    from fqgan_hf.pipelines.prompts import load_text_encoder
    from fqgan_hf.pipelines.sample import sample_to_folder


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Cheap: diffusers is not imported here, its tables are filled once it is.
register_with_diffusers()
