# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How our commands end: an exit status and, unless all went well, one line on stderr.

Status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. A user's mistake is a `ValueError`, an `OSError` or one of
their kin, whose message is the whole line; anything else is named by its type, too, since it is a defect.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn


INTERRUPTED = 130
MISTAKES = (ValueError, OSError, ImportError, NotImplementedError, FloatingPointError)

REPEAT_SECONDS = 3.0  # what an interrupted command cleans up is done by then

_interrupted = threading.Event()


def first_line(error: BaseException) -> str:
    """An error as one line of reasonable length, whatever its message looks like."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(line for line in lines if line) or type(error).__name__
    return text if len(text) <= 400 else text[:397] + "..."


def raise_if_interrupted() -> None:
    """`KeyboardInterrupt` after a Ctrl-C that a library has swallowed: call it after work that may have done so."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def run_command(program: str, function: Callable[[], object], debug: bool = False) -> int:
    """
    Run what a command does.

    Args:
        program (`str`): What its errors begin with.
        function (`Callable`): Does it; whatever it raises becomes a line on stderr.
        debug (`bool`): Let errors through, with their traceback.

    Returns:
        `int`: The exit status.
    """
    try:
        with _remembered_interrupts():
            function()
            sys.stdout.flush()
            raise_if_interrupted()  # a run that should have ended before did not do what was asked
    except KeyboardInterrupt:
        return _say_interrupted(program)
    except BrokenPipeError:
        # The reader went away (`fqgan info ... | head -1`): nothing is left to be said, and nowhere to say it.
        _discard_output()
        return 1
    except Exception as error:
        if _interrupted.is_set():  # what a library made of it
            return _say_interrupted(program)
        if debug:
            raise
        message = first_line(error)
        if not isinstance(error, MISTAKES):
            message = f"{type(error).__name__}: {message} (--debug shows where)"
        print(f"{program}: error: {message}", file=sys.stderr)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            return 1
        _discard_output()  # a full disk: Python would try again at its end, and complain again
        return 1
    return 0


def _say_interrupted(program: str) -> int:
    print(f"\n{program}: interrupted", file=sys.stderr)
    return INTERRUPTED


def leave(status: int) -> NoReturn:
    """
    End the process with a status of `run_command`, whatever the interpreter has heard meanwhile.

    The libraries take half a second to be torn down, in which Ctrl-C would make a failure of what is done. And a
    `KeyboardInterrupt` that has passed an `exec` would make Python end by the signal rather than by its status.
    """
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if status == INTERRUPTED:
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _remembered_interrupts() -> Iterator[None]:
    """
    Ctrl-C raises `KeyboardInterrupt` as ever, and again every few seconds until the command ends.

    An exception of a signal handler goes to whatever runs at that moment. Where that is a destructor, a callback of a
    C library or an `except:` without a name, it is lost.
    """
    _interrupted.clear()
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    can_repeat = hasattr(signal, "setitimer")
    before, report = [], sys.unraisablehook

    def on_signal(number, frame):
        if can_repeat and not _interrupted.is_set():
            handler = signal.signal(signal.SIGALRM, on_signal)
            before.append((handler, signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS, REPEAT_SECONDS)))
        _interrupted.set()
        raise KeyboardInterrupt

    def on_loss(lost):
        if not issubclass(lost.exc_type, KeyboardInterrupt):  # which comes again
            report(lost)

    signal.signal(signal.SIGINT, on_signal)
    sys.unraisablehook = on_loss
    try:
        yield
    finally:
        sys.unraisablehook = report
        if before:
            handler, timer = before[0]
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)


class OneLineParser(argparse.ArgumentParser):
    """argparse, with usage errors in one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {first_line(ValueError(message))} (see {self.prog} --help)\n")
