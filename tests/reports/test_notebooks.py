import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from elbo_core.reports.notebooks import LISTED, Entry, contents, furnish, refresh


def save(path, cells):
    nbformat.write(new_notebook(cells=cells), path)


@pytest.fixture
def pair(tmp_path):
    text = new_output("stream", name="stdout", text="3\n")
    chatter = new_output("stream", name="stderr", text="warning\n")
    cells = [
        new_code_cell("a = 1", metadata={"tags": ["parameters"]}),
        new_code_cell("print(3)"),
        new_code_cell("w", metadata={"tags": ["nbval-ignore-output"]}),
    ]
    save(tmp_path / "committed.ipynb", cells)
    executed = [
        cells[0],
        new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]}),
        cells[1].copy(),
        cells[2].copy(),
    ]
    bar = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0it"})
    executed[2]["outputs"], executed[2]["execution_count"] = [text, chatter, bar], 7
    executed[3]["outputs"] = [text]
    save(tmp_path / "executed.ipynb", executed)
    return tmp_path / "executed.ipynb", tmp_path / "committed.ipynb"


def test_outputs_are_copied_without_chatter_parameters_and_widgets(pair):
    refresh(*pair)
    cells = nbformat.read(pair[1], as_version=4).cells
    assert [cell.source for cell in cells] == ["a = 1", "print(3)", "w"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3]
    assert [output.get("text") for output in cells[1].outputs] == ["3\n"]
    assert cells[2].outputs == []


def test_outputs_of_another_version_are_refused(pair):
    save(pair[1], [new_code_cell("new")])
    with pytest.raises(ValueError, match="make notebooks"):
        refresh(*pair)


FIRST = (
    "# What?\n\nAnswer.\n\n<small>**Goal.** g **Paper item:** Table I. **Reads:** r. **Run time:** about 1 min.</small>"
)


@pytest.fixture
def book(tmp_path):
    for stem in ("00_start_here", "10_next"):
        cells = [new_markdown_cell(FIRST), new_code_cell("import os", metadata={"tags": ["hide-input"]})]
        cells.append(new_markdown_cell(f"list\n\n{LISTED[0]}\n\nold\n\n{LISTED[1]}\n\nend"))
        save(tmp_path / f"{stem}.ipynb", cells)
    return tmp_path


def test_links_lists_and_folds_are_generated_once(book):
    entries = contents(book)
    assert entries[1] == Entry("10_next", "What?", "Table I", "about 1 min")
    for _ in range(2):
        for one in entries:
            furnish(book / f"{one.stem}.ipynb", entries)
    cells = nbformat.read(book / "10_next.ipynb", as_version=4).cells
    assert cells[0].source.count("paper]") == 1
    assert cells[0].source.startswith("[← What?](00_start_here.ipynb) · [index](00_start_here.ipynb#All-notebooks)")
    assert cells[1].metadata.jupyter.source_hidden
    assert "old" not in cells[2].source
    assert cells[2].source.count("| [10](10_next.ipynb) | What? | Table I | about 1 min |") == 1


def test_a_notebook_that_does_not_say_what_it_is_about_is_named(tmp_path):
    save(tmp_path / "00_x.ipynb", [new_markdown_cell("# only a title")])
    with pytest.raises(ValueError, match="00_x"):
        contents(tmp_path)
