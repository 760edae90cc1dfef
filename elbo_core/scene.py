"""A picture and what may be in it: what every data set yields and what `observe` takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from elbo_core.captions import Caption, check_classes, find_classes
from elbo_core.images import ImageLike, read_image


@dataclass(frozen=True)
class Scene:
    """image: float32 [3, H, W] in [0, 1]; classes: the candidates; id: names the picture and thereby its noise.

    caption: the user's own caption with its mentions, or None for "a photo of c1, c2, ...".
    label_map: uint8 [H, W], 0 background, 255 ignored; labels: the value in it of each candidate class.
    visible: the share of each candidate's pixels that nothing hides, where that is known.
    phrases: the caption's noun phrase for each candidate; empty if there are none.
    """

    image: Tensor
    classes: tuple[str, ...]
    id: str
    caption: Caption | None = None
    label_map: np.ndarray | None = None
    labels: tuple[int, ...] = ()
    visible: tuple[float, ...] = ()
    phrases: tuple[str, ...] = ()

    @classmethod
    def of(cls, image: ImageLike, classes, caption: str | None = None) -> Scene:
        """A scene from any picture; its id is a hash of the pixels.

        Raises:
            ImageReadError, ValueError: see `read_image`, `check_classes`, `find_classes`.
        """
        pixels = read_image(image)
        classes = check_classes(classes)
        found = None if caption is None else find_classes(caption, classes)
        return cls(pixels, classes, hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16], found)
