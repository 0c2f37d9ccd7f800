"""How Sphinx builds the site; `make docs` calls it."""

from __future__ import annotations

import ephemeroot

project = "Ephemeroot"
author = "the Ephemeroot developers"
version = release = ephemeroot.__version__
extensions = ["myst_parser", "navigation"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "build", "**/__pycache__"]
# README.md is the front page of the repository; the site has the index.
exclude_patterns += ["README.md"]

myst_heading_anchors = 4
# Indented blocks are commands and output, no Python.
highlight_language = "text"
smartquotes = False

html_theme = "furo"
html_title = f"Ephemeroot {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
