"""Write what the released code computes on the way, one file per image and class, to compare implementations.

    python -m elbo_core.reports.export --model sd15 --manifest manifest.json --classes classes.json --output folder

The manifest is a list of `{"name", "image", "label_map", "classes": [...]}`, paths relative to it; classes.json is the
list of class names, entry 0 the background. `folder/{name}__{class}.npz` holds `loss` (sum over the timesteps),
`minmax` (that of the classes scaled to [0, 1]), `cross_att` [M, M] (calibrated) and `heatmap` [h, w] in [0, 1].
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from elbo_core.captions import check_classes
from elbo_core.datasets.dataset import check_name
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.models import load
from elbo_core.heatmaps import min_max
from elbo_core.images import read_image, read_label_map
from elbo_core.methods.align import ElboScore, Recipe, calibrate, cross_maps, read
from elbo_core.methods.elbo import class_loss, weights
from elbo_core.methods.observe import Noise, Observation, observe, timesteps_of
from elbo_core.methods.plan import Plan
from elbo_core.scene import IGNORED, Scene


@dataclass(frozen=True)
class ManifestEntry:
    """One picture: its name, its file, and the classes to ask for."""

    name: str
    image: Path
    classes: tuple[str, ...]

    @property
    def scene(self) -> Scene:
        """The picture, read now, in its pixels as stored: its label map is in those.

        Raises:
            ImageReadError: the file cannot be read.
        """
        return Scene(read_image(self.image, upright=False), self.classes, self.name)


def read_names(path: Path) -> tuple[str, ...]:
    """The names of a classes.json, entry 0 the background.

    Raises:
        TypeError, ValueError: it is no list of distinct names.
    """
    names = _json(path)
    if not isinstance(names, list) or len(names) < 2:
        raise ValueError(f"{path} must be a list of names, the background first")
    return (names[0], *check_classes(names[1:]))


def read_manifest(manifest: Path, names: Sequence[str]) -> list[ManifestEntry]:
    """The pictures of a manifest. Without `classes`, those of the label map are asked.

    Raises:
        TypeError, ValueError: an entry lacks a name or an image, asks for a class that is not among `names` after the
            background, has a label map with other numbers, or would write to a file of another's.
        ImageReadError: a label map cannot be read.
    """
    names, entries = (names[0], *check_classes(names[1:])), _json(manifest)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{manifest} must be a list of one picture at least")
    found = [_entry(entry, f"entry {k} of {manifest}", manifest.parent, names) for k, entry in enumerate(entries)]
    check_files(found)
    return found


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _entry(entry: object, what: str, folder: Path, names: Sequence[str]) -> ManifestEntry:
    if not isinstance(entry, dict):
        raise ValueError(f"{what} is no object with a name and an image")
    needed = {"name", "image", *(["label_map"] if entry.get("classes") is None else [])}
    missing = sorted(key for key in needed if not isinstance(entry.get(key), str))
    if missing:
        raise ValueError(f"{what} lacks {missing}")
    asked = entry.get("classes")
    if asked is None:
        asked = _labels(folder / entry["label_map"], names)
    if not isinstance(asked, list):
        raise ValueError(f"{what} must have a list of classes, got {asked!r}")
    classes = check_classes([_name(one, names, entry["name"]) for one in asked])
    unknown = set(classes) - set(names[1:])
    if unknown:
        raise ValueError(f"{entry['name']!r} asks for {sorted(unknown)}, which are not in the list of classes")
    return ManifestEntry(entry["name"], folder / entry["image"], classes)


def _name(asked: Any, names: Sequence[str], picture: str) -> Any:
    """The name of a class that is asked for by its number; -1 is not the last, and 0 is the background."""
    if not isinstance(asked, int):
        return asked
    if isinstance(asked, bool) or not 0 < asked < len(names):
        raise ValueError(f"{picture!r} asks for the class {asked}, expected 1..{len(names) - 1}")
    return names[asked]


def _labels(path: Path, names: Sequence[str]) -> list[int]:
    labels = [int(label) for label in np.unique(read_label_map(path)) if label not in (0, IGNORED)]
    wrong = [label for label in labels if not 0 < label < len(names)]
    if wrong:
        raise ValueError(f"{path} holds the label {wrong[0]}, outside 0..{len(names) - 1} and {IGNORED}")
    return labels


def check_files(entries: Iterable[ManifestEntry]) -> None:
    """
    Raises:
        ValueError: two classes or pictures share a file, perhaps on a file system that knows no capitals; or its name
            is too long.
    """
    owners: dict[str, tuple[str, str]] = {}
    for entry in entries:
        for of_class in entry.classes:
            file, owner = file_name(entry.name, of_class), (entry.name, of_class)
            if len(file) > LONGEST:
                raise ValueError(f"{owner} would be written to a file of {len(file)} characters; shorten its name")
            if file.lower() in owners:
                raise ValueError(f"{owners[file.lower()]} and {owner} would both be written to {file}; rename one")
            owners[file.lower()] = owner


LONGEST = 255
"""Characters in the name of a file."""


class NoiseSource(Protocol):
    """(name of an image, shape [C, h, w] of its latents, plan) -> its noise."""

    def __call__(self, name: str, shape: Sequence[int], plan: Plan) -> Noise: ...


class ReleasedNoise:
    """Noise as the released code draws it: one generator for all images, attention before losses."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, shape: Sequence[int], plan: Plan) -> Noise:
        counts = {"collect": len(timesteps_of(plan.attention)), "elbo": len(timesteps_of(plan.losses))}
        return {kind: torch.randn(count, *shape, generator=self.generator) for kind, count in counts.items()}


