"""Tables as people read them in a notebook: few numbers, in words, and those that are clear of zero stand out."""

from __future__ import annotations

import html
from collections.abc import Sequence

import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

from elbo_core.reports.labels import label

GAIN, LOSS = "#cfe2f3", "#fbe0c4"
"""Blue and orange tints, which stay apart in every kind of colour blindness; the sign says the same."""
TEXT = [
    {"selector": "th, td", "props": "text-align: left; padding: 0.25em 0.8em; font-size: 0.95em; white-space: nowrap"},
    {"selector": "th.wide, td.wide", "props": "white-space: normal"},
    {"selector": "caption", "props": "caption-side: bottom; text-align: left; color: #555; padding: 0.4em 0"},
]
GAINS_CAPTION = "Points; in brackets the 95 % interval. Blue and bold: a gain clear of zero; orange and bold: a loss."


def clear_of_zero(low: float, high: float) -> int:
    """1 if a whole interval lies above zero, -1 if below, else 0."""
    return int(low > 0) - int(high < 0)


def tint(low: float, high: float) -> str:
    """The CSS of a difference's cell: bold and tinted if its interval is clear of zero."""
    color = {1: GAIN, -1: LOSS, 0: ""}[clear_of_zero(low, high)]
    return f"background-color: {color}; color: black; font-weight: bold" if color else ""


def interval_text(line: pd.Series, signed: bool) -> str:
    """ "+1.9 [-0.8, +4.8]"; nothing for a number that is not known."""
    if pd.isna(line.ours):
        return ""
    sign = "+" if signed else ""
    return f"{line.ours:{sign}.1f} [{line.low:{sign}.1f}, {line.high:{sign}.1f}]"


def compact(
    frame: pd.DataFrame,
    metric: str = "miou_gain",
    rows: Sequence[str] = ("on",),
    lines: Sequence[str] = ("model", "reading"),
    columns: str = "dataset",
    caption: str = "",
) -> Styler:
    """Some rows of a tidy table (`summary.COLUMNS`), one column for each of its data sets, or of what `columns` names.

    lines: what tells the lines apart; "row" is added if there are several rows.

    Raises:
        ValueError: the table has no such numbers, or `lines` do not tell them apart.
    """
    chosen = frame[(frame.metric == metric) & frame.row.isin(rows)]
    if chosen.empty:
        raise ValueError(f"no {metric!r} of the rows {list(rows)}; the table has {sorted(set(frame.row))}")
    keys = [*lines, *(["row"] if len(rows) > 1 and "row" not in lines else [])]
    if chosen.duplicated([*keys, columns]).any():
        raise ValueError(f"{keys} and {columns!r} do not tell the numbers apart; name more lines")
    signed = metric.endswith("_gain")
    shown = chosen.assign(
        text=[interval_text(line, signed) for _, line in chosen.iterrows()],
        look=[tint(line.low, line.high) if signed else "" for _, line in chosen.iterrows()],
    )
    text, look = (_spread(shown, keys, columns, values) for values in ("text", "look"))
    return _styled(text, look, caption or (GAINS_CAPTION if signed else ""))


def _spread(shown: pd.DataFrame, keys: list[str], columns: str, values: str) -> pd.DataFrame:
    """One line for each of the keys, one column for each of the columns, in words and in the order in which each key
    first occurs."""
    wide = shown.pivot(index=keys, columns=columns, values=values).fillna("")
    rank = {key: {name: k for k, name in enumerate(shown[key].unique())} for key in keys}
    found = shown[keys].drop_duplicates().itertuples(index=False, name=None)
    order = sorted(found, key=lambda place: [rank[key][name] for key, name in zip(keys, place, strict=True)])
    places = [place if len(keys) > 1 else place[0] for place in order]
    wide = wide.loc[places, list(shown[columns].unique())]
    words = [[label(name) for name in (place if len(keys) > 1 else (place,))] for place in places]
    wide.index = pd.MultiIndex.from_tuples(map(tuple, words)) if len(keys) > 1 else pd.Index([w[0] for w in words])
    wide.columns = [label(name) for name in wide.columns]
    return wide


def _styled(text: pd.DataFrame, look: pd.DataFrame, caption: str = "") -> Styler:
    return text.style.apply(lambda _: look, axis=None).set_table_styles(TEXT).set_caption(caption)


def plain(frame: pd.DataFrame, digits: int = 1, caption: str = "") -> Styler:
    """Any small table: counts as whole numbers, other numbers with so many digits, nothing where there is none, text
    left-aligned and whole."""
    return frame.map(lambda cell: _cell(cell, digits)).style.set_table_styles(TEXT).set_caption(caption)


def _cell(cell: object, digits: int) -> str:
    if cell is None or (isinstance(cell, float) and pd.isna(cell)):
        return ""
    if isinstance(cell, float):
        return f"{cell:.{digits}f}"
    return str(cell)


def collapsed(table: pd.DataFrame | Styler, summary: str) -> HTML:
    """A table that is folded under its summary until it is asked for."""
    styled = table if isinstance(table, Styler) else plain(table)
    styled.cell_ids = False  # no cell has a style of its own, and a name for each is half of the page
    return HTML(f"<details><summary>{html.escape(summary)}</summary>{styled.to_html()}</details>")


def answer(text: str) -> HTML:
    """A sentence with numbers in it, printed by the cell that has computed them, in the type of prose."""
    return HTML(f'<p class="answer"><strong>In numbers.</strong> {text}</p>')


def tally(frame: pd.DataFrame, row: str = "on", reading: str | None = None, metric: str = "miou_gain") -> str:
    """ "17 of 24 gain, 6 clear of zero; 7 lose, 1 clear of zero", over models and data sets."""
    chosen = frame[(frame.metric == metric) & (frame.row == row)]
    chosen = chosen if reading is None else chosen[chosen.reading == reading]
    clear = [clear_of_zero(line.low, line.high) for line in chosen.itertuples()]
    gains, losses = int((chosen.ours > 0).sum()), int((chosen.ours < 0).sum())
    return (
        f"{gains} of {len(chosen)} gain, {clear.count(1)} of them clear of zero; "
        f"{losses} lose, {clear.count(-1)} clear of zero"
    )


def span(frame: pd.DataFrame, row: str = "on", reading: str | None = None, metric: str = "miou_gain") -> str:
    """ "-1.5 to +5.5 points", the smallest and the largest of a row's numbers."""
    chosen = frame[(frame.metric == metric) & (frame.row == row)]
    chosen = chosen if reading is None else chosen[chosen.reading == reading]
    sign = "+" if metric.endswith("_gain") else ""
    return f"{chosen.ours.min():{sign}.1f} to {chosen.ours.max():{sign}.1f} points"
