"""Pictures in: any file or array becomes RGB in [0, 1]."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from elbo_core.errors import ImageReadError

ImageLike: TypeAlias = str | os.PathLike | Image.Image | np.ndarray | Tensor
FULL_RANGE = ("PNG", "PPM")
"""The formats whose grey numbers Pillow scales to 16 bits when it gives them 32."""


def read_image(image: ImageLike, upright: bool = True) -> Tensor:
    """Any picture -> float32 [3, H, W] in [0, 1].

    Takes a file name, a PIL image, a uint8 array [H, W] or [H, W, 3|4], or a tensor [3, H, W] in [0, 1].

    upright: apply the EXIF rotation; the label maps of data sets are in the pixels as stored. Transparency is laid over
    white, 16-bit grey is scaled to its full range.

    Raises:
        ImageReadError: the file is missing, damaged or not an image, or its numbers have no known range (float,
            32 bits); the message names it.
        TypeError: something else than a picture.
        ValueError: an array, tensor or PIL image of another shape or range, or a tensor with a gradient.
    """
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if isinstance(image, Image.Image):
        _check_range(image)
        with _reading(f"the PIL image {image!r}"):
            return _to_tensor(image, upright)
    path = _file(image)
    with _reading(f"the image {path!r}"), Image.open(path) as opened:
        _check_range(opened)
        return _to_tensor(opened, upright)


def _from_tensor(image: Tensor) -> Tensor:
    """A copy, so that what happens to the caller's tensor later changes nothing."""
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"an image tensor must have shape [3, H, W], got {list(image.shape)}")
    if not image.is_floating_point() or image.layout != torch.strided or image.is_meta:
        raise ValueError(
            f"an image tensor must hold floats in [0, 1], got {image.dtype} ({image.layout}, {image.device})"
        )
    if image.requires_grad:
        raise ValueError("an image tensor must not need a gradient: nothing flows back to it; give image.detach()")
    copy = image.to("cpu", torch.float32, copy=True).contiguous()
    if not (copy.min() >= 0 and copy.max() <= 1):
        raise ValueError(f"an image tensor must lie in [0, 1], got {copy.min():.3g} to {copy.max():.3g}")
    return copy


def _from_array(image: np.ndarray) -> Image.Image:
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if image.dtype != np.uint8 or not shaped or 0 in image.shape:
        raise ValueError(f"an image array must be uint8 [H, W] or [H, W, 3|4], got {image.dtype} {list(image.shape)}")
    if np.ma.is_masked(image):
        raise ValueError("an image array must not be masked; fill it first, image.filled(...)")
    return Image.fromarray(np.ascontiguousarray(image))


def _file(image: str | os.PathLike) -> str:
    """The path of an ordinary file, or of none; a pipe would be waited for, a device never ends."""
    if not isinstance(image, str | os.PathLike):
        kinds = "a file name, a PIL image, a uint8 array or a tensor"
        raise TypeError(f"an image must be {kinds}, got {type(image).__name__}")
    path = os.path.expanduser(os.fsdecode(image))
    if os.path.exists(path) and not os.path.isfile(path):
        raise ImageReadError(f"cannot read the image {path!r}: it is not a file")
    return path


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # decoders let out whatever a damaged file provokes
        raise ImageReadError(f"cannot read {what}: {str(error) or type(error).__name__}") from error


def _check_range(image: Image.Image) -> None:
    """
    Raises:
        ValueError: the picture is empty, or nothing says which of its numbers is white.
    """
    if 0 in image.size:
        raise ValueError(f"an image must have pixels, got {image.width} x {image.height}")
    deep = image.mode == "F" or (image.mode == "I" and image.format not in FULL_RANGE)
    if deep or (image.mode.startswith("I;16") and not _is_plain_grey(image)):
        raise ValueError(f"mode {image.mode} has no known white; scale the picture to 8 bits, or to 16-bit grey, first")


def _is_plain_grey(image: Image.Image) -> bool:
    """Whether 0 is black and 65535 white: a TIFF may hold 12 bits, or have it the other way round."""
    tags = getattr(image, "tag_v2", {})
    return (
        tags.get(ExifTags.Base.BitsPerSample, (16,)) == (16,)
        and tags.get(ExifTags.Base.PhotometricInterpretation, 1) == 1
    )


def _to_tensor(image: Image.Image, upright: bool) -> Tensor:
    pixels = _to_rgb(ImageOps.exif_transpose(image) if upright else image)
    return torch.from_numpy(np.array(pixels, dtype=np.float32)).permute(2, 0, 1) / 255


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_label_map(path: str | os.PathLike) -> np.ndarray:
    """A PNG or TIFF of labels, grey or with a palette -> the numbers themselves, uint8 or, of more bits, int32 [H, W].

    Raises:
        ImageReadError: the file is missing, damaged, of another format, in colours, or of less than 8 bits of grey,
            which Pillow stretches over the whole range.
    """
    path = _file(path)
    with _reading(f"the label map {path!r}"), Image.open(path, formats=("PNG", "TIFF")) as image:
        raw = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile}
        if image.mode in ("1", "L") and raw != {image.mode}:
            raise ValueError(f"its {', '.join(raw)} is not read as it is stored; save it as 8-bit grey or palette")
        if image.mode not in LABEL_MODES:
            raise ValueError(f"it is a picture in mode {image.mode}, not a map of labels")
        return np.array(image).astype(LABEL_MODES[image.mode])


LABEL_MODES = dict.fromkeys(("P", "L", "1"), np.uint8) | dict.fromkeys(("I", "I;16", "I;16B", "I;16L"), np.int32)
"""By Pillow's mode, what holds all its numbers."""


def to_network_range(image: Tensor, size: int) -> Tensor:
    """[3, H, W] in [0, 1] -> [3, size, size] in [-1, 1].

    Resized as 8-bit picture by PIL, bilinear with antialiasing, as the released code does (`utils/diffusion.py:112`):
    the width first, then the height. Pillow 13 takes the cheaper order, one grey level elsewhere in a quarter of the
    pixels of a portrait.
    """
    if image.shape[1:] != (size, size):
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).cpu().numpy())
        picture = picture.resize((size, picture.height), Image.Resampling.BILINEAR)
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        image = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1) / 255
    return 2 * image - 1
