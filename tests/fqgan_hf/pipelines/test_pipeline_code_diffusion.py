# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""CodeDiffusionPipeline: its loop against the scheduler's own steps, with tiny random models."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fqgan_hf import CodeDiffusionPipeline, CodeDiffusionScheduler


SAMPLINGS = pytest.mark.parametrize("sampling", ["ancestral", "purity", "confidence"])


def make_pipeline(num_codebooks=2, sampling="ancestral", transition="mask-uniform", **settings):
    torch.manual_seed(num_codebooks)
    scheduler_settings = {"sampling": sampling, "transition": transition}
    return tiny.conditional_pipeline(
        "class", kind="diffusion", num_codebooks=num_codebooks, scheduler_settings=scheduler_settings, **settings
    )


@pytest.fixture
def pipe():
    return make_pipeline()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def codes_of(pipe, labels=(1, 2), **arguments):
    return pipe(list(labels), output_type="codes", **{"generator": seeded(), **arguments}).images


class TestOutputs:
    @pytest.mark.parametrize("num_codebooks", [1, 3])
    def test_every_output_type_shows_the_same_image(self, num_codebooks):
        pipe = make_pipeline(num_codebooks)
        codes = codes_of(pipe)
        assert codes.shape == (2, num_codebooks, 4, 4) and codes.dtype == torch.long
        assert codes.min() >= 0 and codes.max() < 32
        with torch.no_grad():
            expected = (pipe.vqmodel.decode_codes(codes).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(pipe([1, 2], output_type="pt", generator=seeded()).images, expected)
        array = pipe([1, 2], output_type="np", generator=seeded()).images
        np.testing.assert_allclose(array, expected.permute(0, 2, 3, 1).numpy(), atol=1e-6)
        (images,) = pipe([1, 2], generator=seeded(), return_dict=False)
        assert all(isinstance(image, Image.Image) and image.size == (16, 16) for image in images)

    def test_bfloat16(self, pipe):
        assert pipe.to(torch.bfloat16)([1, 2], output_type="np").images.shape == (2, 16, 16, 3)


class TestSampling:
    @SAMPLINGS
    @pytest.mark.parametrize("transition", ["mask-uniform", "absorbing"])
    @pytest.mark.parametrize("scale", [1.0, 3.0])
    def test_the_loop_is_that_of_the_scheduler(self, sampling, transition, scale):
        """With independent heads all of log p(x_0) can be written down, guided, and handed to `scheduler.step`."""
        pipe = make_pipeline(2, sampling, transition, head_type="linear")
        codes = codes_of(pipe, guidance_scale=scale, num_inference_steps=4, temperature=1.5, top_k=[0, 5])
        model, scheduler, generator = pipe.transformer, pipe.scheduler, seeded()
        labels, nulls = torch.tensor([1, 2]), torch.tensor([10, 10])
        x = scheduler.initial_codes((2, 16, 2), generator)
        for timestep in scheduler.timesteps:
            with torch.no_grad():
                with_class, without = (model(x, timestep.expand(2), class_labels=y).logits for y in (labels, nulls))
            logits = (without + scale * (with_class - without)) / 1.5
            least = logits[:, :, 1].topk(5).values[..., -1:]
            logits[:, :, 1] = logits[:, :, 1].masked_fill(logits[:, :, 1] < least, -torch.inf)
            x = scheduler.step(logits.log_softmax(-1), timestep, x, generator).prev_sample
        assert torch.equal(codes.flatten(2).transpose(1, 2), x)

    def test_same_call_same_codes(self, pipe):
        assert torch.equal(codes_of(pipe), codes_of(pipe))
        assert not torch.equal(codes_of(pipe), codes_of(pipe, generator=seeded(1)))

    @SAMPLINGS
    def test_an_image_depends_on_its_own_generator_only(self, sampling):
        pipe = make_pipeline(2, sampling)
        generators = [seeded(i) for i in range(4)]
        codes = codes_of(pipe, num_images_per_label=2, generator=generators)
        for i, label in enumerate([1, 1, 2, 2]):
            assert torch.equal(codes[i], codes_of(pipe, [label], generator=[seeded(i)])[0]), i

    def test_settings_reach_the_network(self, pipe):
        base = codes_of(pipe)
        for changed in (
            {"guidance_scale": 6.0},
            {"guidance_scale": [2.0, 6.0]},
            {"temperature": 3.0},
            {"top_k": [0, 2]},
            {"top_p": 0.2},
            {"guidance_scale": 6.0, "guidance_schedule": "linear"},
            {"guidance_scale": 6.0, "guidance_interval": (0.5, 1.0)},
            {"num_inference_steps": 3},
            {"do_sample": False},
        ):
            assert not torch.equal(base, codes_of(pipe, **changed)), changed
        assert torch.equal(base, codes_of(pipe, num_inference_steps=10, guidance_scale=[2.0, 2.0])), "the defaults"

    @SAMPLINGS
    def test_the_likeliest_codes(self, sampling):
        """In a single step everything is what the network takes for likeliest: one codebook after another."""
        pipe = make_pipeline(2, sampling, "absorbing")
        codes = codes_of(pipe, do_sample=False, num_inference_steps=1, guidance_scale=1.0)
        x = codes.flatten(2).transpose(1, 2)
        masks = torch.full_like(x, 32)
        with torch.no_grad():
            logits = pipe.transformer(masks, torch.tensor([10, 10]), x, class_labels=torch.tensor([1, 2])).logits
        assert torch.equal(logits.argmax(-1), x)

    @pytest.mark.parametrize(("scale", "interval", "rows"), [(1.0, (0, 1), [2] * 4), (3.0, (0, 0.5), [4, 4, 2, 2])])
    def test_a_step_is_one_pass_of_the_network(self, pipe, scale, interval, rows):
        seen = []
        pipe.transformer.layers[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        embedded = []
        pipe.transformer.class_embedding.register_forward_pre_hook(lambda *_: embedded.append(1))
        codes_of(pipe, num_inference_steps=4, guidance_scale=scale, guidance_interval=interval)
        assert seen == rows
        assert len(embedded) == 2, "class and null, once per call"


class TestCallback:
    def test_is_called_after_every_step(self, pipe):
        calls = []

        def callback(pipe, step, timestep, tensors):
            calls.append((step, timestep))
            assert tensors["codes"].shape == tensors["clean_codes"].shape == (2, 16, 2)
            assert tensors["clean_codes"].max() < 32
            return {}

        names = ["codes", "clean_codes"]
        codes_of(pipe, num_inference_steps=5, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
        assert calls == [(0, 10), (1, 8), (2, 6), (3, 4), (4, 2)]
        assert pipe.num_timesteps == 5

    def test_generation_goes_on_from_changed_codes(self, pipe):
        changed = torch.randint(33, (2, 16, 2), generator=seeded(5))
        seen = []

        def callback(pipe, step, timestep, tensors):
            return {"codes": changed} if step == 1 else {}

        backbone = pipe.transformer.backbone
        pipe.transformer.backbone = lambda codes, *args: (seen.append(codes[:2]), backbone(codes, *args))[1]
        codes_of(pipe, callback_on_step_end=callback)
        assert torch.equal(seen[2], changed)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (torch.zeros(2, 16, 1), r"must be integers of shape \(2, 16, 2\)"),
            (torch.full((2, 16, 2), 33), r"must be in \[0, 32\], got 33 to 33"),
        ],
    )
    def test_changes_that_cannot_be_taken_over(self, pipe, changed, message):
        with pytest.raises(ValueError, match=message):
            codes_of(pipe, callback_on_step_end=lambda *_: {"codes": changed})

    def test_interrupted_it_is_what_the_network_takes_for_the_clean_image(self, pipe):
        clean = []

        def callback(pipe, step, timestep, tensors):
            clean.append(tensors["clean_codes"])
            pipe._interrupt = step == 2
            return {}

        codes = codes_of(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["clean_codes"])
        assert len(clean) == 3 and torch.equal(codes.flatten(2).transpose(1, 2), clean[-1])
        assert codes_of(pipe).shape == codes.shape and not pipe.interrupt

    def test_progress_bar_counts_steps(self, pipe, capsys):
        pipe.set_progress_bar_config(desc="drawing")
        pipe([1], num_inference_steps=3)
        assert "3/3" in capsys.readouterr().err


class TestBadInputs:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_inference_steps": 0}, "num_inference_steps must be .*10.*, got 0"),
            ({"num_inference_steps": 11}, "num_inference_steps must be .*10.*, got 11"),
            ({"output_type": "jpeg"}, "output_type must be one of"),
            ({"generator": [seeded()]}, "generator must be .* list of 2, got 1"),
            ({"guidance_scale": [1.0] * 3}, "guidance_scale must be one value or 2 values"),
            ({"callback_on_step_end_tensor_inputs": ["latents"]}, r"names among \['codes', 'clean_codes'\]"),
            ({"height": 15}, "height must be a multiple of 4 pixels, got 15"),
            ({"width": 0}, "width must be a multiple of 4 pixels, got 0"),
            ({"class_labels": [10]}, r"class_labels must be in \[0, 9\], got 10"),
        ],
    )
    def test_refused_before_any_computation(self, pipe, arguments, message):
        pipe.transformer.class_embedding.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
        with pytest.raises(ValueError, match=message):
            pipe(**{"class_labels": [1, 2], **arguments})

    def test_a_scheduler_of_another_generator(self, pipe):
        parts = pipe.components | {"scheduler": CodeDiffusionScheduler(16, 20)}
        message = "scheduler and transformer do not belong together .* codebook_size 16 and 32; .* 20 and 10"
        with pytest.raises(ValueError, match=message):
            CodeDiffusionPipeline(**parts)

    def test_logits_that_are_not_finite(self, pipe):
        pipe.transformer.lm_heads[1].weight.data[:] = torch.nan
        with pytest.raises(ValueError, match="not finite"):
            codes_of(pipe)


def test_another_size(pipe):
    """The places of the cells are spread over those of the trained grid."""
    seen = []
    backbone = pipe.transformer.backbone
    pipe.transformer.backbone = lambda codes, t, prefix, grid: (seen.append(grid), backbone(codes, t, prefix, grid))[1]
    codes = codes_of(pipe, height=24, width=12)
    assert codes.shape == (2, 2, 6, 3) and set(seen) == {(6, 3)}
    assert pipe([1], height=24, width=12).images[0].size == (12, 24)
