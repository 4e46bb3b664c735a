"""The site: `make docs` builds it from the pages here, the code and tutorials that are run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from _reference import write_reference  # noqa: E402

import eip  # noqa: E402

project = "eIP"
author = "the eIP developers"
copyright = f"2026, {author}"
release = version = eip.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "tutorials/*.md", "tutorials/runs"]
nitpicky = False

# `name` in a docstring is code.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of Lightning and PyTorch are theirs to show
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"eIP {release}"
html_theme_options = {"navigation_with_keys": True}

# Tutorials are short and run one after the other: the later ones use the first one's model.
os.environ.setdefault("OMP_NUM_THREADS", "2")
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "_tutorials",
    "filename_pattern": r"/\d_",
    "within_subsection_order": "FileNameSortKey",
    # `make docs RUN=0`: without running them, to look at the pages.
    "plot_gallery": os.environ.get("EIP_DOCS_RUN", "1") != "0",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "copyfile_regex": "",
    "min_reported_time": 60,
}
copybutton_exclude = ".linenos, .gp"


# What a page links to outside docs/ is in the repository, not on the site.
_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")


def as_rst(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Docstrings are plain text: signs that reStructuredText reads as its own are only signs."""
    out: list[str] = []
    literal = False
    for line in lines:
        # Indented text of a module is a list of symbols, laid out by hand.
        indented = what == "module" and line.startswith("  ")
        if indented != literal and line:
            out += ["", "::", ""] if indented else [""]
            literal = indented
        out.append(line if literal else re.sub(r"(\||(?<=\w)_(?=\W|$))", r"\\\1", line))
    lines[:] = out


def setup(app: object) -> None:
    write_reference(HERE / "_reference")

    def keep_the_text(app: object, name: str, source: list[str]) -> None:
        source[0] = _OUTSIDE.sub(r"\1", source[0])

    app.connect("source-read", keep_the_text)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", as_rst)  # type: ignore[attr-defined]
