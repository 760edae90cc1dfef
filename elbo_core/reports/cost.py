"""What a picture costs, as tables, curves and an estimate for whole data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from elbo_core.experiments.cost import Cost
from elbo_core.experiments.rows import BATCHES, evaluations
from elbo_core.methods.plan import ELBO_TIMESTEPS
from elbo_core.paths import FIGURES

PICTURES = {"VOC": 1449, "Context": 5104, "COCO": 5000, "ADE20K": 2000}
"""Of the paper's four data sets."""
LITTLE = 0.10
"""By so much of a forward pass "little more memory" may exceed it: our reading of the paper's words, set beforehand."""
NAMES = {"sd14": "SD 1.4", "sd15": "SD 1.5", "sd2": "SD 2", "sd21": "SD 2.1", "sdxl": "SDXL", "sd35": "SD 3.5"}


def called(cost: Cost) -> str:
    """A model as people read it."""
    return NAMES.get(cost.model, cost.model)


def ten_classes(costs: Sequence[Cost]) -> list[Cost]:
    """Those of a picture with ten classes: of each model, precision and machine the one with the most timesteps."""
    chosen = sorted((cost for cost in costs if cost.classes == 10), key=lambda cost: cost.timesteps)
    return list({(cost.model, cost.dtype, cost.machine): cost for cost in chosen}.values())


def one_at_a_time(costs: Sequence[Cost]) -> list[Cost]:
    """Those of a picture with ten classes where the network does one pass at a time."""
    return [cost for cost in costs if (cost.classes, cost.batch) == (10, 1)]


def table_of(costs: Sequence[Cost]) -> pd.DataFrame:
    """One line per model, machine and batch, for a picture with ten classes."""
    return pd.DataFrame(
        {
            "model": called(cost),
            "machine": cost.machine,
            "precision": cost.dtype,
            "parameters, M": round(cost.parameters / 1e6),
            "batch": cost.batch,
            "evaluations": cost.evaluations,
            "one pass, ms": 1000 * cost.seconds_pass,
            "picture, s": cost.seconds,
            "in the network, %": 100 * share_in_network(cost),
            "memory, GiB": cost.bytes_peak / 2**30,
            "over one pass, %": 100 * (cost.memory_ratio - 1),
        }
        for cost in [*ten_classes(costs), *one_at_a_time(costs)]
    )


def share_in_network(cost: Cost) -> float:
    """The share of a picture's time that its passes alone would take; at most one."""
    return min(1.0, cost.evaluations * cost.seconds_pass / cost.seconds)


def alone(cost: Cost, batch: str) -> float:
    """Seconds for the rows of a batch on such a picture with one run a row, over those with one run for all."""
    together, apart = evaluations(BATCHES[batch], cost.classes)
    return apart / together


def draw_memory(costs: Sequence[Cost]) -> Figure:
    """Memory of a picture with ten classes beside that of a forward pass at the same batch, by model and batch."""
    full, single = ten_classes(costs), one_at_a_time(costs)
    chosen = [*full, *single]
    figure, axis = plt.subplots(figsize=(7.5, 1.0 + 0.45 * len(chosen)), layout="constrained")
    places, colors = range(len(chosen)), sns.color_palette("colorblind")
    bars = axis.barh(places, [100 * (cost.memory_ratio - 1) for cost in chosen], color=colors[0])
    axis.bar_label(bars, fmt="%.1f", padding=3)
    axis.margins(x=0.1)
    axis.axvline(100 * LITTLE, color=colors[3], linestyle="--", label=f"little more: {LITTLE:.0%}")
    axis.set_yticks(places, [f"{called(cost)}, {cost.dtype}, batch {cost.batch}" for cost in chosen])
    axis.invert_yaxis()
    axis.set_xlabel("memory beyond a forward pass of the same batch, %")
    worst = max(full, key=lambda cost: cost.memory_ratio)
    more = 100 * (worst.memory_ratio - 1)
    axis.set_title(f"In batches of {worst.batch}: at most {more:.0f} % more than one forward pass")
    axis.legend()
    return figure


def draw_curves(costs: Sequence[Cost]) -> Figure:
    """Seconds by number of classes and by number of timesteps, each model relative to its default."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    models = dict.fromkeys((cost.model, cost.dtype, cost.machine) for cost in costs)
    markers = "osD^vP*X"
    for k, place in enumerate(models):
        own = [cost for cost in costs if (cost.model, cost.dtype, cost.machine) == place]
        base = next((cost.seconds for cost in ten_classes(own)), None)
        if base is None or len(own) < 3:
            continue
        style = {"marker": markers[k % len(markers)], "label": f"{called(own[0])}, {own[0].dtype}"}
        for axis, fixed, varied in ((axes[0], "timesteps", "classes"), (axes[1], "classes", "timesteps")):
            line = sorted((getattr(c, varied), c.seconds / base) for c in own if getattr(c, fixed) == _usual(fixed))
            axis.plot(*zip(*line, strict=True), **style)
    axes[0].set(xlabel="candidate classes", ylabel="time, relative", title="Time grows with the classes")
    axes[1].set(xlabel="timesteps of the score", title="... and with the timesteps")
    axes[0].legend(fontsize=8)
    return figure


def _usual(name: str) -> int:
    return {"classes": 10, "timesteps": 20}[name]


def whole_sets(cost: Cost, classes: float = 3.0, counts: Sequence[int] = (1, 8, 64)) -> pd.Series:
    """An estimate: hours for all pictures of the paper's four sets with one model, by number of GPUs or cores; from the
    seconds of a picture with ten classes, scaled to `classes` a picture in the mean and the default timesteps."""
    fixed = cost.evaluations - cost.classes * cost.timesteps
    share = (fixed + classes * len(ELBO_TIMESTEPS)) / cost.evaluations
    seconds = sum(PICTURES.values()) * cost.seconds * share
    unit = "GPU" if cost.device == "cuda" else "core"
    return pd.Series({f"{count} {unit}{'s' if count > 1 else ''}": seconds / 3600 / count for count in counts})


def memory_headroom(costs: Sequence[Cost], model: str) -> float:
    """By how many points of a forward pass's memory a picture with ten classes stays below "little more" (`LITTLE`),
    in the worst of all that was measured of a model at full size; NaN where nothing was."""
    ratios = [cost.memory_ratio for cost in ten_classes(costs) if cost.model == model]
    return 100 * (1 + LITTLE - max(ratios)) if ratios else float("nan")


def write_costs_table(costs: Sequence[Cost], profile: str, figures: Path = FIGURES) -> list[Path]:
    """Write `figures/<profile>/cost.{csv,md,tex}`."""
    folder, table = figures / profile, table_of(costs).round(3)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"cost.{kind}" for kind in ("csv", "md", "tex")]
    table.to_csv(paths[0], index=False, lineterminator="\n")
    paths[1].write_text(table.to_markdown(index=False) + "\n", encoding="utf-8")
    paths[2].write_text(table.to_latex(index=False, escape=True), encoding="utf-8")
    return paths
