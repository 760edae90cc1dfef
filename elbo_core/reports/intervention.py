"""Does the frequency of a class in training cause its misalignment? The twins' answer, by difference in differences.

Twins differ in class frequencies alone (`training.twins`). For each class and training seed, a response moves from
twin to twin; what moves with the class's own frequency, beyond what moves for all classes, is the effect of frequency.
Shape, size and difficulty of a class are the same in every twin, so they cancel. The class is the unit: intervals come
from drawing classes, with all that belongs to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from elbo_core.experiments.drawn import drawn, read_drawn
from elbo_core.experiments.masses import has_twins, portraits, read_masses, twins_of
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.rows import READINGS
from elbo_core.paths import RUNS
from elbo_core.reports.bootstrap import Estimate, Measured, bootstrap_weights
from elbo_core.reports.misalignment import controlled, targets
from elbo_core.toy.describe import VARIED
from elbo_core.training.twins import TWINS, frequencies

PANEL = ["reading", "seed", "twin", "class"]
NUMBERS: dict[str, str] = {
    "iou": "IoU (points)",
    "inside": "attention inside (points)",
    "score": "alignment score S",
    "advantage": "advantage in the loss (%)",
    "recognised": "drawn rightly (points)",
    "gain": "gain of calibration (points)",
}
"""The responses of a class in a twin, and their units. `gain` is IoU with calibration less IoU without."""


def measure_twins(twins: Sequence[str], profile: Profile, root: Path = RUNS) -> pd.DataFrame:
    """One line per reading, twin and class, after what is missing has been measured.

    Columns: `PANEL`, model, incomplete (whether its captions leave more out), log_frequency (base 10), area (pixels of
    the class, the mean over layouts) and `NUMBERS` but for `recognised`. twin: its class frequencies by name.

    Raises:
        ValueError: there is no twin.
    """
    if not twins:
        raise ValueError("no twin is trained yet; `make models` trains them")
    return pd.concat([_of_twin(name, profile, root) for name in twins], ignore_index=True)


def _of_twin(name: str, profile: Profile, root: Path) -> pd.DataFrame:
    lines = targets(read_masses(portraits(name, profile), root))
    lines = lines.assign(iou=lines.iou.map(np.max), inside=100 * lines.raw_inside)
    mean = lines.groupby(["reading", "row", "class"])[["iou", "inside", "score", "advantage", "area"]].mean()
    off, on = mean.xs("off", level="row"), mean.xs("on", level="row")
    panel = off.assign(gain=on.iou - off.iou, score=on.score, advantage=on.advantage).reset_index()
    twin = TWINS[name]
    return panel.assign(
        model=name, seed=twin.seed, twin=twin.frequencies, incomplete=twin.captions != VARIED,
        log_frequency=np.log10(panel["class"].map(frequencies(name))),
    )  # fmt: skip


def with_drawings(panel: pd.DataFrame, profile: Profile, root: Path = RUNS) -> pd.DataFrame:
    """The panel with `recognised`: of a twin's own pictures of a class the percentage in which the judge finds it."""
    shares: dict[tuple[str, str], float] = {}
    for name in panel.model.unique():
        pictures = read_drawn(drawn(name, profile), root)
        found = 100.0 * (pictures.present > 0.5).groupby(pictures["class"]).mean()
        shares |= {(name, thing): share for thing, share in found.items()}
    pairs = zip(panel.model, panel["class"], strict=True)
    return panel.assign(recognised=[shares[pair] for pair in pairs])


def compared(panel: pd.DataFrame) -> pd.DataFrame:
    """The lines of twins that differ in frequencies alone, of the seeds with the most of them, and at least two."""
    plain = panel[~panel.incomplete]
    known = {seed: frozenset(lines.twin) for seed, lines in plain.groupby("seed")}
    fullest = max(known.values(), key=len, default=frozenset())
    whole = [seed for seed, twins in known.items() if twins == fullest and len(twins) > 1]
    return plain[plain.seed.isin(whole)]


def cube(panel: pd.DataFrame, column: str) -> np.ndarray:
    """A column as [S, F, C]: training seeds, twins, classes. panel: of one reading, the same twins for every seed.

    Raises:
        ValueError: a seed lacks a twin, or a twin a class.
    """
    seeds, twins, classes = (sorted(panel[name].unique()) for name in ("seed", "twin", "class"))
    wide = panel.set_index(["seed", "twin", "class"])[column]
    try:
        values = wide.reindex(pd.MultiIndex.from_product([seeds, twins, classes])).to_numpy(float)
    except ValueError as error:
        raise ValueError(f"{column!r} has two values for a seed, twin and class") from error
    if np.isnan(values).any():
        raise ValueError(f"{column!r} is not known for every seed, twin and class")
    return values.reshape(len(seeds), len(twins), len(classes))


