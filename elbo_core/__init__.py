"""Ask a text-to-image diffusion model once where its words are in a picture, and read the answer in many ways."""

import os

# diffusers' imports announce that transformers lacks torchvision, which nothing here uses.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from elbo_core.diffusion.models import load
from elbo_core.methods.align import Recipe, align
from elbo_core.methods.observe import Plan, observe
from elbo_core.scene import Scene
from elbo_core.segment import segment

__all__ = ["Plan", "Recipe", "Scene", "align", "load", "observe", "segment"]
