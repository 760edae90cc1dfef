"""Nouns that name no thing of their own, so that a phrase around them is none to weigh."""

from __future__ import annotations

from elbo_core.paths import DATA

GENERIC = frozenset((DATA / "paper" / "generic_nouns.txt").read_text().split())
"""Those that the released code leaves out (`configs/run_generation.yaml:7-168`). Real things among them, as "table",
are thereby never weighed."""
OF_THE_PICTURE = frozenset({"photo", "photograph", "picture", "image", "painting", "drawing"})
"""What a prompt calls the picture itself. The released code weighs it like a thing; we do not."""
