import hashlib
from dataclasses import replace

import pytest
from trees import build, build_instances

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
