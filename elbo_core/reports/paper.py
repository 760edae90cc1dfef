"""The numbers that the paper prints (arXiv 2506.09740), by our names of its rows.

`data/paper/reported.csv` holds all of them, one a line: mIoU, precision and F1 in percent, the CLIP score times 100.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from elbo_core.paths import DATA

DATASET_ORDER = ("voc", "context", "coco", "ade20k")
"""The columns of the segmentation tables."""
PRINTED_IN = {"figure_7": "table_3"}
"""Where the numbers of what has no table of its own are printed."""
SAME_ROW = {"gamma 1/1": "off", "gamma 1/3": "on"}
"""Rows of ours that are another name for one of the paper's."""
SAME_ROW_IN = {("table_2", "on"): "ELBO-T2IAlign"}
"""The same, in one table."""


@functools.cache
def reported() -> pd.DataFrame:
    """Every number of the paper; columns table, model, row, dataset, metric, value."""
    return pd.read_csv(DATA / "paper" / "reported.csv", keep_default_na=False)


@functools.cache
def _by_place() -> dict[tuple[str, ...], float]:
    frame = reported()
    places = frame[["table", "model", "row", "dataset", "metric"]].itertuples(index=False, name=None)
    return dict(zip(places, frame.value.astype(float), strict=True))


@functools.cache
def _tables() -> list[str]:
    return list(reported().table.unique())


@functools.cache
def _tables_with_off() -> set[str]:
    return {table for table, _, row, *_ in _by_place() if row == "off"}


def paper_number(
    table: str, model: str, row: str, dataset: str, metric: str = "miou", over: str = "off"
) -> float:  # fmt: skip
    """The paper's number in percent, or NaN where it has none. A metric with "_gain" behind it is the difference
    between `row` and the row `over`; "off" comes from Table III where a table has none.

    Raises:
        ValueError: the table is unknown.
    """
    table = PRINTED_IN.get(table, table)
    if table not in _tables():
        raise ValueError(f"unknown table {table!r}; known: {', '.join(_tables())}, figure_7")
    if metric.endswith("_gain"):
        metric = metric.removesuffix("_gain")
        return paper_number(table, model, row, dataset, metric) - paper_number(table, model, over, dataset, metric)
    row = SAME_ROW_IN.get((table, row), SAME_ROW.get(row, row))
    if row == "off" and table not in _tables_with_off():
        table = "table_3"
    return _by_place().get((table, model, row, dataset, metric), math.nan)


def beside_paper(
    frame: pd.DataFrame,
    table: str,
    model: str,
    mirrored: str,
    leads: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> pd.DataFrame:
    """A summary of rows with the paper's number for the data set `mirrored` in the column `paper`: of the rows that are
    read as the paper's code reads them, in the reading `released`. leads: as for `summarise`."""
    rows = [leads.get(row, (row, "off")) for row in frame.row]
    numbers = [
        paper_number(table, model, row, mirrored, metric, over)
        for (row, over), metric in zip(rows, frame.metric, strict=True)
    ]
    return frame.assign(paper=np.where(frame.reading == "released", numbers, np.nan))
