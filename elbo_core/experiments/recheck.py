"""Is what was shipped right? Some items, drawn at random, are measured again and compared.

Each model and each batch of methods is drawn at least once. Processors round in different ways, so a pixel here and
there falls into the next bin: what differs by more than `TOLERANCE` is reported, with the item and what to do.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from elbo_core.errors import MeasurementError
from elbo_core.experiments.pool import cores, measure_all, raise_first
from elbo_core.experiments.shipped import HOME, distinct, naming, shipped_alone
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import Work, lacking, title
from elbo_core.paths import ROOT, RUNS, replace_file

TOLERANCE = 0.03
"""The share of an item's pixels, or of the range of another number, that another processor may move."""
ITEMS = 40
SECONDS = 150.0
"""How long a check may take: a slow machine checks fewer items."""
UNCOMPARED = ("image", "index", "content", "method", "process", "psnr", "psnr_picture")
"""Columns that name a record, and those where the last bit of a perfect copy makes many decibels."""


StoreOf = Callable[[Work], Store]


@dataclass(frozen=True)
class Difference:
    """How far an item's second measurement is from the first: `moved` of `total` pixels, or a share of a range."""

    work: str
    index: int
    method: str
    share: float
    moved: int = 0
    total: int = 0

    def __str__(self) -> str:
        amount = f"{self.moved} of {self.total:,} pixels" if self.total else f"{self.share:.2%} of the range"
        return f"{amount} ({self.work}, item {self.index})"


@dataclass(frozen=True)
class Verdict:
    """What a check has found: of `total` items, so many were `remeasured`, drawn by `seed`."""

    seed: int
    remeasured: int
    total: int
    largest: Difference | None
    wrong: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        largest = f"largest difference {self.largest}" if self.largest else "nothing to compare"
        return f"re-measured {self.remeasured} of {self.total:,} items (seed {self.seed}): {largest}"

    def raise_if_wrong(self) -> None:
        """
        Raises:
            MeasurementError: something differs by more than rounding does; the message names the item and the method.
        """
        if self.wrong:
            worst = max(self.wrong, key=lambda difference: difference.share)
            raise MeasurementError(
                f"what is shipped is not what this machine measures: {len(self.wrong)} of those that were made again "
                f"differ by more than {TOLERANCE:.0%}; the worst: {worst}, method {worst.method}. If code or "
                "data was changed, ship anew (docs/reproduce.md); if not, measure all here: make tables MEASURE=all"
            )


def draw(works: Sequence[Work], items: int, seed: int) -> dict[Work, list[int]]:
    """Some items at random: of every model and of every batch one at least, then others until there are `items`."""
    chance = random.Random(seed)
    shuffled = chance.sample(list(works), len(works))
    chosen: dict[Work, list[int]] = {}
    seen: set[str] = set()
    for work in shuffled:
        if not {work.model, work.batch} <= seen:
            chosen[work] = [chance.randrange(len(work.contents()))]
            seen |= {work.model, work.batch}
    left = [(work, k) for work in shuffled for k in range(len(work.contents())) if k not in chosen.get(work, ())]
    for work, index in chance.sample(left, max(0, min(items, len(left)) - len(chosen))):
        chosen.setdefault(work, []).append(index)
    return chosen


def recheck(
    works: Sequence[Work], items: int, seed: int, root: Path = RUNS, processes: int | None = None,
    time_limit: float = SECONDS,
) -> Verdict:  # fmt: skip
    """Measure some items again, as many of them as the time allows, in a store that is thrown away, and compare.

    Raises:
        MeasurementError: an item could not be measured.
    """
    chosen = draw(works, items, seed)
    with tempfile.TemporaryDirectory() as folder:
        stores = {work: work.store(Path(folder)) for work in chosen}
        raise_first(measure_all(chosen, processes or cores(), Path(folder), time_limit))
        left = {work: set(lacking(work, store)) for work, store in stores.items()}
        done = {work: [index for index in own if index not in left[work]] for work, own in chosen.items()}
        total = sum(len(work.contents()) for work in works)
        return compare(done, lambda work: work.store(root), stores.__getitem__, total, seed)


def compare_all(works: Sequence[Work], root: Path = RUNS, home: Path = HOME) -> Verdict:
    """All items that were measured in a store of its own, with what is shipped."""
    chosen = {work: list(range(len(work.contents()))) for work in works}
    total = sum(map(len, chosen.values()))
    return compare(chosen, lambda work: shipped_alone(work, home), lambda work: work.store(root), total)


def compare(
    chosen: Mapping[Work, Sequence[int]], first: StoreOf, second: StoreOf, total: int, seed: int = 0
) -> Verdict:
    """The items that are in both stores of a work, one by one."""
    found = [one for work, items in chosen.items() for one in _of_work(work, items, first(work), second(work))]
    wrong = tuple(one for one in found if one.share > TOLERANCE)
    largest = max(found, key=lambda one: one.share, default=None)
    return Verdict(seed, sum(map(len, chosen.values())), total, largest, wrong)


