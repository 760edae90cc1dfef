"""Pixels and exact masks of a scene, antialiased by supersampling; the same spec gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from elbo_core.toy.shapes import SHAPES, Part, Shape, ShapeTable
from elbo_core.toy.textures import STUFF, noise, paint
from elbo_core.toy.world import CLASSES, IMAGE_SIZE, SceneSpec, Thing

SUPERSAMPLE = 4
ACCENT = np.array([0.36, 0.25, 0.2])
LIGHT_ACCENT = np.array([0.98, 0.95, 0.86])
LIGHT_ACCENT_THINGS = frozenset({"mushroom", "boat", "flower"})
OUTLINE = np.array([0.13, 0.11, 0.14])


@dataclass(frozen=True)
class Rendering:
    """What `render` returns. H = W = 128.

    image: uint8 [H, W, 3].
    instances: uint8 [H, W], 0 where no thing is seen, k for `spec.things[k - 1]`.
    thing_labels, stuff_labels: uint8 [H, W], labels of `CLASSES`; 0 is background in the first, never in the second.
    visible: float [len(things)], the share of each thing's own pixels (inside the image) that no other thing hides.
    """

    image: np.ndarray
    instances: np.ndarray
    stuff_labels: np.ndarray
    visible: np.ndarray
    spec: SceneSpec

    @property
    def thing_labels(self) -> np.ndarray:
        label_of_instance = [0, *(CLASSES.index(thing.name) + 1 for thing in self.spec.things)]
        return np.array(label_of_instance, dtype=np.uint8)[self.instances]

    @property
    def all_labels(self) -> np.ndarray:
        """Things in front of stuff: every pixel has a label."""
        return np.where(self.instances > 0, self.thing_labels, self.stuff_labels)


def render(spec: SceneSpec, shapes: ShapeTable = SHAPES) -> Rendering:
    """Draw `spec`: stuff first, then things from back to front, each as `shapes` has it.

    A pixel belongs to the frontmost thing that covers more than half of it.
    """
    rng = np.random.default_rng(spec.seed)
    canvas, stuff_labels = _draw_stuff(spec, rng)
    instances = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    own_pixels = []
    for index, thing in enumerate(spec.things, start=1):
        rows, columns, alpha, color = _draw_thing(thing, shapes[thing.name]())
        canvas[rows, columns] = (1 - alpha[..., None]) * canvas[rows, columns] + alpha[..., None] * color
        covered = alpha > 0.5
        instances[rows, columns][covered] = index
        own_pixels.append(covered.sum())
    seen = np.bincount(instances.ravel(), minlength=len(own_pixels) + 1)[1:]
    visible = seen / np.maximum(own_pixels, 1) if own_pixels else np.zeros(0)
    image = np.round(255 * np.clip(canvas, 0, 1)).astype(np.uint8)
    return Rendering(image, instances, stuff_labels, visible, spec)


def _draw_stuff(spec: SceneSpec, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    textures = [STUFF[name](rng, IMAGE_SIZE) for name in spec.stuff]
    wave = 6 * (noise(rng, IMAGE_SIZE, 4)[0] - 0.5)
    below = np.arange(IMAGE_SIZE)[:, None] > spec.horizon * IMAGE_SIZE + wave[None, :]
    labels = [CLASSES.index(name) + 1 for name in spec.stuff]
    stuff_labels = np.where(below, labels[-1], labels[0]).astype(np.uint8)
    return np.where(below[..., None], textures[-1], textures[0]), stuff_labels


def _draw_thing(thing: Thing, shape: Shape) -> tuple[slice, slice, np.ndarray, np.ndarray]:
    """The window (rows, columns) that a thing touches, its coverage [h, w] and colour [h, w, 3] there."""
    reach = thing.radius * 1.5 + 2
    x0, y0 = max(int(thing.x - reach), 0), max(int(thing.y - reach), 0)
    x1, y1 = min(int(thing.x + reach) + 1, IMAGE_SIZE), min(int(thing.y + reach) + 1, IMAGE_SIZE)
    to_object = _object_coordinates(thing, x0, y0, x1, y1)
    alpha = np.zeros((y1 - y0, x1 - x0))
    color = np.zeros((y1 - y0, x1 - x0, 3))
    surface = np.clip(paint(thing.color, thing.pattern, *to_object), 0, 1)
    for part in shape:
        fill, edge = _rasterise(part, thing, x0, y0, x1, y1)
        if part.paint == "hole":
            alpha = alpha * (1 - fill)
            edge = np.minimum(edge, alpha)
        else:
            color += (_part_color(part, thing.name, surface) - color) * fill[..., None]
            alpha = np.maximum(alpha, fill)
        color += (OUTLINE - color) * edge[..., None]
        alpha = np.maximum(alpha, edge)
    return slice(y0, y1), slice(x0, x1), alpha, color


def _part_color(part: Part, name: str, surface: np.ndarray) -> np.ndarray:
    if part.paint == "accent":
        return LIGHT_ACCENT if name in LIGHT_ACCENT_THINGS else ACCENT
    return surface * (0.72 if part.paint == "shade" else 1.0)


def _rotation(thing: Thing) -> np.ndarray:
    angle = np.radians(thing.rotation)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _object_coordinates(thing: Thing, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel of the window its position (u, v) in the object's own unit square, each [h, w]."""
    y, x = np.mgrid[y0:y1, x0:x1] + 0.5
    offset = np.stack([x - thing.x, y - thing.y], axis=-1) @ _rotation(thing)
    return offset[..., 0] / (thing.radius * thing.stretch), offset[..., 1] * thing.stretch / thing.radius


def _rasterise(part: Part, thing: Thing, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of a part and of its outline in the window, both [h, w] in [0, 1]."""
    scale = thing.radius * np.array([thing.stretch, 1 / thing.stretch])
    points = (part.points * scale) @ _rotation(thing).T + (thing.x - x0, thing.y - y0)
    outline = [tuple(point) for point in points * SUPERSAMPLE]
    size = ((x1 - x0) * SUPERSAMPLE, (y1 - y0) * SUPERSAMPLE)
    width = max(1, round(SUPERSAMPLE * (0.5 + thing.radius / 40)))
    fill, edge = Image.new("L", size), Image.new("L", size)
    ImageDraw.Draw(fill).polygon(outline, fill=255)
    ImageDraw.Draw(edge).line([*outline, outline[0]], fill=255, width=width, joint="curve")
    return tuple(np.asarray(layer.reduce(SUPERSAMPLE)) / 255 for layer in (fill, edge))
