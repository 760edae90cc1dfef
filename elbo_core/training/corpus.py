"""The training set of the embedded world: scenes by index, rendered once into a memory-mapped cache."""

from __future__ import annotations

import hashlib
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from elbo_core.paths import whole_file
from elbo_core.toy.render import render
from elbo_core.toy.world import IMAGE_SIZE, SceneSpec, SceneStyle, sample_scene

TRAINING_STYLE = SceneStyle(single_probability=0.5)
TRAINING_SEED, TRAINING_SCENES = 20_250_609, 40_000
COMPOSED_STYLE = SceneStyle(
    (2, 3), (14.0, 34.0), copies_probability=0.08, characteristic_probability=0.35, spacing=0.95,
    single_probability=0.35, single_radius=(18.0, 44.0),
)  # fmt: skip
COMPOSED_SEED, COMPOSED_SCENES = 20_250_612, 32_000
"""A set for what `TRAINING_STYLE` hardly shows: two and three things in one picture, of the size that a prompt of two
things asks for, and two thirds of them in a colour that only the caption can tell."""
SHAPE_STYLE = SceneStyle(
    (1, 2), (12.0, 40.0), class_exponent=0.0, characteristic_probability=0.0, single_probability=0.6
)
SHAPE_SEED, SHAPE_SCENES = 20_250_610, 16_000
"""A second set for the toy CLIP: things equally often and in any colour, so that only shape tells them apart."""


def training_scene(index: int, style: SceneStyle = TRAINING_STYLE, seed: int = TRAINING_SEED) -> SceneSpec:
    """Scene `index` of an endless training stream. Held-out sets draw from other seeds (`datasets.toy`)."""
    return sample_scene(np.random.default_rng([seed, index]), style)


def _fingerprint(style: SceneStyle) -> str:
    """A name for the style, so that pictures of another style are never taken for its own."""
    return hashlib.sha256(repr(style).encode()).hexdigest()[:12]


def _image(spec: SceneSpec) -> np.ndarray:
    return render(spec).image


class RenderedScenes:
    """`images`: uint8 memory map [count, 128, 128, 3] of the scenes `specs`, rendered once and kept at `path`.

    seed: that the scenes are drawn from. frequencies: how often classes are shown, in words.
    """

    def __init__(self, specs: list[SceneSpec], path: Path, seed: int, frequencies: str):
        self.specs, self.path, self.seed, self.frequencies = specs, path, seed, frequencies
        if not path.exists():
            _render(specs, path)
        self.images = np.load(path, mmap_mode="r")


class TrainingSet(RenderedScenes):
    """The first `count` scenes of a training stream."""

    def __init__(
        self, cache: Path, count: int = TRAINING_SCENES, style: SceneStyle = TRAINING_STYLE, seed: int = TRAINING_SEED
    ):
        specs = [training_scene(index, style, seed) for index in range(count)]
        path = cache / f"train-{seed}-{count}-{_fingerprint(style)}.npy"
        super().__init__(specs, path, seed, "Zipf" if style.class_exponent else "uniform")


def _render(specs: list[SceneSpec], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(specs), IMAGE_SIZE, IMAGE_SIZE, 3)
    with whole_file(path) as partial, Pool() as pool:
        images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        rendered = pool.imap(_image, specs, chunksize=64)
        for index, image in enumerate(tqdm(rendered, total=len(specs), desc="render training scenes", mininterval=5)):
            images[index] = image
        images.flush()


def keep_array(path: Path, array: np.ndarray) -> None:
    """Store what was computed from a training set; a process that is killed leaves nothing that looks whole."""
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, array)
