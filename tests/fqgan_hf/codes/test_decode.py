# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan decode`: the tokenizer's pictures from every form, by any number of processes; and what is refused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from fqgan_hf import FQGANModel, load_tokenizer
from fqgan_hf.cli import main
from fqgan_hf.codes.code_files import content_hash, open_codes
from fqgan_hf.codes.decode import decode_to_folder
from fqgan_hf.codes.encode import encode_images
from fqgan_hf.codes.names import picture_names
from fqgan_hf.training.extract_codes import main as extract_codes


FORMS = ["codes", "codes.parquet", "codes.npz", "codes.safetensors"]


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, without the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def words(tokenizer, codes, out, *more) -> list[str]:
    return [
        "decode",
        *map(str, [codes, "--model", tokenizer, "--out", out, "--device", "cpu", "--batch_size", 4, *more]),
    ]


@pytest.fixture(scope="module")
def encoded(tokenizer, pictures, mixed, tmp_path_factory):
    """A folder with the codes of both sets in all forms: `codes*` and `native*`. Not to be changed."""
    folder = tmp_path_factory.mktemp("encoded")
    for form in FORMS:
        encode_images(pictures, folder / form, model=tokenizer, device="cpu", shard_size=5)
        native = form.replace("codes", "native")
        encode_images(mixed, folder / native, model=tokenizer, device="cpu", size="native", shard_size=5)
    return folder


@pytest.fixture(scope="module")
def pipe(tokenizer):
    return load_tokenizer(tokenizer, "cpu")


def is_decoded(path: Path, pipe, grid: np.ndarray, codebooks=None) -> bool:
    """Whether a picture is that of codes `(K, h, w)`, up to the rounding of a batch of another size."""
    expected = pipe.decode(torch.from_numpy(grid.astype(np.int64))[None], codebooks=codebooks).images[0]
    distances = np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(expected).astype(int))
    return distances.max() <= 1 and (distances > 0).mean() < 1e-2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["codes", "native"])
def test_every_form_gives_the_pictures(kind, form, encoded, tokenizer, pipe, tmp_path, capsys, rows_of):
    source = encoded / form.replace("codes", kind)
    assert main(words(tokenizer, source, tmp_path / "out")) == 0
    number = {"codes": 22, "native": 7}[kind]
    assert capsys.readouterr().out == f"{tmp_path / 'out'} holds {number} pictures\n"
    grids = rows_of(source)
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")} == grids.keys()
    assert all(is_decoded(tmp_path / "out" / name, pipe, grid[0]) for name, grid in grids.items())


def test_some_codebooks(encoded, tokenizer, pipe, tmp_path, fails, rows_of):
    assert main(words(tokenizer, encoded / "native.npz", tmp_path, "--codebooks", 1)) == 0
    (grid,) = rows_of(encoded / "native.npz")["3.png"]
    assert is_decoded(tmp_path / "3.png", pipe, grid, [1])
    assert not is_decoded(tmp_path / "3.png", pipe, grid)
    assert "codebooks must be in [0, 1], got [2]" in fails(
        words(tokenizer, encoded / "codes.npz", tmp_path, "--codebooks", 2)
    )
    assert "(codebooks differ): choose another folder" in fails(words(tokenizer, encoded / "native.npz", tmp_path))


def test_views_of_extract_codes(tokenizer, pictures, pipe, tmp_path, rows_of):
    options = {"tokenizer": tokenizer, "train_data_dir": pictures, "output_dir": tmp_path / "codes", "crop": "flip"}
    options["cache_dir"] = tmp_path / "cache"
    extract_codes([str(word) for name, value in options.items() for word in (f"--{name}", value)])
    done = decode_to_folder(tmp_path / "codes", tmp_path / "out", model=tokenizer, device="cpu")
    assert (done.num_pictures, done.num_kept) == (44, 0)
    grids = rows_of(tmp_path / "codes")["b/03.png"]
    for view, name in enumerate(("center", "center-flip")):
        assert is_decoded(tmp_path / "out" / "b" / f"03-{name}.png", pipe, grids[view])


def test_several_sources_get_a_folder_each(encoded, tokenizer, tmp_path, fails, monkeypatch):
    monkeypatch.chdir(encoded / "codes")
    sources = [".", encoded / "native.npz"]
    done = decode_to_folder(sources, tmp_path / "out", model=tokenizer, device="cpu")
    assert done.num_pictures == 29
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"codes", "native"}
    argv = words(tokenizer, encoded / "codes.npz", tmp_path / "other")
    assert "several called codes" in fails([*argv[:2], encoded / "codes", *argv[2:]])


# ---- Processes and interruptions ----


