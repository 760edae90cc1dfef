"""Pictures with label maps, each set behind the same small interface."""

from elbo_core.datasets.dataset import Dataset
from elbo_core.datasets.toy import TOY_SETS, toy_dataset

__all__ = ["Dataset", "mirrored", "open_dataset"]


def open_dataset(name: str, split: str = "test", count: int = 64) -> Dataset:
    """The first `count` scenes of a data set.

    Raises:
        ValueError: unknown data set or split.
    """
    if name not in TOY_SETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(TOY_SETS)}")
    return toy_dataset(name, split, count)


def mirrored(name: str) -> str:
    """The paper's data set that a toy set mirrors, by its short name in `reported.yaml`."""
    return TOY_SETS[name].mirrors
