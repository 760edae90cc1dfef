"""Tables: tidy CSV first, Markdown and LaTeX from it, the paper's number always beside ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml

from elbo_core.paths import DATA, FIGURES

COLUMNS = ["model", "dataset", "row", "metric", "paper", "ours", "low", "high", "n_images"]
DATASET_ORDER = ("voc", "context", "coco", "ade20k")
COLUMNS_OF_TABLE_4 = ("miou", "precision", "f1")


@functools.cache
def reported() -> dict:
    """Every number of the paper, as in `data/paper/reported.yaml`."""
    return yaml.safe_load((DATA / "paper" / "reported.yaml").read_text())


NAMES: dict[str, Callable[[object], str]] = {
    "table_3": str,
    "table_4": lambda score: {"off": "off", "elbo": "on", "elbo_attributes": "phrases"}[score],
    "table_6": lambda steps: "on" if steps == 20 else f"{steps} timesteps",
    "table_7": lambda strategy: f"10 {strategy}",
    "table_8": lambda score: "on" if score == "elbo" else f"constant {score}",
    "table_9": lambda line: f"attention {line['steps']} {line['strategy']}",
    "figure_7": lambda calibration: {"off": "gamma 1/1", "on": "gamma 1/3"}[calibration],
}
"""How our rows (`rows.py`) are named after the keys of the paper's tables."""


@functools.cache
def paper_rows(table: str, model: str) -> dict[str, list[float]]:
    """The paper's rows by our names of them: mIoU in percent on its four sets, and in Table IV the three metrics on
    AEP. "off" comes from Table III where a table has none.

    Raises:
        ValueError: the table is unknown.
    """
    if table not in NAMES:
        raise ValueError(f"unknown table {table!r}; known: {', '.join(NAMES)}")
    numbers = reported()["table_3" if table == "figure_7" else table]  # of Figure 7 no other numbers are printed
    numbers = numbers if table == "table_7" else numbers.get(model, {})  # Table VII is of SD1.5 alone
    if isinstance(numbers, list):
        found = {NAMES[table](line): line["miou"] for line in numbers}
    else:
        found = {NAMES[table](key): values for key, values in numbers.items()}
    off = reported()["table_3"].get(model, {}).get("off")
    return ({"off": off} if off else {}) | found


def paper_number(table: str, model: str, row: str, dataset: str, metric: str = "miou") -> float:
    """The paper's number in percent, or NaN where it has none. A metric with "_gain" behind it is the difference
    between `row` and "off"."""
    if metric.endswith("_gain"):
        metric = metric.removesuffix("_gain")
        return paper_number(table, model, row, dataset, metric) - paper_number(table, model, "off", dataset, metric)
    places = {("aep", name): k for k, name in enumerate(COLUMNS_OF_TABLE_4)}
    if table != "table_4":
        places = {(name, "miou"): k for k, name in enumerate(DATASET_ORDER)}
    rows, place = paper_rows(table, model), places.get((dataset, metric))
    return rows[row][place] if row in rows and place is not None else float("nan")


def beside_paper(frame: pd.DataFrame, table: str, model: str, mirrored: str) -> pd.DataFrame:
    """A summary of rows with the paper's number for the data set `mirrored` in the column `paper`."""
    lines = zip(frame.row, frame.metric, strict=True)
    return frame.assign(paper=[paper_number(table, model, row, mirrored, metric) for row, metric in lines])


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns in the common order, numbers rounded to 0.01.

    Raises:
        ValueError: a column is missing.
    """
    missing = set(COLUMNS) - set(frame.columns)
    if missing:
        raise ValueError(f"a tidy table needs the columns {sorted(missing)} too")
    return frame[COLUMNS].round({"paper": 2, "ours": 2, "low": 2, "high": 2}).reset_index(drop=True)


def pivot(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One line per model and row, one column per data set: "ours [low, high] (paper)"."""
    chosen = frame[frame.metric == metric]
    cells = chosen.assign(cell=chosen.apply(_cell, axis=1))
    table = cells.pivot(index=["model", "row"], columns="dataset", values="cell")
    order = chosen[["model", "row"]].drop_duplicates().itertuples(index=False, name=None)
    return table.reindex(index=pd.MultiIndex.from_tuples(order, names=["model", "row"]))[list(chosen.dataset.unique())]


def _cell(line: pd.Series) -> str:
    signed = "+" if line.metric.endswith("gain") else ""
    ours = f"{line.ours:{signed}.1f} [{line.low:{signed}.1f}, {line.high:{signed}.1f}]"
    return ours if pd.isna(line.paper) else f"{ours} ({line.paper:{signed}.1f})"


def write_table(frame: pd.DataFrame, name: str, profile: str, caption: str, figures: Path = FIGURES) -> list[Path]:
    """Write `figures/<profile>/<name>.{csv,md,tex}`; equal numbers give equal bytes."""
    folder = figures / profile
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("csv", "md", "tex")]
    frame = tidy(frame)
    metrics = frame.metric.unique()
    frame.to_csv(paths[0], index=False, float_format="%.2f", lineterminator="\n")
    parts = [f"**{metric}**\n\n{pivot(frame, metric).reset_index().to_markdown(index=False)}" for metric in metrics]
    paths[1].write_text(f"{caption}\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")
    blocks = [f"% {metric}\n{_latex(pivot(frame, metric))}" for metric in metrics]
    paths[2].write_text(f"% {caption}\n" + "\n".join(blocks), encoding="utf-8")
    return paths


def _latex(table: pd.DataFrame) -> str:
    """A booktabs table with `_`, `%` and `&` escaped."""
    lines = table.reset_index()
    text = lines.map(_escape).rename(columns=_escape)
    return text.to_latex(index=False, escape=False, column_format="l" * text.shape[1])


def _escape(text: object) -> str:
    return str(text).replace("\\", r"\textbackslash ").replace("&", r"\&").replace("%", r"\%").replace("_", r"\_")
