"""The training set of the embedded world: scenes by index, rendered once into a memory-mapped cache."""

from __future__ import annotations

from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from elbo_core.toy.render import render
from elbo_core.toy.world import IMAGE_SIZE, SceneSpec, SceneStyle, sample_scene

TRAINING_STYLE = SceneStyle(single_probability=0.25)
TRAINING_SEED, TRAINING_SCENES = 20_250_609, 40_000


def training_scene(index: int, style: SceneStyle = TRAINING_STYLE) -> SceneSpec:
    """Scene `index` of the endless training stream. Held-out sets draw from other seeds (`datasets.toy`)."""
    return sample_scene(np.random.default_rng([TRAINING_SEED, index]), style)


def _training_image(index: int) -> np.ndarray:
    return render(training_scene(index)).image


class TrainingSet:
    """`images`: uint8 memory map [count, 128, 128, 3]; `specs`: their scenes."""

    def __init__(self, cache: Path, count: int = TRAINING_SCENES, processes: int = 2):
        self.specs = [training_scene(index) for index in range(count)]
        path = cache / f"train-{TRAINING_SEED}-{count}.npy"
        if not path.exists():
            self._render(path, count, processes)
        self.images = np.load(path, mmap_mode="r")

    @staticmethod
    def _render(path: Path, count: int, processes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
        images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        with Pool(processes) as pool:
            rendered = pool.imap(_training_image, range(count), chunksize=64)
            for index, image in enumerate(tqdm(rendered, total=count, desc="render training scenes")):
                images[index] = image
        images.flush()
        partial.rename(path)