@dataclass(frozen=True)
class StoredNoise:
    """Noise of one's own, from `folder/{name}.npz` with the arrays `elbo` [T, C, h, w] and `collect` [T', C, h, w]."""

    folder: Path

    def __call__(self, name: str, shape: Sequence[int], plan: Plan) -> Noise:
        """
        Raises:
            FileNotFoundError: there is none for this image.
            DatasetError: the name of the image leaves the folder.
        """
        with np.load(self.folder / f"{check_name(name, self.folder)}.npz") as arrays:
            return {kind: torch.from_numpy(arrays[kind]) for kind in ("elbo", "collect")}


def explain(observation: Observation, score: ElboScore = ElboScore()) -> dict[str, dict[str, np.ndarray]]:
    """By class: loss, minmax, cross_att and heatmap, read as the released code does."""
    recipe, asked = Recipe(score), observation.losses
    weight = weights(score.estimator, observation.schedule, asked.timesteps, asked.values)
    losses = class_loss(asked.values, weight).value * len(asked.timesteps)
    scores = score(observation)
    cross = _calibrated(observation, recipe, scores)
    (heatmaps,) = read(observation, recipe, scores[None])
    columns = {"loss": losses, "minmax": min_max(losses, [0]), "cross_att": cross, "heatmap": heatmaps}
    return {
        name: {key: values[n].numpy() for key, values in columns.items()} for n, name in enumerate(observation.classes)
    }


def _calibrated(observation: Observation, recipe: Recipe, scores: Tensor) -> Tensor:
    """The calibrated cross map of each class [N, M, M], the mean over timesteps where there are several."""
    found: dict[str, Tensor] = {}
    for attention in observation.attention.captions:
        index = [observation.classes.index(name) for name in attention.classes]
        maps = calibrate(cross_maps(attention, recipe), scores[index]).mean(dim=0)
        found |= zip(attention.classes, maps.cpu(), strict=True)
    return torch.stack([found[name] for name in observation.classes])


def file_name(name: str, of_class: str) -> str:
    """`{name}__{class}.npz`, every character that is not alphanumeric as an underscore."""
    return "__".join(re.sub(r"[^0-9A-Za-z]", "_", part) for part in (name, of_class)) + ".npz"


def export(denoiser: Denoiser, entries: Iterable[ManifestEntry], output: Path, plan: Plan, noise: NoiseSource) -> int:
    """Write the files of all entries; returns their number.

    Raises:
        ValueError: two would be one; see `check_files`. Nothing is written then.
    """
    entries = list(entries)
    check_files(entries)
    output.mkdir(parents=True, exist_ok=True)
    written = 0
    for entry in entries:
        scene = entry.scene
        own = noise(entry.name, denoiser.encode_image(scene.image).shape, plan)
        for of_class, arrays in explain(observe(denoiser, scene, plan, own)).items():
            np.savez(output / file_name(entry.name, of_class), **arrays)
            written += 1
    return written


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--classes", type=Path, help="classes.json; default: beside the manifest")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--noise", type=Path, help="folder of {name}.npz; default: drawn as the released code does")
    parser.add_argument("--seed", type=int, default=4307)
    parser.add_argument("--device", help="cpu, cuda, ...")
    options = parser.parse_args(arguments)
    names = read_names(options.classes or options.manifest.with_name("classes.json"))
    noise = StoredNoise(options.noise) if options.noise else ReleasedNoise(options.seed)
    entries = read_manifest(options.manifest, names)
    written = export(load(options.model, options.device), entries, options.output, Plan(), noise)
    print(f"{written} files in {options.output}")


if __name__ == "__main__":
    main()
