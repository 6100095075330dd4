# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Pipelines that load where this package is not installed: their folder carries its own source.

    DiffusionPipeline.from_pretrained("org/name", trust_remote_code=True)

The folder of each component gets one file that defines its class, and so does the folder itself for the pipeline;
`model_index.json` names them. The name of a file ends in a digest of its content: of two folders that were made by
different versions, each is loaded by its own.
"""

import json
from pathlib import Path

from fqgan_hf.hub.bundle import bundle, digest
from fqgan_hf.hub.kinds import ModelKind, kind_named


INDEX = "model_index.json"
REQUIREMENTS = "requirements.txt"
_DIGEST = "[0-9a-f]" * 8
# Files of an earlier export, wherever they are in a folder or a repository.
PATTERNS = (f"pipeline_*_{_DIGEST}.py", f"*/*_{_DIGEST}.py")

# A pipeline that was loaded without the package has no use for the package's classes.
STAND_INS = {
    ("fqgan_hf.hub.registration", "LoadsItsKind"): (
        'class LoadsItsKind:\n    """With the package, a self-contained folder loads by the package\'s classes."""'
    )
}
# The classes of components are those of their own files, which the annotations here do not mean.
EPILOGUE = "{name}.__init__.__annotations__ = {{}}  # the components' classes are those of their own files"


def check_self_contained(kind: ModelKind, self_contained: bool) -> None:
    """Raise `ValueError` for what cannot be self-contained: anything but a pipeline."""
    if self_contained and kind.role != "pipeline":
        raise ValueError(f"self_contained must be False for a {kind}: a {kind.role} loads by its code files anyway")


def make_self_contained(folder: Path, kind: ModelKind) -> None:
    """
    Give a pipeline's folder its own source, its `model_index.json` the names of the files, and a `requirements.txt`.

    Args:
        folder (`Path`): As `save_pretrained` leaves it.
        kind (`ModelKind`): Of the pipeline.
    """
    content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    source = bundle(kind.module, kind.class_name, True, STAND_INS, EPILOGUE.format(name=kind.class_name))
    content["_class_name"] = [_write(folder, kind, source), kind.class_name]
    for name, class_name in {**kind.components, **kind.optional}.items():
        if class_name and name in content:
            part = kind_named(class_name)
            file = _write(folder / name, part, bundle(part.module, class_name))
            content[name] = [file, class_name]
    (folder / INDEX).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / REQUIREMENTS).write_text(_requirements(), encoding="utf-8")


def _requirements() -> str:
    """What the source files need, as the Space's list has it: Inference Endpoints install it."""
    import fqgan_hf

    found = [path for base in fqgan_hf.__path__ if (path := Path(base) / "spaces_demo" / REQUIREMENTS).is_file()]
    if not found:
        raise FileNotFoundError("the folder spaces_demo of this package is not there: is it installed as a whole?")
    lines = found[0].read_text(encoding="utf-8").splitlines()
    return "".join(f"{line}\n" for line in lines if line.strip() and not line.startswith("#"))


def _write(folder: Path, kind: ModelKind, source: str) -> str:
    """Write the file of a class, and return its name as `model_index.json` has it."""
    name = f"{kind.code_name}_{digest(source)}"
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    return name
