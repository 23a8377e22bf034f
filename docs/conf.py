"""Configuration of the documentation; the package's metadata says everything about it."""

from importlib import metadata

project = "sb3_metra"
author = metadata.metadata("sb3-metra")["Author"]
copyright = f"2026, {author}"
release = metadata.version("sb3-metra")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "results/*/results.md"]  # pages that others include

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

# References must lead somewhere, except to types that no page here describes: those of
# other packages, whose inventories need a network, and short names in signatures.
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(?!sb3_metra\.).*"),
    ("py:class", r"sb3_metra\.common\.(collectors|workers)\.\w+"),
    ("py:class", r"sb3_metra\..*\.(Self|EpisodeRecord)"),
]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

toc_object_entries_show_parents = "hide"

pygments_dark_style = "monokai"  # furo's own underlines the names of modules

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_title = f"sb3_metra {release}"
html_show_sphinx = False
