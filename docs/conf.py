"Sphinx's settings for the course; `docs/build.py` makes what it reads."
from configparser import ConfigParser
from pathlib import Path

settings = ConfigParser(delimiters=["="])
settings.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")        # copied to this file's side
settings = settings["DEFAULT"]

project, author, version = settings["lib_name"], settings["author"], settings["version"]
copyright = settings["copyright"]
language = "en"
extensions = ["myst_nb", "sphinx_copybutton", "sphinxcontrib.bibtex", "sphinx-mathjax-offline"]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
myst_ref_domains = ["std"]
bibtex_bibfiles = ["references.bib"]
suppress_warnings = ["mystnb.unknown_mime_type"]
exclude_patterns = ["_extra"]

html_theme = "sphinx_book_theme"
html_title = "Faster R-CNN, readable"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = [("course.js", {"defer": "defer"})]
html_extra_path = ["_extra"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "repository_url": settings["git_url"],
    "use_repository_button": True,
    "use_download_button": False,
    "home_page_in_toc": True,
    "navbar_persistent": [],              # one search field, in the sidebar, is enough
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
