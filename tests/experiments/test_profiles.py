"""Profiles against the notebooks that they are for."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest
import yaml
from papermill import inspect_notebook

from elbo_core.datasets import mirrored
from elbo_core.diffusion.registry import REGISTRY
from elbo_core.experiments import forecast, generation
from elbo_core.experiments.forecast import USES
from elbo_core.experiments.profiles import PROFILES, get_profile, read_profiles
from elbo_core.experiments.rows import BATCHES
from elbo_core.paths import DATA, ROOT
from elbo_core.reports.paper import DATASET_ORDER
from elbo_core.reports.tables import TABLES

CHANGES = [
    pytest.param(name, notebook, changed, id=f"{name}-{notebook}")
    for name, profile in PROFILES.items()
    for notebook, changed in profile.notebooks.items()
]


@pytest.mark.parametrize(("name", "notebook", "changed"), CHANGES)
def test_parameters_are_the_notebooks_own(name, notebook, changed):
    """Their names and their types, down to the entries; ids are texts."""
    own = inspect_notebook(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
    own = {key: ast.literal_eval(parameter["default"]) for key, parameter in own.items()}
    assert own["profile"] == "toy"
    assert set(changed) <= set(own)
    for key, value in changed.items():
        assert type(value) is type(own[key])
        assert all(isinstance(entry, str) for entry in value) if key in {"model", "models"} else True
    if name == "paper":
        named = [own.get("model", []), *own.get("models", [])]
        assert set(changed) == {key for key in ("model", "models") if key in own}, "every toy model is replaced"
        asked = [changed.get("model"), *changed.get("models", [])]
        assert [f"toy-{model}" for model in asked if model] == [model for model in named if model]
        assert set(filter(None, asked)) <= set(REGISTRY)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_name_what_exists(name):
    profile = PROFILES[name]
    assert tuple(map(mirrored, profile.datasets)) == DATASET_ORDER
    assert mirrored(profile.attributes) == "aep"
    written = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert set(profile.notebooks) <= written
    assert name == "paper" or set(profile.notebooks) == written


def test_what_a_notebook_measures_is_known():
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")}
    measuring = re.compile(r"(evaluate_all|evaluate_batches|regenerate)\(")
    assert set(USES) == {name for name, text in texts.items() if measuring.search(text)}
    assert {batch for uses in USES.values() for batches in uses.values() for batch in batches} <= set(BATCHES)
    for name, text in texts.items():
        for key in re.findall(r'regenerate\(\\"(\w+)\\"', text):
            assert set(TABLES[key].batches) <= {batch for batches in USES[name].values() for batch in batches}


def test_the_environment_wins(monkeypatch):
    assert get_profile("toy").images == 32
    monkeypatch.setenv("ELBO_IMAGES", "7")
    assert (get_profile("toy").images, get_profile("toy").extent) == (7, "7 images a set")
    monkeypatch.setenv("ELBO_PROFILE", "smoke")
    assert (get_profile("toy").name, get_profile("toy").images) == ("smoke", 7)
    for wrong in ("0", "-3", "1.5", "few"):
        monkeypatch.setenv("ELBO_IMAGES", wrong)
        with pytest.raises(ValueError, match=f"ELBO_IMAGES must be a whole number from 1 on, got '{wrong}'"):
            get_profile("toy")
    monkeypatch.setenv("ELBO_PROFILE", "huge")
    with pytest.raises(ValueError, match="unknown profile 'huge'; known: paper, smoke, toy"):
        get_profile("toy")


def test_sets_that_are_not_there_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("ELBO_DATA", str(tmp_path))
    profile = get_profile("paper")
    assert (profile.datasets, profile.extent) == ((), "all images")


def test_generated_pictures_are_left_out_without_the_clip_that_scores_them():
    toy = PROFILES["toy"]
    there = replace(toy, generation={**toy.generation, "clip": "toy-clip"})
    gone = replace(toy, generation={**toy.generation, "clip": "toy-clop"})
    assert forecast.GENERATED in forecast.parameters(there)
    assert set(forecast.parameters(there)) - set(forecast.parameters(gone)) == {forecast.GENERATED}
    assert "toy-clop" in forecast.missing_models(gone)["toy-clop"]
    assert generation.works(there)
    assert not generation.works(gone)


def test_a_profile_is_a_file(tmp_path):
    content = yaml.safe_load((DATA / "profiles" / "smoke.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content | {"images": 5}))
    assert read_profiles(tmp_path)["mine"].images == 5
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content | {"pictures": 5}))
    with pytest.raises(TypeError, match="pictures"):
        read_profiles(tmp_path)
