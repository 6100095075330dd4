# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""One file out of many modules: it has all the names that it needs, each with its own meaning, and nothing else."""

import builtins
import dis
import importlib
import sys
import types

import pytest
from diffusers.utils.dynamic_modules_utils import get_relative_imports

from fqgan_hf.hub import bundle as bundling
from fqgan_hf.hub.bundle import bundle, digest
from fqgan_hf.hub.kinds import KINDS
from fqgan_hf.hub.self_contained import STAND_INS


def global_names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Names that a module's code gives at its top, and global names that it reads anywhere."""
    given, read, inner = set(), set(), set()

    def walk(part: types.CodeType, is_top: bool) -> None:
        stored = {i.argval for i in dis.get_instructions(part) if i.opname in ("STORE_NAME", "IMPORT_NAME")}
        (given if is_top else inner).update(stored)
        read.update(i.argval for i in dis.get_instructions(part) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
        for constant in part.co_consts:
            if isinstance(constant, types.CodeType):
                walk(constant, False)

    walk(code, True)
    return given, read - inner  # a class's body reads what it gives


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_class_of_ours(kind, tmp_path):
    source = bundle(kind.module, kind.class_name, kind.role == "pipeline", STAND_INS)
    given, read = global_names(compile(source, "bundle", "exec"))
    assert kind.class_name in given
    assert read - given - set(dir(builtins)) - {"__name__", "__annotations__"} == set()
    path = tmp_path / "bundle.py"
    path.write_text(source, encoding="utf-8")
    assert get_relative_imports(path) == [], "what loaders would look for"
    imports = [line for line in source.splitlines() if line.lstrip().startswith(("import ", "from "))]
    assert not any("fqgan_hf" in line for line in imports)
    assert "register_with_diffusers" not in source and "AutoModel.register" not in source, "no effects"
    assert digest(source) == digest(bundle(kind.module, kind.class_name, kind.role == "pipeline", STAND_INS))


def test_pipelines_leave_the_models_to_their_own_files():
    for name in ("FARPipeline", "CodeDiffusionPipeline", "FQGANPipeline"):
        kind = next(kind for kind in KINDS if kind.class_name == name)
        source = bundle(kind.module, name, True, STAND_INS)
        assert not any(
            f"class {model}(" in source for model in ("FQGANModel", "FARForImageGeneration", "GeneratorConfig")
        )


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a package `parts`, bundles one of them and runs the result."""
    monkeypatch.setattr(bundling, "PACKAGE", "parts")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")

    def run(name="Root", stand_ins=None, lazy=False, **modules):
        for module, source in modules.items():
            (tmp_path / "parts" / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        bundling._read.cache_clear()
        source = bundle("parts.root", name, lazy, stand_ins)
        space = {"__name__": "bundle"}
        exec(source, space)
        return source, space

    yield run
    bundling._read.cache_clear()
    for module in [module for module in sys.modules if module.split(".")[0] == "parts"]:
        del sys.modules[module]


OTHER = """
import json
import math

# Three.
NUMBER = 3
UNUSED = json


def root(x):
    return math.sqrt(x)
"""
ROOT = """
from parts.other import NUMBER, root as rooted


class Root:
    value = rooted(NUMBER**2)


print("effect")
"""


def test_only_what_is_reached_comes_along_with_its_comments(package):
    source, space = package(other=OTHER, root=ROOT)
    assert space["Root"].value == 3.0
    assert "# Three.\nNUMBER = 3" in source and "UNUSED" not in source and "import json" not in source
    assert "effect" not in source and source.index("NUMBER = 3") < source.index("class Root")


TAKEN = """
SIZE = 20  # é: columns count bytes


def _size(SIZE_=0):
    "SIZE"
    é = dict(SIZE=SIZE)
    return é["SIZE"] + SIZE
"""


def test_names_that_are_taken_change(package):
    """Two modules call different things by one name; words in texts, keywords and attributes stay."""
    imports = "from parts.a import _size\nfrom parts.b import _size as other\n"
    source, space = package(
        a="SIZE = 1\n\n\ndef _size():\n    return SIZE\n",
        b=TAKEN,
        root=f"{imports}\n\nclass Root:\n    values = (_size(), other())\n",
    )
    assert space["Root"].values == (1, 40)
    assert "SIZE_of_b = 20" in source and "dict(SIZE=SIZE_of_b)" in source and "def _size_of_b(" in source


HEAVY = """
import torch


class Base(torch.nn.Module):
    pass


class Model(torch.nn.Module):
    pass
"""
LIGHT = """
from parts.heavy import Base, Model


class Root(Base):
    def f(self, model: Model) -> Model:
        return 1
"""


def test_stand_ins_and_lazy_annotations(package):
    stand_ins = {("parts.heavy", "Base"): "class Base:\n    pass"}
    source, space = package(lazy=True, stand_ins=stand_ins, heavy=HEAVY, root=LIGHT)
    assert "torch" not in source and space["Root"]().f(None) == 1


def test_a_second_run_keeps_the_first_classes(package):
    source, space = package(root="class Root:\n    pass\n")
    first = space["Root"]
    exec(source, space)
    assert space["Root"] is first


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"root": "import parts.a\n\n\nclass Root:\n    pass\n"}, "import single names of parts.a"),
        ({"root": "try:\n    import x\nexcept ImportError:\n    x = 0\n\n\nclass Root:\n    pass\n"}, "root, line 1"),
        (
            {"root": "class Root:\n    def f(self):\n        from parts.a import x\n        return x\n"},
            "no place for the import of parts.a in a function, line 3",
        ),
        (
            {
                "a": "from json import loads\n\n\ndef f():\n    return loads\n",
                "root": "from pickle import loads\nfrom parts.a import f\n\n\nclass Root:\n    g = (f, loads)\n",
            },
            "loads is one thing in parts.",
        ),
        (
            {
                "a": "SIZE = 1\n\n\ndef f():\n    return SIZE\n",
                "b": "SIZE = 2\n\n\ndef g(SIZE):\n    return SIZE\n\n\ndef h():\n    return SIZE, g\n",
                "root": "from parts.a import f\nfrom parts.b import h\n\n\nclass Root:\n    g = (f, h)\n",
            },
            "b, line 4: SIZE has another meaning in a bundle, rename it",
        ),
    ],
)
def test_what_cannot_be_moved_is_named(package, modules, message):
    with pytest.raises(ValueError, match=message):
        package(**{"a": "x = 1\n", **modules})