@pytest.mark.slow
def test_two_processes_and_interruptions_change_nothing(encoded, tokenizer, tmp_path, capsys):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["-m", "fqgan_hf.cli", *words(tokenizer, encoded / "codes", tmp_path / "two")]
    result = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("holds 22 pictures") == 1
    one = words(tokenizer, encoded / "codes", tmp_path / "one")
    assert main(one) == 0
    assert content(tmp_path / "two") == content(tmp_path / "one")

    kept = (tmp_path / "one" / "a" / "00.png").stat().st_mtime_ns
    for name in ("a/04.png", "a/06.png", "b/13.png"):
        (tmp_path / "one" / name).unlink()
    left = tmp_path / "one" / "b" / ".13.png.abcd1234.tmp"
    left.mkdir()
    (left / "13.png").write_bytes(b"half a picture")
    capsys.readouterr()
    assert main(one) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'one'} holds 22 pictures, 19 of them from before\n"
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert (tmp_path / "one" / "a" / "00.png").stat().st_mtime_ns == kept


def test_pictures_of_something_else_are_not_taken_for_ours(encoded, tokenizer, tmp_path, fails):
    argv = words(tokenizer, encoded / "codes.npz", tmp_path / "out")
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "00.png").write_bytes(b"a user's")
    assert "holds a/00.png already, and no decoding.json" in fails(argv)
    shutil.rmtree(tmp_path / "out")
    assert main(argv) == 0
    assert "(codes_sha256 differ)" in fails(words(tokenizer, encoded / "native.npz", tmp_path / "out"))
    model = FQGANModel.from_pretrained(str(tokenizer))
    model.decoder.conv_out.weight.data.mul_(2)  # the same codebooks
    model.save_pretrained(str(tmp_path / "further"))
    assert "(tokenizer_sha256 differ)" in fails(words(tmp_path / "further", encoded / "codes.npz", tmp_path / "out"))


# ---- What is refused ----


@pytest.mark.parametrize("form", FORMS)
def test_codes_of_another_tokenizer_are_refused(form, encoded, tokenizer, other_tokenizer, tmp_path, fails):
    """Before weights are loaded: a decoder of NaN would be refused."""
    other = Path(shutil.copytree(other_tokenizer, tmp_path / "other")) / "diffusion_pytorch_model.safetensors"
    weights = load_file(other)
    save_file({**weights, "decoder.conv_out.bias": np.full_like(weights["decoder.conv_out.bias"], np.nan)}, other)
    line = fails(words(other.parent, encoded / form, tmp_path / "out"))
    assert f"{encoded / form} holds codes of another tokenizer: {tokenizer} with fingerprint" in line
    assert not list((tmp_path / "out").glob("*"))


def test_a_tokenizer_of_another_shape(encoded, tmp_path, fails):
    tiny.tokenizer(3).save_pretrained(str(tmp_path / "three"))
    assert "num_codebooks 2, of" in fails(words(tmp_path / "three", encoded / "codes.npz", tmp_path / "out"))
    tiny.tokenizer(codebook_size=64).save_pretrained(str(tmp_path / "larger"))
    assert "codebook_size 32, of" in fails(words(tmp_path / "larger", encoded / "codes.npz", tmp_path / "out"))


def change_npz(path: Path, **changes) -> Path:
    arrays = dict(np.load(path))
    arrays |= {name: change(arrays[name]) for name, change in changes.items()}
    np.savez(path, **arrays)
    return path


def with_first(array: np.ndarray, value) -> np.ndarray:
    array = array.copy()
    array.flat[0] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": lambda codes: with_first(codes, 32)}, "codes must be in [0, 31], got 32"),
        ({"codes": lambda codes: codes[:, :, :3]}, "cannot reshape"),
        ({"codes": lambda codes: codes.astype(np.float32)}, "codes must be uint16, got float32"),
        ({"codes": lambda codes: codes[1:]}, "its columns have different lengths"),
        ({"id": lambda ids: np.array([{}], dtype=object)}, "Object arrays cannot be loaded"),
        ({"extraction": lambda text: np.array("{}")}, "is not a manifest of codes: see"),
        ({"extraction": lambda text: np.array("[1]")}, "extraction must be a JSON object, got list"),
        (
            {"extraction": lambda text: np.array(str(text).replace("[4, 4]", "[4, 0]"))},
            "grid must be two whole numbers",
        ),
        ({"skipped": lambda text: np.array("{")}, "is damaged"),
        ({"id": lambda ids: np.array(["a.png"] * len(ids))}, "the id 'a.png' belongs to several rows"),
    ],
)
def test_damaged_files(changes, message, encoded, tokenizer, tmp_path, fails):
    path = change_npz(Path(shutil.copy(encoded / "codes.npz", tmp_path)), **changes)
    assert message in fails(words(tokenizer, path, tmp_path / "out"))


