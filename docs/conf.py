"""Sphinx: `make docs` builds these pages into outputs/docs; warnings are errors."""

import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).resolve().parent / "_ext")]

project = "causalcine_jax"
author = copyright = "The causalcine_jax authors"
described = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
version = release = described["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "command_pages", "plain_docstrings", "folder_links"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

# The notebooks hold their outputs: running them takes minutes.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autoclass_content = "both"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
maximum_signature_line_length = 80

html_theme = "sphinx_book_theme"
html_title = "causalcine_jax"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "home_page_in_toc": True,
    "use_download_button": False,
    "navbar_persistent": [],  # the search field is in the sidebar
}
