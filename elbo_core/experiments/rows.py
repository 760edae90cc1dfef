"""The lines of the tables as data: how to read an observation, and which of its timesteps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace

from elbo_core.align import ConstantScore, ElboScore, Recipe
from elbo_core.elbo import ESTIMATORS, Timesteps
from elbo_core.observe import Plan

RELEASED = Plan()


@dataclass(frozen=True)
class Row:
    """One line of a table. Timesteps are integers; the defaults are those of the released code."""

    name: str
    recipe: Recipe = Recipe.reference()
    elbo_timesteps: tuple[int, ...] = RELEASED.elbo_timesteps
    attention_timesteps: tuple[int, ...] = RELEASED.attention_timesteps

    @property
    def definition(self) -> str:
        """A hash of all but the name: two rows of the same definition measure the same."""
        content = {field.name: _plain(getattr(self, field.name)) for field in fields(self) if field.name != "name"}
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    """Settings as JSON: dataclasses by their fields, functions by their name."""
    if is_dataclass(value):
        settings = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__} | settings
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.__qualname__ if callable(value) else value


def plan_of(rows: Iterable[Row], seed: int = RELEASED.seed) -> Plan:
    """The plan that answers all `rows` at once: the union of their timesteps.

    Raises:
        ValueError: there is no row.
    """
    rows = list(rows)
    losses = sorted({timestep for row in rows for timestep in row.elbo_timesteps})
    attention = sorted({timestep for row in rows for timestep in row.attention_timesteps})
    return Plan(tuple(losses), tuple(attention), seed=seed)


TUNED = replace(Recipe.reference(), layer_weights="up", refinements=())
"""The layers and refinement that read the toy model best with calibration off, chosen on the development split."""


def _in_both_readings(rows: Callable[[Recipe], list[Row]]) -> list[Row]:
    """The rows read as released and, with ", tuned" behind the name, as suits the toy models."""
    tuned = [replace(row, name=f"{row.name}, tuned") for row in rows(TUNED)]
    return rows(Recipe.reference()) + tuned


def controls(recipe: Recipe) -> list[Row]:
    """Calibration off, and the same score for every class (Table VIII)."""
    scores = {"off": 1.0, "constant 1/2": 1 / 2, "constant 1/3": 1 / 3, "constant 1/4": 1 / 4}
    return [Row(name, replace(recipe, score=ConstantScore(value))) for name, value in scores.items()]


def calibration(recipe: Recipe) -> list[Row]:
    """Table III: off and on, and what it lacks: constants, and the weighting with the least variance."""
    off, half, third, _ = controls(recipe)
    return [off, Row("on", recipe), Row("relative", replace(recipe, score=ElboScore("relative"))), half, third]


def estimators(recipe: Recipe) -> list[Row]:
    """One row per estimator of the class loss, with the controls."""
    return controls(recipe) + [Row(name, replace(recipe, score=ElboScore(name))) for name in ESTIMATORS]


def elbo_timesteps(recipe: Recipe) -> list[Row]:
    """Tables VI and VII: how many timesteps the score is summed over, and which."""
    counts = [Row(f"{n} timesteps", recipe, Timesteps("even", n).of()) for n in (1, 5)]
    ranges = ("small", "middle", "large", "random", "even")
    return counts + [Row(f"10 {name}", recipe, Timesteps(name, 10).of()) for name in ranges]


def attention_timesteps(recipe: Recipe) -> list[Row]:
    """Table IX: where the attention is collected, the score from ten even timesteps as in the paper."""
    even = Timesteps("even", 10).of()
    places = [("small", 1), ("small", 10), ("middle", 10), ("large", 10), ("random", 10)]
    return [Row(f"attention {n} {name}", recipe, even, Timesteps(name, n).of()) for name, n in places]


def strengths(recipe: Recipe) -> list[Row]:
    """Figure 7: 1/gamma from 1 to 8."""
    return [Row(f"gamma 1/{k}", replace(recipe, score=ElboScore(gamma=1 / k))) for k in range(1, 9)]


def ablations(recipe: Recipe) -> list[Row]:
    """Tables VI to IX and Figure 7, measured together."""
    parts = (elbo_timesteps, attention_timesteps, strengths)
    return [*controls(recipe), Row("on", recipe), *(row for part in parts for row in part(recipe))]


TABLES: dict[str, list[Row]] = {
    "table_3": _in_both_readings(calibration),
    "estimators": _in_both_readings(estimators),
    "ablations": _in_both_readings(ablations),
}
"""The rows that are measured together, so that an image is observed once for all of them."""


def rows_of(table: str) -> list[Row]:
    """The rows of a table.

    Raises:
        ValueError: the table is unknown.
    """
    if table not in TABLES:
        raise ValueError(f"unknown table {table!r}; known: {', '.join(TABLES)}")
    return TABLES[table]
