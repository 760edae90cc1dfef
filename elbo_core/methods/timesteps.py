"""Which timesteps to ask: ranges of the schedule, as the paper's tables name them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from elbo_core.checks import check_whole

STRATEGIES = {"even": (0.0, 1.0), "small": (0.0, 0.2), "middle": (0.4, 0.6), "large": (0.7, 0.9)}


@dataclass(frozen=True)
class Timesteps:
    """Which timesteps to ask (Tables VI, VII and IX): `count` of them, evenly inside the range of a strategy.

    "even" covers [0, 1], "small" [0, 0.2], "middle" [0.4, 0.6], "large" [0.7, 0.9]; "random" draws all from [0, 1]
    once, by `seed`, as the released code does at its start.

    Raises:
        TypeError, ValueError: the strategy is unknown, or the count is not a whole number from one on.
    """

    strategy: str = "even"
    count: int = 20
    seed: int = 4307

    def __post_init__(self) -> None:
        if self.strategy not in (*STRATEGIES, "random"):
            raise ValueError(f"unknown strategy {self.strategy!r}; known: {', '.join(STRATEGIES)}, random")
        check_whole(self.count, "the number of timesteps")

    def of(self, total: int = 1000) -> tuple[int, ...]:
        """Distinct integer timesteps below `total`, in rising order.

        Raises:
            ValueError: the range holds fewer than `count` timesteps.
        """
        if self.strategy == "random":
            chosen = set(random.Random(self.seed).sample(range(1, total), min(self.count, total - 1)))
        else:
            low, high = STRATEGIES[self.strategy]
            width = (high - low) / self.count
            chosen = {int(round(total * (low + (index + 0.5) * width), 6)) for index in range(self.count)}
        if len(chosen) < self.count:
            raise ValueError(f"{self.strategy!r} holds only {len(chosen)} of {total} timesteps, asked for {self.count}")
        return tuple(sorted(chosen))
