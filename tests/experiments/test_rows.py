import subprocess
import sys
from dataclasses import replace

import pytest

from elbo_core import Recipe
from elbo_core.align import ElboScore
from elbo_core.elbo import Timesteps
from elbo_core.experiments.rows import TABLES, Row, plan_of, rows_of


@pytest.mark.parametrize("table", TABLES)
def test_names_and_definitions_are_unambiguous(table):
    rows = rows_of(table)
    assert len({row.name for row in rows}) == len(rows)
    assert {row.name for row in rows} >= {"off", "off, tuned"}


def test_the_definition_is_all_but_the_name():
    row = Row("on")
    assert row.definition == Row("another name").definition
    others = [
        replace(row, recipe=Recipe.paper()),
        replace(row, recipe=Recipe(ElboScore(gamma=0.5))),
        replace(row, recipe=Recipe(refinements=())),
        replace(row, elbo_timesteps=(1,)),
        replace(row, attention_timesteps=(1,)),
    ]
    assert len({row.definition, *(other.definition for other in others)}) == 6


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


def test_table_6_and_7_ask_as_many_timesteps_as_they_say():
    counts = {row.name: len(row.elbo_timesteps) for row in rows_of("ablations")}
    assert (counts["1 timesteps"], counts["5 timesteps"], counts["10 large"]) == (1, 5, 10)
    by_name = {row.name: row for row in rows_of("ablations")}
    assert by_name["attention 10 middle"].attention_timesteps == Timesteps("middle", 10).of()


def test_unknown_tables_list_the_known():
    with pytest.raises(ValueError, match="unknown table 'table_33'; known: table_3, estimators"):
        rows_of("table_33")
    with pytest.raises(ValueError, match="at least one"):
        plan_of([])
