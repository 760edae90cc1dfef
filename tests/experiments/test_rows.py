import subprocess
import sys
from dataclasses import fields, replace

import pytest

from elbo_core import Recipe
from elbo_core.experiments.rows import DIFFERENCES, TABLES, Row, evaluations, plan_of, reading, rows_of
from elbo_core.methods.align import ElboScore
from elbo_core.methods.elbo import Timesteps


@pytest.mark.parametrize("table", TABLES)
def test_names_and_definitions_are_unambiguous(table):
    rows = rows_of(table)
    assert len({row.name for row in rows}) == len(rows)
    assert plan_of(rows).elbo_timesteps, "they can be measured in one run"


def test_the_definition_is_all_but_the_name():
    row = Row("on")
    assert row.definition == Row("another name").definition
    others = [
        replace(row, recipe=Recipe.paper()),
        replace(row, recipe=Recipe(ElboScore(gamma=0.5))),
        replace(row, recipe=Recipe(refinements=())),
        replace(row, elbo_timesteps=(1,)),
        replace(row, attention_timesteps=(1,)),
        replace(row, elbo_template="{}"),
    ]
    assert len({row.definition, *(other.definition for other in others)}) == 7


def test_the_definition_holds_no_memory_address():
    """A store outlives the process."""
    script = "from elbo_core.experiments.rows import Row; print(Row('on').definition)"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == Row("on").definition


def test_a_plan_asks_every_timestep_once():
    rows = [Row("a", elbo_timesteps=(1, 501), attention_timesteps=(20,)),
            Row("b", elbo_timesteps=(501, 301), attention_timesteps=(20, 40))]  # fmt: skip
    plan = plan_of(rows, seed=7)
    assert (plan.elbo_timesteps, plan.attention_timesteps, plan.seed) == ((1, 301, 501), (20, 40), 7)


def test_one_run_has_one_prompt():
    assert plan_of([Row("a", elbo_template="{}")]).elbo_template == "{}"
    with pytest.raises(ValueError, match="one prompt for the score"):
        plan_of([Row("a"), Row("b", elbo_template="{}")])


def test_the_reading_of_a_row_is_in_its_name():
    assert [reading(name) for name in ("on", "on, tuned", "softmax, off")] == ["", ", tuned", ""]


def test_reading_saves_four_fifths_of_the_network():
    """Counted by hand for a table of three rows, and the bar that the ablations must clear."""
    rows = [Row("on"), Row("off", Recipe().off()), Row("few", elbo_timesteps=(1, 51)), Row("again")]
    assert evaluations(rows, classes=3) == (3 * 20 + 10, (3 * 20 + 10) + 10 + (3 * 2 + 10))
    together, one_by_one = evaluations(rows_of("ablations"), classes=4)
    assert together < one_by_one / 5


def test_fewer_timesteps_are_taken_from_those_of_the_default():
    by_name = {row.name: row.elbo_timesteps for row in rows_of("ablations")}
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
    counts = {row.name: len(row.elbo_timesteps) for row in rows_of("ablations")}
    assert (counts["1 timesteps"], counts["5 timesteps"], counts["10 large"]) == (1, 5, 10)
    by_name = {row.name: row for row in rows_of("ablations")}
    assert by_name["attention 10 middle"].attention_timesteps == Timesteps("middle", 10).of()


def test_the_short_measurements_are_parts_of_the_long_ones():
    """Other models get fewer tables; a row of the same name must be the same row."""
    rows = {row.name: row for row in (*rows_of("ablations"), *rows_of("estimators"))}
    for table in ("table_3", "table_9"):
        assert all(rows.get(row.name, row) == row for row in rows_of(table))
    assert {"off", "on", "constant 1/4", "1 timesteps", "5 timesteps"} < {row.name for row in rows_of("table_3")}
    assert plan_of(rows_of("phrases")).elbo_template == "a photo of {phrase}"


def test_unknown_tables_list_the_known():
    with pytest.raises(ValueError, match="unknown table 'table_33'; known: table_3, estimators"):
        rows_of("table_33")
    with pytest.raises(ValueError, match="at least one"):
        plan_of([])
