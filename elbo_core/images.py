"""Pictures in: any file or array becomes RGB in [0, 1]."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from elbo_core.errors import ImageReadError

ImageLike = str | os.PathLike | Image.Image | np.ndarray | Tensor


def read_image(image: ImageLike) -> Tensor:
    """Any picture -> float32 [3, H, W] in [0, 1].

    Takes a file name, a PIL image, a uint8 array [H, W] or [H, W, 3|4], or a tensor [3, H, W] in [0, 1].

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to its full range.

    Raises:
        ImageReadError: the file is missing or not an image; the message names it.
        ValueError: an array or tensor of another shape or range.
    """
    if isinstance(image, Tensor):
        return _check_tensor(image)
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if not isinstance(image, Image.Image):
        image = _open(image)
    return torch.from_numpy(np.array(_to_rgb(image), dtype=np.float32)).permute(2, 0, 1) / 255


def _check_tensor(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"an image tensor must have shape [3, H, W], got {list(image.shape)}")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"an image tensor must lie in [0, 1], got {image.min():.3g} to {image.max():.3g}")
    return image.float()


def _from_array(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"an image array must be uint8 [H, W] or [H, W, 3|4], got {image.dtype} {list(image.shape)}")
    return Image.fromarray(image)


def _open(path: str | os.PathLike) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageReadError(f"cannot read the image {os.fspath(path)!r}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_label_map(path: str | os.PathLike) -> np.ndarray:
    """A PNG of labels, grey or with a palette -> uint8 or uint16 [H, W], the numbers themselves.

    Raises:
        ImageReadError: the file is missing, not an image, or in colours.
    """
    image = _open(path)
    if image.mode not in {"P", "L", "1", "I", "I;16"}:
        raise ImageReadError(f"{os.fspath(path)!r} is a picture in mode {image.mode}, not a map of labels")
    labels = np.array(image)
    return labels.astype(np.uint16) if image.mode.startswith("I") else labels.astype(np.uint8)


def to_network_range(image: Tensor, size: int) -> Tensor:
    """[3, H, W] in [0, 1] -> [3, size, size] in [-1, 1].

    Resized as 8-bit picture by PIL, bilinear with antialiasing, as the released code does (`utils/diffusion.py:112`).
    """
    if image.shape[1:] != (size, size):
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).cpu().numpy())
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        image = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1) / 255
    return 2 * image - 1
