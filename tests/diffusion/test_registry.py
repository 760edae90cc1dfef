"""Names of models, and the places that they stand for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from elbo_core.diffusion import registry
from elbo_core.diffusion.registry import REGISTRY, locate, overrides
from elbo_core.errors import ModelAccessError
from elbo_core.paths import ROOT


@pytest.mark.parametrize("alias", REGISTRY)
def test_registry_entries_make_sense(alias):
    entry = REGISTRY[alias]
    assert entry.hub_id.count("/") == 1
    assert entry.revision is None or re.fullmatch("[0-9a-f]{40}", entry.revision)
    assert locate(alias) == (entry.hub_id, entry.revision)


def test_the_papers_six_models_are_known():
    assert {"sd14", "sd15", "sd2", "sd21", "sdxl", "sd35"} <= set(REGISTRY)


def test_hub_ids_stand_in_the_registry_alone():
    folders = ("elbo_core", "tests", "notebooks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".ipynb"}]
    for entry in REGISTRY.values():
        assert [path.name for path in files if entry.hub_id in path.read_text()] == ["registry.py"]


def test_names_are_read_without_the_libraries_that_load():
    tree = ast.parse(Path(registry.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name.split(".")[0] for name in imported} & {"torch", "diffusers", "transformers"}


def test_an_alias_can_be_taken_from_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("ELBO_MODEL_SD15", str(tmp_path))
    written = tmp_path / "models.yaml"
    written.write_text(f"sd15: elsewhere\npixart-alpha: {tmp_path}\n")
    assert overrides(written) == {"sd15": str(tmp_path), "pixart-alpha": str(tmp_path)}, "the environment wins"
    monkeypatch.delenv("ELBO_MODEL_SD15")
    assert overrides(written)["sd15"] == "elsewhere"
    assert overrides(tmp_path / "absent.yaml") == {}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, and a repository beside it."""
    for name in ("here", "repository"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(registry, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(overrides, "__defaults__", (tmp_path / "repository" / "models.yaml",))
    return tmp_path / "here"


def make(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)


def test_a_folder_here_never_shadows_a_known_name(here):
    before = {name: locate(name) for name in [*REGISTRY, "toy-sd15", "sam"]}
    make(*(here / name for name in before), *(here / entry.hub_id for entry in REGISTRY.values()))
    assert {name: locate(name) for name in before} == before
    assert locate(Path("sd15")) == (str(here / "sd15"), None), "a path is a path"
    assert locate("./sd15") == (str(here / "sd15"), None)


def test_a_toy_model_that_is_not_made_is_not_looked_for_elsewhere(here, monkeypatch):
    monkeypatch.setattr(registry, "MODELS", here / "models")
    make(here / "toy-sd2")
    with pytest.raises(FileNotFoundError, match="'toy-sd2': it is not trained yet"):
        locate("toy-sd2")


@pytest.mark.parametrize("write", ["my/model", "./my/model", "my/model/", "my/../my/model"])
def test_folders_are_found_from_here_and_from_the_repository(write, here):
    make(here.with_name("repository") / "my/model")
    assert locate(write) == locate(Path(write)) == (str(here.with_name("repository") / "my/model"), None)
    make(here / "my/model")
    with pytest.raises(ModelAccessError, match="write the whole path"):
        locate(write)


def test_the_home_folder_is_found(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    make(here / "my/model")
    for write in ("~/my/model", Path("~/my/model")):
        assert locate(write) == (str(here / "my/model"), None)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        ("./a/b", "there is no folder a/b"),
        ("/a/b", "there is no folder /a/b"),
        ("~/a", "there is no folder /"),
        ("~no-such-user/a", "there is no folder ~no-such-user/a"),
        ("../a", "there is no folder ../a"),
        ("data/missing", "there is no folder data/missing"),
        ("a/b/c", "there is no folder a/b/c"),
        ("a\\b", "no alias, toy model or folder is called"),
        ("data/weights.safetensors", "is a single file"),
        ("weights/missing.safetensors", "there is no folder"),
        ("", "no alias, toy model or folder is called"),
        ("sd1.5", "no alias, toy model or folder is called sd1.5"),
        ("a" * 5000, "no alias, toy model or folder"),
        ("a\0b", "no alias, toy model or folder"),
        ("hf://one", "is no hub id; write hf://owner/name"),
    ],
)
def test_paths_are_never_taken_for_hub_ids(write, reason, here):
    make(here / "data")
    (here / "data" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=re.escape(reason)):
        locate(write)


def test_hub_ids_are_kept(here):
    make(here / "owner")
    assert locate("some.one/name-1") == ("some.one/name-1", None)
    assert locate("hf://owner/name") == ("owner/name", None)
    assert locate("hf://owner/name@abc") == ("owner/name", "abc")


@pytest.mark.parametrize("place", ["models/sd15", "./models/sd15", "~/sd15", "/nowhere/sd15", "model.safetensors"])
@pytest.mark.parametrize("source", ["environment", "models.yaml"])
def test_an_alias_that_leads_nowhere_says_so(place, source, here, monkeypatch):
    if source == "environment":
        monkeypatch.setenv("ELBO_MODEL_SD15", place)
    else:
        (registry.ROOT / "models.yaml").write_text(f"sd15: {place}")
    with pytest.raises(
        FileNotFoundError, match=rf"sd15 is to be taken from '{place}' \(ELBO_MODEL_SD15 or models.yaml"
    ):
        locate("sd15")


def test_an_alias_leads_from_the_repository_wherever_one_works(here, monkeypatch):
    make(registry.ROOT / "models/sd15", here / "models/sd15")
    monkeypatch.setenv("ELBO_MODEL_SD15", "models/sd15")
    assert locate("sd15") == (str(registry.ROOT / "models/sd15"), None)
    monkeypatch.setenv("ELBO_MODEL_SD15", "hf://mirror/sd15")
    assert locate("sd15") == ("mirror/sd15", None)
    monkeypatch.setenv("ELBO_MODEL_SD15", " ")
    assert locate("sd15")[0] == REGISTRY["sd15"].hub_id


def test_an_alias_without_a_place_is_left_as_it_is(here):
    (registry.ROOT / "models.yaml").write_text("sd15:\nsd2: ~\nmine: null\n")
    assert overrides() == {}
    assert locate("sd15")[0] == REGISTRY["sd15"].hub_id


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_list_of_places_changes_nothing(text, here):
    (registry.ROOT / "models.yaml").write_text(text)
    assert overrides() == {}


@pytest.mark.parametrize("text", ["sd15: [a]", "sd15: 1", "15: /a", "- sd15", "[]", "sd15", "a: {", "sd15: ''", "\xff"])
def test_a_damaged_list_of_places_is_named(text, here):
    (registry.ROOT / "models.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelAccessError, match=r"models\.yaml"):
        locate("sd21")
