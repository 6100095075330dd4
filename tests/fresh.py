# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Scripts in a fresh process, with or without this package: `run_python(script, environment, folder)`."""

import os
import subprocess
import sys
from pathlib import Path


# What a script begins with to run where this package is not installed.
WITHOUT_PACKAGE = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] in ("fqgan_hf", "modeling", "training"):
            raise ModuleNotFoundError(f"No module named {fullname!r}")

sys.meta_path.insert(0, Absent())  # before the finder of an editable installation
"""


def run_python(script: str, environment: dict[str, str], folder: Path, *arguments: str) -> str:
    """What a script prints that is run in `folder`; the test fails if it does."""
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout
