"""What every data set offers to the run engine: scenes by position, in a fixed order."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from elbo_core.checks import check_whole
from elbo_core.errors import DatasetError
from elbo_core.scene import Scene
from elbo_core.words import UNREADABLE, odd_character


@dataclass(frozen=True)
class Dataset:
    """classes: in label order, label k is classes[k - 1]; read: the scene at a position in 0..count - 1.

    fingerprints: computes `contents`.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    count: int
    fingerprints: Callable[[], Sequence[str]]
    read: Callable[[int], Scene]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Scene]:
        return map(self.read, range(self.count))

    @functools.cached_property
    def contents(self) -> tuple[str, ...]:
        """By position, a hash of all that the scene is made of: picture, label map, phrases, and the candidates asked
        for.

        Raises:
            DatasetError: a file cannot be read any more.
        """
        return tuple(self.fingerprints())[: self.count]


def check_count(count: int | None, things: str = "images") -> int | None:
    """How many to take: one at least, or None for all.

    Raises:
        TypeError, ValueError: something else.
    """
    return None if count is None else check_whole(count, f"the number of {things}")


def check_position(index: int, count: int) -> int:
    """The position of one of `count` scenes; one below zero is none, it would draw other noise.

    Raises:
        TypeError, ValueError: there is no such position.
    """
    return check_whole(index, "the position of a scene", 0, count - 1)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with a byte-order mark or without.

    Raises:
        DatasetError: it is missing, no ordinary file (a pipe would be waited for), or in another encoding.
    """
    if not os.path.isfile(path):
        raise DatasetError(f"{path} is missing, or no ordinary file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as UTF-8: {error}") from error


def check_name(name: object, source: Path) -> str:
    """An id or a file name that stays in the folder of its data set and that can be written down.

    Raises:
        DatasetError: it does not, or it is no name; the message names it and the `source` that holds it.
    """
    if not isinstance(name, str) or not name.strip():
        raise DatasetError(f"{source} holds the name {name!r}, expected that of a picture")
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.anchor or windows.anchor or ".." in {*posix.parts, *windows.parts}:
        raise DatasetError(f"{source} holds the name {name!r}, which leaves the folder of the data set")
    odd = odd_character(name, UNREADABLE)
    if odd:
        raise DatasetError(f"{source} holds the name {name!r} with {odd}; names must be plain text in UTF-8")
    return name
