"""Configuration of the site that ``make docs`` builds from the pages of the repository.

The source folder is the repository itself, so that a link from one page to another leads to the
same place in the repository and on the site.
"""

import inspect
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

project = "layerwise"
author = "The layerwise authors"
project_copyright = "2026, The layerwise authors"
release = version = metadata.version("layerwise")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
root_doc = "docs/site/index"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/**/*.md",
    "notebooks/*.ipynb",
    "analyses/README.md",
    "analyses/**/*.md",
    "benchmarks/*.md",
]
# Folders are left out where they stand, or all that is in them would be looked through.
exclude_patterns = ["**/.*", ".*", "build", "demo", "dist", "runs", "src", "tests"]
nitpicky = True
# Types of other packages, and of parts without a page, are written without a link.
nitpick_ignore_regex = [("py:class", ".*")]

# The outputs that are stored in the notebooks are shown.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 6
# Classes have fields of the same name.
suppress_warnings = ["ref.python"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"layerwise {release}"
html_copy_source = False
html_show_sourcelink = False


def written_signature(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str, returned: str
) -> tuple[str, str] | None:
    """Signature of a function with its types as the source has them, aliases not resolved."""
    if what not in ("function", "method"):
        return None
    written = inspect.signature(value)  # pyright: ignore[reportArgumentType]
    if what == "method" and next(iter(written.parameters), None) in ("self", "cls"):
        written = written.replace(parameters=list(written.parameters.values())[1:])
    arguments, arrow, result = stringify_signature(written).partition(") -> ")
    return (f"{arguments})", result) if arrow else (arguments, "")


def write_start_page(app: Sphinx, error: Exception | None) -> None:
    """Lead from the site's folder to its first page."""
    if error is None and app.builder.format == "html":
        link = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        page = f"<!doctype html><title>{project}</title>{link}\n"
        (Path(app.outdir) / "index.html").write_text(page, "utf-8")


def setup(app: Sphinx) -> None:
    """Connect both functions above."""
    app.connect("autodoc-process-signature", written_signature)
    app.connect("build-finished", write_start_page)
