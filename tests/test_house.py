"""The house rules: pins that agree, notebooks that can be run and read, nothing that belongs to one machine."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup

from elbo_core.paths import MODELS, ROOT
from elbo_core.reports.notebooks import contents, furnish, listing, with_listing

FIGURES = ROOT / "figures"
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


def test_no_two_modules_of_tests_have_one_name():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names), "pytest imports a module by its name alone"


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

    def test_every_picture_is_told_in_words(self, path):
        pictures = [
            output
            for cell in cells(path)
            for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})
        ]
        assert all(picture.metadata.get("image/png", {}).get("alt") for picture in pictures)

    def test_links_and_folds_are_those_that_are_generated(self, path, tmp_path):
        """`python -m elbo_core.reports.notebooks links` writes them."""
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        furnish(copy, contents())
        assert nbformat.read(copy, as_version=4) == nbformat.read(path, as_version=4)

    def test_plumbing_is_tagged(self, path):
        code = [cell for cell in cells(path) if cell.cell_type == "code"]
        assert "remove-cell" in tags(code[-1]), "assertions are no reading matter"
        imports = [cell for cell in code if cell.source.startswith(("import ", "from "))]
        assert all("hide-input" in tags(cell) for cell in imports)

    def test_cells_are_short(self, path):
        assert max(len(cell.source.splitlines()) for cell in cells(path) if cell.cell_type == "code") <= 25


INTERVAL = re.compile(r"[+-]?\d+\.\d \[[^\]]+\]")


def without_paper(cell: str) -> str:
    """ "+1.9 [-0.8, +4.8] (+0.4)" without the number of the paper and plus signs, in which tables differ."""
    return re.sub(r"\s*\([^)]*\)$", "", cell.strip()).replace("+", "")


def shown_tables(path) -> list[list[str]]:
    """The intervals in each table that a notebook shows, in order."""
    outputs = [output for cell in cells(path) for output in cell.get("outputs", [])]
    texts = [output.get("data", {}).get("text/html", "") for output in outputs]
    found = [
        [without_paper(cell.get_text()) for cell in table.find_all("td") if INTERVAL.search(cell.get_text())]
        for text in texts
        for table in BeautifulSoup(text, "html.parser").find_all("table")
    ]
    return [intervals for intervals in found if intervals]


WRITING = [path for path in NOTEBOOKS if re.search(r"table_(\d|figure|text|estim)\w*\.\{csv", cells(path)[0].source)]


@pytest.mark.parametrize("path", WRITING, ids=lambda path: path.stem)
def test_the_tables_that_a_notebook_shows_are_the_committed_ones(path):
    (name,) = re.findall(r"(table_\w+)\.\{csv", cells(path)[0].source)
    text = (FIGURES / "toy" / f"{name}.md").read_text()
    written = {without_paper(cell) for line in text.splitlines() for cell in line.split("|") if INTERVAL.search(cell)}
    tables = shown_tables(path)
    assert tables or path.stem.startswith("10_"), "it shows its table"
    unknown = [sorted(set(table) - written) for table in tables if set(table) - written]
    assert not unknown


def test_the_ledger_that_its_notebook_shows_is_the_committed_one():
    ledger = pd.read_csv(FIGURES / "toy" / "claims.csv")
    tested = ledger[ledger.verdict != "not tested"]
    written = {
        (line.id, f"{line.ours:+.2f} [{line.low:+.2f}, {line.high:+.2f}]", line.verdict) for line in tested.itertuples()
    }
    outputs = [output for cell in cells(ROOT / "notebooks" / "98_claims.ipynb") for output in cell.get("outputs", [])]
    lines = [
        (row.find("th").get_text().strip(), [cell.get_text().strip() for cell in row.find_all("td")])
        for output in outputs
        for row in BeautifulSoup(output.get("data", {}).get("text/html", ""), "html.parser").find_all("tr")
        if row.find("th") and len(row.find_all("td")) == 4
    ]
    shown = {(name, texts[2], texts[3]) for name, texts in lines if texts[3] != "not tested"}
    assert shown == written


def test_committed_tables_are_tidy():
    from elbo_core.reports.summary import COLUMNS

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


def test_the_readmes_python_runs_as_pasted():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readme_lists_the_notebooks_and_leads_on():
    text = (ROOT / "README.md").read_text()
    assert with_listing(text, listing(contents(), "notebooks/")) == text, (
        "run `python -m elbo_core.reports.notebooks links`"
    )
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert all((ROOT / link).exists() for link in links if not link.startswith("http"))


def test_the_pages_of_docs_lead_on():
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_stepping_through_a_notebook_changes_no_committed_file():
    """Results go to `build/figures` unless make says otherwise."""
    script = "from elbo_core.paths import FIGURES, ROOT; print(FIGURES.relative_to(ROOT))"
    plain = {name: value for name, value in os.environ.items() if name != "ELBO_FIGURES"}
    places = [
        subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
        ).stdout.strip()
        for env in (plain, plain | {"ELBO_FIGURES": "figures"})
    ]
    assert places == ["build/figures", "figures"]
    assert "build/" in (ROOT / ".gitignore").read_text().split()
