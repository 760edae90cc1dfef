"""The exported files against what the released code computes, on every pipeline class that it supports."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from released import segment

from elbo_core import Plan, Recipe, Scene, align, observe
from elbo_core.diffusion.families import wrap
from elbo_core.reports.export import ReleasedNoise, StoredNoise, explain, export, file_name, main, read_manifest

CLASSES = ("star", "hot dog", "moon")
PLAN = Plan((1, 301, 651, 951), (20, 100, 180))
FAMILIES = ("sd", "sd-v", "sdxl", "sd3", "sd35")


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(3).integers(256, size=(40, 56, 3), dtype=np.uint8))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_the_released_code_computes(family, image):
    pipeline = tiny.PIPELINES[family]()
    denoiser = wrap(pipeline, family)
    scene = Scene.of(image, CLASSES)
    noise = ReleasedNoise(4307)("any", denoiser.encode_image(scene.image).shape, PLAN)
    expected = segment(pipeline, image, CLASSES, noise, PLAN.elbo_timesteps, PLAN.attention_timesteps)
    ours = explain(observe(denoiser, scene, PLAN, noise))
    for name in CLASSES:
        for key, tolerance in (("loss", 1e-4), ("minmax", 1e-4), ("cross_att", 1e-4), ("heatmap", 1e-3)):
            np.testing.assert_allclose(ours[name][key], expected[name][key], atol=tolerance, rtol=0, err_msg=key)
    assert max(expected[name]["minmax"] for name in CLASSES) == pytest.approx(1)


@pytest.fixture
def manifest(tmp_path, image):
    """Two pictures in a folder with a space, one with its classes, one with a label map alone."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    image.save(folder / "one.png")
    Image.fromarray(np.array([[0, 1], [3, 255]], np.uint8)).resize((56, 40), 0).save(folder / "labels.png")
    entries = [{"name": "2007_000033", "image": "one.png", "label_map": "labels.png", "classes": ["star", "hot dog"]},
               {"name": "no classes", "image": "one.png", "label_map": "labels.png"}]  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(entries))
    (folder / "classes.json").write_text(json.dumps(["background", "star", "hot dog", "moon"]))
    return folder / "manifest.json"


def test_the_command_writes_one_file_per_image_and_class(manifest, tmp_path, capsys):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    main(["--model", str(tmp_path / "model"), "--manifest", str(manifest), "--output", str(tmp_path / "out")])
    assert "4 files" in capsys.readouterr().out
    names = {"2007_000033__star.npz", "2007_000033__hot_dog.npz", "no_classes__star.npz", "no_classes__moon.npz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    with np.load(tmp_path / "out" / "no_classes__moon.npz") as found:
        assert {key: found[key].shape for key in found} == {
            "loss": (), "minmax": (), "cross_att": (8, 8), "heatmap": (40, 56)}  # fmt: skip
        assert 0 <= found["minmax"] <= 1


def test_noise_of_ones_own_is_used(manifest, tmp_path):
    denoiser, names = wrap(tiny.stable_diffusion(), "tiny"), ["background", "star", "hot dog", "moon"]
    noise = {"elbo": torch.randn(4, 4, 8, 8), "collect": torch.randn(3, 4, 8, 8)}
    for name in ("2007_000033", "no classes"):
        np.savez(tmp_path / f"{name}.npz", **{kind: values.numpy() for kind, values in noise.items()})
    export(denoiser, read_manifest(manifest, names), tmp_path / "out", PLAN, StoredNoise(tmp_path))
    scene = next(iter(read_manifest(manifest, names))).scene
    expected = align(observe(denoiser, scene, PLAN, noise), Recipe.reference()).values[1]
    with np.load(tmp_path / "out" / "2007_000033__hot_dog.npz") as found:
        np.testing.assert_array_equal(found["heatmap"], expected.numpy())


def test_bad_manifests_are_refused(manifest):
    names = ["background", "star", "hot dog"]
    manifest.write_text(json.dumps([{"name": "2007_000033", "image": "one.png", "classes": ["moon"]}]))
    with pytest.raises(ValueError, match="'2007_000033' asks for"):
        list(read_manifest(manifest, names))
    manifest.write_text(json.dumps([{"name": "x", "classes": ["star"]}]))
    with pytest.raises(ValueError, match=r"entry 0 of .* lacks \['image'\]"):
        list(read_manifest(manifest, names))


def test_noise_that_does_not_fit_is_refused(tiny_scene):
    denoiser, scene = tiny_scene
    good = {"elbo": torch.randn(4, 4, 8, 8), "collect": torch.randn(3, 4, 8, 8)}
    for bad in ({"elbo": good["elbo"]}, good | {"collect": torch.randn(2, 4, 8, 8)}):
        with pytest.raises(ValueError, match=r"noise\['collect'\] must have the shape \(3, 4, 8, 8\)"):
            observe(denoiser, scene, PLAN, bad)


@pytest.fixture
def tiny_scene(image):
    return wrap(tiny.stable_diffusion(), "tiny"), Scene.of(image, CLASSES)


def test_file_names():
    assert file_name("a-b/c", "hot dog") == "a_b_c__hot_dog.npz"
