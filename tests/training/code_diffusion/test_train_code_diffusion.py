# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The discrete diffusion generator's script: what it learns, resumes, saves and refuses."""

import itertools
import json
import shutil

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer

from fqgan_hf import CodeDiffusionPipeline, FQGANImageProcessor
from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.modeling.code_sampling import SamplingSettings, plan_sampling
from fqgan_hf.modeling.conditioning import join_conditions
from fqgan_hf.modeling.configuration_code_diffusion import CodeDiffusionConfig
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler
from fqgan_hf.pipelines.pipeline_code_diffusion import Denoising
from fqgan_hf.training.code_diffusion.model import trainable_code_diffusion
from fqgan_hf.training.train_code_diffusion import TrainCodeDiffusionArguments, check
from fqgan_hf.training.train_code_diffusion import main as train_code_diffusion

from ..common.test_checkpointing import checkpoint_hashes
from ..condition_data import (
    CAPTIONS,
    codes_of_captions,
    codes_of_maps,
    draw_maps,
    make_tokenizer,
    write_captioned,
    write_mapped,
)
from ..test_scripts import launch


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return folder, make_tokenizer(folder)


@pytest.fixture(scope="module")
def captioned(tokenizer, tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("captioned"), tokenizer[1])


@pytest.fixture(scope="module")
def mapped(tokenizer, tmp_path_factory):
    return write_mapped(tmp_path_factory.mktemp("mapped"), tokenizer[1])


@pytest.fixture
def words(generator_config, cache_dir, to_command, tmp_path):
    """Command line of a training in a folder under `tmp_path`."""

    def make(codes_dir, name="out", *more, **changes):
        options = {
            "codes_dir": codes_dir, "output_dir": tmp_path / name, "cache_dir": cache_dir, "train_batch_size": 16,
            "model_config_name_or_path": generator_config, "learning_rate": 3e-3, "lr_warmup_steps": 0,
            "num_train_timesteps": 8, "logging_steps": 10, "validation_fraction": 0.25, "validation_steps": 1000,
            **changes,
        }  # fmt: skip
        return [*to_command(options), *more]

    return make


# ---- What is learned ------------------------------------------------------------------------------------------------


