# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the generators share knows of none of them, and every file is short enough to be read."""

import ast
from pathlib import Path

import pytest

import fqgan_hf.modeling


FOLDER = Path(fqgan_hf.modeling.__file__).parent
SHARED = [
    "transformer_blocks",
    "code_layout",
    "code_sampling",
    "configuration_generator",
    "conditioning",
    "factorized_head",
    "modeling_generator",
]
TOKENIZER = [
    "blocks_fqgan",
    "quantizer_fqgan",
    "quantizer_regularized",
    "configuration_fqgan",
    "label_maps_fqgan",
    "outputs_fqgan",
    "modeling_fqgan",
    "image_processing_fqgan",
]


def siblings(module: str) -> set[str]:
    """The files of `modeling/` that one of them imports, directly or not."""
    tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
    return found.union(*map(siblings, found))


@pytest.mark.parametrize("module", SHARED)
def test_shared_files_import_no_generator_and_no_tokenizer(module):
    assert siblings(module) <= {*SHARED, "configuration_checks", "checkpoint_checks", "checkpoint_files"}


@pytest.mark.parametrize("module", TOKENIZER)
def test_the_tokenizer_imports_no_generator(module):
    assert siblings(module) <= {*TOKENIZER, "configuration_checks", "checkpoint_checks", "checkpoint_files"}


def test_the_walk_finds_what_is_imported():
    assert {"generation_far", "cache_far", "transformer_blocks", "configuration_checks"} <= siblings("modeling_far")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_no_file_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450
