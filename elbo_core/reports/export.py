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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from elbo_core.captions import check_classes
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.models import load
from elbo_core.images import read_image, read_label_map
from elbo_core.methods.align import Recipe, calibrate, cross_maps, read
from elbo_core.methods.elbo import class_loss, min_max, weights
from elbo_core.methods.observe import Noise, Observation, Plan, observe
from elbo_core.scene import Scene


@dataclass(frozen=True)
class ManifestEntry:
    """One picture: its name, and its scene."""

    name: str
    scene: Scene


def read_manifest(manifest: Path, names: Sequence[str]) -> Iterator[ManifestEntry]:
    """The pictures of a manifest, each read when its turn comes. Without `classes`, those of the label map are asked.

    Raises:
        ValueError: an entry lacks a name or an image, or asks for a class that is not among `names`.
        ImageReadError: a file cannot be read.
    """
    for position, entry in enumerate(json.loads(manifest.read_text())):
        missing = {"name", "image"} - set(entry)
        if missing:
            raise ValueError(f"entry {position} of {manifest} lacks {sorted(missing)}")
        classes = entry.get("classes")
        if classes is None:
            labels = np.unique(read_label_map(manifest.parent / entry["label_map"]))
            classes = [names[label] for label in labels if 0 < label < len(names)]
        classes = check_classes([names[name] if isinstance(name, int) else name for name in classes])
        unknown = set(classes) - set(names[1:])
        if unknown:
            raise ValueError(f"{entry['name']!r} asks for {sorted(unknown)}, which are not in the list of classes")
        image = read_image(manifest.parent / entry["image"])
        yield ManifestEntry(entry["name"], Scene(image, classes, entry["name"]))


class NoiseSource(Protocol):
    """(name of an image, shape [C, h, w] of its latents, plan) -> its noise."""

    def __call__(self, name: str, shape: Sequence[int], plan: Plan) -> Noise: ...


class ReleasedNoise:
    """Noise as the released code draws it: one generator for all images, attention before losses."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, shape: Sequence[int], plan: Plan) -> Noise:
        counts = {"collect": len(plan.attention_timesteps), "elbo": len(plan.elbo_timesteps)}
        return {kind: torch.randn(count, *shape, generator=self.generator) for kind, count in counts.items()}


@dataclass(frozen=True)
class StoredNoise:
    """Noise of one's own, from `folder/{name}.npz` with the arrays `elbo` [T, C, h, w] and `collect` [T', C, h, w]."""

    folder: Path

    def __call__(self, name: str, shape: Sequence[int], plan: Plan) -> Noise:
        """
        Raises:
            FileNotFoundError: there is none for this image.
        """
        with np.load(self.folder / f"{name}.npz") as arrays:
            return {kind: torch.from_numpy(arrays[kind]) for kind in ("elbo", "collect")}


def explain(observation: Observation, recipe: Recipe = Recipe.reference()) -> dict[str, dict[str, np.ndarray]]:
    """By class: loss, minmax, cross_att and heatmap."""
    score = recipe.score
    weight = weights(score.estimator, observation.schedule, observation.elbo_timesteps, observation.losses)
    losses = class_loss(observation.losses, weight).value * len(observation.elbo_timesteps)
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
    for attention in observation.attention:
        index = [observation.classes.index(name) for name in attention.classes]
        maps = calibrate(cross_maps(attention, recipe), scores[index]).mean(dim=0)
        found |= zip(attention.classes, maps.cpu(), strict=True)
    return torch.stack([found[name] for name in observation.classes])


def file_name(name: str, of_class: str) -> str:
    """`{name}__{class}.npz`, every character that is not alphanumeric as an underscore."""
    return "__".join(re.sub(r"[^0-9A-Za-z]", "_", part) for part in (name, of_class)) + ".npz"


def export(denoiser: Denoiser, entries: Iterable[ManifestEntry], output: Path, plan: Plan, noise: NoiseSource) -> int:
    """Write the files of all entries; returns their number."""
    output.mkdir(parents=True, exist_ok=True)
    written = 0
    for entry in entries:
        own = noise(entry.name, denoiser.encode_image(entry.scene.image).shape, plan)
        for of_class, arrays in explain(observe(denoiser, entry.scene, plan, own)).items():
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
    names = json.loads((options.classes or options.manifest.with_name("classes.json")).read_text())
    noise = StoredNoise(options.noise) if options.noise else ReleasedNoise(options.seed)
    entries = read_manifest(options.manifest, names)
    written = export(load(options.model, options.device), entries, options.output, Plan(), noise)
    print(f"{written} files in {options.output}")


if __name__ == "__main__":
    main()
