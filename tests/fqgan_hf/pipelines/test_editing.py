# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""In-painting, variations, kept codebooks and larger images, in both pipelines."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.pipelines.windows import Window, sliding_windows


PIPELINES = pytest.mark.parametrize("kind", ["far", "diffusion"])


def make_pipeline(kind, num_codebooks=2, **settings):
    torch.manual_seed(num_codebooks)
    feature_dims = [None, *[8] * (num_codebooks - 1)]
    return tiny.conditional_pipeline(
        "class", kind=kind, num_codebooks=num_codebooks, tokenizer_settings={"feature_dims": feature_dims}, **settings
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def codes_of(pipe, labels=(1, 2), **arguments):
    return pipe(list(labels), output_type="codes", **{"generator": seeded(), **arguments}).images


def photo(seed=0, size=(16, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(255, size=(*size[::-1], 3), dtype=np.uint8))


@torch.no_grad()
def codes_in(pipe, *images):
    return pipe.vqmodel.encode(pipe.image_processor(list(images))["pixel_values"]).codes


def mask_of(white, size=(16, 16)):
    mask = np.zeros(size[::-1], dtype=np.uint8)
    mask[white] = 255
    return Image.fromarray(mask)


class TestMasks:
    @PIPELINES
    @pytest.mark.parametrize("num_codebooks", [1, 3])
    def test_kept_codes_come_back_exactly(self, kind, num_codebooks):
        pipe = make_pipeline(kind, num_codebooks)
        mask = mask_of((slice(5, 9), slice(0, 16)))  # of the rows 1 and 2 of cells a part, so both are generated
        codes, before = codes_of(pipe, image=photo(), mask_image=mask), codes_in(pipe, photo())
        assert codes.min() >= 0 and codes.max() < 32
        for row in (0, 3):
            assert torch.equal(codes[:, :, row], before[:, :, row].expand(2, -1, -1)), row
        assert all((codes[:, :, row] != before[:, :, row]).any() for row in (1, 2))

    @PIPELINES
    def test_an_image_and_a_mask_per_row(self, kind):
        pipe = make_pipeline(kind)
        masks = [mask_of((slice(0, 4), slice(0, 4))), mask_of((slice(12, 16), slice(1, 2)))]
        before = codes_in(pipe, photo(0), photo(1))
        codes = codes_of(pipe, image=[photo(0), photo(1)], mask_image=masks, num_images_per_label=2)
        kept = torch.ones(4, 2, 4, 4, dtype=torch.bool)
        kept[:2, :, 0, 0] = kept[2:, :, 3, 0] = False
        assert torch.equal(codes[kept], before.repeat_interleave(2, 0)[kept])
        arrays = [np.asarray(mask) > 0 for mask in masks]
        tensors = [torch.from_numpy(array) for array in arrays]
        for given in (arrays, tensors):
            again = codes_of(pipe, image=[photo(0), photo(1)], mask_image=given, num_images_per_label=2)
            assert torch.equal(again, codes)

    def test_image_and_mask_are_scaled_and_cut_alike(self):
        pipe = make_pipeline("diffusion")
        wide = photo(0, (64, 32))  # the square from column 16 to 48 remains
        codes = codes_of(pipe, image=wide, mask_image=mask_of((slice(0, 8), slice(40, 64)), (64, 32)))
        before = codes_in(pipe, wide).expand(2, -1, -1, -1)
        kept = torch.ones(2, 2, 4, 4, dtype=torch.bool)
        kept[:, :, 0, 3] = False
        assert torch.equal(codes[kept], before[kept])

    @PIPELINES
    def test_an_edit_depends_on_its_own_generator_only(self, kind):
        pipe = make_pipeline(kind)
        edit = {"mask_image": mask_of((slice(4, 12), slice(0, 16))), "strength": 0.6}
        codes = codes_of(pipe, image=[photo(0), photo(1)], generator=[seeded(0), seeded(1)], **edit)
        for i, label in enumerate([1, 2]):
            alone = codes_of(pipe, [label], image=photo(i), generator=[seeded(i)], **edit)
            assert torch.equal(codes[i], alone[0]), i


class TestStrength:
    @pytest.mark.parametrize(("strength", "number"), [(0.01, 1), (0.25, 4), (0.99, 15)])
    def test_a_share_of_the_positions_by_far(self, strength, number):
        pipe = make_pipeline("far")
        seen = known_codes_of(pipe, image=photo(), strength=strength, num_images_per_label=8)
        is_known = seen >= 0
        assert (is_known.all(2) == is_known.any(2)).all(), "whole positions"
        assert ((~is_known[..., 0]).sum(1) == number).all()
        assert len({tuple(row) for row in is_known[..., 0].tolist()}) > 8, "others in each image"
        expected = grid_to_sequence(codes_in(pipe, photo())).expand_as(seen)
        assert torch.equal(seen[is_known], expected[is_known])

    @pytest.mark.parametrize(("strength", "number"), [(0.01, 1), (0.25, 4), (0.99, 15)])
    def test_a_share_of_each_codebook_by_diffusion(self, strength, number):
        pipe = make_pipeline("diffusion")

        def callback(pipe, step, timestep, tensors):
            pipe._interrupt = True

        pipe.scheduler.initial_codes = lambda shape, generator, device: torch.full(shape, 32)
        backbone, seen = pipe.transformer.backbone, []
        pipe.transformer.backbone = lambda codes, *args: (
            seen.append(codes[: len(codes) // 2]),
            backbone(codes, *args),
        )[1]
        codes_of(pipe, image=photo(), strength=strength, num_images_per_label=2, callback_on_step_end=callback)
        assert ((seen[0] == 32).sum(1) == number).all()
        before = grid_to_sequence(codes_in(pipe, photo())).expand_as(seen[0])
        assert torch.equal(seen[0][seen[0] != 32], before[seen[0] != 32])
        assert (((seen[0] == 32)[..., 0]) != ((seen[0] == 32)[..., 1])).any(), "each codebook by itself"

    @PIPELINES
    def test_kept_codes_come_back(self, kind):
        pipe = make_pipeline(kind)
        before = codes_in(pipe, photo())
        assert (codes_of(pipe, image=photo(), strength=0.25) == before).sum() >= 2 * 2 * 12


def known_codes_of(pipe, **arguments):
    """What FAR is told to keep, `(images, positions, K)`."""
    seen = []
    generate = pipe.transformer.generate
    pipe.transformer.generate = lambda **inputs: (seen.append(inputs["known_codes"].clone()), generate(**inputs))[1]
    codes_of(pipe, **arguments)
    return seen[0]


class TestKeptCodebooks:
    @PIPELINES
    @pytest.mark.parametrize(
        ("keep", "kept"), [("visual", [0]), (1, [1]), ("semantic", [1, 2]), (["visual", 2], [0, 2])]
    )
    def test_they_come_back(self, kind, keep, kept):
        pipe = make_pipeline(kind, 3)
        codes, before = codes_of(pipe, image=photo(), keep_codebooks=keep), codes_in(pipe, photo())
        for k in range(3):
            if k in kept:
                assert torch.equal(codes[:, k], before[:, k].expand(2, -1, -1))
            else:
                assert (codes[:, k] != before[:, k]).any()

    def test_later_codebooks_build_on_kept_ones(self):
        """In one greedy step: the second code is the likeliest after the first one, which is kept."""
        pipe = make_pipeline("diffusion", scheduler_settings={"transition": "mask-uniform"})
        codes = codes_of(
            pipe, image=photo(), keep_codebooks="visual", num_inference_steps=1, do_sample=False, guidance_scale=1.0
        )
        x = grid_to_sequence(codes)
        noisy = torch.stack([x[..., 0], torch.full_like(x[..., 0], 32)], dim=2)
        pipe.scheduler.set_timesteps(1)
        with torch.no_grad():
            logits = pipe.transformer(noisy, torch.tensor([10, 10]), x, class_labels=torch.tensor([1, 2])).logits
        assert torch.equal(logits[:, :, 1].argmax(-1), x[..., 1])

    @PIPELINES
    def test_together_with_a_mask(self, kind):
        pipe = make_pipeline(kind)
        mask = mask_of((slice(0, 8), slice(0, 16)))
        codes = codes_of(pipe, image=photo(), keep_codebooks="semantic", mask_image=mask)
        before = codes_in(pipe, photo()).expand(2, -1, -1, -1)
        assert torch.equal(codes[:, 1], before[:, 1]) and torch.equal(codes[:, 0, 2:], before[:, 0, 2:])
        assert (codes[:, 0, :2] != before[:, 0, :2]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": photo()}, "image has no effect by itself: give a mask_image, a strength below 1 or keep_codebooks"),
        ({"mask_image": mask_of(0)}, "image must be given with mask_image"),
        ({"strength": 0.5}, "image must be given with strength"),
        ({"keep_codebooks": 0}, "image must be given with keep_codebooks"),
        ({"image": photo(), "strength": 0.0}, r"strength must be in \(0, 1\], got 0.0"),
        ({"image": photo(), "strength": "half"}, r"strength must be in \(0, 1\], got 'half'"),
        (
            {"image": photo(), "mask_image": mask_of(slice(0))},
            "mask_image must be .*black: nothing would be generated",
        ),
        ({"image": photo(), "mask_image": mask_of(slice(0, 16))}, "white in every cell: nothing would be kept"),
        ({"image": photo(), "mask_image": mask_of(0, (16, 8))}, "mask_image must have the size of its image, 16 x 16"),
        ({"image": [photo()] * 3, "strength": 0.5}, "image must be one, or one per label, prompt or map, 2, got 3"),
        ({"image": photo(), "mask_image": [mask_of(0)] * 3}, "mask_image must be one, or one per label, .* 2, got 3"),
        ({"image": "photo.png", "strength": 0.5}, "image: images must be a PIL image"),
        ({"image": photo(), "keep_codebooks": "colour"}, "keep_codebooks must be names or ids .* got 'colour'"),
        ({"image": photo(), "keep_codebooks": [0, 1]}, "keep_codebooks must name some .* and leave others, got all 2"),
    ],
)
@PIPELINES
def test_refused_before_any_computation(kind, arguments, message):
    pipe = make_pipeline(kind)
    pipe.vqmodel.encoder.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=message):
        codes_of(pipe, **arguments)


class TestWindows:
    def test_places(self):
        assert sliding_windows((4, 4), (4, 4)) == [Window(0, 0, 4, 4)]
        windows = sliding_windows((4, 9), (4, 4))
        assert [window.left for window in windows] == [0, 2, 4, 5] and {window.top for window in windows} == {0}
        assert [window[:2] for window in sliding_windows((6, 6), (4, 4))] == [(0, 0), (0, 2), (2, 0), (2, 2)]

    def test_a_map_of_another_grid_is_cut_at_its_cells(self):
        windows = sliding_windows((4, 14), (4, 4), (2, 2))
        assert [window.left for window in windows] == [0, 2, 4, 6, 8, 10]
        assert [window.scaled((2, 2)).left for window in windows] == [0, 1, 2, 3, 4, 5]
        message = (
            "width must be at least 16 pixels, as trained and a multiple of 8, where cells of its map end, got 20"
        )
        with pytest.raises(ValueError, match=message):
            sliding_windows((4, 5), (4, 4), (2, 2), factor=4)

    def test_a_larger_image(self):
        """Windows one after another, each a continuation of what is there: against calls of `generate`."""
        pipe = make_pipeline("far")
        steps = []

        def callback(pipe, step, timestep, tensors):
            steps.append((step, timestep))
            return {}

        codes = codes_of(pipe, width=24, callback_on_step_end=callback)
        assert codes.shape == (2, 2, 4, 6) and codes.min() >= 0
        generator, generate = seeded(), pipe.transformer.generate
        labels, settings = torch.tensor([1, 2]), {"guidance_scale": 2.0}
        first = generate(class_labels=labels, generator=generator, **settings)
        grid = torch.full((2, 2, 4, 6), -1)
        grid[..., :4] = first.transpose(1, 2).unflatten(2, (4, 4))
        known = grid_to_sequence(grid[..., 2:])
        second = generate(class_labels=labels, generator=generator, known_codes=known, **settings)
        grid[..., 2:] = second.transpose(1, 2).unflatten(2, (4, 4))
        assert torch.equal(codes, grid)
        assert len(steps) == pipe.num_timesteps == 16 + 14  # the two first positions of the second window are known
        assert [step for step, _ in steps] == list(range(30))
        assert {timestep for _, timestep in steps} == set(range(24))
        assert pipe([1], width=24).images[0].size == (24, 16)

    def test_the_map_is_cut_along(self):
        pipe = tiny.conditional_pipeline("map")
        label_map = torch.randint(5, (1, 24, 16), generator=seeded(3))
        seen, generate = [], pipe.transformer.generate
        pipe.transformer.generate = lambda **inputs: (seen.append(inputs["map_codes"]), generate(**inputs))[1]
        codes = pipe(map_image=label_map, height=24, output_type="codes").images
        assert codes.shape == (1, 2, 6, 4)
        with torch.no_grad():
            grid = pipe.map_vqmodel.encode_labels(label_map).codes
        expected = [grid_to_sequence(grid[:, :, top : top + 4]) for top in (0, 2)]
        assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))

    def test_an_image_is_continued_beyond_its_border(self):
        pipe = make_pipeline("far")
        canvas = Image.new("RGB", (32, 16), "white")
        canvas.paste(photo(), (0, 0))
        codes = codes_of(
            pipe, image=canvas, mask_image=mask_of((slice(0, 16), slice(16, 32)), (32, 16)), width=32, height=16
        )
        size = {"height": 16, "width": 32}
        with torch.no_grad():
            before = pipe.vqmodel.encode(pipe.image_processor(canvas, size=size)["pixel_values"]).codes
        assert torch.equal(codes[..., :4], before[..., :4].expand(2, -1, -1, -1))
        assert codes.min() >= 0

    def test_interrupted(self):
        pipe = make_pipeline("far")

        def callback(pipe, step, timestep, tensors):
            pipe._interrupt = step == 20

        codes = codes_of(pipe, width=24, callback_on_step_end=callback)
        assert (codes[..., :4] >= 0).all() and (codes[..., 4:] == -1).any()
        assert pipe([1], width=24, callback_on_step_end=callback).images[0].size == (24, 16)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"width": 12}, "width must be at least 16 pixels, as trained, got 12"),
            ({"width": 18}, "width must be a multiple of 4 pixels, got 18"),
            (
                {"width": 24, "prefix_codes": torch.zeros(2, 1, 2, dtype=torch.long)},
                "prefix_codes cannot be given with image, nor for an image that is larger than trained",
            ),
        ],
    )
    def test_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            codes_of(make_pipeline("far"), **arguments)
