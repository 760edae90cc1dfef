"""Ask a text-to-image diffusion model once where its words are in a picture, and read the answer in many ways."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

# diffusers' imports announce that transformers lacks torchvision, which nothing here uses.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

if TYPE_CHECKING:
    from elbo_core.diffusion.models import load
    from elbo_core.methods.align import Recipe, align
    from elbo_core.methods.observe import observe
    from elbo_core.methods.plan import Plan
    from elbo_core.scene import Scene
    from elbo_core.segmentation import segment

__all__ = ["Plan", "Recipe", "Scene", "align", "load", "observe", "segment"]

_HOMES = {
    "Plan": "methods.plan",
    "Recipe": "methods.align",
    "Scene": "scene",
    "align": "methods.align",
    "load": "diffusion.models",
    "observe": "methods.observe",
    "segment": "segmentation",
}


def __getattr__(name: str) -> object:
    """The names above, from their rooms, when they are first asked for: importing this package loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
