"""Figure 1 in numbers: how the answer to a target changes when one thing about it is turned, level by level.

Levels of a base scene are pairs: same ground, same places, same noise. So changes are measured within base scenes, and
intervals come from drawing base scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from elbo_core.datasets.manipulated import MANIPULATIONS
from elbo_core.experiments.masses import read_masses, turned
from elbo_core.experiments.profiles import Profile
from elbo_core.paths import RUNS
from elbo_core.reports.bootstrap import Measured, bootstrap_weights
from elbo_core.toy.world import IMAGE_SIZE

FIXED = 50
"""The fixed threshold, in percent."""


@dataclass(frozen=True)
class Response:
    """What is read off the target's heatmap. words: on an axis. of: from target lines (`read_masses`) to numbers."""

    words: str
    of: Callable[[pd.DataFrame], pd.Series]


RESPONSES: dict[str, Response] = {
    "iou": Response("IoU at its best threshold (%)", lambda lines: lines.iou.map(np.max)),
    "iou_fixed": Response(f"IoU at {FIXED} % (%)", lambda lines: lines.iou.map(lambda curve: curve[FIXED - 1])),
    "inside": Response("heatmap inside the target (%)", lambda lines: 100 * lines.inside),
    "raw_inside": Response("attention inside the target (%)", lambda lines: 100 * lines.raw_inside),
    "density": Response(
        "attention on the target, divided by its area's share",
        lambda lines: lines.raw_inside * IMAGE_SIZE**2 / lines.area,
    ),
    "peak": Response("highest attention (%)", lambda lines: 100 * lines.peak),
    "hit": Response("peak on the target (% of scenes)", lambda lines: 100.0 * lines.hit),
    "score": Response("alignment score S", lambda lines: lines.score),
    "advantage": Response("advantage in the loss (%)", lambda lines: lines.advantage),
}
"""By name. `iou` takes the threshold that is best for each picture, as an oracle would; `density` is 1 where attention
falls on the target as it would by chance."""

TITLES = {"size": "size", "occlusion": "occlusion", "crowd": "background objects", "rarity": "rarity"}
AMOUNTS = {
    "size": "radius of the target (pixels)",
    "occlusion": "share of the target that is hidden",
    "crowd": "copies of the other thing",
    "rarity": "fifth of the classes, from frequent to rare",
}
CLAIMS = {"small": "size", "occluded": "occlusion", "many": "crowd", "rare": "rarity"}
"""Which manipulation tests which claim of the ledger."""


