"""Work in blocks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def in_blocks(work: Callable[[Tensor], Result], items: Tensor, size: int) -> list[Result]:
    """`work` on consecutive blocks of at most `size` of the items [n, ...]; out of memory halves the size and goes on.

    Raises:
        torch.OutOfMemoryError: a single item does not fit.
    """
    results, start = [], 0
    while start < len(items):
        block = items[start : start + size]
        try:
            results.append(work(block))
        except torch.OutOfMemoryError:
            if len(block) == 1:
                raise
            size = len(block) // 2
        else:
            start += len(block)
    return results
