"""The training set of the embedded world: scenes by index, rendered once into a memory-mapped cache."""

from __future__ import annotations

import hashlib
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from elbo_core.toy.render import render
from elbo_core.toy.world import IMAGE_SIZE, SceneSpec, SceneStyle, sample_scene

TRAINING_STYLE = SceneStyle(single_probability=0.5)
TRAINING_SEED, TRAINING_SCENES = 20_250_609, 40_000
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


class TrainingSet:
    """`images`: uint8 memory map [count, 128, 128, 3], kept at `path`; `specs`: their scenes."""

    def __init__(
        self, cache: Path, count: int = TRAINING_SCENES, style: SceneStyle = TRAINING_STYLE, seed: int = TRAINING_SEED
    ):
        self.specs = [training_scene(index, style, seed) for index in range(count)]
        self.path = cache / f"train-{seed}-{count}-{_fingerprint(style)}.npy"
        if not self.path.exists():
            _render(self.specs, self.path)
        self.images = np.load(self.path, mmap_mode="r")


def _render(specs: list[SceneSpec], path: Path, processes: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    shape = (len(specs), IMAGE_SIZE, IMAGE_SIZE, 3)
    images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    with Pool(processes) as pool:
        rendered = pool.imap(_image, specs, chunksize=64)
        for index, image in enumerate(tqdm(rendered, total=len(specs), desc="render training scenes", mininterval=5)):
            images[index] = image
    images.flush()
    partial.rename(path)
