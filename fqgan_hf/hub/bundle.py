# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""One self-contained source file out of this package's modules: what a class needs of them, and nothing else.

    bundle("fqgan_hf.pipelines.pipeline_far", "FARPipeline")

diffusers downloads one file per component of a pipeline. So the definitions that a class reaches, in whatever modules
of this package, are copied one below the other as they stand, those of a module after those of the modules that it
imports; imports among them go, other imports come first. A name that two modules give to different things is changed
in the second one. Statements that only have effects, such as registrations with libraries, are left out.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path


PACKAGE = "fqgan_hf"
SHOWN_WIDTH = 119

HEADER = '''# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""{name}, self-contained: made by `fqgan push --self_contained` (fqgan-hf {version}) out of the package's modules."""
'''
# diffusers executes the file again at each load, in the same module, whose functions models in use go on to call.
FIRST = '_FIRST = dict(globals()) if "{name}" in globals() else {{}}'
LAST = "globals().update(_FIRST)  # at a second load the classes stay the same"


@dataclass(frozen=True)
class Definition:
    """
    A statement at the top of a module that gives names.

    Args:
        module (`str`): Its module.
        names (`tuple[str, ...]`): What it gives.
        node (`ast.stmt`): The statement.
        start, end (`int`): Its lines, comments above it included, from 0.
        text (`str`, *optional*): What stands for it.
    """

    module: str
    names: tuple[str, ...]
    node: ast.stmt = field(compare=False, hash=False)
    start: int
    end: int
    text: str | None = None


@dataclass(frozen=True)
class Module:
    """
    A module's source, by what it defines and imports.

    Args:
        name (`str`): Dotted.
        lines (`list[str]`): Its source.
        definitions (`dict[str, Definition]`): By the names that they give.
        ours (`dict[str, tuple[str, str]]`): Names imported from this package: module, and name there.
        others (`dict[str, str]`): Names imported from libraries, with the statement that imports just this one.
    """

    name: str
    lines: list[str]
    definitions: dict[str, Definition]
    ours: dict[str, tuple[str, str]]
    others: dict[str, str]


def bundle(
    module: str,
    name: str,
    lazy_annotations: bool = False,
    stand_ins: Mapping[tuple[str, str], str] | None = None,
    epilogue: str = "",
) -> str:
    """
    The source of one file that defines a class and all that it needs of this package.

    Args:
        module (`str`): Where the class is, such as "fqgan_hf.pipelines.pipeline_far".
        name (`str`): Of the class.
        lazy_annotations (`bool`): Leave out what only annotations of functions name; they are not evaluated then.
        stand_ins (`Mapping[tuple[str, str], str]`, *optional*): Source to put in place of a definition, by its module
            and name; it needs nothing else.
        epilogue (`str`): Statements for the end.

    Returns:
        `str`: The source.

    Raises:
        ValueError: The modules have something that cannot be moved; the message says what and where.
    """
    from fqgan_hf import __version__

    needed = _needed(module, name, lazy_annotations, stand_ins or {})
    order = _ordered({definition.module for definition in needed}, module)
    needed.sort(key=lambda definition: (order.index(definition.module), definition.start))
    names = _final_names(needed, (module, name))
    parts: list[str] = []
    for place in order:
        parts.append(_heading(place))
        parts += [_rewritten(definition, names) for definition in needed if definition.module == place]
    head = HEADER.format(name=name, version=__version__)
    future = "\nfrom __future__ import annotations\n" if lazy_annotations else ""
    first = FIRST.format(name=name)
    text = "\n\n\n".join(filter(None, [_import_lines(needed), first, *parts, epilogue, LAST]))
    text = f"{head}{future}\n{text}\n"
    compile(text, f"<{name}>", "exec")
    return text


def digest(source: str) -> str:
    """What tells one version of a file from another: eight letters for its name."""
    return hashlib.sha256(source.encode()).hexdigest()[:8]


