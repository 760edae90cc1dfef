"""How much to compute, and on what: the same notebooks and code, other sizes, models and data sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from elbo_core.datasets import is_there
from elbo_core.paths import DATA

FEW = 16
"""A profile of fewer images is a rehearsal."""


@dataclass(frozen=True)
class Profile:
    """images: scenes per data set, None for all; more_images: another number of them for some batches of rows, by name.
    resamples: of each bootstrap; seed: of noise and bootstrap.

    datasets: those of the segmentation tables, in the paper's order. attributes: the set of Table IV.
    split: of the scenes that are only looked at; looked_at: how many of each set; redrawn: of how many of each the
    losses are measured under other noise, too.
    edits: how many sources are edited, with edits_model in edit_steps steps; inverted: of how many the inversion is
    measured. None where no judge can tell what a picture shows.
    notebooks: by name, those that belong to the profile, with the parameters that differ from their own.
    """

    name: str
    images: int | None
    resamples: int
    seed: int = 4307
    datasets: tuple[str, ...] = ("toy-voc", "toy-context", "toy-coco", "toy-ade")
    attributes: str = "toy-aep"
    split: str = "dev"
    looked_at: int = 2
    redrawn: int = 2
    edits: int = 0
    inverted: int = 0
    edit_steps: int = 50
    edits_model: str = "toy-sd15"
    notebooks: Mapping[str, Mapping] = field(default_factory=dict)
    generation: Mapping = field(default_factory=dict)
    """What pictures are generated (`experiments.generation.works`)."""
    more_images: Mapping[str, int] = field(default_factory=dict)

    def images_of(self, batch: str) -> int | None:
        """How many scenes of each set a batch of rows (`rows.BATCHES`) is measured on."""
        return self.more_images.get(batch, self.images)

    @property
    def is_rehearsal(self) -> bool:
        """Whether it has so few images that it only tries the code (`FEW`)."""
        return self.images is not None and self.images < FEW

    @property
    def as_committed(self) -> bool:
        """Whether it is as its file says, so that the committed numbers are those of its notebooks."""
        return self.images == PROFILES[self.name].images and len(self.datasets) == len(PROFILES[self.name].datasets)

    @property
    def extent(self) -> str:
        """For captions."""
        return self.extent_of()

    def extent_of(self, *batches: str) -> str:
        """How many scenes of each set have all of some batches of rows, for captions."""
        counts = [self.images_of(batch) for batch in batches] or [self.images]
        known = [count for count in counts if count is not None]
        return f"{min(known)} images a set" if known else "all images"


def read_profiles(folder: Path = DATA / "profiles") -> dict[str, Profile]:
    """All profiles by name, the stem of their file."""
    found = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))}
    return {
        name: Profile(name, **content | {"datasets": tuple(content["datasets"])}) for name, content in found.items()
    }


PROFILES = read_profiles()


def get_profile(name: str) -> Profile:
    """The profile `name`, with those of its data sets that are on this machine.

    The environment variable ELBO_PROFILE, if set, wins over the name (tests run every notebook as `smoke`);
    ELBO_IMAGES, if set, is the number of images a set.

    Raises:
        ValueError: unknown profile, or a number of images that is none or below one.
    """
    name = os.environ.get("ELBO_PROFILE") or name
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}")
    profile = PROFILES[name]
    images = _whole_number(os.environ.get("ELBO_IMAGES", ""), profile.images)
    more = profile.more_images if images == profile.images else {}
    return replace(profile, images=images, more_images=more, datasets=tuple(filter(is_there, profile.datasets)))


def _whole_number(text: str, default: int | None) -> int | None:
    if not text.strip():
        return default
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"ELBO_IMAGES must be a whole number from 1 on, got {text!r}")
    return int(text)
