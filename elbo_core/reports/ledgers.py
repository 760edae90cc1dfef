"""The ledger of claims, drawn and set as people read it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

from elbo_core.plots import PALETTE, describe
from elbo_core.reports.labels import label
from elbo_core.reports.styles import GAIN, LOSS, TEXT

LOOKS = {"holds": (0, "o"), "does not hold": (1, "X"), "undecided": (7, "s")}
"""Of a verdict: its colour in the palette, and its marker."""
TINTS = {"holds": GAIN, "does not hold": LOSS}


def draw_ledger(ledger: pd.DataFrame) -> Figure:
    """The interval of every claim that was tested, a column for each reading, and the paper's number."""
    tested = ledger[ledger.verdict != "not tested"]
    claims, readings = list(tested.id.unique()), list(tested.reading.unique())
    figure, axes = plt.subplots(
        1, max(1, len(readings)), figsize=(10.5, 0.34 * len(claims) + 1.8), sharey=True, sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, reading in zip(axes[0], readings, strict=False):
        _draw_intervals(axis, tested[tested.reading == reading].set_index("id"), claims)
        axis.set_title(f"read {label(reading)}" if reading == "released" else f"{label(reading)} only")
    axes[0, 0].set_yticks(range(len(claims)), [name.replace("-", " ") for name in claims])
    axes[0, 0].set_ylim(len(claims) - 0.5, -0.5)
    title = _summary(tested)
    figure.suptitle(title)
    colors = sns.color_palette(PALETTE)
    handles = [Line2D([], [], color=colors[k], marker=mark, label=name) for name, (k, mark) in LOOKS.items()]
    handles.append(Line2D([], [], color="black", marker="D", markerfacecolor="none", linestyle="", label="the paper"))
    figure.legend(
        handles=handles, title="points (line: 95 % interval)", loc="outside lower center", ncol=4, frameon=False
    )
    return describe(figure, f"{title}. The interval of each claim's number, by reading.")


def _summary(tested: pd.DataFrame) -> str:
    counts = tested.verdict.value_counts()
    return f"Of {len(tested)} tests " + ", ".join(f"{counts.get(name, 0)} {_many(name)}" for name in LOOKS)


def _many(verdict: str) -> str:
    return {"holds": "hold", "does not hold": "do not hold", "undecided": "are undecided"}[verdict]


def _draw_intervals(axis: Axes, lines: pd.DataFrame, claims: list[str]) -> None:
    axis.axvline(0, color="0.4", linewidth=1)
    colors = sns.color_palette(PALETTE)
    for name, line in lines.iterrows():
        color, mark = LOOKS[line.verdict]
        spread = [[line.ours - line.low], [line.high - line.ours]]
        axis.errorbar([line.ours], [claims.index(name)], xerr=spread, fmt=mark, color=colors[color], capsize=2)
        axis.plot(line.paper, claims.index(name), marker="D", markerfacecolor="none", color="black", markersize=8)


def ledger_table(ledger: pd.DataFrame) -> Styler:
    """A line per claim: what is claimed, the paper's number, ours with its interval, the verdict."""
    text = pd.DataFrame(
        {
            "claim": ledger.claim,
            "paper": [f"{number:+.1f}" if number == number else "" for number in ledger.paper],
            "ours": [_interval(line) for line in ledger.itertuples()],
            "verdict": ledger.verdict,
        }
    ).set_axis(list(ledger.id))
    wrapped = [*TEXT, {"selector": "td.col0", "props": "white-space: normal; min-width: 16em; max-width: 34em"}]
    return text.style.map(_tint, subset=["verdict"]).set_table_styles(wrapped)


def _interval(line) -> str:
    return "" if line.ours != line.ours else f"{line.ours:+.2f} [{line.low:+.2f}, {line.high:+.2f}]"


def _tint(verdict: str) -> str:
    color = TINTS.get(verdict)
    return f"background-color: {color}; color: black; font-weight: bold" if color else ""
