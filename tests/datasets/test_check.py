import pytest
from trees import build, build_instances

from elbo_core.datasets import __main__ as command
from elbo_core.datasets.folders import LAYOUTS


def test_whole_and_absent_sets(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "EXPECTED", {"voc": 2, "aep": 1, "coco-instances": 3})
    build(build_instances(tmp_path), "voc")
    assert command.main(["check", "--root", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "voc: 2 pictures, 20 classes, no problems" in printed
    assert "coco-instances: 3 pictures, 80 classes, no problems" in printed
    assert "aep: not usable, 1 problems" in printed
    assert "ELBO_DATA" in printed
    assert command.main(["check", "voc", "--root", str(tmp_path)]) == 0


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
