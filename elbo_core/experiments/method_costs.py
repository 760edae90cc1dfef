"""What each method of Table II costs when it is run alone: network evaluations and seconds a picture.

Seconds are of the machine that measured them, which is named beside them; evaluations are counted (`Plan`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch

from elbo_core.datasets import Dataset
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.experiments.forecast import parameters
from elbo_core.experiments.keys import key_text, short_hash
from elbo_core.experiments.machine import processor
from elbo_core.experiments.pool import measure_here
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.rows import Row, own_protocol, rows_of
from elbo_core.experiments.run import fingerprint, opened
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import loaded
from elbo_core.methods.baselines import BASELINES
from elbo_core.methods.observe import observe
from elbo_core.paths import RUNS
from elbo_core.scene import Scene

COLUMNS = pa.schema(
    [
        ("image", pa.string()),
        ("index", pa.int32()),
        ("content", pa.string()),
        ("method", pa.string()),  # the hash of the row's key
        ("classes", pa.int32()),
        ("evaluations", pa.int32()),  # of the network
        ("seconds", pa.float32()),  # observing and reading
        ("seconds_on", pa.string()),  # the machine
    ]
)
NOTEBOOK = "20_table2_baselines"
"""The one that shows costs."""


def costed() -> list[Row]:
    """The rows whose cost is measured: Algorithm 1 as released, off and on, and the baselines in both protocols."""
    names = {"off", "on", *BASELINES, *map(own_protocol, BASELINES)}
    rows = [*rows_of("baselines"), *rows_of("own protocols")]
    return [row for row in rows if row.name in names and row.reading == "released"]


def definition(row: Row) -> str:
    """A hash of the row's key."""
    return short_hash(key_text({"cost": row.key}))


@dataclass(frozen=True)
class MethodCosts:
    """The cost of each row of `costed` on the first `images` images of a data set: a `Work`."""

    model: str
    dataset: str
    images: int
    split: str = "test"
    batch: str = "method costs"

    def store(self, root: Path = RUNS) -> Store:
        named = {"model": self.model, "weights": fingerprint(self.model), "dataset": self.dataset}
        return Store(named | {"split": self.split, "kind": self.batch}, COLUMNS, root)

    def contents(self) -> Sequence[str]:
        return self.opened.contents

    def methods(self) -> Sequence[str]:
        return [definition(row) for row in costed()]

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        measured = store.measured(self.contents())
        for index in indices:
            lacking = [row for row in costed() if definition(row) not in measured.get(index, ())]
            if lacking:
                store.add(index, self._records(index, lacking))

    def _records(self, index: int, rows: Sequence[Row]) -> list[dict]:
        scene, denoiser = self.opened.read(index), loaded(self.model)
        count = len(scene.classes)
        common = {"image": scene.id, "index": index, "content": self.contents()[index], "classes": count}
        seconds_of(denoiser, scene, rows[0])  # what is loaded or compiled once is no cost of a method
        own = [
            {"method": definition(row), "evaluations": row.plan.evaluations(count) if count else 0,
             "seconds": seconds_of(denoiser, scene, row)} for row in rows
        ]  # fmt: skip
        return [common | {"seconds_on": machine()} | one for one in own]

    @property
    def opened(self) -> Dataset:
        return opened(self.dataset, self.split, self.images)


def seconds_of(denoiser: Denoiser, scene: Scene, row: Row) -> float:
    """How long it takes to observe a scene for a row alone and to read it. A scene without candidates costs nothing, a
    method that is not defined for the model its observation."""
    started = time.perf_counter()
    if scene.classes:
        observation = observe(denoiser, scene, row.plan)
        if not row.method.undefined(observation):
            row.method(observation)
    return time.perf_counter() - started


def machine() -> str:
    """The device that measures."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"one core of {processor()}"


def works(profile: Profile) -> list[MethodCosts]:
    """What the notebook of Table II needs."""
    own = parameters(profile).get(NOTEBOOK)
    return [] if own is None else [MethodCosts(own["model"], name, profile.looked_at) for name in profile.datasets]


def read_costs(model: str, profile: Profile, root: Path = RUNS) -> pd.DataFrame:
    """The mean cost of a picture, over the first pictures of all data sets: one line a row of `costed`, with columns
    row, evaluations, seconds, machine. Measures what is missing.

    Raises:
        MeasurementError, StoreError: see `pool.measure_here`.
    """
    wanted = [MethodCosts(model, name, profile.looked_at) for name in profile.datasets]
    measure_here(wanted, root)
    frame = pd.concat([work.store(root).read(work.methods(), work.contents()).to_pandas() for work in wanted])
    names = {definition(row): row.name for row in costed()}
    means = frame.assign(row=frame.method.map(names)).groupby("row")[["evaluations", "seconds"]].mean()
    machines = ", ".join(sorted(frame.seconds_on.unique()))
    return means.reindex([row.name for row in costed()]).assign(machine=machines).reset_index()
