import json
import subprocess
import sys
from dataclasses import dataclass, fields, replace

import pytest

from elbo_core import Plan, Recipe
from elbo_core.experiments.keys import key_text
from elbo_core.experiments.rows import (
    BATCHES,
    DIFFERENCES,
    READINGS,
    SIMPLEST,
    Row,
    calibrated,
    evaluations,
    plan_of,
    rows_of,
)
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.align import ElboScore, LeaveOneOutScore
from elbo_core.methods.baselines import BASELINES
from elbo_core.methods.evidence import EvidenceTimesAttention
from elbo_core.methods.method import Method
from elbo_core.methods.plan import CAPTION, CLEAN, Ask
from elbo_core.methods.timesteps import Timesteps


@pytest.mark.parametrize("batch", BATCHES)
def test_names_and_definitions_are_unambiguous(batch):
    rows = rows_of(batch)
    assert len({row.id for row in rows}) == len(rows)
    assert {row.reading for row in rows} <= set(READINGS)
    assert plan_of(rows).evaluations(classes=2), "they can be measured in one run"


def test_the_key_is_all_but_name_and_reading():
    row = Row("on")
    assert row.key == Row("another name", "late layers").key
    others = [
        replace(row, method=Recipe.paper()),
        replace(row, method=Recipe(ElboScore(gamma=0.5))),
        replace(row, method=Recipe(refinements=())),
        replace(row, plan=Plan.of(elbo_timesteps=(1,))),
        replace(row, plan=Plan.of(attention_timesteps=(1,))),
        replace(row, plan=Plan.of(elbo_template="{}")),
        replace(row, plan=Plan(seed=1)),
        replace(row, plan=Plan(error_maps=(Ask("{}", (1,)),))),
        replace(row, plan=Plan(attention=(Ask(CAPTION, (20,), CLEAN),))),
        replace(row, plan=Plan(attention=(Ask(CAPTION, (20,), emphasis=1.21),))),
        replace(row, plan=Plan(proposals=("sam",))),
        replace(row, plan=Plan(token_features=True)),
    ]
    assert len({row.key, *(other.key for other in others)}) == 13
    later = ("error_maps", "latents", "emphasis", "proposals", "token_features")
    assert not any(name in row.key for name in later), "what was measured before keeps its key"
    assert replace(row, plan=Plan(batch_size=1)).key == row.key, "no number depends on it"


def test_the_key_is_spelled_out():
    key = Row("on").key
    settings = {
        "type": "elbo_core.methods.align.Recipe",
        "gamma": 1 / 3,
        "layer_weights": "gaussian",
        "refinements": ["all finest", "last finest"],
        "seed": 4307,
        "texts": "a photo of {}",
    }
    for name, value in settings.items():
        assert f'"{name}": {json.dumps(value)}' in key


def test_the_definition_holds_no_memory_address():
    """A store outlives the process."""
    script = "from elbo_core.experiments.rows import Row; print(Row('on').definition)"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == Row("on").definition


@dataclass(frozen=True)
class Opaque(Method):
    """A method with a field that no key can tell from another."""

    function: object = len

    @property
    def needs(self) -> Plan:
        return Plan()

    def __call__(self, observation) -> Heatmaps: ...


@pytest.mark.parametrize("function", [len, lambda x: x, object(), Opaque, {1: 2}, {"a"}])
def test_methods_that_could_not_be_told_apart_are_refused(function):
    with pytest.raises(TypeError, match="cannot be part of a key"):
        Row("x", method=Opaque(function))


def test_a_class_inside_a_function_is_refused():
    @dataclass(frozen=True)
    class Hidden:
        value: int = 1

    with pytest.raises(TypeError, match="cannot be part of a key"):
        key_text(Hidden())


def test_a_row_sees_what_its_method_needs():
    assert Row("off", method=Recipe().off()).plan.losses == ()
    assert Row("on").plan == Plan()


def test_a_plan_asks_every_timestep_once():
    rows = [Row("a", plan=Plan.of((1, 501), (20,))), Row("b", plan=Plan.of((501, 301), (20, 40)))]
    assert plan_of(rows) == Plan.of((1, 301, 501), (20, 40))


def test_reading_saves_four_fifths_of_the_network():
    """Counted by hand for a table of three rows, and the bar that the ablations must clear."""
    rows = [Row("on"), Row("off", method=Recipe().off()), Row("few", plan=Plan.of((1, 51))), Row("again")]
    assert evaluations(rows, classes=3) == (3 * 20 + 10, (3 * 20 + 10) + 10 + (3 * 2 + 10))
    together, one_by_one = evaluations(rows_of("ablations"), classes=4)
    assert together < one_by_one / 5


