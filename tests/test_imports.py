# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Imports run one way: modeling <- fqgan_hf <- training; spaces_demo uses public names only. Read from the source."""

import ast
import importlib.metadata
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fqgan_hf


ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("fqgan_hf", "modeling", "training", "spaces_demo", "benchmarks", "tests")
# What a checkpoint folder may need where only the libraries are installed.
MODELING_MAY_IMPORT = {"torch", "transformers", "diffusers", "huggingface_hub", "safetensors", "numpy", "PIL"}
DISTRIBUTION_OF = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# transformers and diffusers read a file's relative imports with this expression, from the text rather than the syntax.
REMOTE_CODE_IMPORT = re.compile(r"^\s*from\s+\.(\S+)\s+import|^\s*import\s+\.(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Import:
    where: str
    module: str  # "" for `from . import x`
    names: tuple[str, ...]
    level: int
    on_load: bool  # runs when the file is imported, rather than when a function is called

    @property
    def root(self) -> str:
        return "" if self.level else self.module.split(".")[0]


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports_of(source: str, where: str) -> list[Import]:
    """All imports in a file: statements, and calls of `import_module` or `__import__` on a constant."""
    found = []

    def visit(node: ast.AST, on_load: bool) -> None:
        place = f"{where}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            found.extend(Import(place, alias.name, (), 0, on_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append(Import(place, node.module or "", names, node.level, on_load))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.append(Import(place, node.args[0].value, (), 0, on_load))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            on_load = False
        inside_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, on_load and not inside_function)

    visit(ast.parse(source), True)
    return found


def imports_in(folder: str) -> list[Import]:
    return [
        entry
        for path in sources(folder)
        for entry in imports_of(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]


def declared(extra: str = "") -> set[str]:
    """Names of the distributions that `pip install fqgan-hf[extra]` asks for."""
    requirements = map(Requirement, importlib.metadata.requires("fqgan-hf"))
    return {
        canonicalize_name(requirement.name)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
    }


def third_party(entry: Import) -> bool:
    return not entry.level and entry.root not in sys.stdlib_module_names and entry.root != "fqgan_hf"


def undeclared(entries: list[Import], allowed: set[str]) -> list[str]:
    return [
        f"{entry.where}: {entry.module}"
        for entry in entries
        if third_party(entry) and canonicalize_name(DISTRIBUTION_OF.get(entry.root, entry.root)) not in allowed
    ]


def test_the_walk_sees_every_kind_of_import():
    source = (
        "import a.b\nfrom c import d\nfrom .e import f\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import g\ndef h():\n    import i\nimportlib.import_module('j')\n"
    )
    assert [(entry.module, entry.level, entry.on_load) for entry in imports_of(source, "x.py")] == [
        ("a.b", 0, True),
        ("c", 0, True),
        ("e", 1, True),
        ("typing", 0, True),
        ("g", 0, False),
        ("i", 0, False),
        ("j", 0, True),
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_imports_the_folders_by_their_top_level_names(folder):
    """`import modeling.x` from the root would make a second class object of the same name."""
    assert [entry.where for entry in imports_in(folder) if entry.root in ("modeling", "training", "tests")] == []


def test_modeling_is_flat_and_stands_alone():
    modules = {path.stem for path in sources("modeling")}
    assert [path for path in sources("modeling") if path.parent != ROOT / "modeling"] == []
    for entry in imports_in("modeling"):
        if entry.level:
            assert entry.level == 1 and entry.module in modules, f"{entry.where}: only `from .module import Name`"
            assert "*" not in entry.names, entry.where
        else:
            allowed = entry.root in MODELING_MAY_IMPORT or entry.root in sys.stdlib_module_names
            assert allowed, f"{entry.where}: {entry.module}"


@pytest.mark.parametrize("path", sources("modeling"), ids=lambda path: path.name)
def test_remote_code_loader_sees_the_imports_python_sees(path):
    """A docstring line that reads like a relative import makes the loader ask the Hub for a file that isn't there."""
    source = path.read_text(encoding="utf-8")
    by_text = {match[0] or match[1] for match in REMOTE_CODE_IMPORT.findall(source)}
    assert by_text == {entry.module for entry in imports_of(source, path.name) if entry.level}


def test_package_does_not_import_training():
    assert [entry.where for entry in imports_in("fqgan_hf") if entry.module.startswith("fqgan_hf.training")] == []


@pytest.mark.parametrize("folder", ["fqgan_hf", "training", "benchmarks"])
def test_relative_imports_stay_within_modeling(folder):
    """Everything else spells out `fqgan_hf.x`, which reads the same from every file and runs as a script, too."""
    assert [entry.where for entry in imports_in(folder) if entry.level] == []


def test_space_uses_public_names_only():
    for entry in imports_in("spaces_demo"):
        if entry.root != "fqgan_hf":
            continue
        parts = entry.module.split(".")[1:]
        assert parts[:1] not in (["modeling"], ["training"]), f"{entry.where}: {entry.module}"
        assert not any(name.startswith("_") for name in (*parts, *entry.names)), f"{entry.where}: {entry.names}"
        if not parts:
            assert set(entry.names) <= set(fqgan_hf.__all__), f"{entry.where}: {entry.names}"


def test_importing_the_package_needs_the_core_install_only():
    entries = imports_in("fqgan_hf") + imports_in("modeling")
    assert undeclared([entry for entry in entries if entry.on_load], declared()) == []


@pytest.mark.parametrize(("folder", "extra"), [("fqgan_hf", "dev"), ("training", "dev"), ("spaces_demo", "space")])
def test_every_library_is_declared(folder, extra):
    # `spaces` exists on ZeroGPU hardware only, where it is preinstalled.
    siblings = {path.stem for path in sources(folder)} if folder == "spaces_demo" else set()  # uploaded as one folder
    assert undeclared(imports_in(folder), declared(extra) | {"spaces"} | siblings) == []


def test_public_names_exist_and_load_lazily():
    assert sorted(fqgan_hf.__all__) == list(fqgan_hf.__all__)
    assert set(fqgan_hf.__all__) <= set(dir(fqgan_hf))
    for name in fqgan_hf.__all__:
        assert getattr(fqgan_hf, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'FQGAN'"):
        _ = fqgan_hf.FQGAN


def test_tests_are_no_packages():
    """With an `__init__.py`, tests/fqgan_hf would become a second package `fqgan_hf`."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []
