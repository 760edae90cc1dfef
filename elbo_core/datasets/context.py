"""PASCAL Context from its original files: MATLAB label maps of 459 classes, of which 59 are measured."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from elbo_core.datasets.names import class_names
from elbo_core.errors import DatasetError

FOLDER = "VOCdevkit/VOC2010"


def read_original(path: Path) -> np.ndarray:
    """A map of the 459 classes -> uint8 [H, W] of the 59, in the order of `class_names`, and 0 for all others.

    The lists of names, `labels.txt` and `59_labels.txt`, lie beside the folder of the maps.

    Raises:
        DatasetError: the file or a list is missing or damaged; the message names it.
    """
    try:
        labels = loadmat(path)["LabelMap"]
    except Exception as error:  # scipy lets out whatever a damaged file provokes
        raise DatasetError(f"{path} holds no LabelMap: {error}") from error
    table = _table(path.parent.parent)
    if labels.max() >= len(table):
        raise DatasetError(f"{path} holds the label {labels.max()}, labels.txt ends at {len(table) - 1}")
    return table[labels]


@functools.cache
def _table(folder: Path) -> np.ndarray:
    """The new label of every old one."""
    every, chosen = _names(folder / "labels.txt"), _names(folder / "59_labels.txt")
    own = class_names("context", "own")
    wanted = {_plain(name) for name in chosen.values()}
    if wanted != set(own):
        odd = sorted(wanted ^ set(own))
        raise DatasetError(f"{folder / '59_labels.txt'} does not list the 59 classes; differing: {', '.join(odd)}")
    table = np.zeros(max(every) + 1, np.uint8)
    for number, name in every.items():
        if _plain(name) in own:
            table[number] = own.index(_plain(name)) + 1
    return table


def _names(path: Path) -> dict[int, str]:
    """Lines like "12: bed"."""
    try:
        lines = [line.split(":") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {int(number): name.strip() for number, name in lines}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is not a list of numbered names: {error}") from error


def _plain(name: str) -> str:
    """A few names are spelt otherwise in the two lists and in VOC."""
    return {"diningtable": "table", "potted plant": "pottedplant", "tv monitor": "tvmonitor"}.get(name, name)
