"""Candidate masks of a picture that know nothing of words, for methods that choose among them.

SAM's automatic masks are what DiffPNG was made with (ViT-H, the library's defaults). In the embedded world, where no
such checkpoint is, Felzenszwalb and Huttenlocher's graph-based segments (2004, in scikit-image) stand in: a partition
instead of overlapping masks, and by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from elbo_core.diffusion.folder import local_folder
from elbo_core.diffusion.registry import locate
from elbo_core.errors import ModelAccessError

SAM = "sam"
FELZENSZWALB = "felzenszwalb"
SCALES, BLUR, SMALLEST = (200.0, 1000.0), 0.8, 20
"""A fine and a coarse partition, so that a thing of one colour and one of a pattern both find their mask; the library's
own blur and smallest segment. The scales were chosen on ten scenes of the development split."""


def felzenszwalb_masks(image: Tensor) -> Tensor:
    """The segments of a picture [3, H, W] in [0, 1] at two scales, bool [P, H, W]; those of the finer one first."""
    from skimage.segmentation import felzenszwalb  # only where masks are asked: it takes half a second to import

    pixels = image.permute(1, 2, 0).double().numpy()
    parts = [felzenszwalb(pixels, scale=scale, sigma=BLUR, min_size=SMALLEST) for scale in SCALES]
    masks = [part == label for part in parts for label in np.unique(part)]
    return torch.from_numpy(np.stack(masks))


def sam_masks(image: Tensor) -> Tensor:
    """SAM's automatic masks of a picture, bool [P, H, W], with the library's defaults.

    Raises:
        ModelAccessError: there is no checkpoint on this machine and none can be downloaded.
    """
    from elbo_core.methods.sam import load_sam, masks_of  # loads transformers

    return masks_of(load_sam(SAM), image)


def sam_is_there() -> bool:
    """Whether a SAM checkpoint lies on this machine; nothing is downloaded."""
    try:
        return (local_folder(*locate(SAM)) / "config.json").is_file()
    except (ModelAccessError, FileNotFoundError):
        return False


PROPOSERS: dict[str, Callable[[Tensor], Tensor]] = {FELZENSZWALB: felzenszwalb_masks, SAM: sam_masks}
"""By name, from a picture [3, H, W] to masks, bool [P, H, W]."""


def check_proposer(name: str) -> str:
    """
    Raises:
        ValueError: the proposer is unknown.
    """
    if name not in PROPOSERS:
        raise ValueError(f"unknown proposer {name!r}; known: {', '.join(PROPOSERS)}")
    return name


def propose(name: str, image: Tensor) -> Tensor:
    """Candidate masks of a picture [3, H, W] in [0, 1], bool [P, H, W].

    Raises:
        ValueError: the proposer is unknown.
        ModelAccessError: its checkpoint is missing.
    """
    return PROPOSERS[check_proposer(name)](image.cpu())
