"""The real data sets in the folders that they come in: pictures, label maps, and a list of the split.

Each is opened lazily and checked as far as that is cheap; what is broken is an error that names the file.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from elbo_core.captions import Caption
from elbo_core.datasets.dataset import Dataset
from elbo_core.datasets.names import class_names
from elbo_core.errors import DatasetError
from elbo_core.images import read_image, read_label_map
from elbo_core.metrics import IGNORED
from elbo_core.paths import DATA
from elbo_core.scene import Scene

Decode = Callable[[np.ndarray], np.ndarray]


def coco_things(labels: np.ndarray) -> np.ndarray:
    """labelTrainIds of COCO-Stuff (0..79 things, above them stuff, 255 nothing) -> 1..80, all else background."""
    return np.where(labels < 80, labels + 1, 0).astype(np.uint8)


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files, relative to its root.

    images, masks: path of a picture and of its label map, "{id}" the picture's name. lists: by split, a file with one
        id per line; without one, all files of the picture folder in alphabetical order.
    decode: from the label map's numbers to 0 (background), 1..K, 255 (ignored).
    source, licence, gigabytes: where it comes from, for those who lack it.
    """

    names: str
    images: str
    masks: str
    count: int
    source: str
    licence: str
    gigabytes: float
    lists: dict[str, str] | None = None
    decode: Decode = np.asarray


LAYOUTS: dict[str, Layout] = {
    "voc": Layout(
        "voc",
        "VOCdevkit/VOC2012/JPEGImages/{id}.jpg",
        "VOCdevkit/VOC2012/SegmentationClassAug/{id}.png",
        1449,
        "PASCAL VOC 2012 (the VOCtrainval archive of the challenge), label maps augmented by SBD",
        "flickr terms; research use",
        2.0,
        {"val": "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"},
    ),
    "context": Layout(
        "context",
        "VOCdevkit/VOC2010/JPEGImages/{id}.jpg",
        "VOCdevkit/VOC2010/SegmentationClassContext/{id}.png",
        5104,
        "PASCAL VOC 2010 pictures; PASCAL Context label maps as converted by mmsegmentation",
        "flickr terms; research use",
        2.6,
        {"val": "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt"},
    ),
    "coco": Layout(
        "coco",
        "coco_stuff164k/images/val2017/{id}.jpg",
        "coco_stuff164k/annotations/val2017/{id}_labelTrainIds.png",
        5000,
        "COCO 2017 val pictures; COCO-Stuff164k label maps as converted by mmsegmentation",
        "CC BY 4.0 annotations, flickr terms for pictures",
        1.2,
        decode=coco_things,
    ),
    "ade20k": Layout(
        "ade20k",
        "ade/ADEChallengeData2016/images/validation/{id}.jpg",
        "ade/ADEChallengeData2016/annotations/validation/{id}.png",
        2000,
        "ADEChallengeData2016 (MIT scene parsing challenge)",
        "research and education, non-commercial",
        0.9,
    ),
    "aep": Layout(
        "aep",
        "aep/images/{id}.png",
        "aep/annotations/{id}_gt.png",
        741,
        "the paper's own set; not on any mirror that we know",
        "not stated",
        1.0,
    ),
}


def default_root() -> Path:
    """Where data sets lie: the environment variable ELBO_DATA, or `data/sets`."""
    return Path(os.environ.get("ELBO_DATA") or DATA / "sets")


def folder_dataset(
    name: str, split: str = "val", count: int | None = None, root: Path | None = None, names: str = "prompted"
) -> Dataset:
    """The first `count` pictures of a data set on disk, all by default. Candidates are the classes of the label map.

    Raises:
        ValueError: unknown set, split or naming.
        DatasetError: a folder, the split's list or a listed file is missing, or an id is listed twice.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(LAYOUTS)}")
    layout, root = LAYOUTS[name], root or default_root()
    classes = class_names(layout.names, names)
    ids = _ids(name, layout, split, root)[:count]
    paths = [(root / layout.images.format(id=i), root / layout.masks.format(id=i)) for i in ids]
    _check_files([path for pair in paths for path in pair], name)

    def read(index: int) -> Scene:
        picture, mask = paths[index]
        return labelled_scene(read_image(picture), _labels(mask, layout.decode, classes), classes, ids[index], mask)

    return Dataset(name, split, classes, len(ids), _content(ids, classes, paths), read)


def _ids(name: str, layout: Layout, split: str, root: Path) -> list[str]:
    """The pictures of a split, in its own order."""
    known = layout.lists or {"val": None}
    if split not in known:
        raise ValueError(f"unknown split {split!r} of {name}; known: {', '.join(known)}")
    if known[split]:
        ids = _read_list(root / known[split], name)
    else:
        folder, suffix = (root / layout.images).parent, Path(layout.images).suffix
        ids = sorted(path.stem for path in folder.glob(f"*{suffix}"))
        if not ids:
            raise DatasetError(f"{name}: no *{suffix} in {folder}; {remedy(name)}")
    twice = [i for i, n in Counter(ids).items() if n > 1]
    if twice:
        raise DatasetError(f"{name}: the split {split!r} lists {twice[0]!r} twice ({len(twice)} such ids)")
    return ids


def _read_list(path: Path, name: str) -> list[str]:
    if not path.is_file():
        raise DatasetError(f"{name}: the list of the split is missing: {path}; {remedy(name)}")
    ids = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not ids:
        raise DatasetError(f"{name}: the list of the split is empty: {path}")
    return ids


def _check_files(paths: Sequence[Path], name: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        count = f"{len(missing)} of {len(paths)} files are missing"
        raise DatasetError(f"{name}: {count}, first {missing[0]}; {remedy(name)}")


def remedy(name: str) -> str:
    """How to get a data set."""
    layout = LAYOUTS[name]
    return f"get {layout.source} ({layout.gigabytes:g} GB) into the folder ELBO_DATA, or pass root="


def _labels(path: Path, decode: Decode, classes: Sequence[str]) -> np.ndarray:
    """A label map with every number checked, uint8 [H, W]."""
    labels = decode(read_label_map(path))
    wrong = labels[(labels > len(classes)) & (labels != IGNORED)]
    if wrong.size:
        raise DatasetError(f"{path} holds the label {wrong[0]}, outside 0..{len(classes)} and {IGNORED}")
    return labels.astype(np.uint8)


def labelled_scene(
    image: Tensor, label_map: np.ndarray, classes: Sequence[str], scene_id: str, source: Path | str,
    caption: Caption | None = None,
) -> Scene:  # fmt: skip
    """A scene whose candidates are the classes of its label map; there may be none.

    Raises:
        DatasetError: picture and label map differ in size.
    """
    if image.shape[1:] != label_map.shape:
        raise DatasetError(f"{source} is {label_map.shape}, but its picture is {tuple(image.shape[1:])} high and wide")
    labels = tuple(int(label) for label in np.unique(label_map) if label not in (0, IGNORED))
    return Scene(image, tuple(classes[k - 1] for k in labels), scene_id, caption, label_map, labels)


def _content(ids: Sequence[str], classes: Sequence[str], paths: Sequence[tuple[Path, Path]]) -> str:
    """A hash of the list, the class names and the sizes of all files."""
    sizes = [path.stat().st_size for pair in paths for path in pair]
    return hashlib.sha256(repr((list(ids), tuple(classes), sizes)).encode()).hexdigest()[:16]
