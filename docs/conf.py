"""The documentation as a site: Sphinx with MyST. `make docs` builds it, every warning an error."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_site")]

from docstrings import as_rst
from generated import write_pages

from pel_core import __version__

project, author, release = "PEL-Lab", "the PEL-Lab authors", __version__
copyright = "MIT licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_site", "_build", "benchmarks/*.json"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks come with what they printed; `make notebooks` runs them anew
# Links to files outside docs/ (configurations, modules) are copied beside the pages, so that the site is whole without a network.
html_theme = "furo"
html_title = f"PEL-Lab {__version__}"
html_static_path: list[str] = []
html_show_sphinx = False
templates_path: list[str] = []
pygments_style, pygments_dark_style = "default", "github-dark"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
add_module_names = False
python_use_unqualified_type_names = True
suppress_warnings = ["misc.highlighting_failure"]  # excerpts of programs' output are no programs


def setup(app):
    """Pages made of schemas and docstrings are written before the build; docstrings are turned to reStructuredText."""
    app.connect("config-inited", lambda app, config: write_pages(HERE))
    app.connect("autodoc-process-docstring", as_rst)
