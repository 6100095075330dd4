# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How diffusers saves and loads our classes as members of the library "fqgan_hf"."""

import importlib.abc
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from fqgan_hf.hub.kinds import KINDS, kind_in_config


_TABLES = "diffusers.pipelines.pipeline_loading_utils"
_ALIAS = "_fqgan_hf"


def register_with_diffusers() -> None:
    """
    Make diffusers save and load our classes as members of the library "fqgan_hf".

    Three things follow once the package has been imported:

    - pipelines write `["fqgan_hf", "FQGANModel"]` into `model_index.json` (left alone, diffusers writes the module's
      path, which it then refuses to load from the Hub);
    - components are found again, from folders and from the Hub, without remote code;
    - `DiffusionPipeline.from_pretrained` finds `FARPipeline` by the `_class_name` of such a folder. diffusers looks
      that name up in its own namespace only, so the pipelines are offered there, and imported on first use.

    The tables are internal to diffusers: a test and the upper bound in setup.py watch over them. diffusers itself is
    not imported here; if it has not been yet, its tables are filled in when it is.
    """
    if _TABLES in sys.modules:
        _fill_tables(sys.modules[_TABLES])
    elif not any(isinstance(finder, _FillTablesOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FillTablesOnImport())


class _FillTablesOnImport(importlib.abc.MetaPathFinder):
    """Waits for diffusers' module of tables, steps aside for its import, then fills the tables."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _TABLES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def execute_and_fill(module):
            execute(module)
            _fill_tables(module)

        spec.loader.exec_module = execute_and_fill
        return spec


def _fill_tables(tables: ModuleType) -> None:
    """Add our classes to diffusers' tables of what it saves and loads, and our pipelines to its namespace."""
    methods = {kind.class_name: ["save_pretrained", "from_pretrained"] for kind in KINDS if kind.role != "pipeline"}
    tables.LOADABLE_CLASSES["fqgan_hf"] = methods
    tables.ALL_IMPORTABLE_CLASSES.update(methods)

    # diffusers' lazy namespace resolves a class by the submodule said to hold it; this package poses as one.
    class_to_module = getattr(sys.modules["diffusers"], "_class_to_module", None)
    if class_to_module is not None:
        sys.modules[f"diffusers.{_ALIAS}"] = importlib.import_module("fqgan_hf")
        for kind in KINDS:
            if kind.role == "pipeline":
                class_to_module.setdefault(kind.class_name, _ALIAS)


class LoadsItsKind:
    """
    What a pipeline's class adds to `from_pretrained`: a self-contained folder loads as any other one does, by the
    classes of this package and without running the code files in it.
    """

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        """`model_index.json`, with our classes as members of the library "fqgan_hf" whatever files it names."""
        content = super()._dict_from_json_file(json_file)
        kind = kind_in_config(content)
        if kind is None or kind.role != "pipeline" or not cls.__module__.startswith("fqgan_hf."):
            return content
        content["_class_name"] = kind.class_name
        for name, class_name in {**kind.components, **kind.optional}.items():
            if class_name and isinstance(content.get(name), list) and content[name][-1] == class_name:
                content[name] = ["fqgan_hf", class_name]
        return content
