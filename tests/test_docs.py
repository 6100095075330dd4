# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The documentation: links lead somewhere, code uses what is there, commands are understood, and the site builds."""

import ast
import dataclasses
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fqgan_hf
from fqgan_hf.cli import build_parser
from fqgan_hf.training.ablation import ablate
from fqgan_hf.training.extract_codes import ExtractCodesArguments
from fqgan_hf.training.train_code_diffusion import TrainCodeDiffusionArguments
from fqgan_hf.training.train_far import TrainFARArguments
from fqgan_hf.training.train_fqgan import TrainFQGANArguments


ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "spaces_demo/README.md", *DOCS.rglob("*.md")])
SCRIPTS = {
    "train_fqgan": TrainFQGANArguments,
    "extract_codes": ExtractCodesArguments,
    "train_far": TrainFARArguments,
    "train_code_diffusion": TrainCodeDiffusionArguments,
}
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path, *languages: str) -> list[str]:
    """Code blocks of a page in these languages."""
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pages
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(there), f"{target}: there is no such heading"


@pages
def test_every_fence_is_closed(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^```", FENCE.sub("", text), re.MULTILINE)


@pages
def test_python_uses_what_is_there(page):
    for code in blocks(page, "python", "py"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "fqgan_hf":
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module} has no {name.name}"


def commands(page: Path) -> list[list[str]]:
    """The words of each line of a page's shell blocks, without comments."""
    text = "\n".join(blocks(page, "bash", "", "shell"))
    lines = text.replace("\\\n", " ").splitlines()
    starts = re.compile(r"\s*(fqgan |python -m|accelerate|torchrun|ACCELERATE)")
    return [shlex.split(line, comments=True) for line in lines if starts.match(line)]


@pages
def test_commands_are_understood(page):
    for words in commands(page):
        names = {word.rpartition(".")[2]: i for i, word in enumerate(words) if word.startswith("fqgan_hf.")}
        if words[0] == "fqgan" or "cli" in names:
            given = words[names["cli"] + 1 if "cli" in names else 1 :]
            if given != ["..."] and "..." not in given:
                build_parser().parse_args(given)
        elif "ablate" in names:
            assert words[names["ablate"] + 1] in ablate.TABLES
        for script in SCRIPTS.keys() & names.keys():
            given = words[names[script] + 1 :]
            if "..." not in given:
                known = {field.name for field in dataclasses.fields(SCRIPTS[script])}
                options = {word[2:].partition("=")[0] for word in given if word.startswith("--")}
                assert options <= known, f"{script} has no {options - known}"


def test_the_reference_is_complete():
    listed = set(re.findall(r"^\.\. auto\w+:: fqgan_hf\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE))
    assert listed == set(fqgan_hf.__all__) - {"__version__"}


def test_the_index_names_every_page():
    index = (DOCS / "index.md").read_text("utf-8")
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or (f"({page.name})" in index and f"\n{page.stem}\n" in index), page.name


def test_the_changelog_begins_with_this_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest[1] == fqgan_hf.__version__


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fqgan_hf.FARPipeline" in (tmp_path / "api.html").read_text(encoding="utf-8")
