"""The report: one static folder that is read offline, made of the same files as everything else.

`python -m elbo_core.reports.site toy build/report`

An index with a row for each table and figure, the ledger of claims, where the numbers come from, and all notebooks as
they were run. Notebooks that `make tables` has executed are taken from `build/<profile>`, others as they are committed.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jupyter_server_mathjax
import nbformat
import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from tqdm import tqdm
from traitlets.config import Config

from elbo_core.paths import ROOT
from elbo_core.reports.labels import label
from elbo_core.reports.notebooks import NOTEBOOKS, PAPER, Entry, contents, results

COMMITTED = ROOT / "figures"
ENVIRONMENT = Environment(loader=PackageLoader("elbo_core.reports"), autoescape=select_autoescape())
MISSING_FONTS = {"url('about:blank')": "local('none')", """url('"+n+"/MathJax_""": """local('"+n+"/MathJax_"""}
"""What MathJax's script says of fonts that are not there, and what it is to say so that no browser looks for them."""
SPAN = 12.0
"""Points to each side of zero that the ledger's plot shows."""


@dataclass(frozen=True)
class Result:
    """A table or figure of the report.

    picture, table: the names of its files without ending, or nothing. comparison: ours beside the paper's in words.
    verdicts: how many claims about it got which verdict.
    """

    entry: Entry
    picture: str
    table: str
    comparison: str
    verdicts: dict[str, int]


def build(profile: str, target: Path, figures: Path = COMMITTED, executed: Path | None = None) -> Path:
    """Write the report of a profile and return its index.

    executed: where the profile's executed notebooks lie, `build/<profile>` by default.

    Raises:
        FileNotFoundError: the profile has no results yet.
    """
    folder, executed = figures / profile, executed or ROOT / "build" / profile
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: run `make tables PROFILE={profile}` first")
    book = contents()
    shutil.rmtree(target, ignore_errors=True)
    (target / "notebooks").mkdir(parents=True)
    shutil.copytree(folder, target / "files")
    _copy_assets(target / "assets")
    for one in tqdm(book, desc="notebooks", disable=None):
        page = notebook_page(notebook_of(one, executed), one, book)
        (target / "notebooks" / f"{one.stem}.html").write_text(page, encoding="utf-8")
        _copy_pictures(page, target)
    ledger = read_ledger(folder)
    _write(target / "index.html", "index.html", profile=profile, results=results_of(book, folder, ledger),
           ledger=ledger, verdicts=["holds", "does not hold", "undecided", "not tested"],
           provenance=read_provenance(folder), paper=PAPER, book=book, span=SPAN)  # fmt: skip
    return target / "index.html"


def _write(path: Path, template: str, **values: object) -> None:
    path.write_text(ENVIRONMENT.get_template(template).render(label=label, **values), encoding="utf-8")


def _copy_pictures(page: str, target: Path) -> None:
    """The committed pictures that a notebook's text shows, to where its page looks for them."""
    for place in re.findall(r'src="\.\./(figures/[^"]+)"', page):
        if (ROOT / place).is_file():
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / place, target / place)


def _copy_assets(assets: Path) -> None:
    """Styles, and MathJax."""
    assets.mkdir()
    style = (Path(__file__).parent / "templates" / "style.css").read_text()
    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    (assets / "style.css").write_text(f"{style}\n{colours}\n")
    mathjax = Path(jupyter_server_mathjax.__file__).parent / "static"
    shutil.copytree(mathjax, assets / "mathjax")
    script = assets / "mathjax" / "config" / "TeX-AMS-MML_HTMLorMML-full.js"
    text = script.read_text()
    for asked, quiet in MISSING_FONTS.items():
        text = text.replace(asked, quiet)
    script.write_text(text)


def notebook_of(entry: Entry, executed: Path) -> nbformat.NotebookNode:
    """The notebook as it was run for the profile, else as it is committed."""
    path = executed / f"{entry.stem}.ipynb"
    return nbformat.read(path if path.is_file() else NOTEBOOKS / f"{entry.stem}.ipynb", as_version=4)


def notebook_page(notebook: nbformat.NotebookNode, entry: Entry, book: Sequence[Entry]) -> str:
    """A notebook as a page of the report: without loading bars, plumbing and papermill's cell, its links to pages."""
    exporter = HTMLExporter(config=_export_config(), template_name="basic")
    body, _ = exporter.from_notebook_node(readable(notebook))
    place = book.index(entry)
    return ENVIRONMENT.get_template("notebook.html").render(
        entry=entry, body=Markup(with_page_links(scrollable(body))), paper=PAPER,
        previous=book[place - 1] if place else None, following=book[place + 1] if place + 1 < len(book) else None,
    )  # fmt: skip


