# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Imports run one way, without a circle: modeling <- fqgan_hf <- training. Read from the source, not by importing."""

import ast
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable
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


@pytest.mark.parametrize(("folder", "extra"), [("fqgan_hf", "dev"), ("training", "dev"), ("spaces_demo", "space")])
def test_every_library_is_declared(folder, extra):
    # `spaces` exists on ZeroGPU hardware only, where it is preinstalled.
    allowed = declared(extra) | {"spaces"}
    if folder == "spaces_demo":  # uploaded as one folder, whose files find each other
        allowed |= {canonicalize_name(path.stem) for path in sources(folder)}
    assert undeclared(imports_in(folder), allowed) == []


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


# ---- The graph of modules -------------------------------------------------------------------------------------------

# Which rooms a room may import, besides itself; "" stands for the files at the top of fqgan_hf/. Imports in functions
# count as well. Nobody but `cli` imports `commands`, and nobody imports `cli`.
MAY_IMPORT = {
    "modeling": set(),
    "": {"modeling", "hub"},
    "hub": {"modeling", ""},
    "kernels": {"modeling", ""},
    "pipelines": {"modeling", "", "hub", "kernels", "evaluation"},
    "evaluation": {"modeling", "", "hub", "kernels", "pipelines"},
    "codes": {"modeling", "", "hub", "pipelines", "evaluation"},
    "training": {"modeling", "", "hub", "kernels", "pipelines", "evaluation", "codes"},
    "demo": {"modeling", "", "hub", "kernels", "pipelines", "evaluation"},
    "commands": {"modeling", "", "hub", "kernels", "pipelines", "evaluation", "codes", "demo"},
    "cli": {"", "commands"},
}

Graph = dict[str, list[Import]]


def room(module: str) -> str:
    parts = module.split(".")[1:]
    return parts[0] if parts and parts[0] in MAY_IMPORT else ""


