"""What evidence leaves open, measured where it is to be settled: on development scenes that nobody has looked at.

The rule is `rows.evidence_choices`'; `reports.choices` applies it.
"""

from __future__ import annotations

from pathlib import Path

from elbo_core.datasets.toy import TOY_SETS
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.run import Segmentation, evaluate_all
from elbo_core.paths import RUNS

MODEL, BATCH, SPLIT = "toy-sd15", "evidence choices", "choice"
SCENES = 40
"""Of each set."""
FEW = 16
"""A profile of fewer pictures only tries the code."""


def works(profile: Profile) -> list[Segmentation]:
    """The rows to choose from: in the embedded world, for all that is measured later. A profile that only tries the
    code looks at development scenes that have been seen already."""
    if "92_evidence" not in profile.notebooks:
        return []
    tries = profile.images is not None and profile.images < FEW
    scenes, split = (profile.images, "dev") if tries else (SCENES, SPLIT)
    return [Segmentation(MODEL, name, BATCH, scenes, split) for name in profile.datasets if name in TOY_SETS]


def evaluate_choices(profile: Profile, root: Path = RUNS) -> dict[str, Evaluation]:
    """Measure what is missing, then read it, by data set; nothing for a profile without sets of the embedded world.

    Raises:
        MeasurementError, StoreError: see `run.evaluate`.
    """
    asked = works(profile)
    names = [work.dataset for work in asked]
    return evaluate_all(MODEL, names, BATCH, asked[0].images, asked[0].split, root) if asked else {}
