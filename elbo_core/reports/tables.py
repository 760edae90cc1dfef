"""The tables that are made of rows: each one spec, and the one call that measures, compares, writes and draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from elbo_core.experiments.pool import measure_here
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.recheck import footer
from elbo_core.experiments.records import Evaluation, read_evaluation
from elbo_core.experiments.rows import calibrated, own_protocol, own_protocols, rows_of
from elbo_core.experiments.run import Segmentation
from elbo_core.methods.baselines import BASELINES
from elbo_core.paths import FIGURES
from elbo_core.plots import save_figure
from elbo_core.reports.baselines import draw_by_model, draw_leads, draw_plug_in, draw_protocols
from elbo_core.reports.evidence_figures import draw_levels
from elbo_core.reports.figures import draw_gains, draw_gains_by_metric, draw_gains_by_model, draw_strengths
from elbo_core.reports.labels import label
from elbo_core.reports.summary import Lead, compare, tidy

Draw = Callable[[pd.DataFrame, Sequence[str]], Figure]


@dataclass(frozen=True)
class Table:
    """A table of the paper in our rows.

    key: names its files, and the paper's numbers (`data/paper/reported.csv`). title: opens its caption.
    rows: the names of the rows that it shows, in every reading. batches: what is measured together for it
        (`rows.BATCHES`). best_of: see `summarise`.
    leads: see `summarise`.
    metrics: which it shows. attributes: on the set of Table IV instead of the four others.
    figure: draws it; drawn: the rows that the figure shows. file: the name of its files, `key` by default.
    beside: the table of the paper whose numbers stand beside, by default that of `key`.
    """

    key: str
    title: str
    rows: tuple[str, ...]
    batches: tuple[str, ...]
    drawn: tuple[str, ...]
    figure: Draw = draw_gains
    metrics: tuple[str, ...] = ("miou",)
    best_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    leads: Mapping[str, Lead] = field(default_factory=dict)
    attributes: bool = False
    file: str = ""
    beside: str = ""

    @property
    def printed_in(self) -> str:
        """The table of the paper whose numbers stand beside ours: `beside`, or `key` less what follows a colon."""
        return self.beside or self.key.partition(":")[0]

    @property
    def name(self) -> str:
        return self.file or self.key

    def datasets(self, profile: Profile) -> Sequence[str]:
        return (profile.attributes,) if self.attributes else profile.datasets


CONSTANTS = tuple(f"constant 1/{k}" for k in range(2, 9))
STRENGTHS = tuple(f"gamma 1/{k}" for k in range(1, 9))
PLACES = tuple(f"attention {place}" for place in ("1 small", "10 small", "10 middle", "10 large", "10 random"))
BESIDE_EVIDENCE = ("off", "on", "on, score of leaving out", "evidence", "evidence x attention", "class against empty",
                   "Kong et al.")  # fmt: skip
RANGES = tuple(f"10 {name}" for name in ("small", "middle", "large", "random", "even"))
NAMES = tuple(BASELINES)
AGAINST = {f"{name} against ELBO-T2IAlign": (name, "on") for name in NAMES}
BY_CALIBRATION = {f"{name} by calibration": (calibrated(name), name) for name in NAMES}
BY_PROTOCOL = {
    f"{name} by its own protocol": (own_protocol(name), name)
    for name in NAMES
    if own_protocol(name) in {row.name for row in own_protocols()}
}
TABLE_2 = (
    Table("table_2", "Table II: mIoU (%)", ("off", "on", *NAMES), ("baselines",), tuple(AGAINST), draw_leads,
          leads=AGAINST),
    Table("table_2:models", "Table II for every model: mIoU (%)", ("off", "on", *NAMES), ("baselines",),
          ("off", "on", *NAMES), draw_by_model, file="table_2_models", leads=AGAINST),
    Table("table_2:plug-in", "The score plugged into each method: mIoU (%)",
          ("off", "on", *NAMES, *map(calibrated, NAMES)), ("baselines",), ("on", *BY_CALIBRATION), draw_plug_in,
          file="table_2_plug_in", leads=BY_CALIBRATION),
    Table("table_2:protocols", "Each method under its own protocol: mIoU (%)",
          ("off", *NAMES, *(row.name for row in own_protocols())), ("baselines", "own protocols"), tuple(BY_PROTOCOL),
          draw_protocols, file="table_2_protocols", leads=BY_PROTOCOL),
    Table("table_2:sam", "DiffPNG with the masks of SAM: mIoU (%)", ("off", "DiffPNG", "DiffPNG, SAM"),
          ("baselines", "baselines with SAM"), ("DiffPNG by SAM",), draw_protocols, file="table_2_sam",
          leads={"DiffPNG by SAM": ("DiffPNG, SAM", "DiffPNG")}),
)  # fmt: skip
TABLES: dict[str, Table] = {
    table.key: table
    for table in (
        Table("table_3", "Table III: mIoU (%)", ("off", "on"), ("off and on",), ("on",), draw_gains_by_model),
        Table("table_4", "Table IV: mIoU, precision and F1 (%)", ("off", "on", "phrases"), ("models", "phrases"),
              ("on", "phrases"), draw_gains_by_metric, ("miou", "precision", "f1"), attributes=True),
        Table("table_6", "Table VI (on: 20 timesteps): mIoU (%)", ("off", "1 timesteps", "5 timesteps", "on"),
              ("models",), ("1 timesteps", "5 timesteps", "on")),
        Table("table_7", "Table VII: mIoU (%)", ("off", *RANGES), ("ablations",), RANGES),
        Table("figure_7", "Figure 7: mIoU (%)", ("off", *STRENGTHS), ("ablations",), STRENGTHS, draw_strengths,
              file="table_figure_7"),
        Table("table_8", "Table VIII: mIoU (%)", ("off", "on", *CONSTANTS), ("models",),
              ("on over best constant",), draw_gains_by_model, best_of={"best constant": ("off", *CONSTANTS)},
              leads={"on over best constant": ("on", "best constant")}),
        *TABLE_2,
        Table("table_9", "Table IX: mIoU (%)", ("off", *PLACES), ("attention",), PLACES),
        Table("evidence", "Evidence beside Algorithm 1: mIoU (%)", BESIDE_EVIDENCE, ("evidence",),
              ("on", "evidence", "evidence x attention"), draw_levels, file="table_evidence", beside="table_3"),
    )
}  # fmt: skip
"""By key, which names a table of the paper and, after a colon, what of it. Table V and those of our own (estimators,
text and code) are made in their notebooks."""


@dataclass(frozen=True)
class Regenerated:
    """A table that has been made anew.

    evaluations: by model and data set. frame: tidy. figure: as drawn. paths: the files written.
    """

    table: Table
    evaluations: Mapping[str, Mapping[str, Evaluation]]
    frame: pd.DataFrame
    figure: Figure
    paths: Sequence[Path]

    def shown(self, metric: str = "miou", rows: Sequence[str] | None = None) -> pd.DataFrame:
        """A metric of some rows, all by default, as people read it (`pivot`)."""
        chosen = self.frame if rows is None else self.frame[self.frame.row.isin(rows)]
        return pivot(chosen, metric)

    def everything(self) -> pd.DataFrame:
        """All rows and metrics as people read them, a line each."""
        blocks = {label(metric): self.shown(metric) for metric in self.frame.metric.unique()}
        whole = pd.concat(blocks, names=["number"]).reset_index()
        return whole.assign(row=whole.row.map(label), reading=whole.reading.map(label)).set_index("number")


def regenerate(key: str, models: Sequence[str], profile: Profile) -> Regenerated:
    """Measure what the run store lacks of a table, compare, write its files and draw its figure.

    Raises:
        ValueError: the table is unknown.
        MeasurementError, StoreError: see `evaluate_batches`.
    """
    if key not in TABLES:
        raise ValueError(f"unknown table {key!r}; known: {', '.join(TABLES)}")
    table = TABLES[key]
    evaluations = {model: evaluate_batches(model, table.datasets(profile), table.batches, profile) for model in models}
    frames = [
        compare(evaluations, table.rows, table.printed_in, profile, metric, table.best_of, table.leads)
        for metric in table.metrics
    ]
    frame = pd.concat(frames, ignore_index=True)
    title, notes = caption(table.title, profile, table.batches), undefined(evaluations, table.rows)
    paths = write_table(frame, table.name, profile.name, title, notes=notes)
    figure = table.figure(frame, table.drawn)
    name = key if key.startswith("figure") else f"figure_{table.name}"
    paths += save_figure(figure, FIGURES / profile.name / name)
    plt.close(figure)  # or a notebook would show it here and where it is asked for
    return Regenerated(table, evaluations, frame, figure, paths)


def evaluate_batches(
    model: str, datasets: Sequence[str], batches: Sequence[str], profile: Profile
) -> dict[str, Evaluation]:
    """The rows of several batches on each data set, as one evaluation of the images that all of them have.

    Raises:
        MeasurementError, StoreError: see `pool.measure_here`.
        ValueError: two of their rows have the same name and reading and are not the same.
    """
    distinct = {row.id: row.definition for batch in batches for row in rows_of(batch)}
    clashes = {row.id for batch in batches for row in rows_of(batch) if distinct[row.id] != row.definition}
    if clashes:
        raise ValueError(f"batches {list(batches)} mean different rows by {sorted(clashes)}")
    works = [Segmentation(model, name, batch, profile.images_of(batch)) for batch in batches for name in datasets]
    measure_here(works)
    rows = list({row.id: row for batch in batches for row in rows_of(batch)}.values())
    fewest = min(works, key=lambda work: len(work.contents()))
    shown = {name: replace(fewest, dataset=name) for name in datasets}
    return {name: read_evaluation(work.store(), rows, work.opened) for name, work in shown.items()}


def undefined(evaluations: Mapping[str, Mapping[str, Evaluation]], rows: Sequence[str]) -> list[str]:
    """Which of some rows have no line in a table, and why: one sentence per model and row."""
    reasons = {
        (model, row): reason
        for model, sets in evaluations.items()
        for evaluation in sets.values()
        for (_, row), reason in evaluation.undefined.items()
        if row in rows
    }
    return [f"{row} is not defined for {model}: {reason}." for (model, row), reason in reasons.items()]


def caption(title: str, profile: Profile, batches: Sequence[str] = ()) -> str:
    """What stands above a table of the rows of some batches."""
    return f"{title}, {profile.extent_of(*batches)} [95 % interval] (the paper)"


def pivot(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One line per model, reading and row, one column per data set: "ours [low, high] (paper)"."""
    chosen = frame[frame.metric == metric]
    lines = ["model", "reading", "row"]
    cells = chosen.assign(cell=chosen.apply(_cell, axis=1))
    table = cells.pivot(index=lines, columns="dataset", values="cell")
    order = chosen[lines].drop_duplicates().itertuples(index=False, name=None)
    return table.reindex(index=pd.MultiIndex.from_tuples(order, names=lines))[list(chosen.dataset.unique())]


