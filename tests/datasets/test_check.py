import hashlib
import io
from dataclasses import replace

import pytest
from trees import build, build_context_originals, build_instances

from elbo_core.datasets import __main__ as command
from elbo_core.datasets.folders import LAYOUTS


def test_whole_and_absent_sets(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "EXPECTED", dict.fromkeys(command.EXPECTED, 3) | {"voc": 2})
    build(build_instances(tmp_path), "voc")
    assert command.main(["check", "--root", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "voc: 2 pictures, 20 classes, no problems" in printed
    assert "aep: not usable, 1 problems" in printed
    assert "folder: " + str(tmp_path / "aep") in printed
    assert "download: HF_HUB_OFFLINE=0 python -m elbo_core.datasets download aep" in printed
    assert "archive: ADEChallengeData2016.zip, sha1:219e" in printed
    assert command.main(["check", "voc", "coco-instances", "--root", str(tmp_path)]) == 0
    assert "coco-instances: 3 pictures, 80 classes, no problems" in capsys.readouterr().out


def test_problems_are_counted_and_the_first_shown(tmp_path, capsys):
    build(tmp_path, "voc")
    for stem in ("2007_000033", "2007_000042"):
        (tmp_path / LAYOUTS["voc"].images.format(id=stem)).write_bytes(b"no picture")
    assert command.main(["check", "voc", "--root", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "3 problems" in printed
    assert "2007_000042.jpg" in printed
    assert "2 pictures, the paper's split has 1449" in printed


def test_unknown_sets_list_the_known(capsys):
    with pytest.raises(SystemExit):
        command.main(["check", "pascal"])
    assert "unknown data set 'pascal'; known: voc, context" in capsys.readouterr().err


def test_archives_are_compared_with_their_checksums(tmp_path, capsys, monkeypatch):
    archive = tmp_path / "ADEChallengeData2016.zip"
    archive.write_bytes(b"half of it")
    monkeypatch.setattr(command, "EXPECTED", {"ade20k": 2})
    build(tmp_path, "ade20k")
    assert command.main(["check", "ade20k", "--root", str(tmp_path)]) == 1
    assert "ADEChallengeData2016.zip has not the checksum sha1:" in capsys.readouterr().out
    whole = {"ADEChallengeData2016.zip": f"sha1:{hashlib.sha1(b'half of it').hexdigest()}"}
    monkeypatch.setitem(command.EVERY, "ade20k", replace(LAYOUTS["ade20k"], archives=whole))
    assert command.main(["check", "ade20k", "--root", str(tmp_path)]) == 0


def test_only_what_is_on_the_hub_is_downloaded(tmp_path, capsys):
    assert command.main(["download", "voc", "--root", str(tmp_path)]) == 1
    assert "voc is not on the hub\n  source: PASCAL VOC 2012" in capsys.readouterr().out
    assert command.main(["download", "--root", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "aep: cannot download" in printed
    assert "set HF_HUB_OFFLINE=0" in printed


def test_a_set_that_cannot_be_read_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    """Another encoding, a cut-off file, polygons that crash pycocotools, a name that the terminal cannot print."""
    monkeypatch.setattr(command, "EXPECTED", dict.fromkeys(command.EXPECTED, 2) | {"coco-instances": 3, "coco": 3})
    build_instances(build_context_originals(tmp_path))
    for name in ("voc", "ade20k", "coco"):
        build(tmp_path, name)
    (tmp_path / LAYOUTS["voc"].lists["val"]).write_bytes("König".encode("latin-1"))
    picture = tmp_path / LAYOUTS["ade20k"].images.format(id="ADE_val_00000001")
    picture.rename(picture.with_name("caf\udce9.jpg"))
    for path in (tmp_path / "VOCdevkit/VOC2010/trainval").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    annotations = tmp_path / "coco/annotations/instances_val2017.json"
    annotations.write_text(annotations.read_text().replace("[4, 4, 8, 4,", "[1e300, NaN, 8, 4,"))
    names = ["voc", "ade20k", "context-mat", "coco-instances", "coco"]
    assert command.main(["check", *names, "--root", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    for line in ("voc: not usable", "val.txt cannot be read as UTF-8", "ade20k: not usable", r"'caf\udce9'",
                 "context-mat: 2 pictures, 59 classes, 2 problems", "holds no LabelMap",
                 "coco-instances: 3 pictures, 80 classes, 1 problems", "instance 1 of picture 139 has a polygon",
                 "coco: 3 pictures, 80 classes, no problems"):  # fmt: skip
        assert line in printed, line


def test_folders_of_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "EXPECTED", dict.fromkeys(command.EXPECTED, 2))
    build(tmp_path / "sets", "voc")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.main(["check", "--root=~/sets", "voc"]) == 0
    (tmp_path / "file").write_text("")
    assert command.main(["check", "voc", "--root", str(tmp_path / "file")]) == 1
    assert "the folder of the data sets is a file" in capsys.readouterr().out


@pytest.mark.parametrize("images", ["0", "-3", "1.5", "many"])
def test_a_number_of_images_is_checked(images, capsys):
    with pytest.raises(SystemExit):
        command.main(["check", "voc", "--images", images])
    assert f"invalid count value: '{images}'" in capsys.readouterr().err


def test_what_the_terminal_cannot_print_is_spelt_out(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    command._print("König \udce9")
    stream.flush()
    assert stream.buffer.getvalue() == b"K\\xf6nig \\udce9\n"
