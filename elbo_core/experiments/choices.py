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


def works(profile: Profile) -> list[Segmentation]:
    """The rows to choose from: in the embedded world, for all that is measured later. A rehearsal
    looks at development scenes that have been seen already."""
    if "92_evidence" not in profile.notebooks:
        return []
    scenes, split = (profile.images, "dev") if profile.is_rehearsal else (SCENES, SPLIT)
    return [Segmentation(MODEL, name, BATCH, scenes, split) for name in profile.datasets if name in TOY_SETS]


def evaluate_choices(profile: Profile, root: Path = RUNS) -> dict[str, Evaluation]:
    """Measure what is missing, then read it, by data set; nothing for a profile without sets of the embedded world.

    Raises:
        MeasurementError, StoreError: see `run.evaluate`.
    """
    asked = works(profile)
    names = [work.dataset for work in asked]
    return evaluate_all(MODEL, names, BATCH, asked[0].images, asked[0].split, root) if asked else {}
