# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Scripts in processes of their own: what reaches terminal, log and error, and how they end."""

import os
import sys
import threading
import time

import pytest

from fqgan_hf import processes
from fqgan_hf.processes import ScriptRunner


@pytest.fixture
def scripts_of(tmp_path, monkeypatch):
    """Makes the words of a script its source, which the interpreter runs in the script's place."""
    start = processes.subprocess.Popen

    def popen(command, **settings):
        assert command[:2] == [sys.executable, "-m"] and command[2].startswith("fqgan_hf.training.")
        return start([sys.executable, "-c", command[3]], **settings)

    monkeypatch.setattr(processes.subprocess, "Popen", popen)


BARS = "import sys; print('one'); print('10%\\r20%\\r100%', file=sys.stderr); print('two', end='')"


@pytest.mark.parametrize("show", [True, False])
def test_the_log_keeps_the_last_state_of_a_bar(show, scripts_of, tmp_path, capfd):
    log = tmp_path / "logs" / "train.log"
    for _ in range(2):  # a second call adds to the log
        ScriptRunner(1, show=show).run("x", [BARS], log)
    assert log.read_text() == "one\n100%\ntwo\n" * 2
    assert ("10%\r20%\r100%" in capfd.readouterr().err) == show


@pytest.mark.parametrize(
    ("source", "last_line"),
    [
        ("raise SystemExit('disk full')", "disk full"),
        ("import sys; sys.stdout.write('50%\\r60%'); sys.exit(1)", "60%"),
        ("import sys; print('why\\n\\n'); sys.exit(1)", "why"),
        ("raise SystemExit(1)", ""),
    ],
)
def test_an_error_has_the_last_line(source, last_line, scripts_of, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(ChildProcessError) as error:
        ScriptRunner(1).run("train_far", [source], log)
    assert str(error.value) == f"train_far failed with exit status 1, its log is {log}: {last_line}"


def test_a_script_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ChildProcessError, match="no_such_script failed with exit status 1, .*: .*No module named"):
        ScriptRunner(1).run("no_such_script", [], tmp_path / "log")


def test_threads_and_variables_reach_the_script(scripts_of, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("TAKEN_OVER", "yes")
    names = "OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS TAKEN_OVER ADDED"
    source = f"import os; print(*(os.environ[name] for name in {names.split()!r}))"
    ScriptRunner(3, {"ADDED": "too"}).run("x", [source], tmp_path / "log")
    assert (tmp_path / "log").read_text() == "3 3 3 yes too\n"
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_stop_ends_what_runs_and_starts_nothing_more(scripts_of, tmp_path):
    scripts, logs = ScriptRunner(1), [tmp_path / f"{i}.log" for i in range(3)]
    forever = "import time; print('started'); time.sleep(600)"
    threads = [threading.Thread(target=scripts.run, args=("x", [forever], log)) for log in logs[:2]]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while not all(log.is_file() and log.read_text() for log in logs[:2]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    scripts.stop()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    scripts.run("x", [forever], logs[2])  # returns at once
    assert not logs[2].exists()


def test_an_interrupt_takes_the_script_along(scripts_of, monkeypatch, tmp_path):
    started = []
    popen = processes.subprocess.Popen

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda *args, **settings: started.append(popen(*args, **settings)) or started[0]
    )
    monkeypatch.setattr(processes, "_keep_output", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ScriptRunner(1).run("x", ["import time; time.sleep(600)"], tmp_path / "log")
    assert started[0].poll() is not None
