# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The discrete diffusion generator as the training loop trains it: model, scheduler, losses, pipeline.

Shapes: B batch, T positions, K codebooks, V codebook size.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from fqgan_hf.modeling.code_diffusion_training import TimestepSampler
from fqgan_hf.modeling.configuration_code_diffusion import CodeDiffusionConfig
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler
from fqgan_hf.pipelines.pipeline_code_diffusion import CodeDiffusionPipeline
from fqgan_hf.pretrained import load_pretrained
from fqgan_hf.training.code_diffusion.losses import CodeDiffusionTrainingLoss
from fqgan_hf.training.code_diffusion.validation import held_out_bound
from fqgan_hf.training.far.building import PRETRAINED, build_generator, describe_architecture
from fqgan_hf.training.far.conditions import GeneratorConditions, empty_inputs
from fqgan_hf.training.far.trainable import TrainableGenerator


if TYPE_CHECKING:
    from fqgan_hf.training.far.generator_data import GeneratorData
    from fqgan_hf.training.train_code_diffusion import TrainCodeDiffusionArguments

SCHEDULER_FOLDER = "scheduler"  # beside the model, as in its pipeline
# Of the scheduler what is of the chain, and must stay where a run is resumed; the rest is of the loss and of sampling.
CHAIN = ("transition", "alpha_cum_start", "alpha_cum_end", "gamma_cum_start", "gamma_cum_end")


def build_code_diffusion(args: "TrainCodeDiffusionArguments", data: "GeneratorData") -> TrainableGenerator:
    """
    A discrete diffusion generator for these codes, pretrained or new; see `build_generator`.

    Args:
        args (`TrainCodeDiffusionArguments`): The run's.
        data (`GeneratorData`): The codes.

    Raises:
        ValueError: The model is not one for these codes, or cannot be built.
    """
    overrides = {
        "head": ("head_type", args.head),
        "time_conditioning": ("time_conditioning", args.time_conditioning),
        "num_train_timesteps": ("num_train_timesteps", args.num_train_timesteps),
    }
    model, conditions = build_generator(CodeDiffusionTransformer, args, data, overrides)
    return trainable_code_diffusion(model, build_scheduler(args, model.config), conditions)


def build_scheduler(args: "TrainCodeDiffusionArguments", config: CodeDiffusionConfig) -> CodeDiffusionScheduler:
    """
    The scheduler of a model, with the options' settings before those of a pretrained one.

    Raises:
        ValueError: The pretrained model has no scheduler beside it, or no chain has these settings.
    """
    settings = {}
    if args.pretrained_model_name_or_path is not None:
        pretrained = load_pretrained(
            CodeDiffusionScheduler, args.pretrained_model_name_or_path, PRETRAINED, subfolder=SCHEDULER_FOLDER
        )
        settings = dict(pretrained.config)
    chosen = {"transition": args.transition, "gamma_cum_end": args.gamma_cum_end}
    settings |= {name: value for name, value in chosen.items() if value is not None}
    settings |= {
        "codebook_size": config.codebook_size,
        "num_train_timesteps": config.num_train_timesteps,
        "auxiliary_weight": args.auxiliary_weight,
    }
    return CodeDiffusionScheduler.from_config(settings)


def trainable_code_diffusion(
    model: CodeDiffusionTransformer, scheduler: CodeDiffusionScheduler, conditions: GeneratorConditions | None = None
) -> TrainableGenerator:
    """A model and its scheduler with what the training loop asks of them."""
    conditions = conditions or GeneratorConditions()
    config = model.config
    sampler = TimestepSampler(config.num_train_timesteps)
    codes = torch.zeros(1, config.num_positions, config.num_codebooks, dtype=torch.long)
    time = "" if config.time_conditioning == "adaln" else ", which is not told the time"
    return TrainableGenerator(
        model,
        f"{describe_architecture(model)}{time}, {config.num_train_timesteps} steps of {scheduler.config.transition}",
        CodeDiffusionTrainingLoss(scheduler, sampler),
        partial(held_out_bound, scheduler),
        partial(build_pipeline, scheduler),
        {**empty_inputs(config), "codes": codes, "clean_codes": codes, "timesteps": torch.ones(1, dtype=torch.long)},
        conditions,
        saved_parts={SCHEDULER_FOLDER: scheduler, **conditions.saved_parts},
        stateful=[sampler],
        settings={name: scheduler.config[name] for name in CHAIN},
    )


def build_pipeline(
    scheduler: CodeDiffusionScheduler, vqmodel: FQGANModel, model: CodeDiffusionTransformer, parts: dict[str, Any]
) -> CodeDiffusionPipeline:
    """The pipeline that shows what the generator makes; `parts` are optional components by name."""
    return CodeDiffusionPipeline(
        vqmodel=vqmodel, transformer=model, scheduler=scheduler, image_processor=FQGANImageProcessor(), **parts
    )