def test_files_of_something_else(encoded, tokenizer, tmp_path, fails):
    def refused(path) -> str:
        return fails(words(tokenizer, path, tmp_path / "out"))

    np.savez(tmp_path / "plain.npz", codes=np.zeros((2, 2, 4, 4), np.uint16))
    save_file(load_file(encoded / "codes.safetensors"), tmp_path / "plain.safetensors")
    pq.write_table(pq.read_table(encoded / "codes.parquet").replace_schema_metadata(None), tmp_path / "plain.parquet")
    for path in tmp_path.glob("plain.*"):
        assert f"{path} does not say which tokenizer made its codes" in refused(path)
    for suffix in (".npz", ".parquet", ".safetensors"):
        (tmp_path / f"text{suffix}").write_text("no such file")
        assert "is damaged, or holds no codes" in refused(tmp_path / f"text{suffix}")
    (tmp_path / "codes.csv").write_text("1,2")
    assert "codes are in .parquet, .npz, .safetensors files and in folders" in refused(tmp_path / "codes.csv")
    (tmp_path / "empty").mkdir()
    assert "holds no manifest.json" in refused(tmp_path / "empty")
    store = shutil.copytree(encoded / "codes", tmp_path / "store")
    path = store / "shard-00002.parquet"
    shutil.copy(store / "shard-00001.parquet", path)  # a whole file, with rows that are there twice
    assert "belongs to several rows" in refused(store)
    table = pq.read_table(encoded / "codes" / path.name)
    pq.write_table(table.set_column(1, "label", table["label"].combine_chunks().take([0] * 5)), path)
    assert "shard-00002.parquet is missing or was changed" in refused(store)


def test_a_native_file_with_other_sizes(encoded, tokenizer, tmp_path, fails):
    path = Path(shutil.copy(encoded / "native.npz", tmp_path))
    change_npz(path, height=lambda heights: with_first(heights, 5))
    assert "codes do not fill their grids" in fails(words(tokenizer, path, tmp_path / "out"))
    change_npz(path, height=lambda heights: with_first(with_first(heights, -4), -4), width=lambda w: with_first(w, -4))
    assert "codes do not fill their grids" in fails(words(tokenizer, path, tmp_path / "out"))


def test_hashes_are_of_the_content(encoded):
    for form in FORMS[1:]:
        assert content_hash(open_codes(encoded / form)) == hashlib.sha256((encoded / form).read_bytes()).hexdigest()
    manifest = json.loads((encoded / "codes" / "manifest.json").read_text())
    listed = "".join(shard["sha256"] for shard in manifest["shards"])
    assert content_hash(open_codes(encoded / "codes")) == hashlib.sha256(listed.encode()).hexdigest()


# ---- Names ----


def test_names_say_what_the_ids_say():
    assert picture_names(["a/1.jpg", "a/2.PNG", "b"], ["center"]) == ["a/1.png", "a/2.png", "b.png"]
    assert picture_names(["1.jpg", "1.png"], ["center"]) == ["1.jpg.png", "1.png.png"]
    assert picture_names(["1.jpg"], ["x", "y"]) == ["1-x.png", "1-y.png"]
    with pytest.raises(ValueError, match=r"the id 'a' belongs to several rows"):
        picture_names(["a", "b", "a"], ["center"])


@pytest.mark.parametrize(
    "name",
    [
        "../up",
        "/etc/passwd",
        "a/../../b",
        "..",
        ".",
        "",
        "//",
        "a\\..\\..\\b",
        "C:x",
        "a\0b",
        "a/.hidden/x",
        "x" * 5000,
    ],
)
def test_no_name_leaves_the_folder(name, tmp_path):
    (picture,) = picture_names([name], ["center"])
    path = tmp_path / "out" / picture
    assert path.resolve().is_relative_to(tmp_path / "out") and path.suffix == ".png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    assert not any(part.startswith(".") or set(part) & set("\0\\:") for part in Path(picture).parts)


def test_ids_that_are_no_names_are_written_inside(encoded, tokenizer, tmp_path):
    path = Path(shutil.copy(encoded / "native.npz", tmp_path))
    ids = ["../../up.png", "/tmp/absolute.png", "ü b.jpg", "a/b.png", "a.b", "..", "x" * 300]
    change_npz(path, id=lambda old: np.array(ids))
    assert main(words(tokenizer, path, tmp_path / "in" / "out")) == 0
    assert len(list((tmp_path / "in" / "out").rglob("*.png"))) == 7
    assert {path.name for path in tmp_path.iterdir()} == {"in", "native.npz"}
    assert (tmp_path / "in" / "out" / "ü b.png").is_file()
