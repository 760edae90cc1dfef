"""Processes that share out items: nothing lost, nothing twice, whatever fails, dies or is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from small_work import Squares

from elbo_core.errors import MeasurementError
from elbo_core.experiments import pool
from elbo_core.experiments.measure import share
from elbo_core.experiments.transfer import pack, unpack
from elbo_core.experiments.work import lacking
from elbo_core.paths import ROOT


@pytest.fixture(autouse=True, scope="module")
def light_processes():
    """None of them needs a model."""
    before, pool.PRELOADED = pool.PRELOADED, ["small_work"]
    yield
    pool.PRELOADED = before


def values(work, root):
    table = work.store(root).read(work.methods(), work.contents()).to_pylist()
    return sorted((line["index"], line["method"], line["value"]) for line in table)


def expected(work):
    return sorted((k, name, float(k**power)) for k in range(work.count) for name, power in (("square", 2), ("cube", 3)))


def test_processes_measure_all_once(tmp_path):
    works = [Squares(20, slow=0.02), Squares(12, model="m2", slow=0.02)]
    outcome = pool.measure_all(pool.todo_of(works, tmp_path), 2, tmp_path)
    assert (outcome.measured, outcome.left, outcome.failures) == (32, 0, [])
    for work in works:
        assert values(work, tmp_path) == expected(work)
    processes = {line["process"] for line in works[0].store(tmp_path).read(["square"], works[0].contents()).to_pylist()}
    assert len(processes) == 2 or outcome.measured, "both took part, or one was quicker"
    assert pool.todo_of(works, tmp_path) == {}, "a second run has nothing to do"


def test_a_failure_names_its_item_and_the_others_go_on(tmp_path):
    work = Squares(9, fails=(2, 5))
    outcome = pool.measure_all(pool.todo_of([work], tmp_path), 2, tmp_path)
    assert sorted(failure.index for failure in outcome.failures) == [2, 5]
    assert "m1 numbers squares, item 2: ValueError: no square of 2" in map(str, outcome.failures)
    assert (outcome.measured, lacking(work, work.store(tmp_path))) == (7, [2, 5])
    with pytest.raises(MeasurementError, match=r"2 of 9 items failed; the first: m1 numbers squares, item \d"):
        pool.raise_first(outcome)


def test_a_process_that_dies_is_replaced(tmp_path):
    work = Squares(40, dies=(7,))
    outcome = pool.measure_all(pool.todo_of([work], tmp_path), 2, tmp_path)
    assert [failure.index for failure in outcome.failures] == [7]
    assert "its process ended with status 3" in outcome.failures[0].reason
    assert lacking(work, work.store(tmp_path)) == [7]


def test_time_is_kept_and_what_is_stored_stays(tmp_path):
    work, started = Squares(1000, slow=0.05), time.monotonic()
    outcome = pool.measure_all(pool.todo_of([work], tmp_path), 2, tmp_path, time_limit=3)
    assert time.monotonic() - started < 12
    assert 0 < outcome.measured < 900
    assert outcome.measured + outcome.left == 1000
    assert len(lacking(work, work.store(tmp_path))) == outcome.left


def test_few_items_are_measured_here(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "measure_all", None)
    pool.measure_here([Squares(3)], tmp_path)
    assert values(Squares(3), tmp_path) == expected(Squares(3))


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    script = (
        "import sys; from pathlib import Path; from small_work import Squares; from elbo_core.experiments import pool\n"
        "if __name__ == '__main__':\n"
        "    pool.PRELOADED = ['small_work']; work = Squares(1000, slow=0.02)\n"
        "    pool.measure_all({work: list(range(1000))}, 2, Path(sys.argv[1]))"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "runs")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    parent = subprocess.Popen(command, env=environment)
    work = Squares(1000)
    until = time.monotonic() + 60
    while not (found := work.store(tmp_path / "runs").measured(work.contents())) and time.monotonic() < until:
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    time.sleep(1)
    first = len(work.store(tmp_path / "runs").measured(work.contents()))
    time.sleep(1)
    assert 0 < len(found) <= first < 1000
    assert len(work.store(tmp_path / "runs").measured(work.contents())) == first


def test_stores_travel_in_files_of_limited_size(tmp_path):
    works = [Squares(5, model=f"m{k}") for k in range(3)]
    for work in works:
        work.measure(work.store(tmp_path / "there"), range(work.count))
    files = pack(works, tmp_path / "out" / "part", tmp_path / "there", largest=8000)
    assert len(files) > 1
    assert sum(unpack(file, tmp_path / "here") for file in files) == 3
    for work in works:
        assert values(work, tmp_path / "here") == expected(work)
        assert lacking(work, work.store(tmp_path / "here")) == []
        assert lacking(replace(work, weights="others"), replace(work, weights="others").store(tmp_path / "here"))


def test_shares_are_disjoint_and_complete():
    work = Squares(10)
    shares = [share({work: list(range(10))}, rank, 3)[work] for rank in range(3)]
    assert sorted([*shares[0], *shares[1], *shares[2]]) == list(range(10))
    assert share({work: [3]}, 1, 2) == {work: [3]}
    assert share({work: [3]}, 0, 2) == {}
