"""The house rules: pins that agree, notebooks that can be run and read, nothing that belongs to one machine."""

from __future__ import annotations

import ast
import re
import subprocess

import nbformat
import pandas as pd
import pytest
import yaml

from elbo_core.paths import FIGURES, MODELS, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOP_LEVEL = (
    "notebooks elbo_core data figures tests environment.yml requirements.lock Makefile README.md pyproject.toml "
    "LICENSE CITATION.cff .ci/run"
)


def pins(lines: list[str]) -> set[str]:
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def cells(path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


@pytest.mark.parametrize("name", TOP_LEVEL.split())
def test_top_level(name):
    assert (ROOT / name).exists()


def test_the_environment_says_the_same_as_the_lock():
    locked = pins((ROOT / "requirements.lock").read_text().splitlines())
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    assert pins(pip) == locked
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in locked)


def test_every_dependency_is_locked():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {re.split(r"[<>=]", name)[0].lower().replace("-", "_") for name in wanted}
    locked = {
        pin.split("==")[0].lower().replace("-", "_")
        for pin in pins((ROOT / "requirements.lock").read_text().splitlines())
    }
    assert names <= locked
    assert "torch==2.13.0" in (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_parameters_are_literals_in_one_cell(self, path):
        (parameters,) = [cell for cell in cells(path) if "parameters" in tags(cell)]
        statements = ast.parse(parameters.source).body
        assert statements
        for statement in statements:
            assert isinstance(statement, ast.Assign)
            ast.literal_eval(statement.value)

    def test_first_cell_says_what_a_reader_needs(self, path):
        first = cells(path)[0]
        assert first.cell_type == "markdown"
        for promise in ("Goal", "Paper item", "Reads", "Writes", "Run time"):
            assert f"**{promise}" in first.source

    def test_last_cell_asserts(self, path):
        assert "assert" in cells(path)[-1].source

    def test_kernel_and_state(self, path):
        notebook = nbformat.read(path, as_version=4)
        assert notebook.metadata.kernelspec.name == "python3"
        assert "widgets" not in notebook.metadata
        assert path.stat().st_size <= 300 * 1024
        assert re.fullmatch(r"\d\d_\w+", path.stem)

    def test_committed_outputs_are_of_one_clean_run(self, path):
        code = [cell for cell in cells(path) if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        outputs = [output for cell in code for output in cell.outputs]
        assert outputs
        assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]

    def test_cells_are_short(self, path):
        assert max(len(cell.source.splitlines()) for cell in cells(path) if cell.cell_type == "code") <= 25


def test_the_shown_table_is_the_committed_one():
    """The lines "off" and "on" of figures/toy/table_3.md stand in notebook 30 too."""
    lines = (FIGURES / "toy" / "table_3.md").read_text().splitlines()
    table = "\n".join(line for line in lines if re.search(r"\| (off|on)(, tuned)? +\|", line))
    shown = "".join(
        str(output)
        for cell in cells(ROOT / "notebooks" / "30_table3_models.ipynb")
        for output in cell.get("outputs", [])
    )
    numbers = re.findall(r"[+-]?\d+\.\d \[[^\]]+\]", table)
    assert len(numbers) > 20
    assert all(number in shown for number in numbers)


def test_committed_tables_are_tidy():
    from elbo_core.reports.tables import COLUMNS

    for path in FIGURES.glob("*/table_*.csv"):
        frame = pd.read_csv(path)
        assert list(frame.columns) == COLUMNS
        assert (frame.low <= frame.ours + 0.01).all()
        assert (frame.ours <= frame.high + 0.01).all()


def test_models_are_small_half_precision_and_documented():
    from safetensors import safe_open

    folders = [path for path in MODELS.iterdir() if path.is_dir()]
    assert {path.name for path in folders} >= {"toy-clip", "toy-sd15"}
    for folder in folders:
        assert (folder / "README.md").exists()
        weights = list(folder.rglob("*.safetensors"))
        assert sum(path.stat().st_size for path in weights) <= 25 * 2**20
        for path in weights:
            with safe_open(path, "pt") as tensors:
                assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} <= {"F16", "I64"}  # noqa: SIM118


def test_nothing_belongs_to_one_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    forbidden = re.compile("|".join(["(?<![\\w.])/(work|root|tmp|home)/", "py" + "pi\\.org", "python" + "hosted"]))
    text_files = [
        ROOT / name
        for name in listed
        if name and (ROOT / name).suffix in {".py", ".md", ".yml", ".yaml", ".toml", ".json", ".ipynb", ".lock", ""}
    ]
    offenders = [
        path.name for path in text_files if path.is_file() and forbidden.search(path.read_text(errors="ignore"))
    ]
    assert not offenders
