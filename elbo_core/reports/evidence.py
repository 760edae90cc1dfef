"""Evidence beside Algorithm 1: how far ahead, on what, at which cost, and on which pictures it fails."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.rows import READINGS, RowId, rows_of
from elbo_core.metrics import Stack, miou_by_threshold, pairs
from elbo_core.reports.bootstrap import Estimate, Measured, bootstrap_weights
from elbo_core.reports.summary import COLUMNS, measured, tidy
from elbo_core.toy.world import STUFF_NAMES

Evaluations = Mapping[str, Mapping[str, Evaluation]]
"""By model, then by data set."""
EVIDENCE: RowId = ("released", "evidence")
PRODUCT: RowId = ("released", "evidence x attention")
ALGORITHM_1: dict[str, RowId] = {
    "Algorithm 1, as released": ("released", "on"),
    "Algorithm 1, late layers": ("late layers", "on"),
}
ALL_OF_ALGORITHM_1: tuple[RowId, ...] = tuple((reading, name) for reading in READINGS for name in ("off", "on"))
NAMED: dict[str, RowId] = {**ALGORITHM_1, "evidence": EVIDENCE, "evidence × attention": PRODUCT}
"""What figures show, as people call it."""
LEFT_OUT = "on, score of leaving out"
OURS: tuple[RowId, ...] = (EVIDENCE, PRODUCT, ("released", "class against empty"), ("released", "Kong et al."))
COUNTS = {1: "evidence, 1 timesteps", 2: "evidence, 2 timesteps", 5: "evidence, 5 timesteps",
          10: "evidence, 10 timesteps", 20: "evidence"}  # fmt: skip
"""By number of timesteps, the name of the row of evidence."""
SCORED = {1: "1 timesteps", 5: "5 timesteps", 20: "on"}
"""The same of Algorithm 1, for its score."""


def leads(evaluations: Evaluations, profile: Profile) -> pd.DataFrame:
    """How far evidence, its product with attention, and the two kinds known before are ahead of the best of
    Algorithm 1: off or on, in either reading, chosen on the very pictures that it is judged on and anew on each
    resample, which is more than evidence gets. Tidy, of the metric "lead_gain"; paired."""
    return _differences(evaluations, dict.fromkeys(OURS, ALL_OF_ALGORITHM_1), profile)


def score_leads(evaluations: Evaluations, profile: Profile) -> pd.DataFrame:
    """How far Algorithm 1 with the score from the loss of leaving a class out is ahead of Algorithm 1 with its own, in
    each reading; as `leads`."""
    return _differences(evaluations, {(reading, LEFT_OUT): [(reading, "on")] for reading in READINGS}, profile)


def _differences(evaluations: Evaluations, rivals: Mapping[RowId, Sequence[RowId]], profile: Profile) -> pd.DataFrame:
    """Each row less the best of its rivals; tidy, of the metric "lead_gain"."""
    records = []
    for model, sets in evaluations.items():
        for name, evaluation in sets.items():
            of = functools.cache(functools.partial(_measured_row, evaluation, profile))
            for (reading, row), others in rivals.items():
                number = (of((reading, row)) - Measured.best([of(other) for other in others])).estimate
                place = [model, name, reading, row, "lead_gain", np.nan]
                records.append([*place, number.value, number.low, number.high, evaluation.n_images])
    return tidy(pd.DataFrame(records, columns=COLUMNS))


def _measured_row(evaluation: Evaluation, profile: Profile, row: RowId) -> Measured:
    return measured(evaluation.counts[row], bootstrap_weights(evaluation.n_images, profile.resamples, profile.seed))


# What does it cost?


def costs(evaluations: Evaluations, profile: Profile) -> pd.DataFrame:
    """The mIoU by the number of timesteps, the mean over models. Columns: dataset, method (`NAMED`), timesteps,
    evaluations (of the network, for a picture of the set on average), miou, low, high."""
    plans = {row.id: row.plan for row in rows_of("evidence")}
    lines = [("evidence", "released", count, name) for count, name in COUNTS.items()]
    lines += [(title, reading, count, name) for title, (reading, _) in ALGORITHM_1.items()
              for count, name in SCORED.items()]  # fmt: skip
    records = []
    for dataset in next(iter(evaluations.values())):
        sizes = _candidates(next(iter(evaluations.values()))[dataset])
        for title, reading, count, name in lines:
            parts = [_measured_row(sets[dataset], profile, (reading, name)) for sets in evaluations.values()]
            number = _mean(parts).estimate
            asked = np.mean([plans[reading, name].evaluations(size) for size in sizes])
            records.append([dataset, title, count, asked, number.value, number.low, number.high])
    return pd.DataFrame(records, columns=["dataset", "method", "timesteps", "evaluations", "miou", "low", "high"])


def _candidates(evaluation: Evaluation) -> list[int]:
    """How many classes each picture is asked for."""
    reading, row = next(iter(evaluation.counts))
    return list(evaluation.scores_of(row, reading).groupby("index").size())


def _mean(parts: Sequence[Measured]) -> Measured:
    return Measured(float(np.mean([p.value for p in parts])), np.mean([p.samples for p in parts], axis=0))


# On what does it help?


def class_pairs(
    evaluations: Evaluations, rows: Mapping[str, RowId], frequency: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """One line per model, data set, picture and class that is asked for and there.

    frequency: how often each class occurs in training, if that is known.
    Columns: model, dataset, index, scene, class, area (share of the picture), visible (share that nothing hides),
    frequency, and by the names of `rows` the IoU in percent at each row's best threshold.
    """
    frames = []
    for model, sets in evaluations.items():
        for name, evaluation in sets.items():
            place, *others = [_ious(evaluation.counts[row], called) for called, row in rows.items()]
            table = functools.reduce(lambda left, right: left.merge(right.drop(columns="area")), others, place)
            reading, row = next(iter(rows.values()))
            known = evaluation.scores_of(row, reading)[["index", "scene", "label", "class", "visible"]]
            frames.append(table.merge(known, on=["index", "label"]).assign(model=model, dataset=name))
    every = pd.concat(frames, ignore_index=True)
    return every.assign(frequency=every["class"].map(frequency or {}).astype(float))


def _ious(counts: Stack, called: str) -> pd.DataFrame:
    return pairs(counts, int(miou_by_threshold(counts).argmax()) + 1).rename(columns={"iou": called})


SHARES = {"less than half": 0.5, "half to 3/4": 0.75, "3/4 to nearly all": 0.999, "all": np.inf}
"""How much of a thing is visible: by name, up to which share."""
FIFTHS = ["rarest", "2nd", "3rd", "4th", "commonest"]


def group_by(found: pd.DataFrame, quantity: str) -> pd.Series:
    """The group of each line of `class_pairs`, an ordered category; without group where the quantity is not known.

    quantity: "area" (tenths of all lines, named by their middle in percent of the picture), "visible" (`SHARES`),
        "frequency" (fifths of the classes), "kind" (thing or stuff).

    Raises:
        ValueError: the quantity is unknown.
    """
    if quantity not in GROUPS:
        raise ValueError(f"unknown quantity {quantity!r}; known: {', '.join(GROUPS)}")
    return GROUPS[quantity](found)


def _by_area(found: pd.DataFrame) -> pd.Series:
    tenths = pd.qcut(found.area.rank(method="first"), min(10, len(found)), labels=False)
    middles = 100 * found.area.groupby(tenths).median()
    return pd.Series(pd.Categorical.from_codes(tenths, [f"{k + 1}: {middle:.1f} %" for k, middle in middles.items()]),
                     found.index)  # fmt: skip


def _by_visible(found: pd.DataFrame) -> pd.Series:
    return pd.cut(found.visible, [0, *SHARES.values()], labels=list(SHARES))


def _by_frequency(found: pd.DataFrame) -> pd.Series:
    classes = found.frequency.groupby(found["class"]).first().dropna().rank(method="first")
    fifths = np.ceil(5 * classes / max(len(classes), 1)).astype(int) - 1
    codes = found["class"].map(fifths).fillna(-1).astype(int)
    return pd.Series(pd.Categorical.from_codes(codes, FIFTHS), found.index)


def _by_kind(found: pd.DataFrame) -> pd.Series:
    kinds = np.where(found["class"].isin(STUFF_NAMES), "stuff", "thing")
    return pd.Series(pd.Categorical(kinds, ["thing", "stuff"]), found.index)


GROUPS = {"area": _by_area, "visible": _by_visible, "frequency": _by_frequency, "kind": _by_kind}


def by_group(found: pd.DataFrame, quantity: str, rows: Sequence[str], against: str, profile: Profile) -> pd.DataFrame:
    """The mean IoU of the lines of each group, by row, and its difference to that of the row `against`, paired.

    Columns: quantity, group, row, pairs (how many), iou, low, high, gain, gain_low, gain_high. The bootstrap draws
    pictures, the same for all models. Nothing, where the quantity is not known of any line.

    Raises:
        ValueError: the quantity is unknown.
    """
    groups, records = group_by(found, quantity), []
    for group in groups.cat.categories:
        members = found[groups == group]
        if members.empty:
            continue
        numbers = {row: _drawn_mean(members, row, found, profile) for row in dict.fromkeys([*rows, against])}
        for row in rows:
            gain = (numbers[row] - numbers[against]).estimate
            own: Estimate = numbers[row].estimate
            place = [quantity, group, row, len(members)]
            records.append([*place, own.value, own.low, own.high, gain.value, gain.low, gain.high])
    columns = ["quantity", "group", "row", "pairs", "iou", "low", "high", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(records, columns=columns)


def _drawn_mean(members: pd.DataFrame, row: str, found: pd.DataFrame, profile: Profile) -> Measured:
    """The mean of a column over some lines, and on resamples of the pictures of each data set."""
    total, count = np.zeros(profile.resamples), np.zeros(profile.resamples)
    for position, (name, whole) in enumerate(found.groupby("dataset", sort=False)):
        images = int(whole["index"].max()) + 1
        weights = bootstrap_weights(images, profile.resamples, profile.seed + position)
        own = members[members.dataset == name]
        total += weights @ np.bincount(own["index"], own[row], images)
        count += weights @ np.bincount(own["index"], minlength=images)
    return Measured(members[row].mean(), total / np.maximum(count, 1))


# Where does it fail?


def by_picture(found: pd.DataFrame, ours: str, theirs: str) -> pd.DataFrame:
    """For each picture of one model, the mean IoU of its classes under two rows (columns of `class_pairs`), and by how
    much the first is ahead; the worst first. Columns: dataset, index, scene, ours, theirs, lead."""
    means = found.groupby(["dataset", "index", "scene"], as_index=False, sort=False)[[ours, theirs]].mean()
    means = means.rename(columns={ours: "ours", theirs: "theirs"}).assign(lead=lambda frame: frame.ours - frame.theirs)
    return means.sort_values(["lead", "scene"], ignore_index=True)


def cases(pictures: pd.DataFrame, worst: int = 3) -> pd.DataFrame:
    """Pictures to look at, by rule: those with the largest losses, the one in the middle, and the one with the largest
    gain. Columns of `by_picture`, and why."""
    places = dict.fromkeys(range(min(worst, len(pictures))), "worst")
    places |= {len(pictures) // 2: "middle", len(pictures) - 1: "best"}
    return pictures.loc[list(places)].assign(why=list(places.values()))
