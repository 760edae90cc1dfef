"""The report as files; a real browser reads it in `tests/browser`."""

from __future__ import annotations

import re

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from elbo_core.reports.notebooks import PAPER, Entry
from elbo_core.reports.site import build, comparison, notebook_page, with_page_links

BOOK = [Entry("00_a", "First?", "Table I", "1 min"), Entry("10_b", "Second?", "Table II", "2 min")]


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    picture = new_output("display_data", {"image/png": "aGk=", "text/plain": "x"})
    bar = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0it"})
    noise = new_output("stream", name="stderr", text="loading")
    return new_notebook(cells=[
        new_markdown_cell(f"[index](00_a.ipynb) · [paper]({PAPER})\n\n# Second?\n\nSee [first](00_a.ipynb#x), $x_1$."),
        new_code_cell("profile = 1", metadata={"tags": ["parameters"]}),
        new_code_cell("profile = 2", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("import secret", metadata={"tags": ["hide-input"]}, outputs=[picture, bar, noise]),
        new_code_cell("assert secret", metadata={"tags": ["remove-cell"]}),
        new_code_cell("print('seen')", outputs=[new_output("stream", name="stdout", text="seen")]),
    ])  # fmt: skip


def test_a_page_holds_what_is_read_and_nothing_else(notebook):
    page = BeautifulSoup(notebook_page(notebook, BOOK[1], BOOK), "html.parser")
    text = page.find("main").get_text()
    assert "seen" in text
    for hidden in ("secret", "profile", "0it", "loading", "index ·"):
        assert hidden not in text
    assert page.find("img")["alt"]
    assert page.find("main").find("a", string="first")["href"] == "00_a.html#x"
    assert page.find("a", rel="prev").get_text() == "← First?"
    assert page.find("a", rel="next") is None
    assert page.find("h1")["id"] == "Second?"
    assert page.html["lang"] == "en"


def test_links_into_the_repository_stay_text():
    assert with_page_links('<a href="../docs/limits.md">limits</a>') == "limits"


def test_ours_beside_the_papers():
    frame = pd.DataFrame({"metric": ["miou_gain", "miou_gain", "miou"], "ours": [1.0, 3.0, 9], "paper": [2.0, None, 1]})
    assert comparison(frame) == "mean gain +1.0 here, +2.0 in the paper, over 1 numbers"
    assert comparison(pd.DataFrame({"x": [1]})) == ""


def test_the_report_of_the_committed_results(tmp_path):
    index = build("toy", tmp_path / "report", executed=tmp_path)
    page = BeautifulSoup(index.read_text(), "html.parser")
    assert len(page.select(".cards article")) > 8
    assert page.select(".ledger tbody tr")
    for link in page.find_all("a", href=True):
        if not link["href"].startswith(("http", "#")):
            assert (index.parent / link["href"]).exists(), link["href"]
    text = "".join(path.read_text() for path in index.parent.glob("*/*.html"))
    assert "cdnjs" not in text, "nothing is fetched"
    assert all(image.get("alt") for image in page.find_all("img"))
    for place in re.findall(r'<img[^>]+src="(?!data:)([^"]+)"', text):
        assert (index.parent / "notebooks" / place).is_file(), place


def test_a_profile_without_results_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="make tables PROFILE=none"):
        build("none", tmp_path / "report")
