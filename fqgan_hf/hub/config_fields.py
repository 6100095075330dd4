# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a model can be configured by, read from the source of its class: importing that takes seconds."""

import ast
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fqgan_hf.hub.kinds import kind_named


@dataclass(frozen=True)
class ConfigField:
    """A field of a configuration: its type as the source has it, and its default, None where that is computed."""

    annotation: ast.expr
    default: Any

    @property
    def type(self) -> str:
        return ast.unparse(self.annotation)

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value is of the type: `int`, `float | None`, `tuple[int, ...]`."""
        return _fits(value, self.annotation)


def config_fields(class_name: str) -> dict[str, ConfigField]:
    """
    The fields of a model's configuration by name, those of our base classes first; the libraries' are left out.

    Args:
        class_name (`str`): Of the model, such as "FQGANModel".
    """
    import fqgan_hf.modeling

    kind = kind_named(class_name)
    folder = Path(fqgan_hf.modeling.__file__).parent
    # A transformers model is configured by the body of its configuration's class, a diffusers model by `__init__`.
    file, _, owner = (kind.config_class or f"{kind.code_name}.{class_name}").partition(".")
    found = _annotated_fields(folder, file, owner) if kind.config_class else _arguments(folder, file, owner)
    return {name: ConfigField(annotation, _constant(default)) for name, (annotation, default) in found.items()}


def _annotated_fields(folder: Path, file: str, owner: str) -> dict[str, tuple[ast.expr, ast.expr | None]]:
    """Annotation and default of the fields of a class and of those that it inherits from within the folder."""
    module = _parsed(folder, file)
    places = {alias.name: node.module for node in module.body if _is_ours(node) for alias in node.names}
    places |= {node.name: file for node in module.body if isinstance(node, ast.ClassDef)}
    found, definition = {}, _class_named(owner, module)
    for base in map(ast.unparse, definition.bases):
        if base in places:
            found |= _annotated_fields(folder, places[base], base)
    own = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    return found | {node.target.id: (node.annotation, node.value) for node in own}


def _arguments(folder: Path, file: str, owner: str) -> dict[str, tuple[ast.expr, ast.expr | None]]:
    """Annotation and default of the arguments of a class's `__init__`."""
    body = _class_named(owner, _parsed(folder, file)).body
    init = next(node.args for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    defaults = [None] * (len(init.args) - len(init.defaults)) + init.defaults
    pairs = [*zip(init.args, defaults, strict=True), *zip(init.kwonlyargs, init.kw_defaults, strict=True)]
    return {argument.arg: (argument.annotation, default) for argument, default in pairs if argument.annotation}


def _parsed(folder: Path, file: str) -> ast.Module:
    return ast.parse((folder / f"{file}.py").read_text(encoding="utf-8"))


def _class_named(name: str, module: ast.Module) -> ast.ClassDef:
    return next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)


def _is_ours(node: ast.stmt) -> bool:
    """Whether it is an import from another file of `modeling/`."""
    return isinstance(node, ast.ImportFrom) and node.level == 1


def _constant(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:  # an expression
        return None


def _fits(value: Any, annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.BinOp):
        return _fits(value, annotation.left) or _fits(value, annotation.right)
    if isinstance(annotation, ast.Subscript):  # JSON has lists only
        item = annotation.slice.elts[0] if isinstance(annotation.slice, ast.Tuple) else annotation.slice
        return isinstance(value, list) and all(_fits(part, item) for part in value)
    name = ast.unparse(annotation)
    if name == "float":
        return type(value) is int or (type(value) is float and math.isfinite(value))
    types = {"int": int, "str": str, "bool": bool, "None": type(None)}
    return name not in types or type(value) is types[name]
