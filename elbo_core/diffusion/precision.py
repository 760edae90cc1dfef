"""Numbers that do not depend on what precision happens to be in force around them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def whole_precision(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function outside every autocast, and on a GPU without the shortened floats that its convolutions take by
    default: a run's key says in which precision a model was asked."""

    @functools.wraps(function)
    def outside(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if torch.cuda.is_initialized() and torch.backends.cudnn.allow_tf32:
                torch.backends.cudnn.allow_tf32 = False
                stack.callback(setattr, torch.backends.cudnn, "allow_tf32", True)
            return function(*args, **kwargs)

    return outside
