"""PASCAL Context from its original files: MATLAB label maps of 459 classes, of which 59 are measured."""

from __future__ import annotations

import functools
import struct
import zlib
from pathlib import Path

import numpy as np

from elbo_core.datasets.dataset import read_text
from elbo_core.datasets.matlab import read_table
from elbo_core.datasets.names import class_names
from elbo_core.errors import DatasetError

FOLDER = "VOCdevkit/VOC2010"


LISTS = ("labels.txt", "59_labels.txt")
"""All names with their numbers, and the names that are measured."""
OTHER = 255
"""In the table of new labels, a number without a name."""


def read_original(path: Path) -> np.ndarray:
    """A map of the 459 classes -> uint8 [H, W] of the 59, in the order of `class_names`, and 0 for all others.

    The lists of names, `labels.txt` and `59_labels.txt`, lie beside the folder of the maps.

    Raises:
        DatasetError: the file or a list is missing or damaged, or a number has no name; the message names it.
    """
    every, chosen = (path.parent.parent / name for name in LISTS)
    table = _table(_names(every), _names(chosen), chosen)
    labels = _read_numbers(path)
    wrong = labels[(labels < 0) | (labels >= len(table))]
    if not wrong.size:
        wrong = labels[table[labels] == OTHER]
    if wrong.size:
        raise DatasetError(f"{path} holds the label {wrong[0]}, which has no name in {every}")
    return table[labels]


def _read_numbers(path: Path) -> np.ndarray:
    """Whole numbers [H, W], which MATLAB may have stored as floats."""
    try:
        labels = read_table(path.read_bytes(), "LabelMap")
    except (OSError, KeyError, ValueError, StopIteration, struct.error, zlib.error) as error:
        raise DatasetError(f"{path} holds no LabelMap: {error!r}") from error
    with np.errstate(invalid="ignore"):  # not a number is no whole number either
        whole = labels.astype(np.int64)
    if (whole != labels).any():
        raise DatasetError(f"{path} holds a LabelMap with numbers that are not whole")
    return whole


@functools.lru_cache(maxsize=2)
def _table(every: tuple[tuple[int, str], ...], chosen: tuple[tuple[int, str], ...], source: Path) -> np.ndarray:
    """The new label of every old one, 0 for 0 and for what is not measured."""
    own = class_names("context", "own")
    wanted = {_plain(name) for _, name in chosen}
    if wanted != set(own):
        odd = sorted(wanted ^ set(own))
        raise DatasetError(f"{source} does not list the 59 classes; differing: {', '.join(odd)}")
    new = {name: position + 1 for position, name in enumerate(own)}
    table = np.full(max(number for number, _ in every) + 1, OTHER, np.uint8)
    table[0] = 0
    for number, name in every:
        table[number] = new.get(_plain(name), 0)
    return table


def _names(path: Path) -> tuple[tuple[int, str], ...]:
    """Lines like "12: bed"."""
    lines = [line.split(":") for line in read_text(path).splitlines() if line.strip()]
    try:
        names = {int(number): name.strip() for number, name in lines}
    except ValueError as error:
        raise DatasetError(f"{path} is not a list of numbered names: {error}") from error
    if len(names) != len(lines) or not names or min(names) < 0 or max(names) > MOST:
        raise DatasetError(f"{path} is not a list of numbered names: numbers must be distinct, from 0 to {MOST}")
    return tuple(names.items())


MOST = 2**16 - 1


def _plain(name: str) -> str:
    """A few names are spelt otherwise in the two lists and in VOC."""
    return {"diningtable": "table", "potted plant": "pottedplant", "tv monitor": "tvmonitor"}.get(name, name)