def _of_work(work: Work, items: Sequence[int], first: Store, second: Store) -> list[Difference]:
    methods = [name for name in work.methods() if name not in getattr(work, "amplified", ())]
    before, now = (store.read(methods, work.contents()) for store in (first, second))
    ranges = _ranges(before)
    ours, theirs = (_by_item(table, set(items)) for table in (before, now))
    places = [place for place in itertools.product(items, methods) if place in ours and place in theirs]
    return [difference(title(work), *place, ours[place], theirs[place], ranges) for place in places]


def _by_item(table: pa.Table, items: set[int]) -> dict[tuple[int, str], pd.DataFrame]:
    """The records of each item and method, in an order that does not depend on how they were stored."""
    keep = pa.array([index in items for index in table["index"].to_pylist()], pa.bool_())
    frame = distinct(table.filter(keep)).to_pandas()
    frame = frame.sort_values(naming(table), kind="stable")
    return dict(iter(frame.groupby(["index", "method"])))


def _ranges(table: pa.Table) -> dict[str, float]:
    """How far the numbers of each column lie apart; of counts of pixels nobody asks."""
    found: dict[str, float] = {}
    if "won" in table.column_names:
        return found
    for name in table.column_names:
        values = _numbers(table[name].to_pylist())
        if values is not None and len(values):
            spread = float(np.ptp(values[np.isfinite(values)])) if np.isfinite(values).any() else 0.0
            found[name] = spread or 1.0
    return found


def _numbers(values: Sequence) -> np.ndarray | None:
    """A column of numbers, or of lists of them, as one flat array; None for another."""
    flat = [one for value in values for one in (value if isinstance(value, (list, np.ndarray)) else [value])]
    numbers = all(isinstance(one, (int, float, np.number)) and not isinstance(one, bool) for one in flat)
    return np.array(flat, dtype=float) if numbers else None


def difference(
    work: str, index: int, method: str, first: pd.DataFrame, second: pd.DataFrame, ranges: Mapping[str, float]
) -> Difference:
    """How far two measurements of one item by one method lie apart."""
    if len(first) != len(second):
        return Difference(work, index, method, 1.0)
    if "won" in first:
        return _moved(work, index, method, first, second)
    compared = [name for name in first if name not in UNCOMPARED and not name.startswith("seconds")]
    shares = [_share(first[name], second[name], ranges.get(name, 1.0)) for name in compared]
    return Difference(work, index, method, max(shares, default=0.0))


def _moved(work: str, index: int, method: str, first: pd.DataFrame, second: pd.DataFrame) -> Difference:
    """Pixels that have another class or lie in another bin, or are right in one and wrong in the other."""
    total, moved = 0, 0
    for name in ("won", "right"):
        ours, theirs = (
            np.concatenate([np.asarray(own, dtype=float) for own in frame[name]]) for frame in (first, second)
        )
        if ours.shape != theirs.shape:
            return Difference(work, index, method, 1.0)
        total, moved = max(total, int(ours.sum())), max(moved, int(np.abs(ours - theirs).sum()) // 2)
    return Difference(work, index, method, moved / max(total, 1), moved, max(total, 1))


def _share(first: pd.Series, second: pd.Series, spread: float) -> float:
    """The largest difference of a column of numbers, of lists their mean one, over the range; what is no number with a
    fraction follows from such numbers, and counts nothing."""
    pairs = [(np.atleast_1d(a), np.atleast_1d(b)) for a, b in zip(first, second, strict=True)]
    if any(a.dtype.kind != "f" for a, _ in pairs):
        return 0.0
    if any(a.shape != b.shape or (np.isfinite(a) != np.isfinite(b)).any() for a, b in pairs):
        return 1.0
    means = [np.abs(a - b)[np.isfinite(a)].mean() for a, b in pairs if np.isfinite(a).any()]
    return float(max(means, default=0.0)) / spread


def note_path(profile: str) -> Path:
    """Where the last check of a profile is noted."""
    return ROOT / "build" / profile / "rechecked.json"


def write_note(verdict: Verdict, profile: str) -> None:
    """Note a check, for the footers of tables."""
    path = note_path(profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(asdict(verdict), indent=1) + "\n").encode())


def footer(profile: str) -> str:
    """What a table says of the last check of its profile; the same for any seed that found nothing wrong."""
    path = note_path(profile)
    if not path.is_file():
        return ""
    note = json.loads(path.read_text(encoding="utf-8"))
    if not note["remeasured"]:
        return ""
    if note["remeasured"] >= note["total"]:
        return f"All {note['total']:,} items of the profile were measured on the machine that made this table."
    return (
        f"From measurements that are shipped; {note['remeasured']} of {note['total']:,} items of the profile, drawn at "
        f"random, were measured again and agree within {TOLERANCE:.0%} of their pixels."
    )
