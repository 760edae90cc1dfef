import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from elbo_core.reports.notebooks import refresh


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