def effect(frequency: np.ndarray, response: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The change of a response with a tenfold frequency, [R], from frequency (log10) and response [S, F, C].

    Least squares with a constant for every class of a seed and for every twin of a seed; weights [R, C] say how often
    each class counts. That is the difference in differences: with two twins, the slope of the classes' changes on the
    changes of their log-frequencies. NaN where frequency does not move.
    """
    x, y = (_within(values, weights) for values in (frequency, response))  # [R, S, F, C]
    moved = np.einsum("rsfc,rc->r", x * x, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(moved > 1e-12, np.einsum("rsfc,rc->r", x * y, weights) / moved, np.nan)


def _within(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What is left of values [S, F, C] without the means of classes over twins and of twins over classes: [R, ...]."""
    of_class = values - values.mean(axis=1, keepdims=True)
    of_twin = np.einsum("sfc,rc->rsf", of_class, weights) / weights.sum(axis=1)[:, None, None]
    return of_class[None] - of_twin[..., None]


def slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The slope [R] of y [C] on x [C] over classes that count as often as weights [R, C] say; NaN if x is constant."""
    total = weights.sum(axis=1, keepdims=True)
    x, y = x - weights @ x[:, None] / total, y - weights @ y[:, None] / total
    moved = (weights * x * x).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(moved > 1e-12, (weights * x * y).sum(axis=1) / moved, np.nan)


def explained(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of the spread of y [C] over classes that a straight line in x [C] explains: R², [R] in [0, 1]."""
    return slope(x, y, weights) * slope(y, x, weights)


def adjusted(shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """R² [R] less what a line explains by chance: zero in the mean where there is nothing to explain. Of a resample
    only the different classes count, weights [R, C]."""
    classes = np.maximum((weights > 0).sum(axis=1), 3)
    return 1 - (1 - shares) * (classes - 1) / (classes - 2)


def _class_weights(panel: pd.DataFrame, profile: Profile) -> np.ndarray:
    """Each class once, then resamples of classes, [1 + R, C]."""
    count = panel["class"].nunique()
    return np.vstack([np.ones((1, count)), bootstrap_weights(count, profile.resamples, profile.seed)])


def _measured(values: np.ndarray) -> Measured:
    """The first is the value on all classes, the others those on resamples; a resample of one class alone tells
    nothing and is left out."""
    samples = values[1:][np.isfinite(values[1:])]
    return Measured(float(values[0]), samples if len(samples) else np.array([np.nan]))


def causal_effect(panel: pd.DataFrame, response: str, profile: Profile) -> Measured:
    """The effect of a tenfold training frequency on a response. panel: of one reading, from `compared`."""
    weights = _class_weights(panel, profile)
    return _measured(effect(cube(panel, "log_frequency"), cube(panel, response), weights))


def association(panel: pd.DataFrame, response: str, twin: str, profile: Profile) -> Measured:
    """How a response goes with the frequencies of *Zipf* over the classes of one twin, for a tenfold frequency. In the
    Zipf twin that is what an observer sees; in the uniform twin nothing was rare, and what is left comes from shape."""
    order = sorted(panel["class"].unique())
    zipf = np.log10([frequencies("toy-twin-zipf")[name] for name in order])
    values = _over_seeds(panel, response, twin)
    return _measured(slope(zipf, values, _class_weights(panel, profile)))


def _over_seeds(panel: pd.DataFrame, column: str, twin: str) -> np.ndarray:
    """The mean over seeds for each class of a twin, [C], classes sorted."""
    return panel[panel.twin == twin].groupby("class")[column].mean().sort_index().to_numpy(float)


def effects(panel: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Every response in every reading: what frequency causes, and what goes along with it.

    Columns: reading, response, kind ("effect", "seen with Zipf", "seen with uniform"), ours, low, high. Scores and
    pictures do not depend on the reading and stand under the first.
    """
    kinds: dict[str, Callable[[pd.DataFrame, str], Measured]] = {
        "effect": lambda lines, name: causal_effect(lines, name, profile),
        "seen with Zipf": lambda lines, name: association(lines, name, "zipf", profile),
        "seen with uniform": lambda lines, name: association(lines, name, "uniform", profile),
    }
    there = [kind for kind in kinds if kind == "effect" or kind.rsplit(" ", 1)[-1].lower() in set(panel.twin)]
    return pd.DataFrame(
        [
            {"reading": reading, "response": name, "kind": kind} | _interval(kinds[kind](lines, name).estimate)
            for k, (reading, lines) in enumerate(panel.groupby("reading", sort=False))
            for name in NUMBERS
            if name in panel and (k == 0 or name not in ("recognised", "score", "advantage"))
            for kind in there
        ]
    )


def _interval(estimate: Estimate) -> dict[str, float]:
    return {"ours": estimate.value, "low": estimate.low, "high": estimate.high}


RIVALS = ("frequency", "size of the shape", "difficulty of the shape")


def rivals(panel: pd.DataFrame, response: str, profile: Profile) -> dict[str, Measured]:
    """What explains how the classes of the Zipf twin differ, as shares of their spread in percent.

    frequency: what is gone when the causal effect is taken away; negative if that makes classes differ more. size: the
    adjusted R² on the logarithm of the class's pixels. difficulty: that on the same response in the uniform twin, where
    nothing was rare.

    Raises:
        ValueError: the Zipf or the uniform twin is missing.
    """
    missing = {"zipf", "uniform"} - set(panel.twin)
    if missing:
        raise ValueError(f"the twins {sorted(missing)} are needed to weigh frequency against difficulty")
    weights = _class_weights(panel, profile)
    ours, uniform = (_over_seeds(panel, response, twin) for twin in ("zipf", "uniform"))
    area, log_frequency = (_over_seeds(panel, column, "zipf") for column in ("area", "log_frequency"))
    causal = effect(cube(panel, "log_frequency"), cube(panel, response), weights)
    left = ours[None] - causal[:, None] * log_frequency
    shares = (
        1 - _spread(left, weights) / _spread(ours[None], weights),
        adjusted(explained(np.log(area), ours, weights), weights),
        adjusted(explained(uniform, ours, weights), weights),
    )
    return {name: _measured(100 * share) for name, share in zip(RIVALS, shares, strict=True)}


def _spread(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The variance over classes, [R], of values [R or 1, C]."""
    total = weights.sum(axis=1, keepdims=True)
    mean = (weights * values).sum(axis=1, keepdims=True) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights * (values - mean) ** 2).sum(axis=1) / total[:, 0]


@dataclass(frozen=True)
class Weighing:
    """Which rival explains more of the spread than frequency does. more: those whose lead has an interval above zero,
    by name; less: those that clearly explain less."""

    more: tuple[str, ...]
    less: tuple[str, ...]

    @property
    def words(self) -> str:
        if self.more:
            return f"{_joined(self.more)} explains more of it than frequency"
        return (
            f"frequency explains more of it than {_joined(self.less)}" if self.less else "neither clearly explains more"
        )


def weigh(shares: dict[str, Measured]) -> Weighing:
    """Compare each rival with frequency, on the same resamples."""
    leads = {name: (shares[name] - shares[RIVALS[0]]).estimate for name in RIVALS[1:]}
    return Weighing(
        tuple(name for name, lead in leads.items() if lead.low > 0),
        tuple(name for name, lead in leads.items() if lead.high < 0),
    )


def _joined(names: Sequence[str]) -> str:
    return " and ".join(names)


def caption_effect(panel: pd.DataFrame, response: str, profile: Profile) -> Measured:
    """The mean change over classes from the Zipf twin to the one with incomplete captions; NaN if that is missing.

    panel: of one reading, of all twins.
    """
    zipf = panel[panel.twin == "zipf"].set_index(["seed", "class", "incomplete"])[response].unstack()
    if not {True, False} <= set(zipf.columns):
        return Measured(float("nan"), np.array([np.nan]))
    change = (zipf[True] - zipf[False]).dropna().groupby("class").mean().sort_index().to_numpy(float)
    weights = bootstrap_weights(len(change), profile.resamples, profile.seed)
    return Measured(float(change.mean()), weights @ change / weights.sum(axis=1))


def seed_spread(panel: pd.DataFrame, response: str) -> float:
    """By how much twins of the same lessons differ for a class, on average over classes, if only their seeds differ;
    NaN where there is one seed. panel: of one reading, of all twins."""
    alike = panel[~panel.incomplete].groupby(["twin", "class"])[response]
    spread = (alike.max() - alike.min())[alike.count() > 1]
    return float(spread.mean())


def long_tail(twins: Sequence[str], profile: Profile, root: Path = RUNS) -> dict[tuple[str, str], Measured]:
    """For the ledger: by claim and reading, the effect of a tenfold frequency on IoU, and minus its effect on the gain
    of calibration. Nothing, if fewer than two twins of a seed are there."""
    if not twins:
        return {}
    panel = compared(measure_twins(twins, profile, root))
    if panel.empty:
        return {}
    found: dict[tuple[str, str], Measured] = {}
    for reading in READINGS:
        lines = panel[panel.reading == reading]
        gain = causal_effect(lines, "gain", profile)
        found["long-tail-causes", reading] = causal_effect(lines, "iou", profile)
        found["rare-gain-most", reading] = Measured(-gain.value, -gain.samples)
    return found


def write_effects(table: pd.DataFrame, folder: Path) -> Path:
    """Write `intervention.csv`; equal numbers give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "intervention.csv"
    table.round(4).to_csv(path, index=False, float_format="%.4f", lineterminator="\n")
    return path


def ledger_experiments(model: str, profile: Profile, root: Path = RUNS) -> dict[tuple[str, str], Measured]:
    """All that controlled experiments tell the ledger, by id and reading, after what is missing has been measured."""
    twins = twins_of(profile) if has_twins(profile) else []
    return controlled(model, profile, root) | long_tail(twins, profile, root)
