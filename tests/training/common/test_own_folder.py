# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""One run at a time in a folder, whatever its number of processes, and nothing half-written left in it."""

import re
import subprocess
import sys
import time

import pytest
import torch

from fqgan_hf import files
from fqgan_hf.codes.store import shard_name, write_shard
from fqgan_hf.files import read_metrics
from fqgan_hf.training.extract_codes import main as extract_codes
from fqgan_hf.training.train_fqgan import main as train_fqgan

from ..run_server import RunServer
from ..test_resume import finish


HOLD = """
import pathlib, sys, time
from fqgan_hf.files import locked_folder
with locked_folder(pathlib.Path(sys.argv[1]), "trains"):
    print("within", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process is in, until it is killed."""
    folder = tmp_path / "held"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "within\n"
    yield folder, process
    process.kill()
    process.wait()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_training_is_refused(held, tokenizer_options, monkeypatch):
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.2)
    folder, process = held
    with pytest.raises(OSError, match=f"another process trains in {folder} at this moment"):
        train_fqgan(tokenizer_options(folder))
    assert names(folder) == [".lock"]
    process.kill()
    train_fqgan(tokenizer_options(folder, max_train_steps=1))
    assert len(read_metrics(folder / "metrics.jsonl")) == 1


def test_a_second_extraction_is_refused(held, tokenizer_options, image_folder, to_command, tmp_path, monkeypatch):
    """Before anything in the folder is touched, whether it is the same or another."""
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.2)
    folder, _ = held
    train_fqgan(tokenizer_options(tmp_path / "tokenizer", max_train_steps=1))
    (folder / "bad_images.txt").write_text("of the first\n")
    options = {"tokenizer": tmp_path / "tokenizer", "train_data_dir": image_folder, "output_dir": folder}
    with pytest.raises(OSError, match=f"another process extracts codes in {folder} at this moment"):
        extract_codes(to_command(options))
    assert names(folder) == [".lock", "bad_images.txt"]


def test_all_processes_of_a_second_run_end(held, tokenizer_options, tmp_path):
    """The main process alone looks; none of the others is left waiting for it."""
    folder, _ = held
    with RunServer(tmp_path) as server:
        started = time.monotonic()
        runs = server.start("train_fqgan", tokenizer_options(folder, train_batch_size=2), 2)
        for run in runs:
            assert run.wait() == 1 and f"another process trains in {folder} at this moment" in run.output()
        assert time.monotonic() - started < files.LOCK_SECONDS + 60
    assert names(folder) == [".lock"]


def test_what_killed_runs_left_is_removed_and_nothing_else(tokenizer_options, tmp_path):
    left = ["checkpoint-7.tmp", ".export.abc.tmp", ".shard-00001.parquet.abc.tmp"]
    mine = ["checkpoint-x.tmp", "notes.tmp", ".export", "checkpoint-old"]
    for name in left + mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("?")
    train_fqgan(tokenizer_options(tmp_path, max_train_steps=1))
    assert set(mine) <= set(names(tmp_path)) and not set(left) & set(names(tmp_path))


def test_a_full_disk_at_the_end_leaves_the_old_model(tokenizer_options, tmp_path):
    """Under a limit on the size of a file, which the weights are beyond."""
    folder = tmp_path / "out"
    with RunServer(tmp_path) as server:
        finish(server, tokenizer_options(folder, max_train_steps=1))
        before = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
        (run,) = server.start("train_fqgan", tokenizer_options(folder, max_train_steps=2), max_file_size=250_000)
        message = f"OSError: the model in {folder} cannot be written: .*File too large"
        assert run.wait() == 1 and re.search(message, run.output()), run.output()
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == before
    assert (folder / "config.json").is_file() and not [name for name in names(folder) if name.endswith(".tmp")]


PLOT_ON_A_FULL_DISK = """
import resource, signal, sys
from fqgan_hf.training.common.plots import plot_losses
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
plot_losses(*sys.argv[1:])
"""


def test_a_plot_on_a_full_disk_leaves_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss/a": 1.0}\n{"step": 2, "loss/a": 2.0}\n')
    arguments = [str(tmp_path / "metrics.jsonl"), str(tmp_path / "losses.png")]
    result = subprocess.run([sys.executable, "-c", PLOT_ON_A_FULL_DISK, *arguments], capture_output=True, text=True)
    assert f"OSError: {tmp_path}/losses.png cannot be written: File too large" in result.stderr
    assert names(tmp_path) == ["metrics.jsonl"]


def test_a_shard_is_in_nobodys_way(manifest, tmp_path):
    """What another process has under way stays as it is; a failed write leaves nothing."""
    path = tmp_path / shard_name(0)
    under_way = path.with_name(path.name + ".tmp")
    under_way.write_bytes(b"half a shard")
    write_shard(path, manifest, ["a"], [0], torch.zeros(1, *manifest.shape, dtype=torch.int64))
    assert under_way.read_bytes() == b"half a shard"
    with pytest.raises(Exception, match="length"):
        write_shard(tmp_path / shard_name(1), manifest, ["a", "b"], [0], torch.zeros(1, *manifest.shape).long())
    assert names(tmp_path) == [path.name, under_way.name]


@pytest.mark.parametrize(
    "damage",
    ['{"step": 7, "loss', '{"step": 7, "loss/total": 1', "\0\0\0\0", "[]", '"text"', '{"loss/total": 1.0}', "9" * 5000,
     '{"step": "7"}', '{"step": 7, "loss/total": "high"}', '{"step": 7, "loss/total": null}', "\udcff", "[" * 100_000,
     '{"step": 7, "loss/total": ' + "9" * 400 + "}"],
)  # fmt: skip
def test_a_damaged_line_of_metrics_is_left_out(damage, tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = '{"step": 6, "loss/total": 1.5, "loss/nan": NaN}\n'
    path.write_bytes((whole + damage + "\n" + whole + damage).encode(errors="surrogateescape"))
    records = read_metrics(path)
    assert [record["step"] for record in records] == [6, 6] and records[0]["loss/total"] == 1.5


def test_metrics_that_are_not_there(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_resume_after_a_torn_line(tokenizer_options, tmp_path):
    """`kill -9` in the midst of a line, or a disk that lost a page: the run goes on, and its log is whole again."""
    options = {"max_train_steps": 2, "checkpointing_steps": 2}
    train_fqgan(tokenizer_options(tmp_path, **options))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + "\0\0\0\n" + '{"step": 2, "epo')
    train_fqgan(tokenizer_options(tmp_path, **options | {"max_train_steps": 3}, resume_from_checkpoint="latest"))
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    assert "\0" not in path.read_text()