def modules() -> Graph:
    """The imports of every module that is installed, by its dotted name."""
    found = {}
    for folder, package in (("fqgan_hf", ()), ("modeling", ("modeling",)), ("training", ("training",))):
        for path in sources(folder):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            entries = imports_of(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
            found[".".join(["fqgan_hf", *package, *parts])] = entries
    return found


def targets(entry: Import, module: str, known: Graph) -> set[str]:
    """The modules among the known ones that an import of `module` reads."""
    name = entry.module
    if entry.level:  # from .module import Name
        name = ".".join(filter(None, (module.rpartition(".")[0], entry.module)))
    lazily = {fqgan_hf._MODULE_OF.get(part) for part in entry.names} if name == "fqgan_hf" else set()
    return {found for found in (name, *(f"{name}.{part}" for part in entry.names), *lazily) if found in known}


def first_circle(known: Graph) -> list[str]:
    """Modules that import one another while they load, or nothing."""
    reads = {
        module: sorted({t for e in entries if e.on_load for t in targets(e, module, known)} - {module, "fqgan_hf"})
        for module, entries in known.items()
    }
    done: set[str] = set()

    def visit(module: str, above: list[str]) -> list[str]:
        if module in above:
            return [*above[above.index(module) :], module]
        if module in done:
            return []
        for other in reads[module]:
            if circle := visit(other, [*above, module]):
                return circle
        done.add(module)
        return []

    return next(filter(None, (visit(module, []) for module in reads)), [])


def against_the_direction(known: Graph) -> list[str]:
    """Imports of a room by one that may not, wherever they stand."""
    return sorted(
        f"{module} imports {target}"
        for module, entries in known.items()
        if module != "fqgan_hf"  # whose lazy table names what all rooms offer
        for entry in entries
        for target in targets(entry, module, known) - {"fqgan_hf"}
        if room(target) not in {room(module), *MAY_IMPORT[room(module)]}
    )


def loaded_by(names: Iterable[str], known: Graph) -> set[str]:
    """Modules that are imported with some others."""
    found, waiting = set(), list(names)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += [t for e in known[module] if e.on_load for t in targets(e, module, known)]
    return found


def graph_of(**sources: str) -> Graph:
    """A graph for the checks themselves; `__` in a name stands for a dot."""
    return {
        f"fqgan_hf.{name.replace('__', '.')}": imports_of(source, f"{name}.py") for name, source in sources.items()
    }


def test_public_names_and_the_command_need_the_core_install_only():
    graph = modules()
    loaded = loaded_by(["fqgan_hf", "fqgan_hf.cli", *fqgan_hf._MODULE_OF.values()], graph)
    assert undeclared([entry for module in loaded for entry in graph[module] if entry.on_load], declared()) == []


def test_no_module_imports_itself_in_a_circle():
    assert first_circle(modules()) == []


def test_imports_run_one_way():
    assert against_the_direction(modules()) == []


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        (
            {"hub__a": "from fqgan_hf.hub import b", "hub__b": "import fqgan_hf.hub.a"},
            ["hub.a", "hub.b", "hub.a"],
        ),
        (
            {"files": "from fqgan_hf.a import x", "a": "from fqgan_hf.b import y", "b": "import fqgan_hf.files"},
            ["files", "a", "b", "files"],
        ),
        (
            {"modeling__a": "from .b import x", "modeling__b": "from .a import y"},
            ["modeling.a", "modeling.b", "modeling.a"],
        ),
        (
            {"a": "from fqgan_hf import optimize", "kernels__optimization": "import fqgan_hf.a"},
            ["a", "kernels.optimization", "a"],
        ),
        ({"hub__a": "from fqgan_hf.hub import b", "hub__b": "def f():\n    import fqgan_hf.hub.a"}, []),
    ],
)
def test_a_circle_is_found(sources, circle):
    assert first_circle(graph_of(**sources)) == [f"fqgan_hf.{name}" for name in circle]


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("files", "def f():\n    from fqgan_hf.cli import main", "cli"),
        ("demo__run", "from fqgan_hf.commands.options import number", "commands.options"),
        ("training__loop", "from fqgan_hf import cli", "cli"),
        ("evaluation__images", "from fqgan_hf.training.crops import CROPS", "training.crops"),
        ("hub__export", "import fqgan_hf.pipelines.sample", "pipelines.sample"),
        ("modeling__a", "from fqgan_hf.files import sha256", "files"),
        ("pipelines__sample", "from fqgan_hf.demo.run import run", "demo.run"),
    ],
)
def test_an_import_against_the_direction_is_found(module, source, target):
    graph = graph_of(**{module: source}) | {f"fqgan_hf.{target}": []}
    assert against_the_direction(graph) == [f"fqgan_hf.{module.replace('__', '.')} imports fqgan_hf.{target}"]


def test_what_type_checkers_see_is_what_is_there():
    """The names under TYPE_CHECKING in fqgan_hf/__init__.py are those of its table of lazy names."""
    source = (ROOT / "fqgan_hf" / "__init__.py").read_text(encoding="utf-8")
    entries = [entry for entry in imports_of(source, "") if not entry.on_load and entry.root == "fqgan_hf"]
    assert {name: entry.module for entry in entries for name in entry.names} == fqgan_hf._MODULE_OF
    assert set(fqgan_hf.__all__) == {*fqgan_hf._MODULE_OF, "__version__"}


@pytest.mark.parametrize("name", ["fqgan_hf", "setup", "tests", "benchmarks", "docs"])
def test_only_the_package_resolves_below_its_name(name):
    """In a checkout `modeling/` and `training/` lie beside the package; nothing else there is a part of it."""
    assert importlib.util.find_spec(f"fqgan_hf.{name}") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"fqgan_hf.{name}")


@pytest.mark.parametrize("name", ["modeling", "training", "model_cards", "spaces_demo"])
def test_the_folders_beside_it_resolve(name):
    found = importlib.util.find_spec(f"fqgan_hf.{name}")
    assert [Path(place) for place in found.submodule_search_locations] == [ROOT / name]


def test_every_file_says_its_licence():
    line = "# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.\n"
    paths = [path for folder in FOLDERS for path in sources(folder)] + [ROOT / "setup.py"]
    assert [str(path) for path in paths if not path.read_text(encoding="utf-8").startswith(line)] == []


def test_files_stay_readable():
    """The largest file lies below 450 lines: a second story in a file is a second file."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("fqgan_hf", "modeling", "training", "spaces_demo", "benchmarks")
        for path in sources(folder)
    }
    assert {name: length for name, length in lengths.items() if length > 450} == {}
