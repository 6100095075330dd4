# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""SamplingSettings: one object that says how codes are sampled, checked once, the same wherever it goes."""

import dataclasses
import inspect

import pytest
import torch

from fqgan_hf import FARForImageGeneration, FARPipeline
from fqgan_hf.modeling.code_sampling import SamplingSettings, codebook_warpers


def test_settings_are_the_arguments_of_the_pipeline_and_of_generate():
    settings = SamplingSettings(guidance_scale=[2.0, 1.5], top_k=3, do_sample=False, guidance_interval=[0.25, 1])
    arguments = settings.arguments()
    assert SamplingSettings(**arguments) == settings
    assert arguments["guidance_scale"] == (2.0, 1.5) and arguments["top_k"] == 3
    call = inspect.signature(FARPipeline.__call__).parameters
    assert {name: call[name].default for name in arguments} == SamplingSettings().arguments()
    assert arguments.keys() <= inspect.signature(FARForImageGeneration.generate).parameters.keys()


def test_settings_neither_change_nor_depend_on_how_they_are_listed():
    scales = [2.0, 1.5]
    settings = SamplingSettings(guidance_scale=scales)
    scales[0] = 9.0
    assert settings == SamplingSettings(guidance_scale=torch.tensor([2.0, 1.5])) and hash(settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.top_k = 3
    with pytest.raises(TypeError):
        SamplingSettings(2.0)


def test_per_codebook_spreads_one_value_and_counts_several():
    spread = SamplingSettings(guidance_scale=[2.0, 1.5, 1.0], top_k=7).per_codebook(3)
    assert spread.guidance_scale == (2.0, 1.5, 1.0) and spread.top_k == (7, 7, 7) and spread.top_p == (1.0,) * 3
    assert spread.per_codebook(3) == spread
    with pytest.raises(ValueError, match=r"guidance_scale must be one value or 2 values \(one per codebook\)"):
        spread.per_codebook(2)


def test_warpers_without_effect_are_left_out():
    settings = SamplingSettings(temperature=[1.0, 0.5], top_k=[32, 5], top_p=[1.0, 0.9]).per_codebook(2)
    assert [len(warper) for warper in codebook_warpers(settings, codebook_size=32)] == [0, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": -1}, "guidance_scale must be one value or one per codebook, at least 0, got -1"),
        ({"guidance_scale": [1.0, float("inf")]}, "guidance_scale must be"),
        ({"temperature": [1.0, 0.0]}, r"temperature must be .* above 0, got \[1.0, 0.0\]"),
        ({"top_k": True}, "top_k must be .* integers >= 0, got True"),
        ({"top_p": ()}, r"top_p must be .* in \(0, 1\], got \(\)"),
        ({"do_sample": None}, "do_sample must be True or False, got None"),
        ({"guidance_schedule": "cosine"}, "guidance_schedule must be one of .* got 'cosine'"),
        ({"guidance_power": float("nan")}, "guidance_power must be above 0, got nan"),
        ({"guidance_interval": (0.0, 0.5, 1.0)}, "guidance_interval must be"),
        ({"guidance_interval": (0.0, "1")}, "guidance_interval must be"),
    ],
)
def test_what_is_wrong_for_any_number_of_codebooks_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**settings)
