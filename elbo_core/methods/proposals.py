"""Candidate masks of a picture that know nothing of words, for methods that choose among them.

SAM's automatic masks are what DiffPNG was made with (ViT-H, the library's defaults). In the embedded world, where no
such checkpoint is, Felzenszwalb and Huttenlocher's graph-based segments (2004, in scikit-image) stand in: a partition
instead of overlapping masks, and by colour alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from elbo_core.diffusion.folder import fetched_folder, local_folder
from elbo_core.diffusion.registry import locate
from elbo_core.errors import ModelAccessError

if TYPE_CHECKING:
    from transformers import Pipeline

SAM = "sam"
FELZENSZWALB = "felzenszwalb"
SCALES = (50.0, 200.0)
"""A fine and a coarse partition, so that a thing of one colour and one of a pattern both find their mask."""


def felzenszwalb_masks(image: Tensor) -> Tensor:
    """The segments of a picture [3, H, W] in [0, 1] at two scales, bool [P, H, W]; those of the finer one first."""
    from skimage.segmentation import felzenszwalb  # only where masks are asked: it takes half a second to import

    pixels = image.permute(1, 2, 0).double().numpy()
    parts = [felzenszwalb(pixels, scale=scale, sigma=0.5, min_size=20) for scale in SCALES]
    masks = [part == label for part in parts for label in np.unique(part)]
    return torch.from_numpy(np.stack(masks))


def sam_masks(image: Tensor) -> Tensor:
    """SAM's automatic masks of a picture, bool [P, H, W], with the library's defaults.

    Raises:
        ModelAccessError: there is no checkpoint on this machine and none can be downloaded.
    """
    return masks_of(load_sam(), image)


def masks_of(generator: Pipeline, image: Tensor) -> Tensor:
    """What a pipeline of the task "mask-generation" finds in a picture, bool [P, H, W]; P may be 0."""
    found = generator(_picture(image))["masks"]
    masks = [torch.as_tensor(np.asarray(mask), dtype=torch.bool) for mask in found]
    return torch.stack(masks) if masks else torch.zeros(0, *image.shape[1:], dtype=torch.bool)


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


@functools.lru_cache(maxsize=1)
def load_sam(name: str = SAM) -> Pipeline:
    """The mask generator of a SAM checkpoint: an alias, a folder or a hub id.

    Raises:
        ModelAccessError: it cannot be read or downloaded.
    """
    from transformers import SamModel, SamProcessor, pipeline

    folder = fetched_folder(*locate(name))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model, processor = SamModel.from_pretrained(folder, use_safetensors=True), SamProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelAccessError(f"{folder} holds no SAM in safetensors: {error}") from error
    return pipeline("mask-generation", model=model, image_processor=processor.image_processor, device=device)


def sam_is_there() -> bool:
    """Whether a SAM checkpoint lies on this machine; nothing is downloaded."""
    try:
        return (local_folder(*locate(SAM)) / "config.json").is_file()
    except (ModelAccessError, ValueError):
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
