"""Pictures with label maps, each set behind the same small interface."""

from __future__ import annotations

from collections.abc import Iterable

from elbo_core.datasets.coco import INSTANCES, instance_dataset
from elbo_core.datasets.dataset import Dataset
from elbo_core.datasets.folders import LAYOUTS, VARIANTS, folder_dataset
from elbo_core.datasets.toy import TOY_SETS, toy_dataset
from elbo_core.errors import DatasetError

__all__ = ["Dataset", "is_there", "mirrored", "open_dataset"]


def open_dataset(
    name: str, split: str = "test", count: int | None = 48, candidates: Iterable[str] | None = None
) -> Dataset:
    """The first `count` scenes of a data set of the embedded world, or of a real one on disk (None: all).

    The paper's sets have one split that we measure on: "test" stands for its "val". "voc:own" is VOC with its own class
    names in the prompts instead of the released code's (`class_names`). candidates: as in `folder_dataset`.

    Raises:
        TypeError, ValueError: unknown data set, split, naming or candidate; a count below one, or none for a set of the
            embedded world, which has no end.
        DatasetError: a real set that is missing or incomplete.
    """
    if name in TOY_SETS:
        if candidates is not None:
            raise ValueError(f"{name} looks for the classes of its label maps; candidates are for the real sets")
        if count is None:
            raise ValueError(f"{name} has no end; say how many of its scenes to take")
        return toy_dataset(name, split, count)
    split = "val" if split == "test" else split
    plain, colon, names = name.partition(":")
    names = names if colon else "prompted"
    if plain == INSTANCES:
        return instance_dataset(split, count, names=names, candidates=candidates)
    if plain in LAYOUTS | VARIANTS:
        return folder_dataset(plain, split, count, names=names, candidates=candidates)
    raise ValueError(f"unknown data set {name!r}; known: {', '.join([*TOY_SETS, *LAYOUTS, *VARIANTS, INSTANCES])}")


def mirrored(name: str) -> str:
    """The paper's data set that a set is or mirrors, by its short name in `reported.csv`."""
    if name in TOY_SETS:
        return TOY_SETS[name].mirrors
    plain = name.partition(":")[0]
    return {INSTANCES: "coco", "voc-plain": "voc", "context-mat": "context"}.get(plain, plain)


def is_there(name: str) -> bool:
    """Whether a set is on this machine, as far as its lists and the first picture's files tell."""
    try:
        open_dataset(name, count=1)
    except DatasetError:
        return False
    return True