def test_captions_are_learned(words, captioned, tokenizer, read_metrics, tmp_path, capsys):
    """The codes of each caption, by the likeliest codes, through a pipeline of what was saved; pictures on the way."""
    more = ("--conditions", "text", "--train_text_encoder", "--num_text_tokens", "7")
    options = {"max_train_steps": 160, "sample_steps": 160, "tokenizer": tokenizer[0], "ema_decay": 0.9}
    train_code_diffusion(words(captioned, "out", *more, **options))
    assert "factorized head of 1, 8 steps of mask-uniform; captions of 7 tokens of a vocab" in capsys.readouterr().out
    records = read_metrics(tmp_path / "out")
    losses = [record["loss/total"] for record in records if "loss/total" in record]
    assert losses[0] > 2 and losses[-1] < 0.7 * losses[0]
    assert {"loss/0", "loss/1", "loss/auxiliary"} <= set(records[0])
    assert records[-1]["validation/loss"] < 0.3
    assert Image.open(tmp_path / "out" / "samples" / "step-00000160.png").width > 4 * 96

    generator = CodeDiffusionTransformer.from_pretrained(tmp_path / "out").eval()
    pipe = CodeDiffusionPipeline(
        tokenizer[1], generator, CodeDiffusionScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler"),
        FQGANImageProcessor(), tokenizer=AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer"),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    options = {"guidance_scale": 1.0, "do_sample": False, "generator": torch.Generator().manual_seed(0)}
    found = pipe(prompt=[f"{caption}." for caption in CAPTIONS], output_type="codes", **options)
    assert torch.equal(found.images, codes_of_captions())


@pytest.mark.slow
def test_maps_are_learned(words, mapped, read_metrics, tmp_path):
    """Cell by cell."""
    more = ("--conditions", "map", "--transition", "absorbing")
    train_code_diffusion(words(mapped, "out", *more, max_train_steps=200, train_batch_size=32))
    assert read_metrics(tmp_path / "out")[-1]["validation/loss"] < 0.3
    model, maps = CodeDiffusionTransformer.from_pretrained(tmp_path / "out").eval(), draw_maps(8, seed=1)
    codes = torch.full((8, 4, 2), model.mask_code)
    expected = grid_to_sequence(codes_of_maps(maps))
    logits = model(codes, torch.full((8,), 8), expected, map_codes=grid_to_sequence(maps)).logits
    assert (logits.argmax(-1) == expected).float().mean() > 0.95


V = 3
OUTCOMES = torch.tensor(list(itertools.product(range(V), repeat=2)))  # of two codes


def total_variation(codes: torch.Tensor, probs: torch.Tensor) -> float:
    counts = (codes[:, 0] * V + codes[:, 1]).bincount(minlength=len(OUTCOMES))
    return (counts / len(codes) - probs).abs().sum().item() / 2


@torch.no_grad()
def draw(model: CodeDiffusionTransformer, scheduler: CodeDiffusionScheduler, label: int, number: int) -> torch.Tensor:
    """Codes `(number, T, K)` of a class by all steps."""
    generator, config = torch.Generator().manual_seed(label), model.eval().config
    prefix = join_conditions(model.embed_conditions(torch.full((number,), label)), [True])
    plan = plan_sampling(SamplingSettings(guidance_scale=1.0), config, number, generator, torch.device("cpu"))
    scheduler.set_timesteps(config.num_train_timesteps)
    codes = scheduler.initial_codes((number, config.num_positions, config.num_codebooks), generator)
    steps = Denoising(model, scheduler, plan, prefix, (config.grid_height, config.grid_width), None, do_sample=True)
    for index, timestep in enumerate(scheduler.timesteps):
        codes, _ = steps.step(index, timestep, codes, generator)
    return codes


def learn(settings: dict, chain: dict, probs: torch.Tensor, steps: int) -> tuple:
    """A generator of two codes trained on draws from a distribution for each class, `(classes, V * V)`."""
    torch.manual_seed(0)
    settings = {**tiny.BACKBONE, "num_hidden_layers": 1, "num_classes": len(probs), "class_dropout": 0.0, **settings}
    dropouts = dict.fromkeys(("token_dropout", "residual_dropout", "ffn_dropout"), 0.0)
    config = CodeDiffusionConfig(**settings, **dropouts, codebook_size=V, num_train_timesteps=8)
    scheduler = CodeDiffusionScheduler(V, 8, **chain)
    generator = trainable_code_diffusion(CodeDiffusionTransformer(config).train(), scheduler)
    optimizer = torch.optim.AdamW(generator.model.parameters(), lr=3e-3, betas=(0.9, 0.96))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        labels = torch.randint(len(probs), (64,))
        codes = OUTCOMES[torch.multinomial(probs[labels], 1)[:, 0]].view(
            -1, config.num_positions, config.num_codebooks
        )
        output = generator.training_loss(generator.model, codes, {"class_labels": labels})
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return generator, scheduler


def skewed(num_classes: int) -> torch.Tensor:
    """Distributions of two codes, `(classes, V * V)`, far from products and from each other."""
    return torch.distributions.Dirichlet(torch.full((len(OUTCOMES),), 0.5)).sample((num_classes,))


def test_a_distribution_is_learned_and_sampled_back():
    """Two codes of one position, which the factorized head draws together: total variation below 0.1."""
    torch.manual_seed(1)
    probs = skewed(2)
    assert (probs[0] - probs[1]).abs().sum() / 2 > 0.4
    settings = {"grid_height": 1, "grid_width": 1, "num_codebooks": 2, "head_type": "ar"}
    generator, scheduler = learn(settings, {"transition": "absorbing"}, probs, steps=220)
    for label in (0, 1):
        codes = draw(generator.model, scheduler, label, 2000)
        assert total_variation(codes[:, 0], probs[label]) < 0.1
    # The bound on the same distribution is not below its entropy, and near it.
    codes = OUTCOMES[torch.multinomial(probs[0], 600, replacement=True)][:, None]
    inputs = {"class_labels": torch.zeros(600, dtype=torch.long)}
    with torch.no_grad():
        bound = generator.held_out_losses(generator.model, codes, inputs, torch.arange(600)).sum(1).mean().item()
    entropy = -torch.xlogy(probs[0], probs[0]).sum().item()
    assert entropy - 0.1 < bound < entropy + 0.25


@pytest.mark.slow
@pytest.mark.parametrize("chain", [{"transition": "absorbing"}, {"gamma_cum_end": 0.9}], ids=str)
def test_distributions_over_positions_and_codebooks(chain):
    """Codes of two positions, or of one without the head: drawn independently in each step, over which they settle."""
    torch.manual_seed(1)
    probs = skewed(1)
    for settings in (
        {"grid_height": 1, "grid_width": 2, "num_codebooks": 1},
        {"grid_height": 1, "grid_width": 1, "num_codebooks": 2, "head_type": "linear"},
        {"grid_height": 1, "grid_width": 1, "num_codebooks": 2, "head_type": "ar"},
    ):
        generator, scheduler = learn(settings, chain, probs, steps=300)
        codes = draw(generator.model, scheduler, 0, 4000).flatten(1)
        # Eight steps reveal both codes at once in one image of eight, for which a product is drawn.
        assert total_variation(codes, probs[0]) < 0.14, settings


# ---- Training loss --------------------------------------------------------------------------------------------------


def test_times_are_drawn_where_the_loss_is():
    """The sampler hears of every batch, and a loss that is no number does not reach it."""
    settings = {**tiny.GENERATOR, "num_train_timesteps": 4}
    model = CodeDiffusionTransformer(CodeDiffusionConfig(**settings)).train()
    generator = trainable_code_diffusion(model, CodeDiffusionScheduler(32, 4))
    codes, inputs = torch.randint(32, (40, 16, 2)), {"class_labels": torch.zeros(40, dtype=torch.long)}
    (sampler,) = generator.stateful
    for _ in range(3):
        generator.training_loss(model, codes, inputs)
    assert sampler.counts.sum() == 120 and (sampler.probabilities() != 0.25).all()
    # With weights the mean of the loss is that of uniform times.
    weighted, plain = [], []
    with torch.no_grad():
        for _ in range(30):
            weighted.append(generator.training_loss(model, codes, inputs).codebook_losses)
            sampler.counts.zero_()  # uniform again
            plain.append(generator.training_loss(model, codes, inputs).codebook_losses)
            sampler.counts.fill_(10)
    torch.testing.assert_close(torch.stack(weighted).mean(), torch.stack(plain).mean(), rtol=0.1, atol=0)
    model.lm_heads[0].weight.data[0] = torch.nan
    before = sampler.state_dict()
    assert not generator.training_loss(model, codes, inputs).loss.isfinite()
    assert torch.equal(sampler.counts, before["counts"]) and sampler.mean_squares.isfinite().all()


# ---- The script -----------------------------------------------------------------------------------------------------


def test_resume_is_bit_exact(words, captioned, tmp_path):
    """With the times that importance sampling draws: two of them, so that it has begun by then."""
    options = {"num_train_timesteps": 2, "max_train_steps": 6, "checkpointing_steps": 3, "validation_fraction": 0}
    train_code_diffusion(words(captioned, "whole", **options))
    state = torch.load(tmp_path / "whole" / "checkpoint-3" / "custom_checkpoint_0.pkl", weights_only=True)
    assert state["counts"].sum() == 48 and state["counts"].min() >= 10
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    options |= {"resume_from_checkpoint": "latest", "dataloader_num_workers": 1}
    train_code_diffusion(words(captioned, "resumed", **options))
    whole, resumed = (tmp_path / name for name in ("whole", "resumed"))
    assert checkpoint_hashes(whole / "checkpoint-6") == checkpoint_hashes(resumed / "checkpoint-6")
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    averaged = load_file(whole / "checkpoint-6" / "ema.safetensors")
    model = CodeDiffusionTransformer.from_pretrained(whole)
    assert all(torch.equal(parameter, averaged[str(i)]) for i, parameter in enumerate(model.parameters()))
    for change, message in (
        ({"transition": "absorbing"}, "transition of the model was 'mask-uniform' and is now 'absorbing'"),
        ({"gamma_cum_end": 0.9}, "gamma_cum_end of the model was 0.99999 and is now 0.9"),
        ({"time_conditioning": "none"}, "time_conditioning of the model was 'adaln' and is now 'none'"),
        ({"num_train_timesteps": 3}, "num_train_timesteps of the model was 2 and is now 3"),
    ):
        with pytest.raises(ValueError, match=message):
            train_code_diffusion(words(captioned, "resumed", **{**options, "max_train_steps": 9, **change}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"head": "linear", "time_conditioning": "none", "transition": "absorbing"},
        {"head": "mlp", "mixed_precision": "bf16", "gamma_cum_end": 0.9, "gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True, "validation_steps": 1},
        {"compile": True, "head": "linear", "time_conditioning": "none"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_options_train(changes, words, captioned, read_metrics, tmp_path):
    flags = [f"--{name}" for name, value in changes.items() if value is True]
    changes = {name: value for name, value in changes.items() if value is not True}
    options = {"max_train_steps": 3, "logging_steps": 1, "train_batch_size": 8, **changes}
    train_code_diffusion(words(captioned, "out", *flags, **options))
    records = read_metrics(tmp_path / "out")
    losses = [record["loss/total"] for record in records if "loss/total" in record]
    assert len(losses) == 3 and losses[2] < losses[0]
    assert records[-1]["validation/loss"] > 0
    config = CodeDiffusionTransformer.from_pretrained(tmp_path / "out").config
    assert config.head_type == changes.get("head", "ar")
    assert config.time_conditioning == changes.get("time_conditioning", "adaln")
    scheduler = CodeDiffusionScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler")
    assert scheduler.config.transition == changes.get("transition", "mask-uniform")
    assert scheduler.config.gamma_cum_end == changes.get("gamma_cum_end", 0.99999)


@pytest.mark.slow
def test_recomputing_changes_nothing(words, captioned, tmp_path):
    for name, more in (("plain", ()), ("recomputed", ("--gradient_checkpointing",))):
        train_code_diffusion(words(captioned, name, *more, max_train_steps=3))
    plain, recomputed = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "recomputed"))
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_pretrained_generator_keeps_its_chain(words, captioned, tmp_path):
    train_code_diffusion(words(captioned, "first", max_train_steps=1, gamma_cum_end=0.9))
    options = {"model_config_name_or_path": None, "pretrained_model_name_or_path": tmp_path / "first"}
    options |= {"max_train_steps": 1, "num_train_timesteps": None, "auxiliary_weight": 0.25}
    train_code_diffusion(words(captioned, "second", **options))
    scheduler = json.loads((tmp_path / "second" / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["gamma_cum_end"], scheduler["auxiliary_weight"]) == (0.9, 0.25)
    with pytest.raises(ValueError, match="num_train_timesteps must be that of the pretrained model, 8, got 9"):
        train_code_diffusion(words(captioned, "third", **{**options, "num_train_timesteps": 9}))
    shutil.rmtree(tmp_path / "first" / "scheduler")
    with pytest.raises(ValueError, match="cannot be loaded as CodeDiffusionScheduler"):
        train_code_diffusion(words(captioned, "third", **options))


@pytest.mark.slow
def test_two_processes_share_what_they_see(words, captioned, tmp_path, generator_config):
    """Two gloo ranks, a text encoder of the generator's own and no dropped captions: the sampler counts the images of
    both, and a resumed run equals an uninterrupted one."""
    config = {**json.loads(generator_config.read_text()), "class_dropout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    more = ("--conditions", "text", "--train_text_encoder", "--num_text_tokens", "7")
    options = {
        "model_config_name_or_path": tmp_path / "config.json", "train_batch_size": 8, "num_train_timesteps": 2,
        "max_train_steps": 6, "checkpointing_steps": 3, "validation_steps": 3,
    }  # fmt: skip
    launch(words(captioned, "whole", *more, **options), 2, "train_code_diffusion")
    state = torch.load(tmp_path / "whole" / "checkpoint-3" / "custom_checkpoint_0.pkl", weights_only=True)
    assert state["counts"].sum() == 2 * 8 * 3
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    launch(words(captioned, "resumed", *more, resume_from_checkpoint="latest", **options), 2, "train_code_diffusion")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma_cum_end": 0.9, "transition": "absorbing"}, "gamma_cum_end needs --transition mask-uniform"),
        ({"gamma_cum_end": 1.5}, r"gamma_cum_end must be in \(0, 1\), got 1.5"),
        ({"num_train_timesteps": 0}, "num_train_timesteps must be at least 1, got 0"),
        ({"auxiliary_weight": -1}, "auxiliary_weight must be at least 0, got -1"),
        ({"conditions": ["text"]}, "the condition text needs --text_encoder or --train_text_encoder"),
        ({"conditions": ["map"]}, "has no maps: extract_codes stores them"),
    ],
)
def test_what_is_refused(changes, message, captioned, tmp_path):
    with pytest.raises(ValueError, match=message):
        check(TrainCodeDiffusionArguments(output_dir=str(tmp_path), codes_dir=str(captioned), **changes))
