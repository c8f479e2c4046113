"""From notebooks to a site: python docs/build.py makes _docs/index.html.

nbdev's comments in the cells (`#| export`, `#| hide` …) say how a cell is shown; here they become myst-nb's tags, Sphinx does the rest.
Nothing is executed: the notebooks are committed with their outputs. Pages work from a folder, without a server and without a network.
"""
import argparse
import ast
import importlib
import inspect
import posixpath
import re
import shutil
from configparser import ConfigParser
from pathlib import Path, PurePosixPath

import nbformat
from nbdev.showdoc import show_doc

from contents import Page, read_contents

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
PROJECT = SETTINGS["DEFAULT"]
FILES_URL = f"{PROJECT['git_url']}/blob/{PROJECT['branch']}/"


def directives(
    source: str,
) -> tuple[dict[str, str], str]:    # nbdev's comments, and the code without them
    "`#| key: value` or `#| key` at the head of a cell."
    found, lines = {}, source.splitlines()
    while lines and lines[0].startswith("#|"):
        key, _, value = lines.pop(0)[2:].strip().partition(":")
        found[key.split()[0]] = value.strip() or " ".join(key.split()[1:])
    return found, "\n".join(lines).strip("\n")


def link_words(
    text: str,                  # markdown
    page: Page,                 # where it stands
    pages: dict[str, Page],     # path below nbs/ → page
) -> str:
    "Links to a page by its title get the page's number; what lies outside of nbs/ is found in the site or in the repository."
    here = PurePosixPath(page.path).parent

    def link(match):
        target = PurePosixPath(posixpath.normpath(here / match[2]))
        if target.parts[:1] == ("..",):      # outside of nbs/
            place = posixpath.normpath(PurePosixPath("nbs") / target)
            kept = f"/_static/{place.removeprefix('docs/static/')}" if place.startswith("docs/static/") else f"{FILES_URL}{place}"
            return f"[{match[1]}]({kept})"
        meant = pages.get(target.with_suffix("").as_posix())
        if meant is not None and meant.number is not None and match[1] == meant.title:
            return f"[{meant.number} {match[1]}]({match[2]})"
        return match[0]
    parts = re.split(r"(```.*?```|`[^`]*`)", text, flags=re.S)    # not inside of code
    return "".join(part if i % 2 else re.sub(r"\[([^\[\]]*)\]\(([^()\s:#]+)\)", link, part) for i, part in enumerate(parts))


def folded_name(
    code: str,
) -> str | None:    # None: it defines nothing
    "What a folded cell is called: imports, or its first function or class with the first sentence said about it."
    body = ast.parse(code).body
    if body and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body):
        return "Imports"
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            words = (ast.get_docstring(node) or "").splitlines()
            return f"{node.name}: {words[0]}" if words else node.name
    return None


def as_page(
    nb: nbformat.NotebookNode,
    page: Page,
    pages: dict[str, Page],     # as for `link_words`
) -> nbformat.NotebookNode:
    "The notebook as the site shows it: hidden cells left out, the others tagged."
    cells, module = [], None
    for cell in nb.cells:
        if cell.cell_type != "code":
            cell.source = link_words(cell.source, page, pages)
            cells.append(cell)
            continue
        said, code = directives(cell.source)
        module = said.get("default_exp", module)
        if {"hide", "default_exp"} & set(said) or not code:
            continue
        tags = set(cell.metadata.get("tags", []))
        tags |= {tag for key, tag in (("export", "exported"), ("exporti", "exported"), ("slow", "slow")) if key in said}
        if said.get("echo") == "false":
            tags.add("remove-input")
        if said.get("code-fold") == "true":
            tags.add("hide-input")
        words = said.get("code-summary") or folded_name(code)
        if "hide-input" in tags or words == "Imports":
            tags.add("hide-input")
            cell.metadata["mystnb"] = {"code_prompt_show": words or "Show the code", "code_prompt_hide": words or "Hide the code"}
        cell.source, cell.metadata["tags"] = code, sorted(tags)
        cells.append(cell)
    up = "../" * page.path.count("/")
    links = f'<p class="page-links"><a href="{up}notebooks/{page.path}.ipynb" download>Open the notebook</a>'
    links += f' · <a href="{FILES_URL}nbs/{page.path}.ipynb">its source</a>'
    links += f' · <a href="{up}api/{module}.html">functions of <code>frcnn_nbdev.{module}</code></a></p>' if module else "</p>"
    if page.path != "index":
        head, _, rest = cells[0].source.partition("\n")
        if page.number is not None:
            head = head.replace("# ", f"# {page.number} ", 1)
        subtitle = re.match(r"\s*> (.*)", rest)
        if subtitle:
            head, rest = f"{head}\n\n*{subtitle[1].rstrip('.')}.*", rest[subtitle.end():]
        cells[0].source = f"{head}\n\n{links}\n{rest}"
    nb.cells = cells
    return nb


