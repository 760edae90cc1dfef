"""A work without a model, in a module of its own so that other processes can import it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from elbo_core.experiments.store import Store
from elbo_core.paths import RUNS

COLUMNS = pa.schema(
    [("index", pa.int32()), ("content", pa.string()), ("method", pa.string()), ("value", pa.float64()),
     ("process", pa.int64())]
)  # fmt: skip


@dataclass(frozen=True)
class Squares:
    """The squares and cubes of the first `count` numbers. fails: raises there; dies: the process ends there; slow:
    seconds an item; shift: what another machine adds; shipped: a folder that a root with
    "clone" in its name reads, too."""

    count: int
    model: str = "m1"
    fails: tuple[int, ...] = ()
    dies: tuple[int, ...] = ()
    slow: float = 0.0
    weights: str = "w"
    shift: float = 0.0
    shipped: str = ""
    dataset: str = "numbers"
    batch: str = "squares"

    def store(self, root: Path = RUNS) -> Store:
        key = {"model": self.model, "weights": self.weights, "dataset": self.dataset}
        return Store(key, COLUMNS, root, Path(self.shipped) if "clone" in root.name else None)

    def contents(self) -> Sequence[str]:
        return [f"number {index}" for index in range(self.count)]

    def methods(self) -> Sequence[str]:
        return ["square", "cube"]

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        measured = store.measured(self.contents(), list(indices))
        for index in indices:
            time.sleep(self.slow)
            if index in self.fails:
                raise ValueError(f"no square of {index}")
            if index in self.dies:
                os._exit(3)
            missing = [name for name in self.methods() if name not in measured.get(index, ())]
            store.add(index, [self.record(index, name) for name in missing])

    def record(self, index: int, method: str) -> dict:
        value = index ** (2 if method == "square" else 3) + self.shift
        common = {"index": index, "content": self.contents()[index], "process": os.getpid()}
        return common | {"method": method, "value": float(value)}
