"""A set like AEP, built end to end by small random instances of the real classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch

from elbo_core.datasets import build_aep
from elbo_core.datasets.build_aep import Annotator, build, paint
from elbo_core.datasets.folders import LAYOUTS, folder_dataset
from elbo_core.datasets.phrases import noun_phrases
from elbo_core.datasets.prompts import Prompt, prompt_set

OPTIONS = {"height": 64, "width": 64, "num_inference_steps": 1}


def prompt(text: str) -> Prompt:
    return Prompt(text, tuple(noun_phrases(text)))


PROMPTS = [prompt(text) for text in ("a red cat", "three baby rabbits and a metal bench", "a teal bow")]


@pytest.fixture(scope="module")
def annotator():
    torch.manual_seed(0)
    return Annotator(*tiny.grounding_dino(), *tiny.sam())


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    pipeline = tiny.flux()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(autouse=True)
def generous(monkeypatch):
    """A random detector is sure of nothing; it finds all, so that pictures are kept."""
    monkeypatch.setattr(build_aep, "BOX_THRESHOLD", 0.0)


def test_what_is_built_can_be_read(tmp_path, generator, annotator):
    assert build(tmp_path, PROMPTS, generator, annotator, **OPTIONS) == {}
    first, second, third = folder_dataset("aep", root=tmp_path)
    assert first.classes == ("cat",)
    assert set(second.classes) == {"rabbit", "bench"}
    assert second.phrases[second.classes.index("rabbit")] == "three baby rabbits"
    assert third.caption.text == "a photo of a teal bow"
    assert first.image.shape == (3, 64, 64)


def test_a_second_start_makes_only_what_is_missing(tmp_path, generator, annotator):
    build(tmp_path, PROMPTS, generator, annotator, **OPTIONS)
    paths = sorted((tmp_path / "aep").rglob("*.png"))
    content = {path: path.read_bytes() for path in paths}
    for kind, name in (("masks", "generate_1"), ("masks", "generate_2"), ("images", "generate_2")):
        (tmp_path / getattr(LAYOUTS["aep"], kind).format(id=name)).unlink()
    build(tmp_path, PROMPTS, generator, annotator, **OPTIONS)
    assert {path: path.read_bytes() for path in sorted((tmp_path / "aep").rglob("*.png"))} == content

    def refuse(*_, **__):
        raise AssertionError("it is all there")

    build(tmp_path, PROMPTS, refuse, annotator, **OPTIONS)


def test_pictures_that_lack_a_thing_are_rejected_once(tmp_path, generator, annotator, monkeypatch):
    monkeypatch.setattr(build_aep, "BOX_THRESHOLD", 1.0)
    rejected = build(tmp_path, PROMPTS, generator, annotator, **OPTIONS)
    assert list(rejected) == ["generate_0", "generate_1", "generate_2"]
    assert rejected["generate_1"].startswith("bench, rabbit not found for 'three baby rabbits")
    assert json.loads((tmp_path / "aep" / "rejected.json").read_text()) == rejected
    assert not list((tmp_path / "aep").rglob("*.png"))
    assert build(tmp_path, PROMPTS, None, annotator) == rejected, "not tried again"


def test_the_surest_thing_is_on_top():
    left, middle = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    left[:, :3], middle[:, 2:] = True, True
    assert paint([(7, 0.9, left), (5, 0.4, middle)], (2, 4))[0].tolist() == [7, 7, 7, 5]
    assert paint([(7, 0.3, left), (5, 0.4, middle)], (2, 4))[0].tolist() == [7, 7, 5, 5]
    assert not paint([], (2, 4)).any()


def test_the_command_loads_all_from_folders(tmp_path, generator, annotator, capsys):
    places = {name: str(tmp_path / name) for name in ("model", "detector", "segmenter")}
    generator.save_pretrained(places["model"])
    annotator.detector.save_pretrained(places["detector"])
    annotator.detector_processor.save_pretrained(places["detector"])
    annotator.segmenter.save_pretrained(places["segmenter"])
    annotator.segmenter_processor.save_pretrained(places["segmenter"])
    options = [word for name, place in places.items() for word in (f"--{name}", place)]
    build_aep.main(["--root", str(tmp_path), "--count", "2", "--steps", "1", *options])
    kept = folder_dataset("aep", root=tmp_path)
    assert f"{len(kept)} pictures in {tmp_path / 'aep'}, {2 - len(kept)} rejected" in capsys.readouterr().out
    prompts = {f"generate_{k}": prompt.text for k, prompt in enumerate(prompt_set("dvmp", 2))}
    assert all(phrase in prompts[scene.id] for scene in kept for phrase in scene.phrases)