def _cell(line: pd.Series) -> str:
    signed = "+" if line.metric.endswith("gain") else ""
    ours = f"{line.ours:{signed}.1f} [{line.low:{signed}.1f}, {line.high:{signed}.1f}]"
    return ours if pd.isna(line.paper) else f"{ours} ({line.paper:{signed}.1f})"


def write_table(
    frame: pd.DataFrame, name: str, profile: str, caption: str, figures: Path = FIGURES, notes: Sequence[str] = ()
) -> list[Path]:
    """Write `figures/<profile>/<name>.{csv,md,tex}`; equal numbers give equal bytes. notes: stand below."""
    folder = figures / profile
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("csv", "md", "tex")]
    frame = tidy(frame)
    blocks = {metric: pivot(frame, metric).reset_index() for metric in frame.metric.unique()}
    frame.to_csv(paths[0], index=False, float_format="%.2f", lineterminator="\n")
    markdown = [f"**{metric}**\n\n{block.to_markdown(index=False)}" for metric, block in blocks.items()]
    remarks = [*notes, *filter(None, [footer(profile)])]
    paths[1].write_text(f"{caption}\n\n" + "\n\n".join([*markdown, *remarks]) + "\n", encoding="utf-8")
    latex = [f"% {metric}\n{block.to_latex(index=False, escape=True)}" for metric, block in blocks.items()]
    latex += [f"% {remark}\n" for remark in remarks]
    paths[2].write_text(f"% {caption}\n" + "\n".join(latex), encoding="utf-8")
    return paths
