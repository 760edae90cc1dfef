"""The content hash of a data set changes with every byte of it, and costs a look at each file while none changes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from trees import build, build_context_originals, build_instances

from elbo_core.datasets import INSTANCES, checksums, open_dataset
from elbo_core.datasets.checksums import content_hashes
from elbo_core.datasets.folders import LAYOUTS
from elbo_core.errors import DatasetError

SETS = [*LAYOUTS, "context-mat", INSTANCES]


def content_hash(facts: object, files: list) -> str:
    """Of one scene with these files."""
    return content_hashes(facts, [("scene", files)], [])[0]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, where nothing counts as just written."""
    monkeypatch.setattr(checksums, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(checksums, "SETTLED", -(10**12))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "sets"
    for name in LAYOUTS:
        if name != "context":
            build(folder, name)
    build_instances(build_context_originals(folder))
    monkeypatch.setenv("ELBO_DATA", str(folder))
    return folder


def flip(path: Path) -> None:
    """One bit in the middle; size and time of the content stay."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def used(root: Path, name: str) -> list[Path]:
    """All files of a set, those of its pictures that are listed."""
    if name == INSTANCES:
        return [root / "coco/annotations/instances_val2017.json", *sorted((root / "coco/val2017").iterdir())]
    folder = {"voc": "VOCdevkit/VOC2012", "context": "VOCdevkit/VOC2010", "context-mat": "VOCdevkit/VOC2010"}
    top = {"coco": "coco_stuff164k", "ade20k": "ade", "aep": "aep"} | folder
    files = sorted(path for path in (root / top[name]).rglob("*") if path.is_file() and "ImageSets" not in path.parts)
    if name == "context":
        return [path for path in files if path.suffix in (".jpg", ".png")]
    return [path for path in files if name != "context-mat" or path.suffix != ".png"]


@pytest.mark.parametrize("name", SETS)
def test_a_bit_in_any_file_makes_other_content(name, root):
    content = open_dataset(name, count=None).contents
    assert open_dataset(name, count=None).contents == content
    for path in used(root, name):
        whole = path.read_bytes()
        flip(path)
        assert changed(name) != content, path
        path.write_bytes(whole)
        assert open_dataset(name, count=None).contents == content


def changed(name: str) -> str | None:
    """The content, or None where the change is noticed at once."""
    try:
        return open_dataset(name, count=None).contents
    except DatasetError:
        return None


@pytest.mark.parametrize("name", SETS)
def test_place_and_times_are_no_content(name, root, tmp_path, monkeypatch):
    content = open_dataset(name).contents
    shutil.copytree(root, tmp_path / "elsewhere")
    monkeypatch.setenv("ELBO_DATA", str(tmp_path / "elsewhere"))
    assert open_dataset(name).contents == content


def test_an_order_of_the_list_is_content(root):
    content = open_dataset("voc").contents
    split = root / LAYOUTS["voc"].lists["val"]
    split.write_text("".join(sorted(split.read_text().splitlines(keepends=True))))
    assert open_dataset("voc").contents != content


def test_a_file_is_read_once(tmp_path, cache, monkeypatch):
    files = [tmp_path / f"{k}.png" for k in range(3)]
    for k, path in enumerate(files):
        path.write_bytes(bytes([k]))
    first = content_hash("facts", files)
    monkeypatch.setattr(checksums, "_checksum", lambda path: pytest.fail(f"{path} is read again"))
    assert content_hash("facts", files) == first
    assert content_hash("others", files) != first
    assert content_hash("facts", files[::-1]) != first
    assert [path.suffix for path in cache.iterdir()] == [".json"], "no file is left over"


def test_what_was_written_just_now_is_read_again(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(checksums, "SETTLED", 2 * 10**9)
    path = tmp_path / "a.png"
    found = set()
    for k in range(20):
        path.write_bytes(bytes([k]))
        found.add(content_hash("", [path]))
    assert len(found) == 20
    assert not cache.exists()


@pytest.mark.parametrize("text", ["", "{", "5", "[]", '{"a": 1}', '{"a": [1, 2, 3]}', "\0"])
def test_a_damaged_cache_is_made_anew(text, tmp_path, cache):
    path = tmp_path / "a.png"
    path.write_bytes(b"a")
    content = content_hash("", [path])
    (kept,) = cache.iterdir()
    kept.write_text(text)
    assert content_hash("", [path]) == content
    assert str(path) in json.loads(kept.read_text())


def test_without_a_place_for_the_cache_files_are_read_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(checksums, "CACHE", tmp_path / "file" / "cache")
    (tmp_path / "a.png").write_bytes(b"a")
    assert content_hash("", [tmp_path / "a.png"]) == content_hash("", [tmp_path / "a.png"])


def test_files_that_cannot_be_read_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "missing.png"):
        with pytest.raises(DatasetError, match=rf"{name} is missing, or no ordinary file"):
            content_hash("", [tmp_path / name])


@pytest.mark.parametrize("name", ["toy-voc", "toy-context", "toy-aep"])
def test_every_toy_scene_is_content(name, monkeypatch):
    from elbo_core.datasets import toy

    content = open_dataset(name, "dev", 5).contents
    assert open_dataset(name, "dev", 5).contents == content
    assert len({content, open_dataset(name, "dev", 4).contents, open_dataset(name, "test", 5).contents}) == 3
    render = toy.render

    def last_differs(spec):
        """In one pixel of the last scene."""
        rendering = render(spec)
        rendering.image[-1, -1, -1] ^= spec == toy.toy_specs(name, "dev", 5)[-1]
        return rendering

    monkeypatch.setattr(toy, "known_hashes", dict)  # as where nothing was written down for this code
    assert open_dataset(name, "dev", 5).contents == content
    monkeypatch.setattr(toy, "render", last_differs)
    assert open_dataset(name, "dev", 5).contents != content


def test_opening_a_set_reads_no_pixels(root, monkeypatch):
    """The hash is made when it is asked for."""
    monkeypatch.setattr(checksums, "_checksum", lambda path: pytest.fail(f"{path} is read"))
    assert len(open_dataset("voc")) == 2
