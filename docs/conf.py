# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The documentation as a site: `make docs`. Pages are Markdown; the API reference comes from docstrings."""

import re
import textwrap

import fqgan_hf


project = "fqgan-hf"
author = "The fqgan-hf authors"
project_copyright = "2026, the fqgan-hf authors"
version = release = fqgan_hf.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
html_theme = "furo"
html_title = f"fqgan-hf {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings name the types, with shapes
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def to_restructured_text(lines: list[str]) -> list[str]:
    """A docstring's Markdown as autodoc reads it: names in double backticks, examples as literal blocks."""
    for place, line in enumerate(lines):
        if line.strip() in ("Example:", "Examples:"):
            return [*_dedented(lines[:place]), *_example(lines[place:])]
    return [_marked_up(line) for line in lines]


def _dedented(lines: list[str]) -> list[str]:
    """Lines before an example that diffusers' decorator has put in with another indentation."""
    return [_marked_up(line) for line in [*lines[:1], *textwrap.dedent("\n".join(lines[1:])).split("\n")]]


def _example(lines: list[str]) -> list[str]:
    """An example as a literal block; what follows it is a docstring again."""
    width = len(lines[0]) - len(lines[0].lstrip())
    rest = iter(range(1, len(lines)))
    end = next((i for i in rest if lines[i].strip() and len(lines[i]) - len(lines[i].lstrip()) <= width), len(lines))
    code = textwrap.dedent("\n".join(line for line in lines[1:end] if not line.strip().startswith("```")))
    block = [f"    {line}".rstrip() for line in code.strip("\n").split("\n")]
    return [".. rubric:: Example", "", "::", "", *block, "", *(to_restructured_text(lines[end:]))]


def _marked_up(line: str) -> str:
    line = re.sub(r"\[`~?([^`]+)`\](?!\()", lambda found: f"`{found[1].rpartition('.')[2]}`", line)
    line = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
    return re.sub(r"\[([^\]]+)\]\((https?://[^)]+)\)", r"`\1 <\2>`__", line)


def _convert(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = to_restructured_text(lines)


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _convert, priority=100)  # before napoleon
