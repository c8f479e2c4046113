"""The table of contents: made from the folders of nbs/, the names of the notebooks and their titles; there is no other list.

python docs/contents.py writes it into nbs/index.ipynb, from which the README is made.
"""
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"": "The course", "more": "Further chapters", "tools": "The machinery"}      # folder of nbs/ → what it is called
MARK = "<!-- made by docs/contents.py -->"


@dataclass
class Page:
    "A notebook and its place."
    path: str        # below nbs/, without .ipynb: "09_rpn", "more/errors"
    number: int | None      # of a page of the course
    title: str
    subtitle: str    # the sentence below the title: "" where there is none


def page_of(
    path: Path,      # of a notebook
    folder: Path,    # nbs/
) -> Page:
    "A notebook's place and title. Raises ValueError for one without a title, and for a page of the course without a number."
    place = path.relative_to(folder).with_suffix("").as_posix()
    first = next((cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"), "")
    title, subtitle = re.match(r"# +(.+)", first), re.search(r"^> +(.+)", first, flags=re.M)
    if title is None:
        raise ValueError(f"nbs/{place}.ipynb has no title: begin its first markdown cell with `# Title`")
    number = re.match(r"(\d\d)_", place)
    if "/" not in place and number is None:
        raise ValueError(f"nbs/{place}.ipynb has no number: a page of the course is called NN_name.ipynb; others are in {' and '.join(filter(None, PARTS))}")
    return Page(place, int(number[1]) if number else None, title[1].strip(), subtitle[1].strip().rstrip(".") if subtitle else "")


def read_contents(
    folder: Path = ROOT / "nbs",
) -> dict[str, list[Page]]:      # part → pages: those of the course by number, the others by title
    "All pages but the index. Raises ValueError for a folder that is no part, for a number given twice and for a number left out."
    unknown = {path.relative_to(folder).parts[0] for path in folder.glob("*/**/*.ipynb")} - set(PARTS) - {".ipynb_checkpoints"}
    if unknown:
        raise ValueError(f"nbs/{min(unknown)}/ is no part of the contents: name it in PARTS of docs/contents.py")
    parts = {}
    for place, caption in PARTS.items():
        paths = [path for path in (folder / place).glob("*.ipynb") if (place, path.stem) != ("", "index")]
        parts[caption] = sorted((page_of(path, folder) for path in paths), key=lambda page: (page.number or 0, page.title.lower()))
    numbers = [page.number for page in parts[PARTS[""]]]
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError(f"the pages of the course are numbered {numbers}: numbers are the order in which they are read, each once and none left out")
    return parts


def contents_table(
    parts: dict[str, list[Page]],
) -> str:                        # markdown, links relative to nbs/
    "What the index and the README show."
    text = [MARK]
    for caption, pages in parts.items():
        text += ["", f"**{caption}**", "", "| page | what it is about |", "|---|---|"]
        text += [f"| {'' if page.number is None else f'{page.number} '}[{page.title}]({page.path}.ipynb) | {page.subtitle} |" for page in pages]
    return "\n".join(text)


def main() -> None:
    index = ROOT / "nbs" / "index.ipynb"
    nb = nbformat.read(index, as_version=4)
    cell = next(cell for cell in nb.cells if MARK in cell.source)
    head = cell.source.partition(MARK)[0]
    made = head + contents_table(read_contents())
    if made != cell.source:
        cell.source = made
        nbformat.write(nb, index)


if __name__ == "__main__":
    main()
