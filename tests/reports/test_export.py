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
from elbo_core.errors import DatasetError
from elbo_core.reports.export import (
    ManifestEntry,
    ReleasedNoise,
    StoredNoise,
    explain,
    export,
    file_name,
    main,
    read_manifest,
    read_names,
)

CLASSES = ("star", "hot dog", "moon")
PLAN = Plan.of((1, 301, 651, 951), (20, 100, 180))
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
    expected = segment(pipeline, image, CLASSES, noise, PLAN.losses[0].timesteps, PLAN.attention[0].timesteps)
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


def write(manifest, *entries) -> None:
    manifest.write_text(json.dumps(entries))


NAMES = ["background", "star", "hot dog", "hot-dog", "moon"]
ONE = {"name": "one", "image": "one.png"}


@pytest.mark.parametrize(("entries", "shared"), [
    ([ONE | {"classes": ["hot dog", "hot-dog"]}], "one__hot_dog.npz"),
    ([ONE | {"classes": ["star"]}, ONE | {"classes": ["star"]}], "one__star.npz"),
    ([ONE | {"name": "a b", "classes": ["star"]}, ONE | {"name": "a-b", "classes": ["star"]}], "a_b__star.npz"),
    ([ONE | {"name": "ONE", "classes": ["star"]}, ONE | {"classes": ["star"]}], "one__star.npz"),
    ([ONE | {"name": "猫", "classes": ["star"]}, ONE | {"name": "狗", "classes": ["star"]}], "___star.npz"),
])  # fmt: skip
def test_two_classes_never_share_a_file(entries, shared, manifest, tmp_path):
    write(manifest, *entries)
    with pytest.raises(ValueError, match=f"would both be written to {shared}; rename one"):
        read_manifest(manifest, NAMES)
    scenes = [ManifestEntry(one["name"], manifest.parent / one["image"], tuple(one["classes"])) for one in entries]
    with pytest.raises(ValueError, match=f"would both be written to {shared}; rename one"):
        export(None, scenes, tmp_path / "out", PLAN, ReleasedNoise(1))
    assert not (tmp_path / "out").exists()


def test_a_name_too_long_for_a_file(manifest):
    write(manifest, ONE | {"name": "x" * 250, "classes": ["star"]})
    with pytest.raises(ValueError, match="file of 260 characters; shorten its name"):
        read_manifest(manifest, NAMES)


@pytest.mark.parametrize("asked", [-1, 0, 5, 10**9, True, False])
def test_classes_by_number_are_those_of_the_list(asked, manifest):
    write(manifest, ONE | {"classes": [asked]})
    with pytest.raises(ValueError, match=f"'one' asks for the class {asked}, expected 1..4"):
        read_manifest(manifest, NAMES)


def test_a_class_by_its_number(manifest):
    write(manifest, ONE | {"classes": [4, "star"]})
    assert read_manifest(manifest, NAMES)[0].classes == ("moon", "star")


@pytest.mark.parametrize(("entries", "message"), [
    ({"name": "x"}, "must be a list of one picture at least"),
    ([], "must be a list of one picture at least"),
    (["one.png"], "entry 0 of .* is no object"),
    ([ONE | {"name": 5, "classes": ["star"]}], r"lacks \['name'\]"),
    ([ONE], r"lacks \['label_map'\]"),
    ([ONE | {"classes": "star"}], "must have a list of classes, got 'star'"),
    ([ONE | {"classes": []}], "no candidate classes"),
    ([ONE | {"classes": ["star", "Star"]}], "named twice"),
    ([ONE | {"classes": ["wolf"]}], r"asks for \['wolf'\]"),
    ([ONE | {"classes": ["background"]}], r"asks for \['background'\]"),
    ([ONE | {"classes": [1.0]}], r"class 0 must be a text, got 1\.0"),
])  # fmt: skip
def test_entries_that_are_built_otherwise(entries, message, manifest):
    manifest.write_text(json.dumps(entries))
    with pytest.raises((TypeError, ValueError), match=message):
        read_manifest(manifest, NAMES)


@pytest.mark.parametrize("text", ["", "[", "[{]"])
def test_what_is_no_json_is_named(text, manifest):
    manifest.write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is not JSON"):
        read_manifest(manifest, NAMES)


def test_labels_without_a_name_are_errors(manifest):
    Image.fromarray(np.array([[0, 1], [5, 255]], np.uint8)).save(manifest.parent / "labels.png")
    write(manifest, ONE | {"label_map": "labels.png"})
    with pytest.raises(ValueError, match=r"labels\.png holds the label 5, outside 0\.\.4 and 255"):
        read_manifest(manifest, NAMES)


@pytest.mark.parametrize("names", [["background"], {"0": "star"}, ["background", "star", "STAR"], ["background", ""]])
def test_lists_of_names_that_are_none(names, tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(names))
    with pytest.raises(ValueError, match=r"must be a list of names|named twice|is blank"):
        read_names(tmp_path / "classes.json")


def test_pictures_are_in_the_pixels_of_their_label_map(manifest):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 2)).save(manifest.parent / "turned.jpg", exif=exif)
    write(manifest, {"name": "turned", "image": "turned.jpg", "classes": ["star"]})
    assert read_manifest(manifest, NAMES)[0].scene.image.shape == (3, 2, 6)


def test_noise_is_read_from_its_folder_alone(tmp_path):
    with pytest.raises(DatasetError, match="leaves the folder"):
        StoredNoise(tmp_path)("../secret", (4, 8, 8), PLAN)


def test_file_names():
    assert file_name("a-b/c", "hot dog") == "a_b_c__hot_dog.npz"
