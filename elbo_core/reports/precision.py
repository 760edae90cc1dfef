"""How sure Table III is with so many pictures: the rule that says when they are enough.

    python -m elbo_core.reports.precision toy

The rule, written down before the measurement: pictures are added in eights to each set until the intervals of the gains
of Table III reach `GOAL` points to either side, in the mean over all its cells.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from elbo_core.experiments.forecast import parameters
from elbo_core.experiments.profiles import Profile, get_profile
from elbo_core.experiments.records import read_evaluation
from elbo_core.experiments.rows import rows_of
from elbo_core.experiments.run import Segmentation
from elbo_core.experiments.work import lacking
from elbo_core.reports.summary import compare

GOAL = 1.5
STEP = 8
BATCH = "off and on"


def half_width(gains: pd.DataFrame) -> float:
    """The mean over the cells of a tidy table of how far the intervals of its gains reach to either side, in points."""
    chosen = gains[gains.metric == "miou_gain"]
    return float((chosen.high - chosen.low).mean() / 2)


def half_widths(models: Sequence[str], profile: Profile) -> dict[int, float]:
    """By number of pictures a set, from the first eight on, what they give; as far as all models are measured."""
    rows, found = rows_of(BATCH), {}
    largest = Segmentation(models[0], profile.datasets[0], BATCH, profile.images_of(BATCH)).images or 0
    for images in range(STEP, largest + 1, STEP):
        works = [Segmentation(model, name, BATCH, images) for model in models for name in profile.datasets]
        if any(lacking(work, work.store()) for work in works):
            break
        evaluations: dict = {model: {} for model in models}
        for work in works:
            evaluations[work.model][work.dataset] = read_evaluation(work.store(), rows, work.opened)
        found[images] = half_width(compare(evaluations, ("off", "on"), "table_3", replace(profile, images=images)))
    return found


def main(name: str) -> None:
    profile = get_profile(name)
    found = half_widths(parameters(profile)["30_table3_models"]["models"], profile)
    for images, width in found.items():
        print(f"{images:4d} pictures a set: {width:.2f} points to either side{' <- enough' if width <= GOAL else ''}")


if __name__ == "__main__":
    main(*sys.argv[1:])
