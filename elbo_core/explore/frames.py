"""A slider over pictures that are ready: a target shrinks or is hidden, and the model's heatmap follows at once."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets as widgets
import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from elbo_core.datasets.manipulated import Base, base_scene, slid, with_radius
from elbo_core.datasets.toy import toy_scene
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.experiments.rows import READINGS
from elbo_core.methods.align import align
from elbo_core.methods.observe import observe
from elbo_core.scene import Scene
from elbo_core.toy.render import render
from elbo_core.toy.world import SceneSpec

SIDE, GAP, TITLE = 208, 8, 20
LARGEST, SMALLEST = 34.0, 6.0
MASK_AT = 0.5
HIDDEN = (150, 150, 150)


@dataclass(frozen=True)
class Frame:
    """A PNG, and the same in words."""

    png: bytes
    words: str


def sizes(base: Base, steps: int) -> list[SceneSpec]:
    """The target from large to small."""
    return [with_radius(base, float(radius)) for radius in np.geomspace(LARGEST, SMALLEST, steps)]


def slides(base: Base, steps: int) -> list[SceneSpec]:
    """The other thing on its way to the target, until it lies in front of it."""
    return [base.scene(base.target, slid(base, float(way))) for way in np.linspace(0, 1, steps)]


WAYS: dict[str, Callable[[Base, int], list[SceneSpec]]] = {"size": sizes, "occlusion": slides}
"""By name, what a slider can move."""


def frames(denoiser: Denoiser, base: int, steps: int, reading: str = "late layers") -> dict[str, list[Frame]]:
    """For each of `WAYS` so many frames of a base scene, with the heatmaps of the target, calibration off and on."""
    chosen = base_scene("test", base)
    return {
        name: [_frame(denoiser, spec, f"{name}/{base}", reading) for spec in way(chosen, steps)]
        for name, way in WAYS.items()
    }


def _frame(denoiser: Denoiser, spec: SceneSpec, scene_id: str, reading: str) -> Frame:
    rendering = render(spec)
    scene, target = toy_scene(rendering, scene_id), spec.things[0]
    shown = f"{target.name}: radius {target.radius:.0f}, {rendering.visible[0]:.0%} visible"
    if target.name not in scene.classes:
        return Frame(side_by_side([(shown, rendering.image)]), shown)
    position = scene.classes.index(target.name)
    observation = observe(denoiser, scene)
    off, on = (align(observation, recipe) for recipe in (READINGS[reading].off(), READINGS[reading]))
    mask = (off.mask(MASK_AT) == position + 1).numpy()
    score = on.scores[position].item()
    iou = iou_percent(mask, _truth(scene, position))
    panels = [(shown, rendering.image), ("heatmap, calibration off", heat(off.values[position].numpy())),
              (f"on, S = {score:.2f}", heat(on.values[position].numpy())),
              (f"mask off, IoU {iou:.0f} %", _mask(mask, _truth(scene, position)))]  # fmt: skip
    return Frame(side_by_side(panels), f"{shown}; mask at 50 %: IoU {iou:.0f} %; S = {score:.2f}")


def _truth(scene: Scene, position: int) -> np.ndarray:
    return np.asarray(scene.label_map) == scene.labels[position]


def iou_percent(mask: np.ndarray, truth: np.ndarray) -> float:
    """Of two bool masks; 0 if both are empty."""
    return 100 * float((mask & truth).sum()) / max(int((mask | truth).sum()), 1)


def heat(values: np.ndarray) -> np.ndarray:
    """A heatmap [H, W] in [0, 1] in colours, uint8 [H, W, 3]."""
    return (matplotlib.colormaps["magma"](values)[..., :3] * 255).astype(np.uint8)


def _mask(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What is found in orange, what is missed in grey."""
    picture = np.full((*mask.shape, 3), 240, np.uint8)
    picture[truth & ~mask] = HIDDEN
    picture[mask] = (222, 143, 5)
    return picture


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """Pictures, uint8 [H, W, 3], in one PNG, each under its title."""
    whole = Image.new("RGB", (len(panels) * (SIDE + GAP), SIDE + TITLE), "white")
    draw = ImageDraw.Draw(whole)
    for k, (title, picture) in enumerate(panels):
        draw.text((k * (SIDE + GAP), 2), title, fill="black", font_size=13)
        whole.paste(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST), (k * (SIDE + GAP), TITLE))
    packed = io.BytesIO()
    whole.save(packed, "PNG", compress_level=1)
    return packed.getvalue()


def film(shown: Sequence[Frame], count: int = 2) -> bytes:
    """Some frames below each other, evenly chosen: what a page without widgets shows."""
    chosen = [Image.open(io.BytesIO(shown[int(k)].png)) for k in np.linspace(0, len(shown) - 1, min(count, len(shown)))]
    whole = Image.new("RGB", (max(part.width for part in chosen), sum(part.height + GAP for part in chosen)), "white")
    top = 0
    for part in chosen:
        whole.paste(part, (0, top))
        top += part.height + GAP
    packed = io.BytesIO()
    whole.save(packed, "PNG")
    return packed.getvalue()


def frame_sliders(shown: Mapping[str, Sequence[Frame]]) -> widgets.Widget:
    """A choice of what is moved, a slider, and the frame at its place: nothing is computed when it moves."""
    what = widgets.ToggleButtons(options=list(shown), description="move")
    place = widgets.IntSlider(0, min=0, max=max(map(len, shown.values())) - 1, description="further", readout=False)
    picture = widgets.HTML()

    def show(_: object = None) -> None:
        own = shown[what.value]
        frame = own[min(place.value, len(own) - 1)]
        png = base64.b64encode(frame.png).decode()
        words = html.escape(frame.words, quote=True)
        picture.value = f'<img alt="{words}" style="max-width: 100%" src="data:image/png;base64,{png}">'

    for control in (what, place):
        control.observe(show, "value")
    show()
    return widgets.VBox([what, place, picture])
