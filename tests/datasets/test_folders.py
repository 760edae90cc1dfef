"""Loaders of the real data sets on miniature trees, whole and broken."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat
from trees import SIZE, STRIPES, build, build_context_originals, build_instances, label_map, picture

from elbo_core.datasets import INSTANCES, aep, is_there, mirrored, open_dataset
from elbo_core.datasets.coco import instance_dataset
from elbo_core.datasets.folders import LAYOUTS, default_root, folder_dataset
from elbo_core.datasets.names import class_names
from elbo_core.errors import DatasetError, ImageReadError
from elbo_core.paths import ROOT

CLASSES = {"voc": 20, "context": 59, "coco": 80, "ade20k": 150, "aep": 38}


@pytest.fixture
def root(tmp_path):
    """A folder whose name is not plain ASCII."""
    return tmp_path / "Bilder und Könige"


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_set_yields_its_scenes(name, root):
    dataset = folder_dataset(name, root=build(root, name))
    assert len(dataset) == len(STRIPES[name])
    assert len(dataset.classes) == CLASSES[name]
    order = list(STRIPES[name]) if not LAYOUTS[name].lists else list(reversed(STRIPES[name]))
    assert [scene.id for scene in dataset] == order, "the split's own order, or the alphabet"
    for scene in dataset:
        assert scene.image.shape == (3, *SIZE)
        assert scene.label_map.shape == SIZE
        assert scene.classes == tuple(dataset.classes[label - 1] for label in scene.labels)
        assert set(np.unique(scene.label_map)) - {0, 255} == set(scene.labels)


def test_palettes_keep_the_numbers_and_what_is_ignored(root):
    scene = folder_dataset("voc", root=build(root, "voc")).read(1)
    assert scene.labels == (1, 20)
    assert scene.classes == ("plane", "monitor")
    assert (scene.label_map == 255).mean() == 0.25


def test_coco_things_start_at_one_and_stuff_is_background(root):
    first, second, third = folder_dataset("coco", root=build(root, "coco"))
    assert first.labels == (1, 80)
    assert (first.label_map == 0).mean() == 0.5, "the stuff and the nothing"
    assert second.labels == (22,)
    assert third.labels == third.classes == (), "no candidate at all"


def test_names_are_a_choice_and_part_of_the_content(root):
    build(root, "voc")
    prompted, own = (folder_dataset("voc", root=root, names=style) for style in ("prompted", "own"))
    assert (prompted.classes[0], own.classes[0]) == ("plane", "aeroplane")
    assert prompted.contents != own.contents
    for name, count in CLASSES.items():
        for style in ("prompted", "own"):
            assert len(set(class_names(name, style))) == count
    with pytest.raises(ValueError, match="unknown naming 'short'; known: prompted, own"):
        folder_dataset("voc", root=root, names="short")


@pytest.mark.parametrize("name", ["voc", INSTANCES])
def test_candidates_can_be_given(name, root, monkeypatch):
    monkeypatch.setenv("ELBO_DATA", str(build_instances(build(root, "voc"))))
    asked = ["dog", "cat"]
    dataset = open_dataset(name, candidates=asked)
    for scene in dataset:
        assert set(scene.classes) == set(asked)
        assert scene.classes == tuple(dataset.classes[label - 1] for label in scene.labels)
    assert dataset.contents not in {open_dataset(name).contents, open_dataset(name, candidates=["cat"]).contents}
    assert dataset.contents == open_dataset(name, candidates=asked[::-1]).contents
    with pytest.raises(ValueError, match="unknown candidate 'wolf'; the classes are"):
        open_dataset(name, candidates=["wolf"])
    with pytest.raises(ValueError, match="no candidate classes"):
        open_dataset(name, candidates=[])
    with pytest.raises(ValueError, match="toy-voc looks for the classes of its label maps"):
        open_dataset("toy-voc", candidates=asked)


def test_the_naming_is_a_part_of_the_name(root, monkeypatch):
    monkeypatch.setenv("ELBO_DATA", str(build(root, "voc")))
    assert (open_dataset("voc").classes[0], open_dataset("voc:own").classes[0]) == ("plane", "aeroplane")
    assert (open_dataset("voc:own").name, mirrored("voc:own")) == ("voc", "voc")
    with pytest.raises(ValueError, match="unknown naming 'short'"):
        open_dataset("voc:short")


def test_a_subset_and_the_default_folder(root, monkeypatch):
    monkeypatch.setenv("ELBO_DATA", str(build(root, "context")))
    assert len(open_dataset("context", count=1)) == 1
    assert open_dataset("context", count=1).contents != open_dataset("context", count=2).contents
    assert (mirrored("context"), mirrored(INSTANCES), mirrored("toy-ade")) == ("context", "coco", "ade20k")


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_absent_set_says_where_to_get_it(name, tmp_path):
    with pytest.raises(DatasetError, match=r"get .* into the folder ELBO_DATA"):
        folder_dataset(name, root=tmp_path)


def test_missing_files_are_counted(root):
    build(root, "ade20k")
    (root / LAYOUTS["ade20k"].masks.format(id="ADE_val_00000002")).unlink()
    with pytest.raises(DatasetError, match=r"1 of 4 files are missing, first .*ADE_val_00000002\.png"):
        folder_dataset("ade20k", root=root)


def test_ids_without_a_picture_or_listed_twice(root):
    build(root, "voc")
    split = root / LAYOUTS["voc"].lists["val"]
    split.write_text("2007_000033\n2007_999999\n")
    with pytest.raises(DatasetError, match=r"2 of 4 files are missing, first .*2007_999999\.jpg"):
        folder_dataset("voc", root=root)
    split.write_text("2007_000033\n2007_000033\n")
    with pytest.raises(DatasetError, match="lists '2007_000033' twice"):
        folder_dataset("voc", root=root)
    split.write_text("\n")
    with pytest.raises(DatasetError, match="list of the split is empty"):
        folder_dataset("voc", root=root)
    split.unlink()
    with pytest.raises(DatasetError, match=r"list of the split is missing: .*val\.txt"):
        folder_dataset("voc", root=root)


def test_damaged_files_are_named(root):
    build(root, "aep")
    layout = LAYOUTS["aep"]
    image, mask = root / layout.images.format(id="0001"), root / layout.masks.format(id="0001")
    label_map(mask, [0, 39, 1, 1])
    with pytest.raises(DatasetError, match=r"0001_gt\.png holds the label 39, outside 0\.\.38 and 255"):
        folder_dataset("aep", root=root).read(0)
    Image.new("RGB", SIZE[::-1]).save(mask)
    with pytest.raises(ImageReadError, match=r"0001_gt\.png': it is a picture in mode RGB"):
        folder_dataset("aep", root=root).read(0)
    Image.fromarray(np.ones((5, 7), np.uint8)).save(mask)
    with pytest.raises(DatasetError, match=r"0001_gt\.png is \(5, 7\), but its picture is \(24, 32\)"):
        folder_dataset("aep", root=root).read(0)
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(ImageReadError, match=r"0001\.png"):
        folder_dataset("aep", root=root).read(0)


def test_phrases_make_the_caption(root):
    scene = folder_dataset("aep", root=build(root, "aep")).read(0)
    first, second, third = scene.classes
    assert scene.phrases == (f"two baby {first}s", f"a small red {second}", f"a small red {third}")
    assert scene.caption.text == "a photo of " + ", ".join(scene.phrases)
    words = [scene.caption.text[slice(*scene.caption.spans[name][0])] for name in scene.classes]
    assert words == [f"{first}s", second, third], "the noun, plural or not"


class Trap:
    def __reduce__(self):
        return print, ("code has run",)


def test_phrases_that_are_missing_or_no_data_are_named(root, capsys):
    build(root, "aep")
    path = root / LAYOUTS["aep"].phrases

    def write(content: object) -> None:
        path.write_bytes(pickle.dumps(content))

    write({"0001": {"subject": ["backpack"], "phrase": ["a red backpack"]}})
    with pytest.raises(DatasetError, match=r"prompts\.pkl has no phrase for '\w+' in picture '0001'"):
        folder_dataset("aep", root=root).read(0)
    names = folder_dataset("aep", root=root).classes
    write({"0001": {"subject": list(names), "phrase": ["a thing"] * len(names)}})
    with pytest.raises(DatasetError, match="picture '0001': the phrase 'a thing' does not name"):
        folder_dataset("aep", root=root).read(0)
    for broken in ([1], {"0001": {"subject": ["cat"], "phrase": []}}, {"0001": {"subject": ["cat"]}}, Trap()):
        write(broken)
        with pytest.raises(DatasetError, match=r"prompts\.pkl is not a file of phrases"):
            folder_dataset("aep", root=root)
    assert capsys.readouterr().out == ""
    path.unlink()
    with pytest.raises(DatasetError, match=r"the phrases are missing: .*prompts\.pkl"):
        folder_dataset("aep", root=root)


def test_a_class_named_twice_keeps_its_first_phrase(tmp_path):
    content = {"0001.png": {"subject": ["cat", "cat"], "phrase": ["a red cat", "a blue cat"]}}
    (tmp_path / "prompts.pkl").write_bytes(pickle.dumps(content))
    assert aep.read_phrases(tmp_path / "prompts.pkl") == {"0001": {"cat": "a red cat"}}


def test_contexts_original_maps_are_translated_by_name(root):
    dataset = folder_dataset("context-mat", root=build_context_originals(root))
    scene = dataset.read(0)
    assert scene.labels == (1, 2, 59)
    assert dataset.classes == folder_dataset("context", root=root).classes
    assert (scene.label_map[0] == np.repeat([1, 0, 2, 59], SIZE[1] // 4)).all(), "accordion is none of the 59"
    assert mirrored("context-mat") == "context"


def test_broken_originals_of_context_are_named(root):
    build_context_originals(root)
    folder = root / "VOCdevkit/VOC2010"
    path = folder / "trainval" / "2008_000003.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(DatasetError, match=r"2008_000003\.mat holds no LabelMap"):
        folder_dataset("context-mat", root=root).read(0)
    path.write_bytes(whole)
    lists = folder / "59_labels.txt"
    lists.write_text(lists.read_text().replace("bedclothes", "pillow"))
    with pytest.raises(DatasetError, match=r"59_labels\.txt does not list the 59 classes; .*: bedclothes, pillow"):
        folder_dataset("context-mat", root=root).read(0)
    lists.unlink()
    with pytest.raises(DatasetError, match=r"59_labels\.txt is missing"):
        folder_dataset("context-mat", root=root).read(0)


def test_plain_maps_of_voc_are_another_set(root):
    build(root, "voc")
    maps = root / "VOCdevkit/VOC2012"
    (maps / "SegmentationClassAug").rename(maps / "SegmentationClass")
    assert len(folder_dataset("voc-plain", root=root)) == 2
    with pytest.raises(DatasetError, match="files are missing"):
        folder_dataset("voc", root=root)


def test_a_truncated_jpeg_is_named(root):
    build(root, "coco")
    path = root / LAYOUTS["coco"].images.format(id="000000000139")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageReadError, match="000000000139"):
        folder_dataset("coco", root=root).read(0)


def test_an_empty_mask_is_background_alone(root):
    build(root, "voc")
    label_map(root / LAYOUTS["voc"].masks.format(id="2007_000033"), [0], palette=True)
    scene = folder_dataset("voc", root=root).read(1)
    assert scene.classes == ()
    assert not scene.label_map.any()


def test_sixteen_bit_maps_are_read(root):
    build(root, "ade20k")
    path = root / LAYOUTS["ade20k"].masks.format(id="ADE_val_00000001")
    Image.fromarray(np.full(SIZE, 150, np.uint16)).save(path)
    assert folder_dataset("ade20k", root=root).read(0).labels == (150,)


def test_instances_become_one_label_map(root):
    dataset = instance_dataset(root=build_instances(root))
    assert [scene.id for scene in dataset] == ["000000000139", "000000000285", "000000000632"]
    first, second, third = dataset
    assert first.labels == (1, 17, 80), "ids 1, 18 and 90 of the 91"
    assert first.label_map[6, 6] == 17, "the smaller polygon is on top"
    assert first.label_map[12, 12] == 1
    assert (first.label_map[20:] == 80).all(), "the crowd"
    assert second.labels == (13 - 1,)
    assert (second.label_map[:4, :4] == 12).all()
    assert third.classes == ()


def test_broken_instances_are_named(root):
    with pytest.raises(DatasetError, match="folder of the data sets does not exist"):
        instance_dataset(root=root)
    root.mkdir()
    with pytest.raises(DatasetError, match=r"instances_val2017\.json is missing"):
        instance_dataset(root=root)
    build_instances(root)
    path = root / "coco/annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"category_id": 18', '"category_id": 12'))
    with pytest.raises(DatasetError, match="instance 1 of picture 139 has the unknown category 12"):
        instance_dataset(root=root).read(0)
    (root / "coco/val2017/000000000285.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 pictures are missing, first .*285\.jpg"):
        instance_dataset(root=root)
    shutil.rmtree(root / "coco/val2017")
    picture(root / "coco/val2017/unrelated.jpg")
    with pytest.raises(DatasetError, match="3 of 3 pictures"):
        instance_dataset(root=root)


@pytest.mark.parametrize(("name", "wrong"), [
    ("voc", 21), ("voc", 65537), ("context", 60), ("coco", 171), ("coco", 254), ("coco", 65535), ("ade20k", 151),
    ("ade20k", 65536 + 255), ("aep", 2**31 - 1), ("voc", -1), ("coco", -2),
])  # fmt: skip
def test_labels_outside_the_set_are_errors_and_never_wrap(name, wrong, root):
    build(root, name)
    stem = next(iter(STRIPES[name]))
    path = root / LAYOUTS[name].masks.format(id=stem)
    Image.fromarray(np.full(SIZE, wrong, np.uint8 if 0 <= wrong < 256 else np.int32)).save(path, format="TIFF")
    dataset = folder_dataset(name, root=root)
    with pytest.raises(DatasetError, match=rf"{path.name} holds the label {wrong}, outside 0\.\."):
        list(dataset)


@pytest.mark.parametrize("name", ["voc", INSTANCES])
def test_pictures_stay_as_they_are_stored(name, root, monkeypatch):
    """Label maps are in stored pixels, so that nothing is turned by EXIF."""
    monkeypatch.setenv("ELBO_DATA", str(build_instances(build(root, "voc"))))
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in root.rglob("*.jpg"):
        Image.open(path).save(path, exif=exif, quality=95)
    for scene in open_dataset(name, count=None):
        assert scene.image.shape[1:] == scene.label_map.shape == SIZE


@pytest.mark.parametrize("odd", ["../../../secret", "/etc/passwd", "..", "C:\\x", "a\\..\\..\\b", "a\0b", "a\x1bb"])
def test_ids_that_leave_the_folder_or_are_no_text(odd, root):
    build(root, "voc")
    (root / LAYOUTS["voc"].lists["val"]).write_text(f"2007_000033\n{odd}\n")
    with pytest.raises(DatasetError, match=r"val\.txt holds the name"):
        folder_dataset("voc", root=root)


def test_lists_in_other_encodings(root):
    build(root, "voc")
    split = root / LAYOUTS["voc"].lists["val"]
    split.write_text("2007_000033\r\n2007_000042\r\n", encoding="utf-8-sig")
    assert [scene.id for scene in folder_dataset("voc", root=root)] == ["2007_000033", "2007_000042"]
    for encoding in ("latin-1", "utf-16"):
        split.write_text("2007_000033\nKönig\n", encoding=encoding)
        with pytest.raises(DatasetError, match=r"val\.txt cannot be read as UTF-8"):
            folder_dataset("voc", root=root)


def test_names_of_files_in_another_encoding_fail_when_opened(root):
    build(root, "ade20k")
    layout = LAYOUTS["ade20k"]
    for kind in (layout.images, layout.masks):
        path = root / kind.format(id="ADE_val_00000001")
        path.rename(path.with_name(f"caf\udce9{path.suffix}"))
    with pytest.raises(DatasetError, match=r"'caf\\udce9' with U\+DCE9; names must be plain text in UTF-8"):
        folder_dataset("ade20k", root=root)


def test_links_to_elsewhere_are_followed(root, tmp_path):
    build(tmp_path / "elsewhere", "voc")
    root.mkdir()
    (root / "VOCdevkit").symlink_to(tmp_path / "elsewhere" / "VOCdevkit")
    assert len(list(folder_dataset("voc", root=root))) == 2


class TestPlaces:
    """Where data sets are looked for."""

    def test_the_home_folder(self, root, monkeypatch):
        build(root, "voc")
        monkeypatch.setenv("HOME", str(root.parent))
        monkeypatch.setenv("ELBO_DATA", f"~/{root.name}")
        assert default_root() == root
        assert len(folder_dataset("voc", root=f"~/{root.name}")) == len(open_dataset("voc")) == 2

    @pytest.mark.parametrize("folder", [".", "notebooks", "tests"])
    def test_what_is_not_absolute_is_relative_to_the_repository(self, folder, monkeypatch):
        monkeypatch.setenv("ELBO_DATA", "some/sets")
        monkeypatch.chdir(ROOT / folder)
        assert default_root() == ROOT / "some" / "sets"

    @pytest.mark.parametrize("value", ["", None])
    def test_nothing_is_the_default(self, value, monkeypatch):
        monkeypatch.delenv("ELBO_DATA", raising=False)
        if value is not None:
            monkeypatch.setenv("ELBO_DATA", value)
        assert default_root() == ROOT / "data" / "sets"

    @pytest.mark.parametrize("name", ["voc", INSTANCES])
    def test_a_missing_folder_and_a_file(self, name, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        for place, what in (("missing", "does not exist"), ("file", "is a file"), ("file/sub", "does not exist")):
            monkeypatch.setenv("ELBO_DATA", str(tmp_path / place))
            with pytest.raises(DatasetError, match=rf"the folder of the data sets {what}: .*{place}; get .*ELBO_DATA"):
                open_dataset(name)
            assert not is_there(name)


@pytest.mark.parametrize("name", ["voc", INSTANCES, "toy-voc"])
@pytest.mark.parametrize("count", [0, -3, 1.0, "4", True])
def test_counts_are_whole_and_at_least_one(name, count, root, monkeypatch):
    monkeypatch.setenv("ELBO_DATA", str(build_instances(build(root, "voc"))))
    with pytest.raises((TypeError, ValueError), match="the number of images must be"):
        open_dataset(name, count=count)


@pytest.mark.parametrize("name", ["voc", INSTANCES, "toy-voc"])
@pytest.mark.parametrize("index", [-1, 2, 1.0, True, None])
def test_positions_are_those_of_the_set(name, index, root, monkeypatch):
    monkeypatch.setenv("ELBO_DATA", str(build_instances(build(root, "voc"))))
    with pytest.raises((TypeError, ValueError), match="the position of a scene must be"):
        open_dataset(name, count=2).read(index)


def test_a_toy_set_has_no_end():
    with pytest.raises(ValueError, match="toy-voc has no end; say how many"):
        open_dataset("toy-voc", count=None)


@pytest.mark.parametrize("asked", [(name for name in ("dog", "cat")), np.array(["cat", "dog"]), ["cat ", "dog"]])
def test_candidates_from_any_list(asked, root, monkeypatch):
    monkeypatch.setenv("ELBO_DATA", str(build(root, "voc")))
    assert open_dataset("voc", candidates=asked).read(0).classes == ("cat", "dog")


def test_an_empty_naming_is_unknown(root, monkeypatch):
    monkeypatch.setenv("ELBO_DATA", str(build(root, "voc")))
    with pytest.raises(ValueError, match="unknown naming ''"):
        open_dataset("voc:")


@pytest.mark.parametrize("numbers", [[3, 999], [3, -1], [3, 460], [3, 1000]])
def test_numbers_of_context_without_a_name_are_errors(numbers, root):
    build_context_originals(root)
    folder = root / "VOCdevkit/VOC2010"
    lists = folder / "labels.txt"
    lists.write_text(lists.read_text() + "1000: beyond a gap\n" * (numbers[1] == 999))
    savemat(folder / "trainval/2008_000002.mat", {"LabelMap": np.array([numbers] * 2, np.int16)})
    with pytest.raises(DatasetError, match=rf"2008_000002\.mat holds the label {numbers[1]}, which has no name in"):
        folder_dataset("context-mat", root=root).read(1)


@pytest.mark.parametrize(("table", "message"), [(np.array([[0.5]]), "not whole"), (np.array([[np.nan]]), "not whole"),
                                               (np.array([[1j]]), "no table of real numbers")])  # fmt: skip
def test_tables_of_context_that_are_no_labels(table, message, root):
    build_context_originals(root)
    savemat(root / "VOCdevkit/VOC2010/trainval/2008_000002.mat", {"LabelMap": table})
    with pytest.raises(DatasetError, match=rf"2008_000002\.mat holds .*{message}"):
        folder_dataset("context-mat", root=root).read(1)


def test_numbers_of_context_may_be_stored_as_floats(root):
    dataset = folder_dataset("context-mat", root=build_context_originals(root))
    wanted = dataset.read(1).label_map
    path = root / "VOCdevkit/VOC2010/trainval/2008_000002.mat"
    savemat(path, {"LabelMap": loadmat(path)["LabelMap"].astype(np.float64)})
    assert np.array_equal(dataset.read(1).label_map, wanted)


def test_lists_of_names_that_changed_are_read_anew(root):
    dataset = folder_dataset("context-mat", root=build_context_originals(root))
    assert dataset.read(1).labels == (1, 2, 59)
    lists = root / "VOCdevkit/VOC2010/labels.txt"
    lists.write_text(lists.read_text().replace("25: bag", "25: wolf"))
    assert dataset.read(1).labels == (1, 59)


@pytest.mark.parametrize("content", [
    b"", b"\x80", b"garbage", pickle.dumps({"0001": {"subject": [1], "phrase": ["a"]}}), pickle.dumps({5: {}}),
    pickle.dumps({"0001": {"subject": "cat", "phrase": "abc"}})[:-3], pickle.dumps(None), pickle.dumps({"0001": None}),
    pickle.dumps({f"0001.{kind}": {"subject": ["cat"], "phrase": ["a cat"]} for kind in ("png", "jpg")}),
])  # fmt: skip
def test_pickles_of_anything_else(content, root):
    build(root, "aep")
    (root / LAYOUTS["aep"].phrases).write_bytes(content)
    with pytest.raises(DatasetError, match=r"prompts\.pkl is not a file of phrases"):
        folder_dataset("aep", root=root)
