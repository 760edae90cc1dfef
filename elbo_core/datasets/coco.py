"""COCO 2017 from its official annotations: one label map out of the instances of a picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from elbo_core.datasets.checksums import content_hashes
from elbo_core.datasets.dataset import Dataset, check_count, check_position
from elbo_core.datasets.folders import LAYOUTS, check_candidates, find_root, labelled_scene, remedy
from elbo_core.datasets.instances import Annotations, paint, read_annotations
from elbo_core.datasets.names import class_names
from elbo_core.errors import DatasetError
from elbo_core.images import read_image
from elbo_core.scene import Scene

INSTANCES = "coco-instances"
COCO_2017 = replace(
    LAYOUTS["coco"],
    images="coco/val2017/{id}.jpg",
    masks="coco/annotations/instances_val2017.json",
    source="COCO 2017 val pictures and train/val annotations",
    archives=LAYOUTS["coco"].archives
    | {"annotations_trainval2017.zip": "sha1:8551ee4bb5860311e79dace7e79cb91e432e78b3"},
)
SPLITS = ("val", "train")


def instance_dataset(
    split: str = "val", count: int | None = None, root: str | os.PathLike | None = None, names: str = "prompted",
    candidates: Iterable[str] | None = None,
) -> Dataset:  # fmt: skip
    """The first `count` pictures of COCO 2017, in the order of their ids; labels 1 to 80 are its categories by id.

    Where instances overlap, the smaller one is on top; crowd regions count as their class. A picture without any
    instance is background alone, and has no candidates unless they are given (as in `folder_dataset`).

    Raises:
        TypeError, ValueError: unknown split, naming or candidate, or a count below one.
        DatasetError: the annotations or a picture are missing, damaged or not COCO's.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of {INSTANCES}; known: {', '.join(SPLITS)}")
    classes, count = class_names("coco", names), check_count(count)
    asked = check_candidates(candidates, classes)
    folder = find_root(root, INSTANCES, COCO_2017) / "coco"
    source = folder / f"annotations/instances_{split}2017.json"
    if not os.path.isfile(source):
        raise DatasetError(f"{INSTANCES}: {source} is missing; {remedy(COCO_2017)}")
    annotations = read_annotations(source)
    label_of = _labels(annotations)
    pictures = annotations.pictures[:count]
    paths = [folder / f"{split}2017" / picture.file_name for picture in pictures]
    _check_paths(paths)

    def read(index: int) -> Scene:
        position = check_position(index, len(paths))
        picture, path = pictures[position], paths[position]
        image = read_image(path, upright=False)
        if tuple(image.shape[1:]) != picture.size:
            size = f"{tuple(image.shape[1:])} high and wide"
            raise DatasetError(f"{path} is {size}, {source} says {picture.size}")
        label_map = paint(picture, label_of, source)
        return labelled_scene(image, label_map, classes, path.stem, source, asked)

    def fingerprints() -> list[str]:
        return content_hashes((classes, asked), [(path.name, [path]) for path in paths], [source])

    return Dataset(INSTANCES, split, classes, len(paths), fingerprints, read)


def _labels(annotations: Annotations) -> dict[int, int]:
    """The label of each category, if they are COCO's own 80 in their order."""
    expected, found = class_names("coco", "own"), tuple(annotations.categories.values())
    if found != expected:
        odd = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), None)
        what = f"the category {odd[0]!r} in the place of {odd[1]!r}" if odd else f"{len(found)} categories"
        raise DatasetError(f"{annotations.source} has {what}; expected COCO's {len(expected)}")
    return {category: position for position, category in enumerate(annotations.categories, start=1)}


def _check_paths(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        count = f"{len(missing)} of {len(paths)} pictures are missing"
        raise DatasetError(f"{INSTANCES}: {count}, first {missing[0]}; {remedy(COCO_2017)}")
    twice = [name for name, n in Counter(path.stem for path in paths).items() if n > 1]
    if twice:
        raise DatasetError(f"{INSTANCES}: two pictures are called {twice[0]!r}; their noise would be the same")
