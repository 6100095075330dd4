# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The runs of `regvq`: a tokenizer, a store of its codes and a generator for each arm and seed."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.files import MANIFEST, write_json
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.processes import ScriptRunner
from fqgan_hf.training.ablation.regvq_arms import CONTRASTIVE_WEIGHT, REGVQ, in_order
from fqgan_hf.training.ablation.report_regvq import report_regvq
from fqgan_hf.training.ablation.runs import (
    Judge,
    Run,
    Stage,
    Table,
    common_settings,
    data_words,
    known_results,
    training_words,
)
from fqgan_hf.training.common.arguments import load_model_config, parse_arguments
from fqgan_hf.training.fqgan.loss_terms import PRIOR_WEIGHT
from fqgan_hf.training.train_far import TrainFARArguments
from fqgan_hf.training.train_fqgan import TrainFQGANArguments


if TYPE_CHECKING:
    from fqgan_hf.training.ablation.ablate import RegVQArguments


def run_regvq(args: "RegVQArguments", scripts: ScriptRunner, command: str) -> list[str]:
    """All arms. Returns the lines of the report."""
    folder = Path(args.output_dir) / "regvq"
    perceptual = args.perceptual_model or args.feature_extractor
    tokenizer_words = [*data_words(args), *training_words(args, args.tokenizer_config, 0, folder)]
    shared = parse_arguments(TrainFQGANArguments, tokenizer_words)
    generator_words = ["--codes_dir", str(folder), "--config", args.generator_config, "--output_dir", str(folder)]
    generator = parse_arguments(TrainFARArguments, generator_words)
    base = load_model_config(shared.model_config_name_or_path)
    settings = common_settings(args, args.tokenizer_config, shared)
    settings |= {
        "tokenizer": {name: value for name, value in base.items() if not name.startswith("_")},
        "prior_weight": PRIOR_WEIGHT,
        "contrastive_weight": CONTRASTIVE_WEIGHT,
        "perceptual_model": Path(perceptual).name,
        "perceptual_layers": shared.perceptual_layers,
        "perceptual_weight": shared.perceptual_weight,
        "generator": load_model_config(generator.model_config_name_or_path),
        "generator_preset": Path(args.generator_config).stem,
        "generator_steps": args.generator_steps or generator.max_train_steps,
        "generator_batch_size": generator.train_batch_size,
        "num_generated_images": args.num_generated_images,
        "guidance_scale": args.guidance_scale,
    }
    judge = Judge(args, shared.resolution or base["sample_size"])
    chosen = [name for name in args.arms or REGVQ if REGVQ[name].part in args.parts]

    runs = []
    for name, seed in in_order(chosen, args.seeds):
        arm, path = REGVQ[name], folder / f"{name}-seed{seed}"
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "model_config.json", {**base, **arm.config})
        words = [*data_words(args), *training_words(args, args.tokenizer_config, seed, path)]
        words += ["--model_config_name_or_path", str(path / "model_config.json")]
        words += ["--teachers", "none", "--perceptual_model", perceptual]
        for term, weight in arm.weights.items():
            words += [f"--{term}_weight", str(weight)]
        model, codes, far = path / "model", path / "codes", path / "far"
        stages = [Stage("train_fqgan", words, model / "config.json", settings["train_batch_size"])]
        if arm.generates:
            words = [*data_words(args), "--tokenizer", str(model), "--output_dir", str(codes), "--crop", "plain"]
            stages.append(Stage("extract_codes", words, codes / MANIFEST))
            words = ["--codes_dir", str(codes), "--tokenizer", str(model), "--config", args.generator_config]
            words += ["--seed", str(seed), "--output_dir", str(far), "--resume_from_checkpoint", "latest"]
            words += ["--max_train_steps", str(settings["generator_steps"])]
            stages.append(Stage("train_far", words, far / "config.json", settings["generator_batch_size"]))
        runs.append(Run(name, seed, path, stages, partial(_judge, judge, model, far if arm.generates else None, seed)))
    known = known_results(Path(args.results_dir or args.output_dir) / "regvq.json", settings)
    return Table(args, scripts, command, folder, list(REGVQ), settings, known).make(runs, report_regvq)


def _judge(judge: Judge, model: Path, far: Path | None, seed: int) -> dict[str, Any]:
    """Figures of a tokenizer's reconstructions, and of the samples of the generator on its codes."""
    metrics = judge.tokenizer(model)
    if far is None:
        return metrics
    figures = judge.samples(model, far, seed, SamplingSettings(guidance_scale=judge.args.guidance_scale))
    return {
        **metrics,
        "generation_frechet_distance": figures["frechet_distance"],
        "class_consistency": figures["class_consistency"],
        "generator_parameters": figures["parameters"],
    }