# ---- Reading modules ------------------------------------------------------------------------------------------------


@cache
def _read(name: str) -> Module:
    """A module of this package."""
    spec = importlib.util.find_spec(name)
    source = Path(spec.origin).read_text(encoding="utf-8")
    lines, definitions, ours, others = source.split("\n"), {}, {}, {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            _add_import(name, node, ours, others)
        elif given := _names_given(node):
            start = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))]) - 1
            while lines[start - 1].startswith("#") and not lines[start - 1].startswith("# ----"):
                start -= 1
            definition = Definition(name, tuple(given), node, start, node.end_lineno)
            definitions |= dict.fromkeys(given, definition)
        elif not isinstance(node, (ast.Expr, ast.If)):  # which have effects only
            raise ValueError(f"{name}, line {node.lineno}: a bundle has no place for this statement")
    return Module(name, lines, definitions, ours, others)


def _names_given(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    targets = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _add_import(
    module: str, node: ast.Import | ast.ImportFrom, ours: dict[str, tuple[str, str]], others: dict[str, str]
) -> None:
    """Sort the names that an import gives into those of this package and those of libraries."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == PACKAGE:
                raise ValueError(f"{module}, line {node.lineno}: import single names of {alias.name}, not all of it")
            others[alias.asname or alias.name.split(".")[0]] = ast.unparse(ast.Import([alias]))
        return
    source = f"{module.rpartition('.')[0]}.{node.module}" if node.level else node.module
    for alias in node.names:
        name = alias.asname or alias.name
        if source.split(".")[0] == PACKAGE:
            ours[name] = (source, alias.name)
        else:
            others[name] = f"from {source} import {ast.unparse(ast.Tuple([ast.Name(alias.name)]))[1:-2]}"
            if alias.asname:
                others[name] += f" as {alias.asname}"


def _resolved(module: str, name: str) -> tuple[str, str] | None:
    """The module that a name comes from, and its name there; None for what no module of ours defines."""
    found = _read(module)
    while name in found.ours:
        module, name = found.ours[name]
        found = _read(module)
    return (module, name) if name in found.definitions else None


# ---- What a class needs ---------------------------------------------------------------------------------------------


def _needed(
    module: str, name: str, lazy_annotations: bool, stand_ins: Mapping[tuple[str, str], str]
) -> list[Definition]:
    """The definitions that one of them reaches, itself included."""
    found, waiting = {}, [(module, name)]
    while waiting:
        place = waiting.pop()
        definition = _read(place[0]).definitions[place[1]]
        if text := stand_ins.get(place):
            definition = replace(definition, node=ast.parse(text).body[0], text=text)
        if (definition.module, definition.start) in found:
            continue
        found[definition.module, definition.start] = definition
        for node in _names_in(definition.node, lazy_annotations):
            target = _resolved(definition.module, node.id)
            if target is not None:
                waiting.append(target)
    return list(found.values())


def _names_in(node: ast.AST, lazy_annotations: bool) -> Iterator[ast.Name]:
    """The names that a statement reads or gives, whatever their scope."""
    if isinstance(node, ast.Name):
        yield node
    if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == PACKAGE):
        raise ValueError(f"a bundle has no place for the import of {node.module} in a function, line {node.lineno}")
    for name, value in ast.iter_fields(node):
        if lazy_annotations and (name == "returns" or (name == "annotation" and isinstance(node, ast.arg))):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _names_in(child, lazy_annotations)


def _ordered(modules: set[str], root: str) -> list[str]:
    """Modules after those that they import."""
    done: list[str] = []

    def visit(name: str) -> None:
        if name not in seen:
            seen.add(name)
            for source in dict.fromkeys(source for source, _ in _read(name).ours.values()):
                visit(source)
            done.append(name)

    seen: set[str] = set()
    visit(root)
    return [name for name in done if name in modules]


# ---- Writing --------------------------------------------------------------------------------------------------------

Names = dict[tuple[str, str], str]  # the name in the bundle of what a module calls so


def _final_names(needed: list[Definition], root: tuple[str, str]) -> Names:
    """What each definition is called in the bundle: as it is, unless the name is taken."""
    taken = {root[1]}
    names: Names = {root: root[1]}
    for definition in needed:
        for name in definition.names:
            if (definition.module, name) not in names:
                stem = definition.module.rpartition(".")[2]
                final = name if name not in taken else f"{name}_of_{stem}"
                taken.add(final)
                names[definition.module, name] = final
    for name, (_, module) in _imported(needed).items():
        if name in taken:
            raise ValueError(f"{module}: {name} is the name of something else in a bundle, import it by another")
    return names


def _imported(needed: list[Definition]) -> dict[str, tuple[str, str]]:
    """The names that definitions need from libraries, with the import of each and a module that has it."""
    found: dict[str, tuple[str, str]] = {}
    for definition in needed:
        others = _read(definition.module).others
        for node in _names_in(definition.node, False):
            if (statement := others.get(node.id)) is None:
                continue
            earlier, module = found.setdefault(node.id, (statement, definition.module))
            if earlier != statement:
                raise ValueError(f"{node.id} is one thing in {module} and another in {definition.module}: rename it")
    return found


def _rewritten(definition: Definition, names: Names) -> str:
    """A definition's source with the names of the bundle."""
    if definition.text is not None:
        return definition.text
    module, changes = _read(definition.module), []
    given = {name: names[definition.module, name] for name in definition.names}
    for node in _names_in(definition.node, False):
        target = _resolved(definition.module, node.id)
        final = given.get(node.id) or (names.get(target) if target else None)
        if final is not None and final != node.id:
            changes.append((node.lineno - 1, node.col_offset, node.id, final))
    if changes:
        _check_no_local(definition, {old for _, _, old, _ in changes})
    node = definition.node
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and given[node.name] != node.name:
        keyword = "class" if isinstance(node, ast.ClassDef) else "def"
        changes.append((node.lineno - 1, node.col_offset + len(keyword) + 1, node.name, given[node.name]))
    lines = [line.encode() for line in module.lines]  # columns of the syntax tree count bytes
    for row, column, old, new in sorted(changes, reverse=True):
        line = lines[row]
        if line[column : column + len(old.encode())] != old.encode():
            raise ValueError(f"{definition.module}, line {row + 1}: {old} cannot be renamed here")
        lines[row] = line[:column] + new.encode() + line[column + len(old.encode()) :]
    return b"\n".join(lines[definition.start : definition.end]).decode()


def _check_no_local(definition: Definition, renamed: set[str]) -> None:
    """Raise `ValueError` where a name that has to change is also one of something else within a definition."""
    for node in ast.walk(definition.node):
        local = getattr(node, "arg", None) if isinstance(node, ast.arg) else None
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and node.id not in definition.names:
            local = node.id
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node is not definition.node:
            local = node.name
        if local in renamed:
            raise ValueError(
                f"{definition.module}, line {node.lineno}: {local} has another meaning in a bundle, rename it"
            )


def _heading(module: str) -> str:
    text = f"# ---- {module.replace('.', '/')}.py "
    return text + "-" * (SHOWN_WIDTH - len(text))


def _import_lines(needed: list[Definition]) -> str:
    """The imports from libraries, those from one of them in one statement."""
    whole, parts = [], {}
    for statement, _ in _imported(needed).values():
        source, is_part, name = statement.removeprefix("from ").partition(" import ")
        if is_part:
            parts.setdefault(source, set()).add(name)
        else:
            whole.append(statement)
    lines = sorted(set(whole))
    for source in sorted(parts):
        line = f"from {source} import {', '.join(sorted(parts[source]))}"
        lines.append(line if len(line) <= SHOWN_WIDTH else line.replace(" import ", " import (\n    ", 1) + ",\n)")
    return "\n".join(lines)
