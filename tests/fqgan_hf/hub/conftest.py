# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A Hub on this machine, for commands that run in the process of the tests."""

import contextlib
import io

import pytest
from fakehub import FakeHub
from huggingface_hub import constants

from fqgan_hf.cli import main


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A Hub that `HfApi` of this process speaks to, and an empty folder to be in; what loads by name does not."""
    with FakeHub() as hub:
        settings = hub.environment(tmp_path / "home")
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        for name in ("HF_TOKEN", "NO_PROXY"):
            monkeypatch.setenv(name, settings[name])
        monkeypatch.chdir(tmp_path)
        yield hub
    assert hub.unknown == []


@pytest.fixture
def fqgan():
    """Runs commands one after another; gives exit status, output and errors of each."""

    def run(*commands):
        answers = []
        for words in commands:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    status = main([str(word) for word in words])
                except SystemExit as end:  # of argparse
                    status = end.code
            answers.append((status, out.getvalue(), err.getvalue()))
        return answers

    return run


@pytest.fixture
def done(fqgan):
    """Runs commands that must succeed; gives the output of each."""

    def run(*commands):
        answers = fqgan(*commands)
        for status, _, err in answers:
            assert status == 0, err
        return [out for _, out, _ in answers]

    return run
