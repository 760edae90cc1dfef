"""The Makefile's promises, kept in a copy of it in a folder with a space in its name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from elbo_core.paths import ROOT

TARGET = "build/smoke/10_table_x.ipynb"


def notebook(path: Path, code: str) -> None:
    cells = [
        nbformat.v4.new_code_cell('profile = "toy"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def project(tmp_path):
    """The Makefile beside one table notebook, with this very environment in the place of conda's."""
    root = tmp_path / "a project"
    for folder in ("notebooks", "data/paper", "data/models", "data/profiles", "build"):
        (root / folder).mkdir(parents=True)
    shutil.copytree(ROOT / "elbo_core", root / "elbo_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("toy", "smoke"):
        profile = (ROOT / "data" / "profiles" / f"{name}.yaml").read_text().partition("notebooks:")[0]
        (root / "data" / "profiles" / f"{name}.yaml").write_text(f"{profile}notebooks: {{10_table_x: {{}}}}\n")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "build" / "conda.installed").touch()
    return root


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`make` from another directory."""
    environment = os.environ | {"CONDA_PREFIX": sys.prefix, "PROFILE": "smoke"}
    command = ["make", "-C", str(project), *arguments]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)


def test_a_notebook_is_run_once_with_the_profile(project):
    notebook(project / "notebooks" / "10_table_x.ipynb", "print(profile, __import__('os').getcwd())")
    first = make(project, "tables")
    assert first.returncode == 0, first.stderr
    cells = nbformat.read(project / TARGET, as_version=4).cells
    assert cells[-1].outputs[0].text.startswith("smoke ")
    assert cells[-1].outputs[0].text.rstrip().endswith("a project/notebooks")
    assert (project / TARGET).with_suffix(".html").exists()
    written = (project / TARGET).stat().st_mtime_ns
    assert make(project, "tables").returncode == 0
    assert (project / TARGET).stat().st_mtime_ns == written, "up to date"
    assert make(project, "tables", "IMAGES=2").returncode == 0
    assert (project / TARGET).stat().st_mtime_ns > written, "another extent is another result"


def test_a_failed_notebook_never_counts_as_up_to_date(project):
    notebook(project / "notebooks" / "10_table_x.ipynb", "raise RuntimeError('no result')")
    assert make(project, "tables").returncode != 0
    assert not (project / TARGET).exists()
    assert make(project, "tables").returncode != 0


def test_help_lists_the_targets(project):
    listed = make(project).stdout
    assert all(
        target in listed for target in ("tables", "plan", "test", "notebooks", "lab", "models", "bench", "clean")
    )
