"""`make tables PROFILE=paper` from end to end: small random pipelines in the place of the paper's six models, miniature
data sets in their real layouts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
import trees
from test_make import stamp_environment

from elbo_core.experiments.profiles import PROFILES
from elbo_core.paths import ROOT
from elbo_core.reports.summary import COLUMNS

MODELS = {
    "sd14": tiny.stable_diffusion,
    "sd15": tiny.stable_diffusion,
    "sd2": lambda: tiny.stable_diffusion("v_prediction"),
    "sd21": lambda: tiny.stable_diffusion("v_prediction"),
    "sdxl": tiny.stable_diffusion_xl,
    "sd35": tiny.stable_diffusion_3,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, str]:
    """The environment of a machine that has all models and data sets."""
    root = tmp_path_factory.mktemp("paper")
    places = {}
    for seed, (alias, build) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        build().save_pretrained(root / "models" / alias)
        places[f"ELBO_MODEL_{alias.upper()}"] = str(root / "models" / alias)
    places["ELBO_MODEL_CLIP_B32"] = str(ROOT / "data" / "models" / "toy-clip")
    for name in ("voc", "context", "coco", "ade20k", "aep"):
        trees.build(root / "sets", name, repeats=4)
    return (
        os.environ
        | places
        | {
            "ELBO_DATA": str(root / "sets"),
            "CONDA_PREFIX": sys.prefix,
            "CONDA_DEFAULT_ENV": "here",
            "HF_HUB_OFFLINE": "1",
        }
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of what the notebooks need, with few resamples."""
    root = tmp_path_factory.mktemp("a project")
    unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("elbo_core", "notebooks", "data/paper", "data/profiles", "data/measured/cost"):
        shutil.copytree(ROOT / folder, root / folder, ignore=unwanted)
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "data/claims_ours.yaml"):
        shutil.copy(ROOT / name, root / name)
    profile = root / "data" / "profiles" / "paper.yaml"
    profile.write_text(profile.read_text().replace("resamples: 1000", "resamples: 20"))
    stamp_environment(root)
    return root


def make(project: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "-C", str(project), "PROFILE=paper", "IMAGES=4", *arguments]
    environment = environment | {"PYTHONPATH": str(project)}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)


def test_the_papers_tables_come_out(project, world):
    done = make(project, world, "tables")
    assert done.returncode == 0, done.stderr[-3000:]
    figures = project / "figures" / "paper"
    table = pd.read_csv(figures / "table_3.csv")
    assert list(table.columns) == COLUMNS
    assert list(table.model.unique()) == list(MODELS)
    assert list(table.dataset.unique()) == list(PROFILES["paper"].datasets)
    on = table[(table.model == "sd21") & (table.dataset == "voc") & (table.row == "on") & (table.metric == "miou")]
    on = on[on.reading == "released"]
    assert on.paper.item() == 69.04
    assert pd.read_csv(figures / "table_4.csv").dataset.unique().tolist() == ["aep"]
    claims = pd.read_csv(figures / "claims.csv").query("reading == 'released'").set_index("id")
    unknown = claims.verdict[["rare", "rare-seen", "occluded-seen"]]
    assert set(unknown) == {"not tested"}, "nobody knows for real pictures"
    assert claims.verdict["gains"] != "not tested"
    assert claims.verdict["baselines"] != "not tested"
    second = pd.read_csv(figures / "table_2.csv").set_index(["row", "dataset", "metric", "reading"])
    assert second.paper["DiffSegmenter", "voc", "miou", "released"] == 68.68
    assert "DiffSegmenter is not defined for sd35: " in (figures / "table_2_models.md").read_text()
    assert json.loads((figures / "provenance.json").read_text())["profile"]["images"] == 4
    executed = sorted((project / "build" / "paper").glob("[0-9]*.ipynb"))
    assert [path.stem for path in executed] == list(PROFILES["paper"].notebooks)
    times = [path.stat().st_mtime_ns for path in executed]
    assert make(project, world, "tables").returncode == 0
    assert [path.stat().st_mtime_ns for path in executed] == times, "nothing is done twice"


def test_what_is_missing_is_left_out_and_named(project, world, tmp_path):
    less = world | {"ELBO_MODEL_SDXL": str(tmp_path / "nowhere"), "ELBO_MODEL_SD15": ""}
    shutil.copytree(world["ELBO_DATA"], tmp_path / "sets")
    shutil.rmtree(tmp_path / "sets" / "ade")
    planned = make(project, less | {"ELBO_DATA": str(tmp_path / "sets")}, "plan", "PROBE=1")
    assert planned.returncode == 0, planned.stderr[-3000:]
    left_out = ("20_table2_baselines", "25_figures3_4_qualitative", "70_table7_strategies", "75_figure7_gamma")
    (line,) = [line for line in planned.stdout.splitlines() if line.startswith("left out: ")]
    left_out += ("92_evidence", "95_text_vs_code", "98_claims")
    assert set(left_out) <= set(line.removeprefix("left out: ").split(", "))
    assert "missing model sdxl: " in planned.stdout
    assert "missing model sd15: cannot load" in planned.stdout
    assert "missing data set ade20k:\n  source: ADEChallengeData2016" in planned.stdout
    lines = [line.split() for line in planned.stdout.splitlines() if " models " in line]
    expected = ["sd2", "context", "models", "4", str(4 * (20 * 1 + 10))]
    assert expected in [line[:5] for line in lines], "four times the first picture, which has one candidate"


def test_without_anything_there_is_nothing_to_do(project, world, tmp_path):
    nothing = {key: value for key, value in world.items() if not key.startswith("ELBO_MODEL_")}
    done = make(project, nothing | {"ELBO_DATA": str(tmp_path)}, "tables")
    assert done.returncode != 0
    assert f"profile paper: 1 of {len(PROFILES['paper'].notebooks)} notebooks" in done.stdout
    assert "missing model clip-b32: " in done.stdout
