"""The losses of one picture under other noise and at other timesteps, kept in a store: how sure is one reading?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from elbo_core.datasets import Dataset
from elbo_core.experiments.forecast import parameters
from elbo_core.experiments.keys import key_text, short_hash
from elbo_core.experiments.pool import measure_here
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.run import batched, fingerprint, opened
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import loaded
from elbo_core.methods.observe import observe
from elbo_core.methods.plan import ELBO_TIMESTEPS, SEED, Plan
from elbo_core.paths import RUNS

COLUMNS = pa.schema(
    [
        ("image", pa.string()),
        ("index", pa.int32()),
        ("content", pa.string()),
        ("method", pa.string()),  # the hash of the plan's key
        ("class", pa.string()),
        ("place", pa.int32()),  # of the class among the candidates
        ("losses", pa.list_(pa.float32())),  # epsilon-MSE at each of the plan's timesteps
        ("seconds", pa.float32()),  # for all classes together
    ]
)
BETWEEN = tuple(range(25, 1000, 50))
"""The timesteps half-way between those of the released code, with the noise of its seed."""
NOTEBOOKS = ("15_table_estimators", "70_table7_strategies")
"""Those that look at redraws."""


def plans(seeds: int) -> list[Plan]:
    """What is asked: the default losses, those under `seeds` other draws of noise, and those in between."""
    times = dict.fromkeys([SEED, *range(seeds)])
    redrawn = [Plan.of(ELBO_TIMESTEPS, (), seed=seed) for seed in times]
    return [*redrawn, Plan.of(BETWEEN, ())]


def definition(plan: Plan) -> str:
    """A hash of the plan's key."""
    return short_hash(key_text({"redraw": plan}))


@dataclass(frozen=True)
class Redraws:
    """The losses of all classes in the first `images` images of a data set under the plans of `plans(seeds)`: a
    `Work`."""

    model: str
    dataset: str
    images: int
    seeds: int
    split: str = "dev"
    batch: str = "redraws"

    def store(self, root: Path = RUNS) -> Store:
        named = {"model": self.model, "weights": fingerprint(self.model), "dataset": self.dataset}
        return Store(named | {"split": self.split, "kind": self.batch}, COLUMNS, root)

    def contents(self) -> Sequence[str]:
        return self.opened.contents

    def methods(self) -> Sequence[str]:
        return [definition(plan) for plan in plans(self.seeds)]

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        measured = store.measured(self.contents(), list(indices))
        for index in indices:
            lacking = [plan for plan in plans(self.seeds) if definition(plan) not in measured.get(index, ())]
            if lacking:
                store.add(index, self._records(index, lacking))

    def _records(self, index: int, asked: Sequence[Plan]) -> list[dict]:
        scene, denoiser = self.opened.read(index), loaded(self.model)
        common = {"image": scene.id, "index": index, "content": self.contents()[index]}
        records = []
        for plan in asked:
            started = time.perf_counter()
            losses = observe(denoiser, scene, batched(plan, denoiser)).losses.values.tolist()
            common |= {"method": definition(plan), "seconds": time.perf_counter() - started}
            classes = enumerate(zip(scene.classes, losses, strict=True))
            records += [common | {"place": k, "class": name, "losses": own} for k, (name, own) in classes]
        return records

    @property
    def opened(self) -> Dataset:
        return opened(self.dataset, self.split, self.images)


def works(profile: Profile) -> list[Redraws]:
    """What the notebooks that look at redraws need."""
    wanted = parameters(profile)
    asked = [(own["model"], own.get("noise_seeds", 0)) for own in (wanted.get(name, {}) for name in NOTEBOOKS) if own]
    seeds = {model: max(count for name, count in asked if name == model) for model, _ in asked}
    return [redraws(model, name, profile, count) for model, count in seeds.items() for name in profile.datasets]


def redraws(model: str, dataset: str, profile: Profile, seeds: int) -> Redraws:
    """The work of one model and data set."""
    return Redraws(model, dataset, profile.redrawn, seeds, profile.split)


@dataclass(frozen=True)
class Redrawn:
    """The losses of a picture's N classes: as always, [N, T]; under S other draws of noise, [S, N, T]; at the timesteps
    `BETWEEN`, [N, T']."""

    dataset: str
    image: str
    classes: tuple[str, ...]
    usual: Tensor
    redrawn: Tensor
    between: Tensor


def read_redraws(model: str, profile: Profile, seeds: int, root: Path = RUNS) -> list[Redrawn]:
    """Those of every picture with two classes or more of the profile's data sets; measures what is missing.

    Raises:
        MeasurementError, StoreError: see `pool.measure_here`.
    """
    wanted = [redraws(model, name, profile, seeds) for name in profile.datasets]
    measure_here(wanted, root)
    found = []
    for work in wanted:
        frame = work.store(root).read(work.methods(), work.contents()).to_pandas()
        found += [_redrawn(lines, work) for _, lines in frame.groupby("index")]
    return [picture for picture in found if len(picture.classes) > 1]


def _redrawn(lines: pd.DataFrame, work: Redraws) -> Redrawn:
    """One picture, from its records."""
    lines = lines.drop_duplicates(["method", "place"]).sort_values("place")
    losses = {method: torch.tensor(own.losses.tolist()) for method, own in lines.groupby("method")}
    usual, between = Plan.of(ELBO_TIMESTEPS, ()), Plan.of(BETWEEN, ())
    draws = [losses[definition(Plan.of(ELBO_TIMESTEPS, (), seed=seed))] for seed in range(work.seeds)]
    classes = tuple(lines.drop_duplicates("place")["class"])
    stacked = torch.stack(draws) if draws else torch.empty(0, *losses[definition(usual)].shape)
    return Redrawn(
        work.dataset, lines.image.iloc[0], classes, losses[definition(usual)], stacked, losses[definition(between)]
    )
