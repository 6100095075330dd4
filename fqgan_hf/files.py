# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Files that are complete or absent, and what proves their content."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


# Written last, beside the files that it lists: without it they are not all there.
MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that `path` is the old content or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    fsync(temporary)
    temporary.replace(path)
    fsync(path.parent)
