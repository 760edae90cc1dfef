"""COCO's annotation files: masks against pycocotools, and everything that a file may hold instead of them."""

from __future__ import annotations

import contextlib
import copy
import json
import random

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from trees import SIZE, build_instances, runs

from elbo_core.datasets.coco import instance_dataset
from elbo_core.datasets.instances import MOST_STEPS, mask
from elbo_core.errors import DatasetError, ImageReadError

HEIGHT, WIDTH = SIZE


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_instances(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def written(root):
    """Writes the annotations anew, changed by a function, and puts them back in the end."""
    path = root / "coco/annotations/instances_val2017.json"
    whole = path.read_text()

    def write(change) -> None:
        content = json.loads(whole)
        path.write_text(json.dumps(change(content) or content))

    yield write
    path.write_text(whole)


def blob(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random(SIZE) < rng.random()).astype(np.uint8)


@pytest.mark.parametrize("seed", range(12))
def test_run_lengths_equal_pycocotools(seed):
    wanted = blob(seed) if seed > 1 else np.full(SIZE, seed, np.uint8)
    compressed = rle.encode(np.asfortranarray(wanted))["counts"].decode()
    for counts in (runs(wanted), compressed):
        assert np.array_equal(mask({"size": list(SIZE), "counts": counts}, SIZE), wanted > 0)


def test_large_run_lengths_equal_pycocotools():
    wanted = np.zeros((1500, 2100), np.uint8)
    wanted[3:1490, 700:2000] = 1
    compressed = rle.encode(np.asfortranarray(wanted))["counts"].decode()
    assert np.array_equal(mask({"size": [1500, 2100], "counts": compressed}, (1500, 2100)), wanted > 0)


@pytest.mark.parametrize("seed", range(12))
def test_polygons_equal_pycocotools(seed, root):
    """Also beyond the border, and with whole numbers."""
    rng = np.random.default_rng(seed)
    polygons = [rng.uniform(-5, 40, size=2 * n).round(seed % 3).tolist() for n in rng.integers(3, 9, size=1 + seed % 3)]
    coco = COCO()
    coco.imgs = {1: {"height": HEIGHT, "width": WIDTH}}
    expected = coco.annToMask({"image_id": 1, "segmentation": polygons})
    assert np.array_equal(mask(polygons, SIZE), expected > 0)


SQUARE = [4, 4, 8, 4, 8, 8, 4, 8]
POLYGONS = {
    "has no polygon": [[]],
    "is no list of three points or more": [[[]], [[1, 2]], [[1, 2, 3, 4]], [SQUARE[:7]], [SQUARE, []], [None], [5],
                                           ["abcdef"], [SQUARE, None], [SQUARE, [1, 2, 3, 4]]],
    "has a polygon with the coordinate": [
        [[*SQUARE[:7], odd]] for odd in (float("nan"), float("inf"), -float("inf"), 1e308, 1e9, -1e6, 2**63, 10**400,
                                         None, "8", True, [8], {})],
    "longer than": [[[0, 0, WIDTH, HEIGHT] * (MOST_STEPS // 10)]],
}  # fmt: skip
RUNS = {
    "has run lengths of the size": [{}, {"counts": [1]}] + [{"size": size, "counts": [768]} for size in (
        None, [32, 24], [24], [24, 32, 1], "24x32", [10**9, 10**9])],
    "no whole numbers": [{"size": [24, 32], "counts": counts} for counts in (
        None, 768, [768.0], ["768"], [-1, 769], [True] * 768, [None], [float("nan")], {}, "O@", "0I")],
    "run lengths of": [{"size": [24, 32], "counts": counts} for counts in (
        [], [767], [769], [700, 67], [10**30], "", "0", "1")],
    "with the character": [{"size": [24, 32], "counts": counts} for counts in ("~~", "P p", "\x00", "é", "/")],
    "cut off": [{"size": [24, 32], "counts": counts} for counts in ("P", "1PP", "o")],
    "more than 60 bits": [{"size": [24, 32], "counts": "o" * 10**6}],
}  # fmt: skip


@pytest.mark.parametrize(("message", "segmentation"), [
    (message, segmentation) for message, kind in (POLYGONS | RUNS).items() for segmentation in kind
])  # fmt: skip
def test_outlines_that_are_none(message, segmentation):
    with pytest.raises(ValueError, match=message):
        mask(segmentation, SIZE)


@pytest.mark.parametrize("polygon", [[[1e9, -1e9] * 3], [[float("nan")] * 6], [], [[]], None, "x", [[1, 2]]])
def test_the_error_names_file_instance_and_picture(polygon, root, written):
    written(lambda content: content["annotations"][1].update(segmentation=polygon))
    dataset = instance_dataset(root=root)
    with pytest.raises(DatasetError, match=r"instances_val2017\.json: instance 2 of picture 139 has"):
        dataset.read(0)
    assert dataset.read(1).classes, "the other pictures are read"


def drop(key: str, of: str, position: int = 0):
    return lambda content: content[of][position].pop(key) and None


def put(key: str, value, of: str, position: int = 0):
    return lambda content: content[of][position].update({key: value})


@pytest.mark.parametrize(("change", "message"), [
    (lambda content: [content], "has no list of images"),
    (lambda content: {"images": []}, "has no list of categories"),
    (lambda content: content.update(annotations=None), "has no list of annotations"),
    (lambda content: content.update(images={"1": 2}), "has no list of images"),
    (lambda content: content["images"].append(5), "has no list of images"),
    (drop("id", "images"), "picture number 0 has no id"),
    (put("id", "139", "images"), "picture number 0 has the id '139', expected int"),
    (put("id", 139.0, "images"), r"has the id 139\.0"),
    (put("id", 139, "images"), "picture 139 is there twice"),
    (drop("height", "images"), "picture 632 has no height"),
    (put("width", 0, "images"), "picture 632 is 24 high and 0 wide"),
    (put("height", True, "images"), "picture 632 has the height True"),
    (drop("file_name", "images"), "holds the name None"),
    (put("file_name", 5, "images"), "holds the name 5"),
    (put("file_name", " ", "images"), "holds the name ' '"),
    (put("file_name", "../val2017/000000000139.jpg", "images"), "leaves the folder of the data set"),
    (put("file_name", "/etc/passwd", "images"), "leaves the folder of the data set"),
    (put("file_name", "C:\\x.jpg", "images"), "leaves the folder of the data set"),
    (put("file_name", "a\\..\\..\\x.jpg", "images"), "leaves the folder of the data set"),
    (put("file_name", "caf\ud800.jpg", "images"), r"with U\+D800"),
    (put("file_name", "a\0.jpg", "images"), r"with U\+0000"),
    (put("file_name", "missing.jpg", "images"), "1 of 3 pictures are missing"),
    (put("file_name", "000000000139.jpg", "images"), "two pictures are called '000000000139'"),
    (drop("image_id", "annotations"), "instance 1 has no image_id"),
    (put("image_id", "139", "annotations"), "instance 1 has the image_id '139'"),
    (put("image_id", 140, "annotations"), "instance 1 belongs to picture 140"),
    (drop("name", "categories"), "category 90 has no name"),
    (put("name", "dog", "categories"), "has the category 'dog' in the place of 'toothbrush'"),
    (put("id", 1, "categories"), "category 1 is there twice"),
    (lambda content: content["categories"].pop() and None, "has the category 'bicycle' in the place of 'person'"),
    (lambda content: content["categories"].pop(0) and None, "has 79 categories"),
])  # fmt: skip
def test_files_that_are_built_otherwise_are_refused_when_opened(change, message, root, written):
    written(change)
    with pytest.raises(DatasetError, match=message):
        instance_dataset(root=root)


@pytest.mark.parametrize(("change", "message"), [
    (drop("category_id", "annotations"), "has no category_id"),
    (put("category_id", "18", "annotations"), "has the category_id '18'"),
    (put("category_id", 12, "annotations"), "has the unknown category 12"),
    (drop("area", "annotations"), "has no area"),
    (put("area", None, "annotations"), "has the area None"),
    (put("area", float("nan"), "annotations"), "has the area nan"),
    (put("area", -1, "annotations"), "has the area -1"),
    (drop("segmentation", "annotations"), "has no segmentation"),
])  # fmt: skip
def test_instances_that_lack_something(change, message, root, written):
    written(change)
    with pytest.raises(DatasetError, match=f"instance 1 of picture 139 {message}"):
        instance_dataset(root=root).read(0)


def test_a_picture_of_another_size_than_the_file_says(root, written):
    written(put("height", 10**9, "images", 1))
    with pytest.raises(DatasetError, match=r"139\.jpg is \(24, 32\) high and wide, .* says \(1000000000, 32\)"):
        instance_dataset(root=root).read(0)


@pytest.mark.parametrize("text", ["", "{", "null", "[[[[" * 100_000, '{"images": NaN}', "\ufeff5"])
def test_what_is_no_json_or_no_object(text, root, written):
    written(lambda content: None)
    (root / "coco/annotations/instances_val2017.json").write_text(text)
    with pytest.raises(DatasetError, match=r"instances_val2017\.json is not a file of annotations"):
        instance_dataset(root=root)


def test_files_in_another_encoding(root, written):
    written(lambda content: None)
    path = root / "coco/annotations/instances_val2017.json"
    path.write_bytes(path.read_text().replace("person", "persön").encode("latin-1"))
    with pytest.raises(DatasetError, match="cannot be read as UTF-8"):
        instance_dataset(root=root)


def test_unknown_splits(root):
    with pytest.raises(ValueError, match=r"unknown split '\.\./val' of coco-instances; known: val, train"):
        instance_dataset("../val", root=root)


ODD = [None, True, -1, 1e308, 2**63, 10**400, float("nan"), float("inf"), "", "139", [], [[]], {}, [None], [[1, 2] * 9]]


def nodes(content, path=()):
    yield path
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield from nodes(value, (*path, key))


def test_whatever_stands_anywhere_is_an_error_of_the_data_set(root, written):
    chance, whole = random.Random(0), json.loads((root / "coco/annotations/instances_val2017.json").read_text())
    whole["categories"] = whole["categories"][:2]
    places = [place for place in nodes(whole) if place]
    whole["categories"] = json.loads((root / "coco/annotations/instances_val2017.json").read_text())["categories"]
    for place in places:
        content = copy.deepcopy(whole)
        inside = content
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = chance.choice(ODD)
        written(lambda _, content=content: content)
        with contextlib.suppress(DatasetError, ImageReadError):
            list(instance_dataset(root=root))