def _export_config() -> Config:
    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_cell_tags = ("remove-cell",)
    config.TagRemovePreprocessor.remove_input_tags = ("hide-input", "parameters")
    config.HTMLExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    config.HTMLExporter.exclude_input_prompt = True
    config.HTMLExporter.exclude_output_prompt = True
    return config


def readable(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy whose outputs hold nothing but results, every picture with an alternative text, and no link line at its
    head: the page has its own."""
    kept = copy.deepcopy(notebook)
    kept.cells = [cell for cell in kept.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    head = kept.cells[0]
    if f"({PAPER})" in head.source.split("\n", 1)[0]:
        head.source = head.source.split("\n\n", 1)[-1]
    for cell in kept.cells:
        if cell.cell_type == "code":
            cell.outputs = [_with_alt(output) for output in results(cell)]
    return kept


def _with_alt(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if "image/png" in output.get("data", {}):
        output.metadata.setdefault("image/png", {}).setdefault("alt", "A figure that the text around it describes")
    return output


def scrollable(body: str) -> str:
    """Tables that may be wider than a phone, each in a box that scrolls and can be reached with the keyboard."""
    opened = re.sub(r"<table", '<div class="scroll" role="region" aria-label="table" tabindex="0"><table', body)
    return opened.replace("</table>", "</table></div>")


def with_page_links(body: str) -> str:
    """Links between notebooks, as links between pages; those into the repository stay text, as it is not there."""
    pages = re.sub(r'href="(?:notebooks/)?(\d\d_\w+)\.ipynb', r'href="\1.html', body)
    return re.sub(r'<a href="(?:\.\./|elbo_core/|data/|docs/|figures/)[^"]*"[^>]*>(.*?)</a>', r"\1", pages)


def results_of(book: Sequence[Entry], folder: Path, ledger: Sequence[dict]) -> list[Result]:
    """A row for each notebook that makes a table or a figure."""
    found = []
    for entry in book:
        writes = _written(entry)
        pictures = [name for name in writes if (folder / f"{name}.png").is_file()]
        tables = [name for name in writes if (folder / f"{name}.csv").is_file()]
        if pictures or tables:
            table = next(iter(tables), "")
            words = comparison(pd.read_csv(folder / f"{table}.csv")) if table.startswith("table") else ""
            found.append(Result(entry, next(iter(pictures), ""), table, words, _verdicts(entry, ledger)))
    return found


def _written(entry: Entry) -> list[str]:
    """The names of the files that a notebook says it writes."""
    text = nbformat.read(NOTEBOOKS / f"{entry.stem}.ipynb", as_version=4).cells[0].source
    return re.findall(r"\b([a-z]\w+)\.\{", text)


def comparison(frame: pd.DataFrame) -> str:
    """Our mean gain beside the paper's, over the numbers that both have."""
    if "paper" not in frame:
        return ""
    both = frame[frame.metric.str.endswith("_gain") & frame.paper.notna()]
    if both.empty:
        return ""
    return f"mean gain {both.ours.mean():+.1f} here, {both.paper.mean():+.1f} in the paper, over {len(both)} numbers"


def _verdicts(entry: Entry, ledger: Sequence[dict]) -> dict[str, int]:
    """How the claims about the item of a notebook were judged, in both readings."""
    item = re.match(r"((?:Table|Figure|Fig\.) \w+)", entry.item)
    names = {item[1], item[1].replace("Figure", "Fig.")} if item else set()
    verdicts = [line["verdict"] for line in ledger if any(re.search(rf"{name}\b", line["claim"]) for name in names)]
    return {name: verdicts.count(name) for name in dict.fromkeys(verdicts)}


def read_ledger(folder: Path) -> list[dict]:
    """The lines of the ledger; none if there is no ledger."""
    path = folder / "claims.csv"
    if not path.is_file():
        return []
    lines = pd.read_csv(path).to_dict("records")
    return [
        line | {"tested": line["ours"] == line["ours"], "in_paper": line["paper"] == line["paper"]} for line in lines
    ]


def read_provenance(folder: Path) -> dict:
    """Where the numbers come from; nothing if that was not written."""
    path = folder / "provenance.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def main(profile: str, target: str) -> None:
    index = build(profile, Path(target))
    print(f"the report: {index}")


ENVIRONMENT.globals["icon"] = Markup(
    "data:image/svg+xml;base64,"
    + base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="8" height="8" '
                       b'fill="#0173b2"/><rect x="2" y="2" width="4" height="4" fill="#de8f05"/></svg>').decode()
)  # fmt: skip
"""Of the browser's tab; without one it asks for a file that is not there."""

if __name__ == "__main__":
    main(*sys.argv[1:])
