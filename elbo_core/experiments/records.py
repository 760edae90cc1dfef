"""What is stored of a segmentation: per image, row and label, pixel counts and what is known of the class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from elbo_core.datasets import Dataset
from elbo_core.errors import StoreError
from elbo_core.experiments.rows import Row, RowId
from elbo_core.experiments.store import Store
from elbo_core.metrics import BINS, Counts, Stack

COLUMNS = pa.schema(
    [
        ("image", pa.string()),
        ("index", pa.int32()),
        ("content", pa.string()),  # a hash of the scene
        ("method", pa.string()),  # the hash of the row's key, not its name
        ("class", pa.string()),
        ("label", pa.int32()),
        ("area", pa.int64()),  # true pixels
        ("visible", pa.float32()),  # share of the class's pixels that nothing hides, NaN where unknown
        ("asked", pa.bool_()),  # whether it is a candidate class
        ("score", pa.float32()),  # alignment score, NaN where there is none
        ("won", pa.list_(pa.int32(), BINS)),
        ("right", pa.list_(pa.int32(), BINS)),  # of the background: its pixels by their winning score
        ("losses", pa.list_(pa.float32())),  # epsilon-MSE at each of the row's timesteps, if it asks one loss a class
        ("seconds_observed", pa.float32()),
        ("seconds_read", pa.float32()),
    ]
)


UNDEFINED = -1
"""The label of the only record of a row on an image whose method is not defined for the model; the reason is in the
place of the class."""


def undefined_record(reason: str) -> dict:
    """The record that says why a row has no number."""
    nothing = {"area": 0, "won": [0] * BINS, "right": [0] * BINS, "losses": [], "score": math.nan, "visible": math.nan}
    return {"class": reason, "label": UNDEFINED, "asked": False, **nothing}


@dataclass(frozen=True)
class Evaluation:
    """What a run yields.

    counts: by (reading, name) of a row its pixel counts, stacked over images.
    scores: one line per row, image and candidate class: reading and row, index and scene, label and class, area (share
        of the labelled pixels), visible, and the alignment score.
    undefined: why a row has no numbers, for those whose method is not defined for the model.
    """

    counts: dict[RowId, Stack]
    scores: pd.DataFrame
    undefined: dict[RowId, str] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        return next(iter(self.counts.values())).n_images

    def scores_of(self, row: str, reading: str = "released") -> pd.DataFrame:
        """The lines of one row."""
        return self.scores[(self.scores.row == row) & (self.scores.reading == reading)]


SCORES = ["reading", "row", "index", "scene", "label", "class", "area", "visible", "score"]
"""The columns of an evaluation's scores."""


def read_evaluation(store: Store, rows: Sequence[Row], dataset: Dataset) -> Evaluation:
    """The evaluation of `rows` on all images of a data set.

    Raises:
        ValueError: two rows have the same name and reading.
        StoreError: something has not been measured yet.
    """
    ids = [row.id for row in rows]
    if len(set(ids)) < len(ids):
        raise ValueError(f"rows of one name and reading: {sorted({i for i in ids if ids.count(i) > 1})}; rename some")
    images, n_labels = len(dataset), len(dataset.classes)
    frame = store.read({row.definition for row in rows}, dataset.contents).to_pandas()
    frame = frame.drop_duplicates(["index", "method", "label"]).sort_values(["index", "label"], kind="stable")
    parts = {row: frame[frame.method == row.definition] for row in rows}
    for row, part in parts.items():
        measured = part["index"].nunique()
        if measured < images:
            raise StoreError(f"row {row.name!r} ({row.reading}) is measured on {measured} of {images} images only")
    reasons = {row.id: part["class"][part.label == UNDEFINED] for row, part in parts.items()}
    undefined = {place: reason.iloc[0] for place, reason in reasons.items() if len(reason)}
    parts = {row: part for row, part in parts.items() if row.id not in undefined}
    counts = {row.id: _stack(part, n_labels) for row, part in parts.items()}
    scores = [_scores(part, row) for row, part in parts.items()] or [pd.DataFrame(columns=SCORES)]
    return Evaluation(counts, pd.concat(scores, ignore_index=True), undefined)


def _stack(part: pd.DataFrame, n_labels: int) -> Stack:
    image = part["index"].rank(method="dense").astype(int).to_numpy() - 1
    won, right = (np.stack(part[name]).astype(np.uint32) for name in ("won", "right"))
    return Stack(int(image.max()) + 1, n_labels, image, part.label.to_numpy(), won, right, part.area.to_numpy())


def _scores(part: pd.DataFrame, row: Row) -> pd.DataFrame:
    """The candidate classes of a row's images."""
    share = part.area / part.groupby("index").area.transform("sum")
    lines = part.assign(area=share, scene=part.image, reading=row.reading, row=row.name)
    return lines[lines.asked][SCORES]


def to_records(counts: Counts, candidates: Mapping[int, dict], names: Sequence[str]) -> list[dict]:
    """One record per label of an image: background, candidates, and whatever else the truth holds.

    candidates: by label, what is known of a candidate class (score, visible, losses). names: of the classes.
    """
    labels = sorted({0, *candidates, *np.flatnonzero(counts.true).tolist()})
    unknown = {"score": math.nan, "visible": math.nan, "losses": []}
    return [
        {
            "class": names[label - 1] if label else "background",
            "label": label,
            "area": int(counts.true[label]),
            "won": counts.won[label].tolist(),
            "right": (counts.right[label] if label else counts.background).tolist(),
            "asked": label in candidates,
            **candidates.get(label, unknown),
        }
        for label in labels
    ]
