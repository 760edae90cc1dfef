"""The notebooks as a book: their list, the links between them, what is folded away, and their committed outputs.

`python -m elbo_core.reports.notebooks links` writes the links and folds the plumbing of all notebooks;
`python -m elbo_core.reports.notebooks refresh build/toy/00_start_here.ipynb ...` copies the outputs of executed ones
into the committed ones. papermill adds a cell and timings; neither belongs in the repository.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from PIL import Image

from elbo_core.paths import ROOT

NOTEBOOKS = ROOT / "notebooks"
INDEX = "00_start_here"
"""The notebook that lists all."""
PAPER = "https://arxiv.org/abs/2506.09740"
FOLDED = ("hide-input", "remove-cell")
"""Tags of cells that are plumbing: the report leaves out their code or all of them, JupyterLab folds their code."""
LISTED = ("<!-- notebooks -->", "<!-- end of notebooks -->")
"""Between these the list of all notebooks is written, in the index and in the README."""
TRUE_COLOURS_UP_TO = 25_000
"""Bytes of a picture in a committed notebook; a larger one is packed into 256 colours."""


@dataclass(frozen=True)
class Entry:
    """A notebook as its own first cell presents it.

    stem: the file name without ending. question: its title. item: of the paper. minutes: its run time in words.
    """

    stem: str
    question: str
    item: str
    minutes: str

    @property
    def number(self) -> str:
        return self.stem.partition("_")[0]


def entry(path: Path) -> Entry:
    """
    Raises:
        ValueError: the first cell has no title, or does not say which item of the paper it is about.
    """
    text = nbformat.read(path, as_version=4).cells[0].source
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    item, time = (re.search(rf"\*\*{what}[:.]*\*\*:?\s*(.+?)(?=\s*\*\*|$)", text, re.DOTALL) for what in
                  ("Paper item", "Run time"))  # fmt: skip
    if not (title and item and time):
        raise ValueError(f"the first cell of {path.name} needs a title, **Paper item:** and **Run time:**")
    return Entry(path.stem, title[1].strip(), _one_line(item[1]), re.split("[;,.]", _one_line(time[1]))[0])


def _one_line(text: str) -> str:
    """In plain text: without the end of a sentence, tags of small print, and links, which lead nowhere from a list."""
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", re.sub(r"</?\w+[^>]*>", "", text))
    return " ".join(plain.split()).rstrip(" .·")


def contents(folder: Path = NOTEBOOKS) -> list[Entry]:
    """All notebooks, in the order in which they are read."""
    return [entry(path) for path in sorted(folder.glob("[0-9]*.ipynb"))]


def navigation(stem: str, book: Sequence[Entry]) -> str:
    """The line of links at the head of a notebook: previous, index, next, the paper."""
    stems = [one.stem for one in book]
    place = stems.index(stem)
    links = [f"[← {book[place - 1].question}]({stems[place - 1]}.ipynb)"] if place else []
    links.append(f"[index]({INDEX}.ipynb#All-notebooks)")
    links += [f"[{book[place + 1].question} →]({stems[place + 1]}.ipynb)"] if place + 1 < len(book) else []
    return " · ".join([*links, f"[paper]({PAPER})"])


def listing(book: Sequence[Entry], folder: str = "") -> str:
    """All notebooks as a Markdown table."""
    lines = [
        f"| [{one.number}]({folder}{one.stem}.ipynb) | {one.question} | {one.item} | {one.minutes} |" for one in book
    ]
    return "\n".join(["| notebook | question | paper | run time on two cores |", "|---|---|---|---|", *lines])


def furnish(path: Path, book: Sequence[Entry]) -> None:
    """Write the links of a notebook, and the list where it has a place for it, and fold its plumbing."""
    notebook = nbformat.read(path, as_version=4)
    first = notebook.cells[0]
    first.source = with_navigation(first.source, navigation(path.stem, book))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_listing(cell.source, listing(book))
        fold(cell)
    nbformat.write(notebook, path)


def with_navigation(text: str, links: str) -> str:
    """A first cell with these links as its first line, in the place of those that it has."""
    kept = (
        text.split("\n\n", 1)[1] if f"({PAPER})" in text.split("\n", 1)[0] and "·" in text.split("\n", 1)[0] else text
    )
    return f"{links}\n\n{kept}"


def with_listing(text: str, table: str) -> str:
    """A text with the list of all notebooks between its marks, if it has them."""
    start, end = LISTED
    if start not in text or end not in text:
        return text
    before, rest = text.split(start, 1)
    return f"{before}{start}\n\n{table}\n\n{end}{rest.split(end, 1)[1]}"


def fold(cell: nbformat.NotebookNode) -> None:
    """Let JupyterLab fold the code of a cell that is plumbing."""
    if cell.cell_type == "code" and set(FOLDED) & set(cell.metadata.get("tags", [])):
        cell.metadata.setdefault("jupyter", {})["source_hidden"] = True


def refresh(executed: Path, committed: Path) -> None:
    """Replace the outputs and execution counts of `committed` by those of the same cells in `executed`.

    Raises:
        ValueError: the executed notebook lacks a cell, so it was made from another version.
    """
    source, target = (nbformat.read(path, as_version=4) for path in (executed, committed))
    by_id = {cell.id: cell for cell in source.cells if "injected-parameters" not in cell.metadata.get("tags", [])}
    missing = [cell.id for cell in target.cells if cell.id not in by_id]
    if missing:
        raise ValueError(f"{executed} lacks the cells {missing} of {committed}; run `make notebooks` again")
    code = [cell for cell in target.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
        cell.outputs = [] if _is_widget(cell) else [_clean(output, count) for output in results(by_id[cell.id])]
    nbformat.write(target, committed)


def _is_widget(cell: nbformat.NotebookNode) -> bool:
    """Widgets do not live in a file; their cell is stored without output."""
    return "nbval-ignore-output" in cell.metadata.get("tags", [])


def results(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of a cell without warnings, progress bars and widgets."""
    kept = [output for output in cell.outputs if output.get("name") != "stderr"]
    return [output for output in kept if "application/vnd.jupyter.widget-view+json" not in output.get("data", {})]


def _clean(output: nbformat.NotebookNode, count: int) -> nbformat.NotebookNode:
    if output.output_type == "execute_result":
        output.execution_count = count
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = compress(output.data["image/png"])
    return output


def compress(picture: str) -> str:
    """A base64 PNG as small as its true colours allow. Only one that is large is packed into 256 colours, which are
    chosen to cover all that occur: a median cut would falsify those of small areas."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    true = _png(image)
    if len(true) > TRUE_COLOURS_UP_TO:
        true = min(true, _png(image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)), key=len)
    return base64.b64encode(true).decode()


def _png(image: Image.Image) -> bytes:
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def write_links(folder: Path = NOTEBOOKS, readme: Path = ROOT / "README.md") -> None:
    """Furnish all notebooks, and list them in the README."""
    book = contents(folder)
    for one in book:
        furnish(folder / f"{one.stem}.ipynb", book)
    readme.write_text(with_listing(readme.read_text(), listing(book, "notebooks/")))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["links", "refresh"])
    parser.add_argument("executed", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    if options.task == "links":
        write_links()
    for path in options.executed:
        refresh(path, NOTEBOOKS / path.name)
        print(f"refreshed notebooks/{path.name}")


if __name__ == "__main__":
    main()
