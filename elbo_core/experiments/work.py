"""What is to be measured, of whatever kind: items, the methods that each must have, and the store that keeps them.

A kind of measurement is a module of this room with a function `works(profile)` that lists what a profile needs, and one
line in `KINDS`. What runs works (`pool`), ships them (`shipped`) and checks them (`recheck`) asks for nothing else.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from elbo_core.experiments.store import Store
from elbo_core.paths import RUNS

if TYPE_CHECKING:
    from elbo_core.diffusion.denoiser import Denoiser
    from elbo_core.experiments.profiles import Profile


class Work(Protocol):
    """A part of a profile's measurements: some items, measured by some methods, kept in one store.

    A work is a frozen dataclass of plain data: it travels to other processes, and equal ones are one. Items are
    independent: no result depends on batch, order or processes, but for rounding.

    Two attributes may be added: at_once, so many items are quicker when measured in one call (1 by default); amplified,
    the definitions of methods that amplify rounding, so that two measurements of them cannot be compared (none).

    model: that is measured. dataset: the name of the set of items ("toy-voc", "edits-rendered", ...). batch: the kind
    or batch of methods ("models", "generation", ...).
    """

    @property
    def model(self) -> str: ...

    @property
    def dataset(self) -> str: ...

    @property
    def batch(self) -> str: ...

    def store(self, root: Path = RUNS) -> Store:
        """Where it is kept. Loads no weights: they are named by a hash of their files."""
        ...

    def contents(self) -> Sequence[str]:
        """A hash of each item, in order."""
        ...

    def methods(self) -> Sequence[str]:
        """The definitions (hashes) of all that each item is measured by."""
        ...

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        """Measure what `store` lacks of the items at `indices` and add it item by item, on a GPU if there is one.

        Raises:
            MeasurementError: an item could not be measured; those before it are stored.
            StoreError: the store cannot be written.
        """
        ...


KINDS: dict[str, str] = {
    "segmentation": "elbo_core.experiments.forecast",
    "redraws": "elbo_core.experiments.redraws",
    "generation": "elbo_core.experiments.generation",
    "edits": "elbo_core.experiments.edits",
    "method costs": "elbo_core.experiments.method_costs",
    "choices": "elbo_core.experiments.choices",
    "masses": "elbo_core.experiments.masses",
    "drawn": "elbo_core.experiments.drawn",
}
"""By kind, the module whose `works(profile)` lists its works. Each is imported when it is first asked."""


def all_works(profile: Profile, kinds: Iterable[str] | None = None) -> list[Work]:
    """All works of a profile, of all kinds or of some, in the order of the kinds; each once.

    Of a kind, those with the most methods come first: what they share with others is done then.

    Raises:
        ValueError: a kind is unknown.
    """
    chosen = list(KINDS if kinds is None else kinds)
    unknown = [kind for kind in chosen if kind not in KINDS]
    if unknown:
        raise ValueError(f"unknown kind {unknown[0]!r}; known: {', '.join(KINDS)}")
    modules = [importlib.import_module(KINDS[kind]) for kind in chosen]
    listed = [sorted(module.works(profile), key=lambda work: -len(work.methods())) for module in modules]
    return list(dict.fromkeys(work for works in listed for work in works))


def lacking(work: Work, store: Store) -> list[int]:
    """The items of a work that its store holds not at all or in part."""
    contents, wanted = work.contents(), set(work.methods())
    measured = store.measured(contents)
    return [index for index in range(len(contents)) if wanted - measured.get(index, set())]


def title(work: Work) -> str:
    """How a work is called where people read it."""
    split = getattr(work, "split", "test")
    return " ".join([work.model, work.dataset, work.batch, *([split] if split != "test" else [])])


@functools.lru_cache(maxsize=8)
def loaded(model: str) -> Denoiser:
    """A model, loaded once a process: on a GPU if there is one, else on the CPU. All that measure share it."""
    from diffusers.utils import logging  # takes seconds to import: not where results are only read

    from elbo_core.diffusion.models import load

    logging.disable_progress_bar()
    if not model.startswith("toy-"):
        loaded.cache_clear()  # full-size models would not fit into memory together
    return load(model)
