# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Codebook swap: which codes come from where, by which names, and the command's grid."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fqgan_hf import FQGANImageProcessor, FQGANPipeline
from fqgan_hf.commands import mix as command
from fqgan_hf.failures import OneLineParser
from fqgan_hf.pipelines.mix import mix_codes, mix_files, taken_codebooks


TRIPLE = ["visual", "semantic (mid)", "semantic (high)"]


def make_pipe(num_codebooks=2, size=16):
    taught = (None, 16, 16)[:num_codebooks] if num_codebooks > 1 else None
    return FQGANPipeline(
        tiny.tokenizer(num_codebooks, feature_dims=taught), FQGANImageProcessor(size=size, multiple_of=4)
    )


def picture(seed, size=(16, 16)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    return paths


@pytest.mark.parametrize(
    ("take", "names", "taken"),
    [
        ("semantic", ["visual", "semantic"], [1]),
        ("Visual", ["visual", "semantic"], [0]),
        (["0"], ["visual", "semantic"], [0]),
        (1, ["visual", "semantic"], [1]),
        ("semantic", TRIPLE, [1, 2]),
        ("semantic (high)", TRIPLE, [2]),
        (["visual", "semantic (mid)", 0], TRIPLE, [0, 1]),
        ("codebook 2", ["codebook 1", "codebook 2"], [1]),
    ],
)
def test_codebooks_are_taken_by_name_or_id(take, names, taken):
    assert taken_codebooks(take, names) == taken


@pytest.mark.parametrize(
    ("take", "names", "message"),
    [
        ("semantic", ["codebook"], "this tokenizer has one"),
        ("sem", ["visual", "semantic"], r"names or ids of the codebooks 'visual' \(0\), 'semantic' \(1\), got 'sem'"),
        (2, ["visual", "semantic"], "got 2"),
        (-1, ["visual", "semantic"], "got -1"),
        (True, ["visual", "semantic"], "got True"),
        ("", ["visual", "semantic"], "got ''"),
        ([], ["visual", "semantic"], "got none"),
        (["visual", 1], ["visual", "semantic"], "got all 2$"),
    ],
)
def test_what_cannot_be_taken_is_refused(take, names, message):
    with pytest.raises(ValueError, match=message):
        taken_codebooks(take, names)


@pytest.mark.parametrize(("take", "chosen"), [("semantic", [1, 2]), ("visual", [0])])
def test_the_codes_that_are_taken_are_those_of_the_second_image(take, chosen):
    pipe = make_pipe(3)
    a, b = picture(0), picture(1)
    codes = torch.stack([pipe.encode(b if k in chosen else a)[:, k] for k in range(3)], dim=1)
    assert not torch.equal(codes, pipe.encode(a))
    mixed = pipe.mix(a, b, take=take).images[0]
    np.testing.assert_array_equal(np.asarray(mixed), np.asarray(pipe.decode(codes).images[0]))


def test_several_images_mix_one_by_one():
    pipe = make_pipe()
    both = pipe.mix([picture(0), picture(1)], [picture(2), picture(3)], take=1, output_type="pt").images
    alone = pipe.mix(picture(1), picture(3), take=1, output_type="pt", return_dict=False)[0]
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-4)


def test_an_image_mixed_with_itself_is_its_reconstruction():
    pipe = make_pipe()
    codes = pipe.encode(picture(0))
    assert torch.equal(mix_codes(codes, codes, [1]), codes)


def test_grids_of_different_sizes_do_not_mix():
    pipe = make_pipe(size=None)
    with pytest.raises(ValueError, match="got 1 of 4 x 4 codes and 1 of 4 x 6 codes: a size scales"):
        pipe.mix(picture(0), picture(1, (24, 16)), take="semantic")
    assert pipe.mix(picture(0), picture(1, (24, 16)), take="semantic", size=16).images[0].size == (16, 16)


def test_a_wrong_name_costs_nothing(monkeypatch):
    pipe = make_pipe()
    monkeypatch.setattr(pipe.vqmodel, "encode", None)
    with pytest.raises(ValueError, match="got 'colour'"):
        pipe.mix(picture(0), picture(1), take="colour")
    with pytest.raises(ValueError, match="output_type"):
        pipe.mix(picture(0), picture(1), take=0, output_type="jpeg")


def test_the_grid_has_both_images_and_both_mixtures(files, tmp_path):
    pipe, out = make_pipe(), tmp_path / "mix.png"
    assert mix_files(pipe, *files, "semantic", out) == ["semantic"]
    a, b = picture(0), picture(1)
    expected = [a, b, pipe(a).images[0], pipe(b).images[0], pipe.mix(a, b, 1).images[0], pipe.mix(b, a, 1).images[0]]
    grid = np.asarray(Image.open(out))
    for image in expected:
        cell = np.asarray(image).repeat(8, 0).repeat(8, 1)  # 128 pixels
        windows = np.lib.stride_tricks.sliding_window_view(grid[:, :, 0], cell.shape[:2])
        corner = windows[..., 0, 0] == cell[0, 0, 0]
        places = zip(*np.nonzero(corner), strict=True)
        assert any((grid[y : y + 128, x : x + 128] == cell).all() for y, x in places)


def run(*words):
    parser = OneLineParser()
    command.add_arguments(parser)
    arguments = parser.parse_args([str(word) for word in words])
    arguments.debug = False
    command.run(arguments)


def test_the_command_writes_the_grid(files, tmp_path, capsys):
    make_pipe().vqmodel.save_pretrained(tmp_path / "model")
    out = tmp_path / "mix.png"
    run(*files, "--take", "semantic", "--model", tmp_path / "model", "--out", out, "--device", "cpu")
    assert f"swapped: semantic\nwrote {out}" in capsys.readouterr().out
    assert Image.open(out).width > 2 * 128


def test_the_command_refuses_before_it_loads_anything(files, tmp_path, monkeypatch):
    make_pipe().vqmodel.save_pretrained(tmp_path / "model")
    make_pipe(1).vqmodel.save_pretrained(tmp_path / "single")
    monkeypatch.setattr(command, "load_tokenizer", None)
    common = ["--model", tmp_path / "model", "--out", tmp_path / "mix.png"]
    with pytest.raises(ValueError, match="got 'colour'"):
        run(*files, "--take", "colour", *common)
    with pytest.raises(ValueError, match="this tokenizer has one"):
        run(*files, "--take", "0", "--model", tmp_path / "single", "--out", tmp_path / "mix.png")
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        run(files[0], tmp_path / "nowhere.png", "--take", "0", *common)
    with pytest.raises(ValueError, match="would be overwritten"):
        run(*files, "--take", "0", "--model", tmp_path / "model", "--out", files[1])
    assert not (tmp_path / "mix.png").exists()
