# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan encode`: the tokenizer's codes in every form, whoever writes them and however often they are stopped."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from PIL import Image
from safetensors import safe_open

from fqgan_hf import FQGANModel, load_tokenizer
from fqgan_hf.cli import main
from fqgan_hf.codes.code_files import open_codes
from fqgan_hf.codes.crops import center_crop, to_pixel_values
from fqgan_hf.codes.decode import decode_to_folder
from fqgan_hf.codes.encode import encode_images
from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.store import load_rows
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.training.extract_codes import main as extract_codes
from fqgan_hf.training.train_far import main as train_far


FORMS = ["codes", "codes.parquet", "codes.npz", "codes.safetensors"]


def content(folder) -> dict[str, str]:
    """SHA-256 of every file in a folder; the lock stays where it was."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def words(tokenizer, images, out, **changes) -> list[str]:
    options = {"model": tokenizer, "out": out, "device": "cpu", "batch_size": 3, "shard_size": 5, **changes}
    return ["encode", str(images), *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def expected(tokenizer, pictures) -> dict[str, np.ndarray]:
    """The codes of each picture, encoded by itself."""
    model = FQGANModel.from_pretrained(str(tokenizer)).eval()
    codes = {}
    for path in sorted(pictures.rglob("*.png")):
        pixel_values = to_pixel_values(center_crop(Image.open(path), 16))[None]
        codes[path.relative_to(pictures).as_posix()] = model.encode(pixel_values).codes.numpy()
    return codes


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_codes(form, tokenizer, pictures, expected, tmp_path, capsys, rows_of):
    assert main(words(tokenizer, pictures, tmp_path / form)) == 0
    assert (
        capsys.readouterr().out == f"{tmp_path / form} holds the codes of 22 images: 2 codebooks of 32, grids of 4x4\n"
    )
    found = rows_of(tmp_path / form)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], codes) for name, codes in expected.items())
    manifest = open_codes(tmp_path / form).manifest
    assert manifest.tokenizer_fingerprint == FQGANModel.from_pretrained(str(tokenizer)).fingerprint()
    assert (manifest.id2label, manifest.tokenizer) == ({"0": "a", "1": "b"}, str(tokenizer))
    assert not list(tmp_path.glob(".*")), "nothing is left of the shards"


def test_plain_libraries_read_the_forms(tokenizer, pictures, expected, tmp_path):
    for form in FORMS[1:]:
        assert main(words(tokenizer, pictures, tmp_path / form)) == 0
    codes = np.concatenate(list(expected.values()))
    labels = [name[0] == "b" for name in expected]
    with np.load(tmp_path / "codes.npz") as arrays:
        assert arrays["codes"].dtype == np.uint16
        assert np.array_equal(arrays["codes"], codes) and np.array_equal(arrays["label"], labels)
        assert arrays["id"].tolist() == list(expected)
    with safe_open(tmp_path / "codes.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("codes").long(), torch.from_numpy(codes))
        assert json.loads(file.metadata()["id"]) == list(expected)
    rows = datasets.Dataset.from_parquet(str(tmp_path / "codes.parquet"), cache_dir=str(tmp_path / "cache"))
    assert np.array_equal(np.reshape(rows["codes"][:], codes.shape), codes)
    assert pq.ParquetFile(tmp_path / "codes.parquet").num_row_groups == 5, "one for each shard"


@pytest.mark.parametrize("form", FORMS)
def test_mixed_sizes(form, tokenizer, mixed, tmp_path, rows_of):
    assert main(words(tokenizer, mixed, tmp_path / form, size="native")) == 0
    found = rows_of(tmp_path / form)
    assert [grid.shape[2:] for grid in found.values()] == [(4, 4), (4, 6), (4, 4), (5, 8), (10, 4), (4, 6), (1, 2)]
    pipe = load_tokenizer(tokenizer, "cpu")
    pipe.image_processor.size = None
    for name, grid in found.items():
        assert np.array_equal(grid, pipe.encode(Image.open(mixed / name))), "the pipeline's codes"


def test_it_is_what_extract_codes_writes(tokenizer, pictures, tmp_path):
    options = {
        "tokenizer": tokenizer,
        "train_data_dir": pictures,
        "output_dir": tmp_path / "extracted",
        "crop": "plain",
    }
    options |= {"batch_size": 3, "shard_size": 5, "cache_dir": tmp_path / "cache"}
    extract_codes([str(word) for name, value in options.items() for word in (f"--{name}", value)])
    encode_images(pictures, tmp_path / "codes", model=tokenizer, device="cpu", batch_size=3, shard_size=5)
    tables = [
        [pq.read_table(path).to_pydict() for path in sorted((tmp_path / name).glob("*.parquet"))]
        for name in ("extracted", "codes")
    ]
    assert tables[0] == tables[1]
    one, other = (CodesManifest.load(tmp_path / name).content() for name in ("extracted", "codes"))
    differing = {name for name in other if one.get(name) != other[name]}
    assert differing == {"images_fingerprint", "shards"}, "of each shard the metadata only"


def test_train_far_reads_it(tokenizer, pictures, mixed, tmp_path):
    encode_images(pictures, tmp_path / "codes", model=tokenizer, device="cpu", shard_size=8)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_head_layers": 1,
            }
        )
    )
    options = {"codes_dir": tmp_path / "codes", "output_dir": tmp_path / "far", "max_train_steps": 2}
    options |= {"model_config_name_or_path": tmp_path / "config.json", "train_batch_size": 4}
    options |= {"cache_dir": tmp_path / "cache"}
    to_words = lambda: [str(word) for name, value in options.items() for word in (f"--{name}", value)]  # noqa: E731
    train_far(to_words())
    config = json.loads((tmp_path / "far" / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b"}
    assert config["tokenizer_fingerprint"] == CodesManifest.load(tmp_path / "codes").tokenizer_fingerprint

    encode_images(mixed, tmp_path / "native", model=tokenizer, device="cpu", size="native")
    options["codes_dir"] = tmp_path / "native"
    with pytest.raises(ValueError, match=r"grid differs from image to image .* a generator needs one grid"):
        train_far(to_words())


def test_picture_files_and_folders_together(tokenizer, pictures, mixed, tmp_path, rows_of):
    sources = [mixed / "3.png", pictures / "b", mixed / "3.png"]
    done = encode_images(sources, tmp_path / "codes.npz", model=tokenizer, device="cpu")
    assert (done.num_images, done.grid, done.skipped) == (12, [4, 4], [])
    names = list(rows_of(tmp_path / "codes.npz"))
    assert [name.split("/")[-1] for name in names[:3]] == ["3.png", "01.png", "03.png"]
    assert len({name.split("/")[0] for name in names}) == 2, "below the folder that holds all"
    one = encode_images(mixed / "3.png", tmp_path / "one.npz", model=tokenizer, device="cpu", size=32)
    assert (one.num_images, one.grid) == (1, [8, 8])


def test_check_is_what_a_direct_computation_gives(tokenizer, pictures, expected, tmp_path, capsys):
    done = encode_images(pictures, tmp_path / "codes.parquet", model=tokenizer, device="cpu", check=True)
    model = FQGANModel.from_pretrained(str(tokenizer)).eval()
    values, kept = {}, []
    for name, codes in expected.items():
        original = to_pixel_values(center_crop(Image.open(pictures / name), 16))[None]
        sample = model.decode_codes(torch.from_numpy(codes)).sample.detach()
        values[name] = psnr(original, sample).item()
        kept.append((model.encode(sample.clamp(-1, 1)).codes.numpy() == codes).mean((0, 2, 3)))
    assert done.check.num_images == 22
    assert done.check.mean_psnr == pytest.approx(np.mean(list(values.values())), rel=1e-4)
    assert done.check.min_id == min(values, key=values.get)
    assert done.check.min_psnr == pytest.approx(min(values.values()), rel=1e-4)
    assert done.check.codes_kept == pytest.approx(np.mean(kept, axis=0), abs=1e-6)
    assert all(0 < share < 1 for share in done.check.codes_kept)
    capsys.readouterr()
    assert main([*words(tokenizer, pictures, tmp_path / "codes.parquet", shard_size=1000), "--check"]) == 0
    assert f"PSNR {done.check.mean_psnr:.2f} dB in the mean, {done.check.min_psnr:.2f}" in capsys.readouterr().out


def test_a_pipeline_is_its_tokenizer(tmp_path):
    pipe = tiny.pipeline()
    pipe.save_pretrained(str(tmp_path / "pipeline"))
    Image.new("RGB", (40, 24), "red").save(tmp_path / "a.png")
    encode_images(tmp_path / "a.png", tmp_path / "codes.npz", model=tmp_path / "pipeline", device="cpu")
    done = decode_to_folder(tmp_path / "codes.npz", tmp_path / "out", model=tmp_path / "pipeline", device="cpu")
    assert done.num_pictures == 1
    assert Image.open(tmp_path / "out" / "a.png").size == (16, 16)


# ---- Processes and interruptions ----


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tokenizer, pictures, tmp_path):
    """Two processes over gloo; `--multi_gpu` is the launcher's word for several, without GPUs too."""
    form = "codes.parquet"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["-m", "fqgan_hf.cli", *words(tokenizer, pictures, tmp_path / "two" / form), "--check"]
    result = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    done = encode_images(
        pictures, tmp_path / "one" / form, model=tokenizer, device="cpu", batch_size=3, shard_size=5, check=True
    )
    assert result.stdout.count("holds the codes of 22 images") == 1
    assert f"PSNR {done.check.mean_psnr:.2f} dB in the mean" in result.stdout
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_killed_and_started_again_equals_uninterrupted(tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    images = {"arr_0": rng.integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)}
    np.savez(tmp_path / "images.npz", **images)
    options = {"batch_size": 1, "shard_size": 10}
    argv = words(tokenizer, tmp_path / "images.npz", tmp_path / "killed" / "codes.parquet", **options)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fqgan_hf.cli", *argv], stderr=subprocess.DEVNULL, env=environment
    )
    parts = tmp_path / "killed" / ".codes.parquet.parts"
    while len(list(parts.glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "codes.parquet").exists()
    there = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert 3 <= len(there) < 30
    (parts / ".shard-00029.parquet.abcd1234.tmp").mkdir()
    shutil.copytree(parts, tmp_path / "copy")

    assert main(argv) == 0
    assert not parts.exists()
    assert main(words(tokenizer, tmp_path / "images.npz", tmp_path / "whole" / "codes.parquet", **options)) == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")

    folder = tmp_path / "copy"  # the same for a folder, and only what is missing is written
    there = {path: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert main(words(tokenizer, tmp_path / "images.npz", folder, **options)) == 0
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert not (folder / ".shard-00029.parquet.abcd1234.tmp").exists()
    assert len(load_rows(folder, CodesManifest.load(folder), str(tmp_path / "cache"))) == 300


def test_what_is_there_is_not_written_again(tokenizer, pictures, mixed, other_tokenizer, tmp_path, fails):
    for form in ("codes", "codes.npz"):
        argv = words(tokenizer, pictures, tmp_path / form)
        assert main(argv) == 0
        before = content(tmp_path)
        assert main(argv) == 0
        for changed in (
            words(other_tokenizer, pictures, tmp_path / form),
            words(tokenizer, mixed, tmp_path / form),
            words(tokenizer, pictures, tmp_path / form, size=32),
        ):
            line = fails(changed)
            assert "of another extraction" in line or "holds other codes" in line
        assert content(tmp_path) == before


# ---- What is refused ----


def test_errors_come_before_the_weights_are_loaded(tokenizer, pictures, tmp_path, fails):
    out = tmp_path / "codes.npz"
    assert "there is no file or folder nowhere" in fails(words(tokenizer, "nowhere", out))
    assert "out must end in .parquet, .npz, .safetensors or be a folder" in fails(
        words(tokenizer, pictures, tmp_path / "codes.csv")
    )
    assert "there it would be taken for images" in fails(words(tokenizer, pictures, pictures / "codes.npz"))
    assert "divisible by the downsampling factor 4, got 18" in fails(words(tokenizer, pictures, out, size=18))
    assert "invalid size value: 'big'" in fails(words(tokenizer, pictures, out, size="big"), status=2)
    assert "there is no folder nowhere" in fails(words("nowhere", pictures, out))
    assert "split belongs to one dataset" in fails(["encode", "a", *words(tokenizer, "b", out, split="train")[1:]])
    copy = shutil.copytree(tokenizer, tmp_path / "copy")
    (copy / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert "diffusion_pytorch_model.safetensors" in fails(words(copy, pictures, out))
    assert not out.exists()


def test_help_and_checks_need_no_torch(tokenizer, tmp_path):
    code = (
        "import sys; from fqgan_hf.cli import main\n"
        f"assert main({['encode', 'nowhere', '--model', str(tokenizer), '--out', 'a.npz']!r}) == 1\n"
        f"assert main({['decode', 'nowhere', '--model', str(tokenizer), '--out', 'a']!r}) == 1\n"
        "assert 'torch' not in sys.modules and 'datasets' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("there is no file or folder nowhere") == 2


def test_images_that_cannot_be_read(tokenizer, mixed, tmp_path, fails, rows_of):
    """By name; with the option up to one in a hundred is left out."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(200):
        Image.new("RGB", (16, 16), (i, 2 * i % 256, 255 - i)).save(folder / f"{i:03d}.png")
    (folder / "007.png").write_bytes(b"no picture")
    Image.new("RGB", (16, 2)).save(folder / "150.png")
    argv = words(tokenizer, folder, tmp_path / "codes.npz", size="native", batch_size=20, shard_size=50)
    assert "image '007.png' cannot be read" in fails(argv)
    done = encode_images(
        folder, tmp_path / "codes.npz", model=tokenizer, device="cpu", size="native", shard_size=50,
        skip_bad_images=True, check=True,
    )  # fmt: skip
    assert done.skipped == ["007.png", "150.png"]
    assert (done.num_images, done.check.num_images) == (198, 198)
    assert len(rows_of(tmp_path / "codes.npz")) == 198
    Image.new("RGB", (16, 2)).save(folder / "151.png")
    with pytest.raises(ValueError, match=r"tolerates 1% of unreadable images, got 3 of 200"):
        encode_images(
            folder, tmp_path / "more.npz", model=tokenizer, device="cpu", size="native", skip_bad_images=True
        )
