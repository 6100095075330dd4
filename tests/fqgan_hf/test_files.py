# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Files complete or absent, nothing left over, one run at a time in a folder; with real disks and real processes."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fqgan_hf import files


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_atomic_path_is_all_or_nothing(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with files.atomic_path(target) as temporary:
        temporary.write_text("one")
        assert not target.exists() and temporary.suffix == ".txt"
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("two")
        raise RuntimeError
    assert target.read_text() == "one" and names(tmp_path) == ["new", "new/a.txt"]


def test_atomic_path_of_a_folder(tmp_path):
    with files.atomic_path(tmp_path / "shard") as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("a")
    with files.atomic_path(tmp_path / "shard") as temporary:
        temporary.mkdir()
        (temporary / "b").write_text("b")
    assert names(tmp_path) == ["shard", "shard/b"]


def test_nothing_is_left_after_a_full_disk(tmp_path):
    """A limit on the size of files stands in for the disk."""
    code = """
import pathlib, resource, signal, sys
from fqgan_hf.files import write_json
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_json(pathlib.Path(sys.argv[1]), ["x" * 100_000])
"""
    (tmp_path / "a.json").write_text("old")
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], capture_output=True, text=True)
    assert "File too large" in result.stderr
    assert names(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


@pytest.mark.parametrize("place", ["file/a.png", "x" * 300, "new/" + "x" * 300])
def test_check_writable_finds_what_writing_would_find(tmp_path, place):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="cannot be written"):
        files.check_writable(tmp_path / place)
    assert names(tmp_path) == ["file"]
    files.check_writable(tmp_path / "new" / "folder" / "a.png")
    assert names(tmp_path) == ["file"]


def test_two_may_check_the_same_missing_folder_at_once(tmp_path):
    """Neither creates a folder that the other relies on, nor removes it."""
    path = tmp_path / "new" / "a.png"
    with ThreadPoolExecutor(4) as pool:
        for check in [pool.submit(files.check_writable, path) for _ in range(400)]:
            check.result()
    assert names(tmp_path) == []


def test_devices_and_pipes_are_not_replaced_by_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(OSError, match="is a device or a pipe"):
            files.check_writable(path)
        with pytest.raises(OSError, match="is a device or a pipe"), files.atomic_path(path) as temporary:
            temporary.write_text("a")
    assert names(tmp_path) == ["pipe"] and (tmp_path / "pipe").is_fifo()


def test_check_writable_on_a_read_only_disk(tmp_path):
    if os.geteuid() != 0:
        tmp_path.chmod(0o555)
    elif subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], capture_output=True).returncode != 0:
        pytest.skip("mounting a read-only disk is not possible here")
    try:
        with pytest.raises(OSError, match=r"a\.png cannot be written: (Read-only file system|Permission denied)"):
            files.check_writable(tmp_path / "a.png")
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", tmp_path], check=True)
        else:
            tmp_path.chmod(0o755)


def test_a_staged_folder_is_all_or_nothing(tmp_path):
    folder = tmp_path / "model"
    with files.staged_folder(folder) as staging:
        (staging / "config.json").write_text("one")
        assert not folder.exists()
    with pytest.raises(RuntimeError), files.staged_folder(folder) as staging:
        (staging / "config.json").write_text("two")
        raise RuntimeError
    assert names(tmp_path) == ["model", "model/config.json"] and (folder / "config.json").read_text() == "one"


def test_only_files_py_gives_files_their_names():
    """Another way of writing would have to be safe by itself, too."""
    root = Path(files.__file__).parent.parent
    sources = [path for folder in ("fqgan_hf", "modeling", "training") for path in (root / folder).rglob("*.py")]
    pattern = re.compile(r"^import tempfile|^from tempfile|os\.(replace|rename)\(|\.rename\(", re.MULTILINE)
    found = [path.name for path in sources if pattern.search(path.read_text(encoding="utf-8"))]
    assert found == ["files.py"]


def test_metrics_are_read_as_far_as_they_were_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert files.read_metrics(path) == []
    whole = ['{"step": 1, "loss": 0.5}', '{"step": 2, "loss": NaN}', '{"step": 3, "images": 4}']
    broken = [
        "", "null", "[1]", '"step"', '{"loss": 1.0}', '{"step": "4"}', '{"step": true}', '{"step": 4, "loss": "low"}',
        '{"step": 4, "loss": 1' + "0" * 30 + "}", "[" * 100_000, '{"step": 4, "lo',
    ]  # fmt: skip
    path.write_bytes("\n".join([whole[0], *broken[:5], *whole[1:], *broken[5:]]).encode() + b"\xff")
    records = files.read_metrics(path)
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[0] == {"step": 1, "loss": 0.5} and records[1]["loss"] != records[1]["loss"]


@pytest.mark.parametrize("content", ["{", "[1]", '"a"', "nul", "[" * 100_000, "\0"])
def test_read_json_names_the_damaged_file(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json (is damaged|must hold a JSON object)"):
        files.read_json(tmp_path / "a.json")


def test_publish_files_replaces_its_own_names_only(tmp_path):
    staging, folder = tmp_path / "staging", tmp_path / "folder"
    for place in (staging, folder):
        place.mkdir()
        for name in ("config.json", "model.safetensors"):
            (place / name).write_text(place.name)
    (staging / "part").mkdir()
    (staging / "part" / "config.json").write_text("staging")
    (folder / "other.safetensors").write_text("mine")
    files.publish_files(staging, folder)
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found.pop("other.safetensors") == "mine"
    assert found == dict.fromkeys(("config.json", "model.safetensors", "part/config.json"), "staging")
    assert not staging.exists()


def test_publish_files_to_a_new_folder(tmp_path):
    staging = tmp_path / "staging"
    staging.mkdir(mode=0o700)
    (staging / "config.json").write_text("{}")
    files.publish_files(staging, tmp_path / "new" / "folder")
    assert names(tmp_path) == ["new", "new/folder", "new/folder/config.json"]
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o777 == 0o755


HOLD = """
import pathlib, sys, time, multiprocessing
from fqgan_hf.files import locked_folder, scratch_folder
kind, folder = sys.argv[1:]
with scratch_folder("test") if kind == "scratch" else locked_folder(pathlib.Path(folder), "tests") as folder:
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,), daemon=True).start()
    if folder is not None:
        (folder / "weights").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def holder(kind, folder, **environment):
    """A process within, with a child of its own that outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(folder)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    process.said = process.stdout.readline().strip()
    return process


def test_a_locked_folder_is_refused_until_its_process_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.2)
    process = holder("lock", tmp_path)
    try:
        with pytest.raises(OSError, match=r"another process trains in .* at this moment"):
            files.locked_folder(tmp_path, "trains").__enter__()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with files.locked_folder(tmp_path, "trains"):
        pass


def test_a_locked_folder_is_waited_for(tmp_path):
    process = holder("lock", tmp_path)
    started = time.monotonic()
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(2); os.kill({process.pid}, 9)"])
    looks = []
    with files.locked_folder(tmp_path, "samples", while_waiting=lambda: looks.append(1)):
        assert time.monotonic() - started > 0.5
    assert looks
    killer.wait()
    process.wait()


def test_scratch_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, alive = (holder("scratch", tmp_path, TMPDIR=str(tmp_path)) for _ in range(2))
    killed.kill()
    killed.wait()
    assert os.path.exists(killed.said)
    with files.scratch_folder("test") as folder:
        assert os.path.exists(alive.said) and not os.path.exists(killed.said)
        assert names(folder) == []
    assert not folder.parent.exists()
    alive.kill()
    alive.wait()
