"""What every data set offers to the run engine: scenes by position, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from elbo_core.scene import Scene


@dataclass(frozen=True)
class Dataset:
    """classes: in label order, label k is classes[k - 1]; content: a hash that changes when the pictures do."""

    name: str
    split: str
    classes: tuple[str, ...]
    count: int
    content: str
    read: Callable[[int], Scene]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Scene]:
        return map(self.read, range(self.count))
