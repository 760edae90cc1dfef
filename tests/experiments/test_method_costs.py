"""Costs are counted and timed for each method alone, and kept like all that is measured."""

from __future__ import annotations

from elbo_core.experiments import method_costs
from elbo_core.experiments.method_costs import MethodCosts, costed, definition, works
from elbo_core.experiments.profiles import PROFILES
from elbo_core.methods.baselines import BASELINES


def test_every_method_is_costed_once_in_each_protocol():
    names = [row.name for row in costed()]
    assert len(set(names)) == len(names)
    assert {"off", "on", *BASELINES} < set(names)
    assert {"DAAM, own protocol", "DiffPNG, own protocol"} < set(names)
    assert len({definition(row) for row in costed()}) == len(names)


def test_costs_of_the_toy_model(toy, tmp_path, monkeypatch):
    """Evaluations are those of the plan, seconds are measured once and kept."""
    monkeypatch.setattr(method_costs, "loaded", lambda model: toy)
    work = MethodCosts("toy-sd15", "toy-voc", 1)
    store = work.store(tmp_path)
    work.measure(store, [0])
    frame = store.read(work.methods(), work.contents()).to_pandas()
    by_row = frame.set_index("method").loc[work.methods()].set_index([[row.name for row in costed()]])
    count = len(work.opened.read(0).classes)
    assert by_row.evaluations["on"] == 20 * count + 10
    assert by_row.evaluations["DAAM"] == 10
    assert by_row.evaluations["DiffPNG, own protocol"] == 40
    assert (by_row.seconds > 0).all()
    files = sorted(store.folder.iterdir())
    work.measure(store, [0])
    assert sorted(store.folder.iterdir()) == files


def test_a_profile_names_its_works():
    found = works(PROFILES["smoke"])
    assert [work.dataset for work in found] == list(PROFILES["smoke"].datasets)
    assert {work.images for work in found} == {PROFILES["smoke"].looked_at}
