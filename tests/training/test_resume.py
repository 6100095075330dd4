# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Runs that are killed, and disks that are full: for real, in processes of their own."""

import json
import os
import random
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.store import load_rows, shard_name
from fqgan_hf.training.common.resuming import MANIFEST, list_checkpoints

from .common.test_checkpointing import checkpoint_hashes
from .run_server import RunServer


NUM_STEPS = 27
OPTIONS = {
    "max_train_steps": NUM_STEPS,
    "checkpointing_steps": 3,
    "checkpoints_total_limit": 2,
    "use_ema": True,
    "lr_scheduler": "cosine",
    "disc_start": 8,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A hundred, one of which cannot be read; all of them are drawn before the last step."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(100):
        Image.fromarray(rng.integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    (folder / "42.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RunServer(tmp_path_factory.mktemp("runs")) as server:
        yield server


def finish(server, words, num_processes=1):
    runs = server.start("train_fqgan", words, num_processes)
    for run in runs:
        assert run.wait() == 0, run.output()


def steps_done(folder) -> int:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def kill_at(server, words, folder, step, num_processes, rng):
    """Kill a run some moments after this step; of several processes one, as the others cannot go on without it."""
    runs = server.start("train_fqgan", words, num_processes)
    deadline = time.monotonic() + 600  # seconds on an idle machine
    while steps_done(folder) < step:
        assert time.monotonic() < deadline, runs[0].output()
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.15))
    rng.shuffle(runs)
    return [run.kill() for run in runs]


def check_kills(server, make_options, pictures, tmp_path, num_kills, num_processes=1, num_workers=0, seed=0):
    rng = random.Random(seed)
    options = {**OPTIONS, "train_data_dir": pictures, "skip_bad_images": True}
    options |= {"train_batch_size": 4 // num_processes, "dataloader_num_workers": num_workers}
    finish(server, make_options(tmp_path / "whole", **options), num_processes)
    words = make_options(tmp_path / "killed", **options, resume_from_checkpoint="latest")
    steps = sorted(rng.sample(range(1, NUM_STEPS - 2), num_kills))
    killed = 0
    for step in steps:
        killed += -9 in kill_at(server, words, tmp_path / "killed", step, num_processes, rng)
    assert killed == num_kills, f"only {killed} of the kills at {steps} came before the end"
    finish(server, words, num_processes)
    whole, resumed = (checkpoint_hashes(tmp_path / name / f"checkpoint-{NUM_STEPS}") for name in ("whole", "killed"))
    assert {"model.safetensors", "model_1.safetensors", "ema.safetensors", "optimizer.bin", "optimizer_1.bin"} <= {
        *whole
    }
    assert resumed == whole, f"killed at {steps} by seed {seed}"
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [path.name for path in list_checkpoints(tmp_path / "killed")] == ["checkpoint-24", "checkpoint-27"]
    records = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert (tmp_path / "killed" / "bad_images.txt").read_text() == "42.png\n"
    assert [record["step"] for record in records] == list(range(1, NUM_STEPS + 1)), "each step is logged once"


def test_three_kills(server, tokenizer_options, pictures, tmp_path):
    """kill -9 at random moments, then `latest`: weights, averages and optimizers of a run that nobody killed."""
    check_kills(server, tokenizer_options, pictures, tmp_path, num_kills=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_twenty_kills(num_processes, num_workers, server, tokenizer_options, pictures, tmp_path):
    check_kills(server, tokenizer_options, pictures, tmp_path, 20, num_processes, num_workers, seed=10 + num_processes)


def test_killed_extraction(server, tokenizer_options, pictures, cache_dir, to_command, tmp_path):
    """kill -9 between two shards, then the same command: no row is missing, none is there twice."""
    finish(server, tokenizer_options(tmp_path / "tokenizer", max_train_steps=1))
    options = {"train_data_dir": pictures, "cache_dir": cache_dir, "tokenizer": tmp_path / "tokenizer"}
    options |= {"shard_size": 5, "batch_size": 5, "skip_bad_images": True}
    (run,) = server.start("extract_codes", to_command({**options, "output_dir": tmp_path / "whole"}))
    assert run.wait() == 0, run.output()
    words = to_command({**options, "output_dir": tmp_path / "killed"})
    (run,) = server.start("extract_codes", words)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / shard_name(3)).is_file():
        assert time.monotonic() < deadline, run.output()
        time.sleep(0.001)
    assert run.kill() == -9 and not (tmp_path / "killed" / MANIFEST).is_file()
    (run,) = server.start("extract_codes", words)
    assert run.wait() == 0, run.output()
    whole, killed = (CodesManifest.load(tmp_path / name) for name in ("whole", "killed"))
    assert killed == whole
    ids = load_rows(tmp_path / "killed", killed, str(cache_dir))["id"][:]
    assert ids == [f"{i:02d}.png" for i in range(100) if i != 42]


def check_full_disk(run, folder, message):
    status = run.wait()
    output = run.output()
    assert status == 1 and f"checkpoint {folder}/checkpoint-" in output and "could not be written" in output, output
    assert message in output, output
    assert not list(folder.glob("*.tmp")), "what was written in vain makes room again"


def test_file_that_cannot_be_written(server, tokenizer_options, tmp_path):
    """Under a limit on the size of a file, which the weights are beyond: no checkpoint, no half of one."""
    folder = tmp_path / "out"
    words = tokenizer_options(folder, checkpointing_steps=2)
    check_full_disk(server.start("train_fqgan", words, max_file_size=60_000)[0], folder, "there is no earlier one")
    assert list_checkpoints(folder) == []


def test_full_disk_keeps_the_previous_checkpoint(server, tokenizer_options, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root; the test with a limit on the size of files has run")
    try:
        words = tokenizer_options(folder, checkpointing_steps=2, resume_from_checkpoint="latest")
        finish(server, [*words, "--max_train_steps", "2"])
        size = sum(path.stat().st_size for path in (folder / "checkpoint-2").rglob("*"))
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        subprocess.run([*mount[:-2], "-o", f"remount,size={used + size // 2}", str(folder)], check=True)
        (run,) = server.start("train_fqgan", words)
        check_full_disk(run, folder, f"the last complete one is {folder}/checkpoint-2. Make room and go on")
        assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-2"]
        subprocess.run([*mount[:-2], "-o", "remount,size=100m", str(folder)], check=True)
        finish(server, words)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
