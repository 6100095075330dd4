# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""In a checkout, four folders beside `fqgan_hf/` are parts of the package, and nothing else in the root is.

`modeling/`, `training/`, `model_cards/` and `spaces_demo/` install inside `fqgan_hf/`: `package_dir` in setup.py. With
the root itself in `__path__`, `import fqgan_hf.setup`, `fqgan_hf.tests` and even `fqgan_hf.fqgan_hf` would work, the
last as a second copy of every class.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


FOLDERS = ("modeling", "training", "model_cards", "spaces_demo")


class FoldersBeside:
    """Python's path hook for one entry of `__path__`, and its finder there: it sees these folders only."""

    def __init__(self, place: str, root: str):
        self.place, self.root = place, root

    def __call__(self, path: str) -> "FoldersBeside":
        if path != self.place:
            raise ImportError(f"{path} is left to other hooks")
        return self

    def find_spec(self, name: str, target=None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [self.root]) if name.rpartition(".")[2] in FOLDERS else None

    def iter_modules(self, prefix: str = "") -> list[tuple[str, bool]]:
        """For `pkgutil`, in the order that it expects."""
        return [(prefix + name, True) for name in sorted(FOLDERS) if Path(self.root, name).is_dir()]


def folders_beside(package: Path) -> list[str]:
    """
    What `__path__` needs besides the package's own folder: nothing where the package is installed.

    Args:
        package (`Path`): The folder `fqgan_hf`.
    """
    if (package / FOLDERS[0]).is_dir():
        return []
    # The root, by a name that nobody else has for it: the import system keeps one finder for each name.
    place = os.path.join(package, os.pardir)
    sys.path_hooks.insert(0, FoldersBeside(place, str(package.resolve().parent)))
    return [place]