def api_page(
    module: str,                # such as "nms"
) -> str:                       # markdown
    "Signatures of the public functions and classes of a module, with shapes and units."
    loaded = importlib.import_module(f"frcnn_nbdev.{module}")
    text = [f"# frcnn_nbdev.{module}", (loaded.__doc__ or "").strip()]
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if not (inspect.isfunction(value) or inspect.isclass(value)):
            continue
        text.append(re.sub(r"^---\s*|^\[source\].*$", "", show_doc(value)._repr_markdown_(), flags=re.M).replace("### ", "## ", 1))
        if inspect.isclass(value):
            methods = [m for key, m in vars(value).items() if not key.startswith("_") and inspect.isfunction(m) and m.__doc__]
            for method in methods:
                shown = re.sub(r"^---\s*|^\[source\].*$", "", show_doc(method)._repr_markdown_(), flags=re.M)
                text.append(shown)
    return "\n\n".join(text) + "\n"


def toctree(
    caption: str,
    names: list[str],
) -> str:
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```"])


def write_source(
    folder: Path,                       # of the Sphinx source; made anew
    reports: list[Path],                # run folders with a report.html, to be shown
) -> None:
    "Everything that Sphinx reads."
    parts = read_contents()
    index = Page("index", None, "", "")
    pages = {page.path: page for part in parts.values() for page in part}
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "pages", folder)
    shutil.copytree(HERE / "static", folder / "_static")
    for path in (HERE / "conf.py", HERE / "references.bib", ROOT / "settings.ini"):
        shutil.copy(path, folder)
    (folder / "_extra" / "notebooks").mkdir(parents=True)
    modules = []
    for page in [index, *pages.values()]:
        path = ROOT / "nbs" / f"{page.path}.ipynb"
        for place in (folder / "_extra" / "notebooks" / path.relative_to(ROOT / "nbs"), folder / path.relative_to(ROOT / "nbs")):
            place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "_extra" / "notebooks" / path.relative_to(ROOT / "nbs"))
        nb = nbformat.read(path, as_version=4)
        modules += [directives(cell.source)[0].get("default_exp") for cell in nb.cells if cell.cell_type == "code"]
        shown = as_page(nb, page, pages)
        if page is index:
            trees = [toctree(part, [one.path for one in listed]) for part, listed in parts.items()]
            trees.append(toctree("Look up", ["example_reports", "symbols", "glossary", "bibliography", "api/index"]))
            shown.cells.append(nbformat.v4.new_markdown_cell("\n\n".join(trees)))
        nbformat.write(shown, folder / f"{page.path}.ipynb")
    modules = [module for module in dict.fromkeys(modules) if module]
    (folder / "api").mkdir()
    for module in modules:
        (folder / "api" / f"{module}.md").write_text(api_page(module), encoding="utf-8")
    (folder / "api" / "index.md").write_text("\n".join([
        "# Functions and classes", "", "One page a module, in the order of the course.", "", "```{toctree}", ":maxdepth: 1", "",
        *modules, "```", ""]), encoding="utf-8")
    shown = []
    for run in reports:
        target = folder / "_extra" / "reports"
        target.mkdir(exist_ok=True)
        shutil.copy(run / "report.html", target / f"{run.name}.html")
        shown.append(f'<h2>{run.name}</h2>\n<p><a href="reports/{run.name}.html">Open it as a page of its own</a></p>\n'
                     f'<iframe class="report" src="reports/{run.name}.html" title="Report {run.name}" loading="lazy"></iframe>\n')
    text = (folder / "example_reports.md").read_text(encoding="utf-8")
    (folder / "example_reports.md").write_text(text + "\n" + "\n".join(shown or ["*No run was given to this build.*"]), encoding="utf-8")


def main() -> int:
    from sphinx.cmd.build import main as sphinx     # the rest, and its tests, do without

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "_docs", help="folder of the site")
    parser.add_argument("--source", type=Path, default=ROOT / "build" / "site", help="folder of what Sphinx reads")
    parser.add_argument("--reports", type=Path, nargs="*", default=[], help="run folders that are shown as examples")
    given = parser.parse_args()
    for run in given.reports:
        if not (run / "report.html").is_file():
            parser.error(f"{run} has no report.html: give the folder of a finished run")
    write_source(given.source, given.reports)
    trees, pages = (given.source.with_name(f"{given.source.name}_{part}") for part in ("trees", "pages"))
    for old in (trees, pages):
        shutil.rmtree(old, ignore_errors=True)
    failed = sphinx(["-W", "--keep-going", "-q", "-b", "html", "-d", str(trees), str(given.source), str(pages)])
    if not failed:          # a site that is there is a whole one
        shutil.rmtree(given.out, ignore_errors=True)
        shutil.move(pages, given.out)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
