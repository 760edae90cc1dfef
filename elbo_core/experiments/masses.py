"""Where the attention to a class lies: a kind of measurement on scenes in which one thing is turned at a time.

Of every candidate class of a picture and every way to read it: the share of its heatmap that lies on its own pixels,
where the heatmap peaks, its IoU at every threshold, its alignment score and losses.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from tqdm.auto import tqdm

from elbo_core.datasets import Dataset
from elbo_core.datasets.manipulated import (
    MANIPULATED,
    PORTRAITS,
    Variant,
    manipulated_variants,
    portrait_variants,
    variant_dataset,
)
from elbo_core.diffusion.fingerprint import model_fingerprint
from elbo_core.errors import MeasurementError, StoreError
from elbo_core.experiments.keys import key_text, short_hash
from elbo_core.experiments.pool import measure_here
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.rows import BATCHES, Row, plan_of
from elbo_core.experiments.run import read_rows
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import Work, lacking, loaded
from elbo_core.heatmaps import resize
from elbo_core.methods.align import Recipe, cross_maps
from elbo_core.methods.observe import Observation, observe
from elbo_core.metrics import confusion, count
from elbo_core.paths import MODELS, RUNS
from elbo_core.scene import Scene
from elbo_core.toy.world import THINGS
from elbo_core.training.twins import FIRST_TWINS, TWINS

MODELS_TURNED = ("toy-sd15", "toy-sd21", "toy-sd35")
"""Those whose heatmaps are followed through the manipulations: two objectives, a UNet and a transformer."""
BASES, LAYOUTS = 40, 6
"""A rehearsal turns few scenes, portrays every fourth class, and compares the twins of one seed only."""
ROWS: list[Row] = [row for row in BATCHES["models"] if row.name in ("off", "on")]
"""Calibration off and on, in both readings of the attention."""
MEASURE = "masses 1"
"""Part of every method's key; raised when a change of this module alters what is measured."""

