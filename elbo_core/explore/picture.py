"""What the explorer shows, drawn at once: one PNG from a `Look`, without the second that a plotting library takes."""

from __future__ import annotations

import functools
import io
import math

import matplotlib
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from elbo_core.explore.view import Look, Settings, Subject
from elbo_core.plots import CLASS_COLORS, color_mask

PANEL, GAP, TITLE, WIDTH = 216, 12, 22, 920
"""Pixels: the side of a panel, the space between two, the height of a title, and the width of it all."""
INK, PALE, CROSS = (30, 30, 30), (225, 225, 225), (255, 255, 255)


@functools.cache
def _font(size: int = 13) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


@functools.cache
def _colours() -> np.ndarray:
    """The colours of 256 steps from 0 to 1, uint8 [256, 3]."""
    return (matplotlib.colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8)


def frame(subject: Subject, look: Look, settings: Settings) -> bytes:
    """A PNG in three rows: picture, truth, a wipe from before to after, and after; a heatmap for each class; and, of
    the pixel that is looked at, the heatmaps' values and where its self-attention goes."""
    rows = [_row(_masks(subject, look, settings))]
    heatmaps = _heatmaps(look, settings)
    rows += [_row(heatmaps[start : start + 4]) for start in range(0, len(heatmaps), 4)]
    rows.append(_pixel_row(subject, look, settings))
    height = sum(row.height for row in rows) + GAP * (len(rows) - 1)
    whole, top = Image.new("RGB", (WIDTH, height), "white"), 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height + GAP
    packed = io.BytesIO()
    whole.save(packed, "PNG", compress_level=1)
    return packed.getvalue()


def alt_text(subject: Subject, look: Look, settings: Settings) -> str:
    """The same in words."""
    x, y = settings.pixel
    scores = ", ".join(f"{name} {score:.2f}" for name, score in zip(look.after.classes, look.after.scores, strict=True))
    values = ", ".join(
        f"{name} {value:.2f}" for name, value in zip(look.after.classes, look.after.values[:, y, x], strict=True)
    )
    found = "" if math.isnan(look.ious[0]) else f" IoU {look.ious[0]:.0f} % before and {look.ious[1]:.0f} % after."
    return f"{subject.model}: masks and heatmaps.{found} Scores: {scores}. At pixel {x}, {y}: {values}."


Panel = tuple[str, np.ndarray]
"""A title and a picture, uint8 [H, W, 3]."""


def _masks(subject: Subject, look: Look, settings: Settings) -> list[Panel]:
    before, after = (_bytes(color_mask(mask)) for mask in look.masks)
    cut = round(settings.wipe * before.shape[1])
    wiped = after.copy()
    wiped[:, :cut] = before[:, :cut]
    if 0 < cut < wiped.shape[1]:
        wiped[:, cut - 1 : cut] = INK
    picture = _bytes(subject.scene.image.numpy().transpose(1, 2, 0))
    panels = [("picture", _crossed(picture, settings.pixel))]
    if subject.scene.label_map is not None:
        panels.append(("truth", _bytes(color_mask(subject.scene.truth))))
    shares = ["" if math.isnan(iou) else f", IoU {iou:.0f} %" for iou in look.ious]
    return [*panels, (f"before{shares[0]} | after", wiped), (f"after{shares[1]}", after)]


def _heatmaps(look: Look, settings: Settings) -> list[Panel]:
    named = zip(look.after.classes, look.after.values, look.after.scores, strict=True)
    return [(f"{name}, S = {score:.2f}", _crossed(heat(values), settings.pixel)) for name, values, score in named]


def heat(values: Tensor) -> np.ndarray:
    """A map in [0, 1] in colours."""
    return _colours()[(values.clamp(0, 1) * 255).round().long().numpy()]


def _bytes(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def _crossed(picture: np.ndarray, pixel: tuple[int, int]) -> np.ndarray:
    """The picture with a small cross around the pixel (x, y), white with a dark rim."""
    marked = Image.fromarray(picture)
    draw, (x, y), arm = ImageDraw.Draw(marked), pixel, max(2, picture.shape[1] // 32)
    for color, width in ((INK, 3), (CROSS, 1)):
        draw.line((x - arm, y, x + arm, y), fill=color, width=width)
        draw.line((x, y - arm, x, y + arm), fill=color, width=width)
    return np.asarray(marked)


def _row(panels: list[Panel]) -> Image.Image:
    row = Image.new("RGB", (WIDTH, TITLE + PANEL), "white")
    for k, (title, picture) in enumerate(panels):
        left = k * (PANEL + GAP)
        ImageDraw.Draw(row).text((left, 3), _short(title), fill=INK, font=_font())
        row.paste(Image.fromarray(picture).resize((PANEL, PANEL), Image.Resampling.NEAREST), (left, TITLE))
    return row


def _short(title: str) -> str:
    """A title that fits above a panel."""
    while _font().getlength(title) > PANEL:
        title = title.removesuffix("…")[:-1] + "…"
    return title


def _pixel_row(subject: Subject, look: Look, settings: Settings) -> Image.Image:
    """Left, where the pixel's self-attention goes; right, the heatmaps' values there, before (pale) and after."""
    row = _row([("self-attention from the cross", heat(look.attended))])
    draw, (x, y) = ImageDraw.Draw(row), settings.pixel
    left, top, length = PANEL + 2 * GAP, TITLE, 380
    draw.text((left, 3), f"heatmaps at pixel {x}, {y}: before (pale) and after", fill=INK, font=_font())
    step = min(30, PANEL // max(1, len(look.after.classes)))
    for k, name in enumerate(look.after.classes):
        color = tuple((CLASS_COLORS[k % len(CLASS_COLORS)] * 255).astype(int))
        before, after = (float(maps.values[k, y, x]) for maps in (look.before, look.after))
        line = top + k * step
        draw.text((left, line), _short(name), fill=INK, font=_font(12))
        start, half = left + 110, (step - 4) // 2
        draw.rectangle((start, line, start + before * length, line + half), fill=PALE, outline=color)
        draw.rectangle((start, line + half, start + after * length, line + 2 * half), fill=color)
        draw.text((start + length + GAP, line), f"{before:.2f} → {after:.2f}", fill=INK, font=_font(12))
    edge = left + 110 + settings.threshold * length
    draw.line((edge, top, edge, top + step * len(look.after.classes)), fill=INK)
    return row