def targets(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines about targets, with `advantage`: by how much the target's loss lies below that of the other candidates,
    in percent of their mean, the mean over timesteps. It is NaN where a row asks for no loss."""
    return frame.assign(advantage=_advantages(frame))[frame.target].reset_index(drop=True)


def _advantages(frame: pd.DataFrame) -> pd.Series:
    groups = frame.groupby(["model", "index", "method"], sort=False)
    values = pd.Series(np.nan, index=frame.index)
    for _, lines in groups:
        losses = np.array(lines.losses.tolist(), dtype=float)
        if losses.size:
            values[lines.index] = advantage(losses)
    return values


def advantage(losses: np.ndarray) -> np.ndarray:
    """For losses [N, T] of the candidates of a picture, the advantage of each over the mean of the others, in percent
    [N]; 0 for one that has no other."""
    if len(losses) < 2:
        return np.zeros(len(losses))
    others = (losses.sum(axis=0) - losses) / (len(losses) - 1)
    return 100 * ((others - losses) / losses.mean(axis=0)).mean(axis=1)


def measure_turned(models: Sequence[str], profile: Profile, root: Path = RUNS) -> pd.DataFrame:
    """The target lines of all manipulations with some models, after what is missing has been measured."""
    return pd.concat([targets(read_masses(turned(model, profile), root)) for model in models], ignore_index=True)


def by_level(lines: pd.DataFrame, response: str, weights: np.ndarray) -> list[Measured]:
    """The mean of a response over base scenes at each level, and on each resample of them, weights [R, bases].

    lines: those of one model, reading, row and manipulation.

    Raises:
        ValueError: a base scene lacks a level.
    """
    values = lines.assign(value=RESPONSES[response].of(lines)).pivot(index="base", columns="level", values="value")
    if values.isna().any(axis=None):
        raise ValueError(f"{response!r} is not known at every level of every base scene")
    return [
        Measured(float(column.mean()), weights @ column / weights.sum(axis=1)) for column in values.to_numpy(float).T
    ]


def curves(lines: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Every response at every level, and its change from the first level, by model, reading, row and manipulation.

    Columns: model, reading, row, manipulation, response, level, amount, ours, low, high, change, change_low,
    change_high. Intervals are 95 %, from resamples of base scenes, the same for all.
    """
    weights = bootstrap_weights(lines.base.nunique(), profile.resamples, profile.seed)
    keys = ["model", "reading", "row", "manipulation"]
    found = []
    for key, group in lines.groupby(keys, sort=False):
        amounts = group.groupby("level").amount.mean().tolist()
        for response in RESPONSES:
            if response == "advantage" and group.advantage.isna().any():
                continue
            levels = by_level(group, response, weights)
            found += [
                dict(zip(keys, key, strict=True)) | {"response": response, "level": level, "amount": amounts[level]}
                | _numbers(measured, measured - levels[0])
                for level, measured in enumerate(levels)
            ]  # fmt: skip
    return pd.DataFrame(found)


def _numbers(measured: Measured, change: Measured) -> dict[str, float]:
    ours, moved = measured.estimate, change.estimate
    return {
        "ours": ours.value, "low": ours.low, "high": ours.high,
        "change": moved.value, "change_low": moved.low, "change_high": moved.high,
    }  # fmt: skip


def loss_of_alignment(lines: pd.DataFrame, manipulation: str, profile: Profile) -> Measured:
    """How many points of IoU (best threshold) the target loses from the first to the last level of a manipulation.

    lines: those of one model, reading and row.
    """
    weights = bootstrap_weights(lines.base.nunique(), profile.resamples, profile.seed)
    levels = by_level(lines[lines.manipulation == manipulation], "iou", weights)
    return levels[0] - levels[-1]


def controlled(model: str, profile: Profile, root: Path = RUNS) -> dict[tuple[str, str], Measured]:
    """For the ledger: by claim (`CLAIMS`) and reading, what each manipulation costs, calibration off. Rarity is known
    for models of the embedded world alone."""
    lines = measure_turned([model], profile, root)
    off = lines[lines.row == "off"]
    known = {claim: name for claim, name in CLAIMS.items() if name != "rarity" or model.startswith("toy-")}
    return {
        (claim, reading): loss_of_alignment(group, manipulation, profile)
        for reading, group in off.groupby("reading", sort=False)
        for claim, manipulation in known.items()
    }


def finding(table: pd.DataFrame, model: str, reading: str) -> str:
    """In a sentence, for which manipulations the target is found worse at the last level than at the first."""
    chosen = table[
        (table.model == model) & (table.reading == reading) & (table.row == "off") & (table.response == "iou")
    ]
    last = chosen.sort_values("level").groupby("manipulation", sort=False).tail(1).set_index("manipulation")
    words = {"size": "smaller", "occlusion": "more hidden", "crowd": "among more objects", "rarity": "rarer"}
    worse = [words[name] for name in MANIPULATIONS if last.change_high[name] < 0]
    rest = [words[name] for name in MANIPULATIONS if name not in {k for k in words if words[k] in worse}]
    parts = [f"found worse where it is {_listed(worse)}"] if worse else []
    parts += [f"not clearly where it is {_listed(rest)}"] if rest else []
    return f"The target is {'; '.join(parts)}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def write_curves(table: pd.DataFrame, folder: Path) -> Path:
    """Write `curves_figure_1.csv`; equal numbers give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "curves_figure_1.csv"
    table.round(4).to_csv(path, index=False, float_format="%.4f", lineterminator="\n")
    return path


def last_changes(table: pd.DataFrame, reading: str, response: str = "iou") -> pd.DataFrame:
    """The change from the first level to the last, tidy for `styles.compact`: by model, row and manipulation."""
    chosen = table[(table.reading == reading) & (table.response == response)]
    last = chosen[chosen.level == chosen.groupby("manipulation")["level"].transform("max")]
    numbers = {"ours": last.change, "low": last.change_low, "high": last.change_high}
    return last.assign(metric="change_gain", manipulation=last.manipulation.map(TITLES), **numbers)
