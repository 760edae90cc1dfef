"""Shipped measurements: read under the same keys, checked at random, and useless, loudly, when anything has changed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial

import pytest
from small_work import Squares

from elbo_core.errors import MeasurementError, StoreError
from elbo_core.experiments import pool, recheck, shipped
from elbo_core.experiments.profiles import get_profile
from elbo_core.experiments.work import all_works, lacking, title


@pytest.fixture(autouse=True, scope="module")
def light_processes():
    """None of them needs a model."""
    before, pool.PRELOADED = pool.PRELOADED, ["small_work"]
    yield
    pool.PRELOADED = before


@pytest.fixture
def home(tmp_path):
    return tmp_path / "measured"


@pytest.fixture
def works(home):
    """Two models, and a second batch of more items in the store of the first."""
    common = partial(Squares, shipped=str(home))
    return [common(6), common(5, model="m2"), common(8, batch="more")]


@pytest.fixture
def manifest(works, tmp_path, home):
    for work in works:
        work.measure(work.store(tmp_path / "runs"), range(work.count))
    return shipped.ship(works, tmp_path / "runs", home)


def test_what_is_shipped_is_read_and_not_measured(works, manifest, tmp_path, home):
    elsewhere = tmp_path / "a fresh clone"
    for work in works:
        assert lacking(work, work.store(elsewhere)) == []
        table = work.store(elsewhere).read(["square"], work.contents())
        assert sorted(zip(table["index"].to_pylist(), table["value"].to_pylist(), strict=True)) == [
            (k, float(k**2)) for k in range(work.count)
        ]
    assert not elsewhere.exists()
    assert shipped.problems(works, home) == []
    assert [run["records"] for run in manifest["runs"]] == [16, 10], "rows that two batches share are there once"
    assert json.loads((home / "manifest.json").read_text()) == manifest


def test_a_work_of_which_nothing_was_shipped_is_known(works, manifest, home):
    titles = shipped.shipped_titles(home)
    assert all(title(work) in titles for work in works)
    assert title(replace(works[0], model="m3")) not in titles


def test_what_is_not_whole_is_not_shipped(works, tmp_path, home):
    works[0].measure(works[0].store(tmp_path / "runs"), range(4))
    with pytest.raises(StoreError, match="m1 numbers squares lacks 2 of 6 items; measure them first"):
        shipped.ship(works, tmp_path / "runs", home)
    assert not home.exists()


@pytest.mark.parametrize(("change", "reason"), [
    ({"weights": "other"}, r"the weights of m1 have changed \(w, now other\)"),
    ({"count": 9}, r"its items have changed, in their content or number \(6, now 9\)"),
    ({"model": "m3"}, "nothing of it was shipped"),
])  # fmt: skip
def test_a_change_makes_it_useless_loudly(works, manifest, tmp_path, home, change, reason):
    changed = replace(works[0], **change)
    todo = pool.todo_of([changed], tmp_path / "clone")
    (told,) = shipped.uncovered(todo, home)
    assert re.search(reason, str(told))
    assert shipped.problems([changed], home)


def test_another_method_makes_it_useless_loudly(works, manifest, tmp_path, home, monkeypatch):
    monkeypatch.setattr(Squares, "methods", lambda self: ["square", "cube", "root"])
    (told,) = shipped.uncovered(pool.todo_of(works[:1], tmp_path / "clone"), home)
    assert "6 items are not shipped as they are now: its methods have changed" in str(told)


def test_damage_is_not_overlooked(works, manifest, tmp_path, home):
    path = next(home.glob("m1*/packed.*.parquet"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"is damaged .*; get it anew: git checkout"):
        lacking(works[0], works[0].store(tmp_path / "clone"))
    assert path.exists(), "what is shipped is never set aside"


def test_a_random_part_is_measured_again(works, manifest, tmp_path):
    drawn = recheck.draw(works, 6, seed=1)
    assert {work.model for work in drawn} == {"m1", "m2"}
    assert {work.batch for work in drawn} == {"squares", "more"}
    assert drawn == recheck.draw(works, 6, seed=1) != recheck.draw(works, 6, seed=2)
    verdict = recheck.recheck(works, 6, 1, tmp_path / "clone", processes=2)
    verdict.raise_if_wrong()
    assert str(verdict).startswith("re-measured 6 of 19 items (seed 1): largest difference 0.00% of the range")


def test_a_wrong_number_stops_it_and_is_named(works, manifest, tmp_path):
    wrong = [replace(work, shift=100.0) for work in works]
    verdict = recheck.recheck(wrong, 6, 1, tmp_path / "clone", processes=2)
    with pytest.raises(MeasurementError, match=r"differ by more than 3%; the worst: .* \(m\d numbers \w+, item \d\)"):
        verdict.raise_if_wrong()


def test_everything_can_be_measured_anew_and_compared(works, manifest, tmp_path, home):
    anew = tmp_path / "anew"
    fresh = [replace(work, shipped="") for work in works]
    outcome = pool.measure_all(pool.todo_of(fresh, anew), 2, anew)
    assert outcome.measured == 19
    verdict = recheck.compare_all(works, anew, home)
    assert (verdict.remeasured, verdict.total, verdict.wrong) == (19, 19, ())


def test_footers_tell_how_much_was_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(recheck, "ROOT", tmp_path)
    assert recheck.footer("toy") == ""
    recheck.write_note(recheck.Verdict(1, 40, 9216, None), "toy")
    assert "40 of 9,216 items of the profile, drawn at random, were measured again" in recheck.footer("toy")
    recheck.write_note(recheck.Verdict(1, 9216, 9216, None), "toy")
    assert recheck.footer("toy").startswith("All 9,216 items of the profile were measured on the machine")


def test_the_projects_own_are_whole_and_light():
    """Every table of the default profile can be made without measuring anything."""
    assert shipped.problems(all_works(get_profile("toy"))) == []
