"""A picture and what may be in it: what every data set yields and what `observe` takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from elbo_core.captions import Caption, check_classes, find_classes
from elbo_core.images import ImageLike, read_image

IGNORED = 255
"""The label of pixels that no metric counts."""


@dataclass(frozen=True)
class Scene:
    """image: float32 [3, H, W] in [0, 1]; classes: the candidates; id: names the picture and thereby its noise.

    caption: the user's own caption with its mentions, or None for "a photo of c1, c2, ...".
    label_map: uint8 [H, W], 0 background, `IGNORED` (255) not counted; labels: the value in it of each candidate class.
    visible: the share of each candidate's pixels that nothing hides, where that is known.
    phrases: the caption's noun phrase for each candidate; empty if there are none.

    Raises:
        TypeError, ValueError: see `check_classes`; or the parts do not fit together.
    """

    image: Tensor
    classes: tuple[str, ...]
    id: str
    caption: Caption | None = None
    label_map: np.ndarray | None = None
    labels: tuple[int, ...] = ()
    visible: tuple[float, ...] = ()
    phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes):
            object.__setattr__(self, "classes", check_classes(self.classes))
        size = tuple(self.image.shape[1:])
        if len(size) != 2 or len(self.image) != 3:
            raise ValueError(f"the image of scene {self.id!r} must have shape [3, H, W], got {list(self.image.shape)}")
        if self.label_map is not None and self.label_map.shape != size:
            raise ValueError(f"scene {self.id!r} has a label map of {self.label_map.shape}, its picture is {size}")
        self._check_per_class()

    def _check_per_class(self) -> None:
        if self.caption is not None and set(self.caption.classes) != set(self.classes):
            named = f"asks for {list(self.classes)}, its caption names {list(self.caption.classes)}"
            raise ValueError(f"scene {self.id!r} {named}; a caption must name every class and no other")
        for name in ("labels", "visible", "phrases"):
            count = len(getattr(self, name))
            if count not in (0, len(self.classes)):
                raise ValueError(f"scene {self.id!r} has {count} {name} for {len(self.classes)} classes")

    @property
    def truth(self) -> np.ndarray:
        """The label map in the order of the classes, uint8 [H, W]: k the k-th class, 0 all that is none of them,
        `IGNORED` where nothing counts.

        Raises:
            ValueError: the scene has no label map.
        """
        if self.label_map is None:
            raise ValueError(f"scene {self.id!r} has no label map")
        order = np.zeros(IGNORED + 1, np.uint8)
        order[list(self.labels)] = np.arange(1, len(self.labels) + 1)
        order[IGNORED] = IGNORED
        return order[self.label_map]

    @classmethod
    def of(cls, image: ImageLike, classes: Iterable[str], caption: str | None = None) -> Scene:
        """A scene from any picture; its id is a hash of the pixels.

        Raises:
            ImageReadError, TypeError, ValueError: see `read_image`, `check_classes`, `find_classes`.
        """
        pixels = read_image(image)
        classes = check_classes(classes)
        found = None if caption is None else find_classes(caption, classes)
        return cls(pixels, classes, hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16], found)
