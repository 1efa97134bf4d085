"""The documentation site: Sphinx reads the Markdown of this folder as it stands. ``make docs`` builds it.

The source folder is the repository's root, so that relative links between pages, results and code hold in the
repository's own view and in the site alike.
"""

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ConfigError

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]

import reference_pages  # noqa: E402 - in tools/

import resnext  # noqa: E402

project = "resnext"
author = "the authors of resnext"
version = release = resnext.__version__
root_doc = "docs/index"
include_patterns = ["docs/**", "results/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
exclude_patterns = ["docs/site/**", "**/.ipynb_checkpoints"]
language = "en"
smartquotes = False  # options and values are shown as they are typed

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # Google docstrings
    "sphinx_copybutton",
    "sphinx_design",
]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4  # links to headings, as repositories show them; a dead one is a warning
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # the generated parts begin below their page's heading

nb_execution_mode = "cache"  # a notebook runs again when its code has changed
nb_execution_timeout = 1800  # seconds a cell, also on a busy machine
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = "resnext"
html_static_path = ["site/static"]
html_extra_path = ["site/root"]  # index.html, which leads to the first page
html_css_files = ["resnext.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#79b8ff", "color-brand-content": "#79b8ff"},
    "navigation_with_keys": True,
    "footer_icons": [],
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True


def insert_generated_parts(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace each ``<!-- generated: NAME -->`` of a page by what ``tools/reference_pages.py`` writes."""
    del app
    try:
        source[0] = reference_pages.insert_generated(source[0])
    except KeyError as wrong:
        raise ConfigError(f"{docname}: no generated part is called {wrong}") from None


def resolve_public_name(app: Sphinx, _env: object, node: Any, contnode: Any) -> Any:
    """Resolve a type that signatures name by its module, or by its name alone, to the public name of the package."""
    name = str(node["reftarget"]).rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in resnext.__all__:
        return None
    domain = app.env.domains.python_domain
    return domain.resolve_xref(
        app.env,
        node["refdoc"],
        app.builder,
        "obj",
        f"resnext.{name}",
        node,
        contnode,
    )


def keep_sentence(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Mark what follows ``Returns:`` as a sentence: napoleon takes words before a colon for a type."""
    del app, what, name, obj, options
    for number, line in enumerate(lines):
        if line in ("Returns:", "Yields:") and number + 1 < len(lines):
            following = lines[number + 1]
            lines[number + 1] = f"{following[:4]}: {following[4:]}"


def setup(app: Sphinx) -> None:
    """Register the hooks."""
    app.connect("autodoc-process-docstring", keep_sentence, priority=400)  # before napoleon's
    app.connect("source-read", insert_generated_parts)
    app.connect("missing-reference", resolve_public_name)