COLUMNS = pa.schema(
    [
        ("index", pa.int32()),
        ("content", pa.string()),  # a hash of the variant
        ("method", pa.string()),  # the hash of measure and row
        ("class", pa.string()),
        ("area", pa.int32()),  # true pixels
        ("visible", pa.float32()),  # share of the class's pixels that nothing hides
        ("score", pa.float32()),  # alignment score
        ("inside", pa.float32()),  # share of the heatmap's mass on the class's pixels
        ("raw_inside", pa.float32()),  # the same of the cross-attention that it is made of
        ("peak", pa.float32()),  # the highest value of that cross-attention, a probability
        ("hit", pa.bool_()),  # whether the heatmap is highest on a pixel of the class
        ("iou", pa.list_(pa.float32(), 99)),  # in percent, at thresholds of 1 to 99 %
        ("losses", pa.list_(pa.float32())),  # epsilon-MSE at each of the row's timesteps, if it asks for it
        ("seconds", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Masses:
    """The rows `ROWS` on variants of scenes, measured with a model: a `Work`.

    dataset: `MANIPULATED`, with `scenes` base scenes, or `PORTRAITS`, with so many layouts of each of `classes`.
    """

    model: str
    dataset: str
    scenes: int
    classes: tuple[str, ...] = THINGS
    split: str = "test"
    batch: str = "masses"

    def store(self, root: Path = RUNS) -> Store:
        key = {"model": self.model, "weights": model_fingerprint(self.model), "dataset": self.dataset}
        return Store({**key, "split": self.split, "kind": "masses"}, COLUMNS, root)

    def contents(self) -> Sequence[str]:
        return self.opened.contents

    def methods(self) -> Sequence[str]:
        return list(map(definition, ROWS))

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        """Measure what is missing of the variants at `indices`, one after another.

        Raises:
            MeasurementError: one failed; those before it are stored.
            StoreError: the store cannot be written.
        """
        todo = sorted(set(lacking(self, store)) & set(indices))
        if not todo:
            return
        store.check_writable()
        denoiser, dataset = loaded(self.model), self.opened
        for index in tqdm(todo, desc=f"{self.model} {self.dataset}", leave=False, disable=None):
            try:
                records = measure_scene(denoiser, dataset.read(index))
            except Exception as error:
                raise MeasurementError(f"scene {index} of {self.dataset} could not be measured: {error}") from error
            store.add(index, [{"index": index, "content": dataset.contents[index], **record} for record in records])

    @property
    def variants(self) -> Sequence[Variant]:
        return _variants(self.dataset, self.scenes, self.classes, self.split)

    @property
    def opened(self) -> Dataset:
        return variant_dataset(self.dataset, self.variants, self.split)


@functools.lru_cache(maxsize=16)
def _variants(dataset: str, scenes: int, classes: tuple[str, ...], split: str) -> Sequence[Variant]:
    if dataset not in (MANIPULATED, PORTRAITS):
        raise ValueError(f"unknown set {dataset!r}; known: {MANIPULATED}, {PORTRAITS}")
    if dataset == MANIPULATED:
        return manipulated_variants(scenes, split)
    return portrait_variants(scenes, classes, split)


def definition(row: Row) -> str:
    """A hash of all that a row's numbers depend on, but for model and picture."""
    return short_hash(key_text({"measure": MEASURE, "method": row.method, "plan": row.plan}))


def measure_scene(denoiser, scene: Scene, rows: Sequence[Row] = ROWS) -> list[dict]:
    """The records of all rows on one scene, one per row and candidate class.

    Raises:
        ValueError: the scene has no label map.
    """
    if scene.label_map is None:
        raise ValueError(f"scene {scene.id!r} has no label map to compare with")
    started = time.perf_counter()
    observation = observe(denoiser, scene, plan_of(rows))
    heatmaps = read_rows(observation, rows)
    raw = {recipe.layer_weights: raw_maps(observation, recipe) for recipe in map(_recipe, rows)}
    seconds = time.perf_counter() - started
    records = []
    for row in rows:
        shown = heatmaps[row.definition]
        losses = observation.under(row.plan).losses.of_each(scene.classes).tolist() if row.plan.losses else None
        curves = iou_curves(shown, scene)
        for k, name in enumerate(scene.classes):
            region = torch.from_numpy(scene.label_map == scene.labels[k])
            record = {"method": definition(row), "class": name, "area": int(region.sum()), "seconds": seconds}
            record |= {"visible": scene.visible[k], "score": shown.scores[k].item(), "iou": curves[k].tolist()}
            record |= where(shown.values[k], region) | _where_raw(raw[_recipe(row).layer_weights][k], region)
            records.append(record | {"losses": losses[k] if losses else []})
    return records


def _recipe(row: Row) -> Recipe:
    return cast(Recipe, row.method)


def raw_maps(observation: Observation, recipe: Recipe) -> Tensor:
    """The cross-attention to each class before anything is done to it, [N, H, W]: the mean over timesteps and layers,
    weighted as the recipe does."""
    maps = torch.empty(len(observation.classes), *observation.image_size)
    for attention in observation.attention.captions:
        index = [observation.classes.index(name) for name in attention.classes]
        mean = cross_maps(attention, replace(recipe, average_maps=True))
        maps[index] = resize(mean, observation.image_size)[0].cpu()
    return maps


def where(heatmap: Tensor, region: Tensor) -> dict:
    """Of a heatmap [H, W], nowhere negative, the share of its mass in a region, bool [H, W], and whether it is highest
    there; all zero, it lies nowhere."""
    total = heatmap.sum().item()
    inside = heatmap[region].sum().item() / total if total > 0 else 0.0
    return {"inside": inside, "hit": bool(region.any() and total > 0 and heatmap[region].max() == heatmap.max())}


def _where_raw(attention: Tensor, region: Tensor) -> dict:
    return {"raw_inside": where(attention, region)["inside"], "peak": attention.max().item()}


def iou_curves(heatmaps, scene: Scene) -> np.ndarray:
    """The IoU of each candidate class in percent [N, 99], at thresholds of 1 to 99 percent."""
    labels, truth = list(scene.labels), np.asarray(scene.label_map)
    counts = count(heatmaps, labels, truth, max(int(truth.max()), *labels))
    predicted, right, true = confusion(counts)
    return 100 * right[labels] / np.maximum(predicted[labels] + true[labels][:, None] - right[labels], 1)


def bases(profile: Profile) -> int:
    """The number of base scenes: 40, or a quarter of the profile's images in a rehearsal."""
    return max(1, (profile.images or 0) // 4) if profile.is_rehearsal else BASES


def layouts(profile: Profile) -> int:
    """The number of layouts that every class is portrayed in: a quarter of that of base scenes."""
    return max(1, bases(profile) * LAYOUTS // BASES)


def portrayed(profile: Profile) -> tuple[str, ...]:
    """The classes that are portrayed: all, or every fourth in a rehearsal."""
    return THINGS[::4] if profile.is_rehearsal else THINGS


def turned(model: str, profile: Profile) -> Masses:
    """The work that turns one thing at a time."""
    return Masses(model, MANIPULATED, bases(profile))


def portraits(model: str, profile: Profile) -> Masses:
    """The work that portrays every class in the same layouts."""
    return Masses(model, PORTRAITS, layouts(profile), portrayed(profile))


def is_made(model: str) -> bool:
    """Whether a model of the embedded world lies on this machine."""
    return (MODELS / model / "model_index.json").is_file()


def twins_of(profile: Profile) -> list[str]:
    """The twins that are trained, in the order of `TWINS`; those of one training seed in a rehearsal."""
    wanted = FIRST_TWINS if profile.is_rehearsal else TWINS
    return [name for name in wanted if is_made(name)]


def has_twins(profile: Profile) -> bool:
    """Whether a profile compares twins."""
    return "99_long_tail_by_intervention" in profile.notebooks


def works(profile: Profile) -> list[Masses]:
    """What a profile needs of this kind. Twins are portrayed in the embedded world's own profiles only."""
    own = profile.notebooks.get("05_figure1_misalignment", {"models": []})
    models = own.get("models", MODELS_TURNED)
    needed = [turned(model, profile) for model in models if not model.startswith("toy-") or is_made(model)]
    if has_twins(profile):
        needed += [portraits(model, profile) for model in twins_of(profile)]
    return needed


def finish(work: Work, root: Path = RUNS) -> Store:
    """The store of a work, after what it lacks has been measured.

    Raises:
        MeasurementError: an item could not be measured.
    """
    measure_here([work], root)
    return work.store(root)


def read_masses(work: Masses, root: Path = RUNS) -> pd.DataFrame:
    """One line per variant, row and candidate class, after what is missing has been measured.

    Columns: model, base, manipulation, level, amount, target (bool), reading, row, and those of `COLUMNS`.
    """
    frame = finish(work, root).read(set(work.methods()), work.contents()).to_pandas()
    frame = frame.drop_duplicates(["index", "method", "class"]).sort_values(["index", "class"], kind="stable")
    if len(frame.groupby(["index", "method"])) < len(work.variants) * len(ROWS):
        raise StoreError(f"{work.model} is measured on a part of {work.dataset} only")
    return _described(frame, work)


def _described(frame: pd.DataFrame, work: Masses) -> pd.DataFrame:
    names: Mapping[str, tuple[str, str]] = {definition(row): row.id for row in ROWS}
    facts = pd.DataFrame([(v.base, v.manipulation, v.level, v.amount, v.target) for v in work.variants],
                         columns=["base", "manipulation", "level", "amount", "asked"])  # fmt: skip
    lines = frame.join(facts, on="index").reset_index(drop=True)
    ids = pd.DataFrame(lines.method.map(names).tolist(), columns=["reading", "row"])
    return lines.assign(model=work.model, target=lines["class"] == lines.asked, **ids)
