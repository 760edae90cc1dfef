"""Checks of plain numbers that a caller gives, in one voice: the value, what it must be, and nothing runs before."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any


def check_whole(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """A whole number from `least` to `most`, also one of NumPy's.

    Raises:
        TypeError: it is no whole number; True, 1.0 and "1" are none.
        ValueError: it is out of range.
    """
    try:
        if isinstance(value, bool):
            raise TypeError("truth is no number")
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from error
    if number < least or (most is not None and number > most):
        wanted = f"at least {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{name} must be {wanted}, got {number}")
    return number


def check_least(value: Any, name: str, least: float) -> float:
    """A finite number from `least` on, also one of NumPy's.

    Raises:
        TypeError: it is no real number; True and "0.5" are none.
        ValueError: it is too small, or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not least <= (number := float(value)) < math.inf:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return number


def check_share(value: Any, name: str) -> float:
    """A number in [0, 1], also one of NumPy's.

    Raises:
        TypeError: it is no real number; True and "0.5" are none.
        ValueError: it is out of range or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in [0, 1], got {value!r}")
    if not 0 <= (number := float(value)) <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return number
