"""The lines of the tables as data: how to read an observation, and which of its timesteps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace

from elbo_core.methods.align import ConstantScore, ElboScore, Recipe
from elbo_core.methods.elbo import ESTIMATORS, Timesteps
from elbo_core.methods.observe import Plan

RELEASED = Plan()


@dataclass(frozen=True)
class Row:
    """One line of a table. Timesteps are integers; the defaults are those of the released code."""

    name: str
    recipe: Recipe = Recipe.reference()
    elbo_timesteps: tuple[int, ...] = RELEASED.elbo_timesteps
    attention_timesteps: tuple[int, ...] = RELEASED.attention_timesteps
    elbo_template: str = RELEASED.elbo_template

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
        ValueError: there is no row, or rows word the score's prompt differently.
    """
    rows = list(rows)
    templates = {row.elbo_template for row in rows}
    if len(templates) > 1:
        raise ValueError(
            f"one run has one prompt for the score, these rows have {sorted(templates)}; measure them apart"
        )
    losses = sorted({timestep for row in rows for timestep in row.elbo_timesteps})
    attention = sorted({timestep for row in rows for timestep in row.attention_timesteps})
    return Plan(tuple(losses), tuple(attention), *templates, seed=seed)


REFERENCE = Recipe.reference()
TUNED = replace(REFERENCE, layer_weights="late", refinements=())
"""The layers and refinement that read toy-sd15 best with calibration off, chosen on the development split."""
READINGS = {"": REFERENCE, ", tuned": TUNED}
"""By what it adds to the name of a row: as the released code reads the attention, and as suits the toy models."""


def reading(name: str) -> str:
    """The ending of a row's name that tells its reading."""
    return next(ending for ending in reversed(READINGS) if name.endswith(ending))


def _in_both_readings(rows: Callable[[Recipe], list[Row]]) -> list[Row]:
    return [replace(row, name=row.name + ending) for ending, recipe in READINGS.items() for row in rows(recipe)]


def controls(recipe: Recipe) -> list[Row]:
    """Calibration off, and the same score for every class (Table VIII)."""
    scores = {"off": 1.0} | {f"constant 1/{k}": 1 / k for k in range(2, 9)}
    return [Row(name, replace(recipe, score=ConstantScore(value))) for name, value in scores.items()]


def calibration(recipe: Recipe) -> list[Row]:
    """Tables III, VI and VIII, and what they lack: more constants, and the weighting with the least variance."""
    on, relative = Row("on", recipe), Row("relative", replace(recipe, score=ElboScore("relative")))
    return [*controls(recipe), on, relative, *fewer_timesteps(recipe)]


def estimators(recipe: Recipe) -> list[Row]:
    """One row per estimator of the class loss, with the controls."""
    known = [*controls(recipe)[:4], Row("on", recipe)]
    return known + [Row(name, replace(recipe, score=ElboScore(name))) for name in ESTIMATORS]


def _spread(count: int) -> tuple[int, ...]:
    """`count` of the released code's twenty timesteps, evenly from their middle, so that no new one is asked."""
    step = len(RELEASED.elbo_timesteps) // count
    return RELEASED.elbo_timesteps[step // 2 :: step]


def fewer_timesteps(recipe: Recipe) -> list[Row]:
    """Table VI: how many timesteps the score is summed over, if not twenty."""
    return [Row(f"{n} timesteps", recipe, _spread(n)) for n in (1, 5)]


def strategies(recipe: Recipe) -> list[Row]:
    """Table VII: which ten timesteps the score is summed over."""
    ranges = [Row(f"10 {name}", recipe, Timesteps(name, 10).of()) for name in ("small", "middle", "large", "random")]
    return [*ranges, Row("10 even", recipe, _spread(10))]


def attention_timesteps(recipe: Recipe) -> list[Row]:
    """Table IX: where the attention is collected, the score from ten even timesteps as in the paper."""
    places = {"1 small": (100,), "10 small": RELEASED.attention_timesteps}
    places |= {f"10 {name}": Timesteps(name, 10).of() for name in ("middle", "large", "random")}
    return [Row(f"attention {name}", recipe, _spread(10), times) for name, times in places.items()]


def strengths(recipe: Recipe) -> list[Row]:
    """Figure 7: 1/gamma from 1 to 8."""
    return [Row(f"gamma 1/{k}", replace(recipe, score=ElboScore(gamma=1 / k))) for k in range(1, 9)]


DIFFERENCES: dict[str, Recipe] = {
    "softmax": replace(REFERENCE, readout="softmax"),
    "weighting of eq. 4": replace(REFERENCE, score=ElboScore("elbo")),
    "results averaged": replace(REFERENCE, average_maps=False),
    "layers alike": replace(REFERENCE, layer_weights="uniform"),
    "enlarged, then refined": replace(REFERENCE, refine_image=True),
    "one refinement": replace(REFERENCE, refinements=Recipe.paper().refinements),
    "no second min-max": replace(REFERENCE, readout="plain"),
}
"""The reference, as the paper's text has it in one respect (notebook `95_table_text_vs_code`)."""


def differences() -> list[Row]:
    """Each difference between text and code alone, with calibration on and off."""
    rows = [(Row(name, recipe), Row(f"{name}, off", recipe.off())) for name, recipe in DIFFERENCES.items()]
    return [row for pair in rows for row in pair]


def of_the_text(elbo_template: str = "{}") -> list[Row]:
    """What needs another prompt for the score: the bare class name, and Algorithm 1 as the text has it in all."""
    text = Recipe.paper()
    recipes = {"bare class": REFERENCE, "all of the text": text, "all of the text, off": text.off()}
    return [Row(name, recipe, elbo_template=elbo_template) for name, recipe in recipes.items()]


def ablations(recipe: Recipe) -> list[Row]:
    """Tables VI to IX and Figure 7, measured together."""
    parts = (controls, fewer_timesteps, strategies, attention_timesteps, strengths)
    return [Row("on", recipe), *(row for part in parts for row in part(recipe))]


def phrases(recipe: Recipe) -> list[Row]:
    """Table IV: the loss of each class under its whole noun phrase instead of the noun."""
    return [Row("phrases", recipe, elbo_template="a photo of {phrase}")]


def evaluations(rows: Iterable[Row], classes: int) -> tuple[int, int]:
    """Network evaluations for one image with so many candidate classes: all `rows` at once, and one run per row.

    A row whose score is a constant asks no losses when it is run alone. Rows of one definition count once.
    """
    distinct = {row.definition: row for row in rows}.values()
    plan = plan_of(distinct)
    losses = [len(row.elbo_timesteps) for row in distinct if isinstance(row.recipe.score, ElboScore)]
    one_by_one = classes * sum(losses) + sum(len(row.attention_timesteps) for row in distinct)
    return classes * len(plan.elbo_timesteps) + len(plan.attention_timesteps), one_by_one


TABLES: dict[str, list[Row]] = {
    "table_3": _in_both_readings(calibration),
    "estimators": _in_both_readings(estimators),
    "ablations": [*_in_both_readings(ablations), *differences()],
    "table_9": _in_both_readings(lambda recipe: [*controls(recipe)[:1], *attention_timesteps(recipe)]),
    "text": of_the_text(),
    "phrases": _in_both_readings(phrases),
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
