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
        nbformat.v4.new_markdown_cell("# A table?\n\n**Paper item:** Table X. **Run time:** a second."),
        nbformat.v4.new_code_cell('profile = "toy"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def stamp_environment(root: Path) -> None:
    """Say that this very environment is installed: make would install into it."""
    script = (
        'mkdir -p build; (echo "$0"; ls -di "$0") | cksum | cut -d" " -f1 | xargs -I@ touch build/conda-@.installed'
    )
    subprocess.run(["sh", "-c", script, sys.prefix], cwd=root, check=True)


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
    shutil.copy(ROOT / "data" / "paper" / "generic_nouns.txt", root / "data" / "paper")
    stamp_environment(root)
    return root


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`make` from another directory."""
    environment = os.environ | {"CONDA_PREFIX": sys.prefix, "CONDA_DEFAULT_ENV": "here", "PROFILE": "smoke"}
    return start(project, environment, *arguments)


def start(project: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "-C", str(project), *arguments]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)


def without_conda(**others: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CONDA")} | others


@pytest.mark.parametrize("conda", [{}, {"CONDA_PREFIX": "/opt/conda", "CONDA_DEFAULT_ENV": "base"}])
def test_without_an_environment_of_its_own_it_makes_one(project, conda):
    """Nothing is ever installed into conda's base."""
    planned = start(project, without_conda(**conda), "--dry-run", "env").stdout
    assert ".venv/bin/python -m pip install" in planned
    assert "/opt/conda" not in planned


def test_a_wrong_python_is_refused_before_anything_is_made(project):
    for wrong in ("false", "no-such-python"):
        done = start(project, without_conda(), "env", f"PYTHON3={wrong}")
        assert done.returncode != 0
        assert f"{wrong} is no Python 3.11 or later; name one: make PYTHON3=" in done.stderr
        assert not (project / ".venv").exists()


def test_a_half_made_environment_is_made_anew(project):
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    (project / "requirements.lock").write_text("")
    offline = without_conda(PIP_NO_BUILD_ISOLATION="0", PIP_NO_INDEX="1")
    done = start(project, offline, "env", f"PYTHON3={sys.executable}")
    assert (project / ".venv" / "bin" / "pip").exists(), done.stderr


def test_two_runs_take_turns(project):
    code = "import pathlib, time; p = pathlib.Path('../count'); p.open('a').write('x'); time.sleep(3)"
    notebook(project / "notebooks" / "10_table_x.ipynb", code)
    environment = os.environ | {"CONDA_PREFIX": sys.prefix, "CONDA_DEFAULT_ENV": "here", "PROFILE": "smoke"}
    command = ["make", "-C", str(project), "tables"]
    runs = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    messages = "".join(run.communicate()[1] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert "another run holds build/smoke/lock; waiting for its end" in messages
    assert (project / "count").read_text() == "x", "the second finds the result of the first"


@pytest.mark.parametrize("option", ["IMAGES=0", "IMAGES=-3", "IMAGES=few"])
def test_a_senseless_number_of_images_is_refused_first(project, option):
    notebook(project / "notebooks" / "10_table_x.ipynb", "1")
    done = make(project, "tables", option)
    assert done.returncode != 0
    assert "ELBO_IMAGES must be a whole number from 1 on" in done.stderr


def test_a_notebook_is_run_once_with_the_profile(project):
    notebook(project / "notebooks" / "10_table_x.ipynb", "print(profile, __import__('os').getcwd())")
    first = make(project, "tables")
    assert first.returncode == 0, first.stderr
    report = first.stdout.rsplit("the report: ", 1)[1].splitlines()[0]
    assert (project / report).is_file(), "it ends by naming the report"
    cells = nbformat.read(project / TARGET, as_version=4).cells
    assert cells[-1].outputs[0].text.startswith("smoke ")
    assert cells[-1].outputs[0].text.rstrip().endswith("a project/notebooks")
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
        target in listed
        for target in (
            "tables",
            "plan",
            "report",
            "browser-test",
            "test",
            "notebooks",
            "lab",
            "models",
            "bench",
            "clean",
        )
    )