def test_fewer_timesteps_are_taken_from_those_of_the_default():
    by_name = {row.name: row.plan.losses[0].timesteps for row in rows_of("ablations") if row.plan.losses}
    assert by_name["1 timesteps"] == (501,)
    assert by_name["5 timesteps"] == (101, 301, 501, 701, 901)
    assert by_name["10 even"] == tuple(range(51, 1000, 100))
    assert set(by_name["10 even"]) < set(by_name["on"])


def test_each_difference_changes_one_setting():
    reference = Recipe.reference()
    for recipe in DIFFERENCES.values():
        changed = [
            field.name for field in fields(Recipe) if getattr(recipe, field.name) != getattr(reference, field.name)
        ]
        assert len(changed) == 1
    text = Recipe.paper()
    for field in fields(Recipe):
        assert getattr(text, field.name) in {getattr(r, field.name) for r in (*DIFFERENCES.values(), reference)}


def test_table_6_and_7_ask_as_many_timesteps_as_they_say():
    counts = {row.name: len(row.plan.losses[0].timesteps) for row in rows_of("ablations") if row.plan.losses}
    assert (counts["1 timesteps"], counts["5 timesteps"], counts["10 large"]) == (1, 5, 10)
    by_name = {row.name: row for row in rows_of("ablations")}
    assert by_name["attention 10 middle"].plan.attention[0].timesteps == Timesteps("middle", 10).of()


def test_the_short_measurements_are_parts_of_the_long_ones():
    """Other models get fewer tables; a row of the same name must be the same row."""
    rows = {row.id: row for row in (*rows_of("ablations"), *rows_of("estimators"))}
    for batch in ("models", "attention"):
        assert all(rows.get(row.id, row) == row for row in rows_of(batch))
    assert {"off", "on", "constant 1/4", "1 timesteps", "5 timesteps"} < {row.name for row in rows_of("models")}
    assert plan_of(rows_of("phrases")).losses[0].texts == "a photo of {phrase}"


def test_unknown_batches_list_the_known():
    with pytest.raises(ValueError, match="unknown batch 'table_3'; known: models, off and on, estimators"):
        rows_of("table_3")
    with pytest.raises(ValueError, match="no plan to unite"):
        plan_of([])


def test_evidence_is_measured_beside_algorithm_1_in_one_run():
    rows = {row.id: row for row in rows_of("evidence")}
    calibration = {row.id: row for row in rows_of("models")}
    for reading in READINGS:
        for name in ("off", "on"):
            assert rows[reading, name] == calibration[reading, name]
        assert rows[reading, "evidence"].definition == rows["released", "evidence"].definition, "it reads no attention"
        assert {(reading, "evidence x attention"), (reading, "on, score of leaving out")} <= set(rows)
    alone = rows["released", "evidence"].plan
    assert (alone.losses, alone.attention, alone.evaluations(classes=4)) == ((), (), 5 * 20)
    assert rows["released", "evidence, 5 timesteps"].plan.evaluations(classes=4) == 5 * 5
    together, one_by_one = evaluations(rows.values(), classes=4)
    assert together == (4 + 1 + 4 + 1) * 20 + 10, "classes, caption, caption without each, nothing; attention"
    assert together < one_by_one / 4


def test_every_choice_of_evidence_is_another_row():
    rows = rows_of("evidence choices")
    assert len({row.definition for row in rows}) == len(rows)
    by_id = {row.id: row for row in rows}
    assert by_id["released", "default"].method == SIMPLEST
    assert by_id["released", "evidence x attention"].method == EvidenceTimesAttention(SIMPLEST)
    assert by_id["late layers", "on, score of leaving out"].method.score == LeaveOneOutScore()


def test_baselines_share_the_observation_of_algorithm_1():
    rows = rows_of("baselines")
    calibration = {row.id: row for row in rows_of("models")}
    assert all(row == calibration[row.id] for row in rows if row.name in ("off", "on"))
    together, one_by_one = evaluations(rows, classes=4)
    assert together == 4 * 20 + 10, "what Algorithm 1 asks, and nothing else"
    assert one_by_one > 8 * together
    plain = [row for row in rows if row.name in BASELINES]
    assert [row.name for row in plain] == list(BASELINES)
    assert all(row.plan.evaluations(classes=4) == 10 for row in plain)
    assert {calibrated(name) for name in BASELINES} < {row.name for row in rows}


def test_own_protocols_are_rows_of_their_own():
    own, common = rows_of("own protocols"), {row.name: row for row in rows_of("baselines")}
    assert len(own) == 6
    for row in own:
        assert row.definition != common[row.name.removesuffix(", own protocol")].definition
