"""Pictures with label maps, each set behind the same small interface."""

from __future__ import annotations

from elbo_core.datasets.coco import INSTANCES, instance_dataset
from elbo_core.datasets.dataset import Dataset
from elbo_core.datasets.folders import LAYOUTS, VARIANTS, folder_dataset
from elbo_core.datasets.toy import TOY_SETS, toy_dataset

__all__ = ["Dataset", "mirrored", "open_dataset"]


def open_dataset(name: str, split: str = "test", count: int = 48, names: str = "prompted") -> Dataset:
    """The first `count` scenes of a data set of the embedded world, or of a real one on disk.

    The paper's sets have one split that we measure on: "test" stands for its "val". names: how their classes are
    called (`class_names`).

    Raises:
        ValueError: unknown data set, split or naming.
        DatasetError: a real set that is missing or incomplete.
    """
    if name in TOY_SETS:
        return toy_dataset(name, split, count)
    split = "val" if split == "test" else split
    if name == INSTANCES:
        return instance_dataset(split, count, names=names)
    if name in LAYOUTS | VARIANTS:
        return folder_dataset(name, split, count, names=names)
    raise ValueError(f"unknown data set {name!r}; known: {', '.join([*TOY_SETS, *LAYOUTS, *VARIANTS, INSTANCES])}")


def mirrored(name: str) -> str:
    """The paper's data set that a set is or mirrors, by its short name in `reported.yaml`."""
    if name in TOY_SETS:
        return TOY_SETS[name].mirrors
    return {INSTANCES: "coco", "voc-plain": "voc", "context-mat": "context"}.get(name, name)
