"""Tables of numbers from MATLAB's files (level 5). SciPy's own reader crashes the process on some damaged ones."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""By type of an element, what it holds."""
NUMERIC_CLASSES = range(6, 16)
COMPLEX = 0x800
MOST_BYTES = 2**28
"""A compressed element that holds more is no table of labels."""


@dataclass(frozen=True)
class Element:
    """A typed piece of a file; matrices are made of such pieces in turn."""

    kind: int
    content: bytes
    order: str
    """Of the bytes, as NumPy writes it: "<" or ">"."""

    def numbers(self) -> np.ndarray:
        """
        Raises:
            KeyError, ValueError: it holds none.
        """
        return np.frombuffer(self.content, np.dtype(NUMBERS[self.kind]).newbyteorder(self.order))


def read_table(content: bytes, name: str) -> np.ndarray:
    """The variable `name` of a file, [H, W], in the type that it is stored in.

    Raises:
        KeyError, ValueError, struct.error, zlib.error: the file is of another level or damaged, or the variable is
            missing or no table of real numbers.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or struct.unpack(f"{order}H", content[124:126]) != (0x0100,):
        raise ValueError("it is no MATLAB file of level 5")
    for element in _elements(content[HEADER:], order):
        if element.kind == COMPRESSED:
            inside = zlib.decompressobj().decompress(element.content, MOST_BYTES)
            element = next(_elements(inside, order))
        found, table = _matrix(element)
        if found == name:
            return table
    raise ValueError(f"it has no variable {name}")


def _elements(content: bytes, order: str) -> Iterator[Element]:
    """One after another, each at a multiple of eight bytes, those that are compressed aside."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start, small = place + 8, kind >> 16
        if small:  # of at most four bytes, which stand in the place of the size
            kind, size, start = kind & 0xFFFF, small, place + 4
        if start + size > len(content) or (small and size > 4):
            raise ValueError("it is cut off")
        yield Element(kind, content[start : start + size], order)
        place = start + size if kind == COMPRESSED else start + (4 if small else -(-size // 8) * 8)


def _matrix(element: Element) -> tuple[str, np.ndarray]:
    """Name and content of a variable; what is no table of real numbers is an error whatever its name."""
    if element.kind != MATRIX:
        raise ValueError(f"it has an element of type {element.kind} in the place of a variable")
    parts = _elements(element.content, element.order)
    flags = int(next(parts).numbers()[0])
    shape, name = next(parts).numbers().tolist(), next(parts).content.decode("ascii")
    if flags & 0xFF not in NUMERIC_CLASSES or flags & COMPLEX:
        raise ValueError(f"its variable {name!r} is no table of real numbers")
    numbers = next(parts).numbers()
    if len(shape) != 2 or min(shape) < 1 or math.prod(shape) != len(numbers):
        raise ValueError(f"its variable {name!r} has {len(numbers)} numbers for a shape of {shape}")
    return name, numbers.reshape(shape, order="F")
