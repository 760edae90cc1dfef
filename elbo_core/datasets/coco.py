"""COCO 2017 from its official annotations: one label map out of the instances of a picture."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from elbo_core.datasets.dataset import Dataset
from elbo_core.datasets.folders import LAYOUTS, check_candidates, default_root, labelled_scene
from elbo_core.datasets.names import class_names
from elbo_core.errors import DatasetError
from elbo_core.images import read_image

INSTANCES = "coco-instances"
COCO_2017 = replace(
    LAYOUTS["coco"],
    images="coco/val2017/{id}.jpg",
    masks="coco/annotations/instances_val2017.json",
    source="COCO 2017 val pictures and train/val annotations",
    archives=LAYOUTS["coco"].archives
    | {"annotations_trainval2017.zip": "sha1:8551ee4bb5860311e79dace7e79cb91e432e78b3"},
)


def instance_dataset(
    split: str = "val", count: int | None = None, root: Path | None = None, names: str = "prompted",
    candidates: Sequence[str] | None = None,
) -> Dataset:  # fmt: skip
    """The first `count` pictures of COCO 2017, in the order of their ids; labels 1 to 80 are its categories by id.

    Where instances overlap, the smaller one is on top; crowd regions count as their class. A picture without any
    instance is background alone, and has no candidates unless they are given (as in `folder_dataset`).

    Raises:
        ValueError: unknown naming or candidate.
        DatasetError: the annotations or a picture are missing, or an instance has an unknown category.
    """
    root = root or default_root()
    annotations, folder = root / f"coco/annotations/instances_{split}2017.json", root / f"coco/{split}2017"
    if not annotations.is_file():
        raise DatasetError(f"{INSTANCES}: {annotations} is missing; get COCO 2017's annotations into ELBO_DATA")
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress by print
        coco = COCO(annotations)
    classes = class_names("coco", names)
    label_of = {category: position + 1 for position, category in enumerate(sorted(coco.getCatIds()))}
    if len(label_of) != len(classes):
        raise DatasetError(f"{annotations} has {len(label_of)} categories, expected {len(classes)}")
    ids = sorted(coco.getImgIds())[:count]
    paths = [folder / coco.imgs[i]["file_name"] for i in ids]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(f"{INSTANCES}: {len(missing)} of {len(paths)} pictures are missing, first {missing[0]}")

    def read(index: int):
        label_map = _label_map(coco, ids[index], label_of, annotations)
        return labelled_scene(read_image(paths[index]), label_map, classes, paths[index].stem, annotations, candidates)

    check_candidates(candidates, classes)
    facts = (ids, classes, annotations.stat().st_size, None if candidates is None else sorted(candidates))
    content = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return Dataset(INSTANCES, split, classes, len(ids), content, read)


def _label_map(coco: COCO, image: int, label_of: dict[int, int], source: Path) -> np.ndarray:
    """uint8 [H, W], painted from the largest instance to the smallest."""
    facts = coco.imgs[image]
    label_map = np.zeros((facts["height"], facts["width"]), np.uint8)
    for annotation in sorted(coco.imgToAnns[image], key=lambda instance: -instance["area"]):
        if annotation["category_id"] not in label_of:
            raise DatasetError(
                f"{source}: instance {annotation['id']} of picture {image} has the unknown category "
                f"{annotation['category_id']}"
            )
        label_map[coco.annToMask(annotation) > 0] = label_of[annotation["category_id"]]
    return label_map
