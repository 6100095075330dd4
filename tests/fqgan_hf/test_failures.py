# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How commands end: exit status, one line on stderr, and Ctrl-C that no library can swallow."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fqgan_hf import failures
from fqgan_hf.failures import raise_if_interrupted, run_command


@pytest.fixture
def usual_interrupts():
    """A shell that starts tests in its background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def fails(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("seed must be at least 0,\n  got -1"), "x: error: seed must be at least 0, got -1"),
        (FileNotFoundError("there is no a.png"), "x: error: there is no a.png"),
        (FloatingPointError("not finite"), "x: error: not finite"),
        (KeyError("a"), "x: error: KeyError: 'a' (--debug shows where)"),
        (MemoryError(), "x: error: MemoryError: MemoryError (--debug shows where)"),
        (ValueError("a" * 1000), f"x: error: {'a' * 397}..."),
    ],
)
def test_errors_are_one_line(error, line, capsys):
    assert run_command("x", fails(error)) == 1
    assert capsys.readouterr().err == line + "\n"
    with pytest.raises(type(error)):
        run_command("x", fails(error), debug=True)


def test_success(capsys):
    assert run_command("x", lambda: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")


def test_interrupt(usual_interrupts, capsys):
    assert run_command("x", interrupt) == 130
    assert capsys.readouterr().err == "\nx: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_that_is_swallowed(usual_interrupts, capsys):
    """As scikit-learn's `fit` does: the command goes on to the next look, and is no success in any case."""
    passed = []

    def swallow(look):
        try:
            interrupt()
        except KeyboardInterrupt:
            passed.append("swallowed")
        if look:
            raise_if_interrupted()
            passed.append("went on")

    def convert():
        try:
            interrupt()
        except KeyboardInterrupt:
            raise RuntimeError("worker is dead") from None

    assert run_command("x", convert) == 130
    assert run_command("x", lambda: swallow(look=True)) == 130
    assert run_command("x", lambda: swallow(look=False)) == 130
    assert passed == ["swallowed", "swallowed"]
    assert run_command("x", raise_if_interrupted) == 0, "the next command begins anew"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_that_is_lost_is_repeated(usual_interrupts, monkeypatch):
    """As in a destructor, whose errors Python only prints."""
    monkeypatch.setattr(failures, "REPEAT_SECONDS", 0.2)

    class Destroyed:
        def __del__(self):
            interrupt()
            time.sleep(0.01)  # here it is raised, and ignored

    def work():
        Destroyed()
        time.sleep(30)

    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    started = time.monotonic()
    assert run_command("x", work) == 130
    assert time.monotonic() - started < 10
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0) == before


def test_in_another_thread():
    status = []
    thread = threading.Thread(target=lambda: status.append(run_command("x", lambda: None)))
    thread.start()
    thread.join()
    assert status == [0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written():
    code = 'import sys; from fqgan_hf.failures import run_command; sys.exit(run_command("x", lambda: print("done")))'
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (1, "x: error: [Errno 28] No space left on device\n")


def test_the_status_of_an_interrupted_program_is_130():
    """Python would end by the signal: the interrupt has passed an `exec`, as those during imports do."""
    code = (
        "import os, signal\nfrom fqgan_hf.failures import leave, run_command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "leave(run_command('x', lambda: exec('os.kill(os.getpid(), 2)')))"
    )
    result = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (130, "\nx: interrupted\n")
