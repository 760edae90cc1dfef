"""The rule of `rows.evidence_choices`, applied: which row of each kind is to be the default.

A row is measured by its mIoU at its best threshold, the mean over the data sets; it is compared with the default on the
same resampled scenes. It wins if it is better by more than one point and the whole interval is above zero. If several
win, the one with the highest mean is chosen; if none does, the default stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.rows import READINGS, Row, RowId, rows_of
from elbo_core.methods.evidence import Evidence, EvidenceTimesAttention
from elbo_core.reports.bootstrap import Measured, bootstrap_weights
from elbo_core.reports.summary import measured

LEAST_LEAD = 1.0
"""In points of mIoU."""
COLUMNS = ["question", "candidate", "miou", "lead", "low", "high", "decision"]


@dataclass(frozen=True)
class Question:
    """candidates: by name, the rows whose mean is compared. default: the name of the one that others must beat."""

    name: str
    default: str
    candidates: Mapping[str, Sequence[RowId]]


def questions() -> list[Question]:
    """What batch "evidence choices" is to settle: how evidence is read, what its product is made of, and which loss the
    score of Algorithm 1 comes from."""
    rows = rows_of("evidence choices")
    alone = {row.name: [row.id] for row in rows if isinstance(row.method, Evidence)}
    products = {_in_reading(row.id): [row.id] for row in rows if isinstance(row.method, EvidenceTimesAttention)}
    scores = {name: [(reading, name) for reading in READINGS] for name in ("on", "on, score of leaving out")}
    return [
        Question("evidence", "default", alone),
        Question("evidence x attention", _in_reading(("released", "evidence x attention")), products),
        Question("score of Algorithm 1", "on", scores),
    ]


def _in_reading(row: RowId) -> str:
    reading, name = row
    return f"{name}, {reading}"


def decide(
    question: Question, evaluations: Mapping[str, Evaluation], resamples: int = 1000, seed: int = 4307
) -> pd.DataFrame:
    """The whole choice, one line per candidate; columns `COLUMNS`. The decision is "chosen" for one, "wins" for others
    that have passed the rule with a lower mean, else "".

    evaluations: by data set. Scenes of different sets are resampled independently.

    Raises:
        ValueError: there is no evaluation.
    """
    if not evaluations:
        raise ValueError("nothing was measured to choose by; choices are made on sets of the embedded world")
    numbers = {name: _mean(rows, evaluations, resamples, seed) for name, rows in question.candidates.items()}
    lines = [_line(question, name, numbers) for name in question.candidates]
    frame = pd.DataFrame(lines, columns=COLUMNS)
    winners = frame[(frame.lead > LEAST_LEAD) & (frame.low > 0)]
    frame.loc[winners.index, "decision"] = "wins"
    chosen = winners.miou.idxmax() if len(winners) else frame.index[frame.candidate == question.default][0]
    frame.loc[chosen, "decision"] = "chosen"
    return frame


def _mean(rows: Sequence[RowId], evaluations: Mapping[str, Evaluation], resamples: int, seed: int) -> Measured:
    """The mIoU of some rows, the mean over rows and data sets."""
    parts = []
    for position, evaluation in enumerate(evaluations.values()):
        weights = bootstrap_weights(evaluation.n_images, resamples, seed + position)
        parts += [measured(evaluation.counts[row], weights) for row in rows]
    samples = np.mean([part.samples for part in parts], axis=0)
    return Measured(float(np.mean([part.value for part in parts])), samples)


def _line(question: Question, name: str, numbers: Mapping[str, Measured]) -> list:
    lead = (numbers[name] - numbers[question.default]).estimate
    return [question.name, name, numbers[name].value, lead.value, lead.low, lead.high, ""]


def chosen(frame: pd.DataFrame) -> str:
    """The name of the candidate that a choice (`decide`) has come to."""
    return frame.candidate[frame.decision == "chosen"].item()


def row_of(question: Question, name: str) -> Row:
    """The (first) row of a candidate."""
    return {row.id: row for row in rows_of("evidence choices")}[question.candidates[name][0]]
