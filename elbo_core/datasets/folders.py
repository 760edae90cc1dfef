"""The real data sets in the folders that they come in: pictures, label maps, and a list of the split.

Each is opened lazily and checked as far as that is cheap; what is broken is an error that names the file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from elbo_core.captions import Caption, check_classes
from elbo_core.datasets import aep, context
from elbo_core.datasets.checksums import content_hashes
from elbo_core.datasets.dataset import Dataset, check_count, check_name, check_position, read_text
from elbo_core.datasets.names import class_names
from elbo_core.errors import DatasetError
from elbo_core.images import read_image, read_label_map
from elbo_core.paths import DATA, ROOT
from elbo_core.scene import IGNORED, Scene


def read_coco_things(path: Path) -> np.ndarray:
    """labelTrainIds of COCO-Stuff (0..79 things, above them stuff, 255 nothing) -> 1..80, all else background.

    Raises:
        DatasetError: a number is none of these.
    """
    labels = read_label_map(path).astype(np.int64)
    check_labels(labels, COCO_STUFF - 1, path)
    return np.where(labels < 80, labels + 1, 0).astype(np.uint8)


COCO_STUFF = 171
"""Classes of COCO-Stuff, 80 things and 91 kinds of stuff."""


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files, relative to its root.

    names: whose class names it has. images, masks: path of a picture and of its label map, "{id}" the picture's name.
    lists: by split, a file with one id per line; without one, all files of the picture folder in alphabetical order.
    read: a label map with 0 (background), 1..K, 255 (ignored). beside: other files that it needs.
    phrases: a file with a noun phrase per class, if any.
    source, licence, gigabytes: where it comes from, for those who lack it. archives: its checksums where they are
        known. hub: the id of a data set on the Hugging Face hub that holds it, if it may be fetched from there.
    """

    names: str
    images: str
    masks: str
    count: int
    source: str
    licence: str
    gigabytes: float
    lists: dict[str, str] | None = None
    read: Callable[[Path], np.ndarray] = read_label_map
    beside: tuple[str, ...] = ()
    phrases: str | None = None
    archives: dict[str, str] = field(default_factory=dict)
    hub: str | None = None


COCO_ARCHIVES = {"val2017.zip": "sha1:4950dc9d00dbe1c933ee0170f5797584351d2a41"}
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
        archives={"VOCtrainval_11-May-2012.tar": "md5:6cd6e144f989b92b3379bac3b3de84fd"},
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
        archives={"VOCtrainval_03-May-2010.tar": "md5:da459979d0c395079b5c75ee67908abb"},
    ),
    "coco": Layout(
        "coco",
        "coco_stuff164k/images/val2017/{id}.jpg",
        "coco_stuff164k/annotations/val2017/{id}_labelTrainIds.png",
        5000,
        "COCO 2017 val pictures; COCO-Stuff164k label maps as converted by mmsegmentation",
        "CC BY 4.0 annotations, flickr terms for pictures",
        1.2,
        read=read_coco_things,
        archives=COCO_ARCHIVES,
    ),
    "ade20k": Layout(
        "ade20k",
        "ade/ADEChallengeData2016/images/validation/{id}.jpg",
        "ade/ADEChallengeData2016/annotations/validation/{id}.png",
        2000,
        "ADEChallengeData2016 (MIT scene parsing challenge)",
        "research and education, non-commercial",
        0.9,
        archives={"ADEChallengeData2016.zip": "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"},
    ),
    "aep": Layout(
        "aep",
        "aep/images/{id}.png",
        "aep/annotations/{id}_gt.png",
        741,
        "the paper's own set, which its authors keep on the Hugging Face hub; or build one with notebook 45_build_aep",
        "not stated",
        1.0,
        phrases="aep/prompts.pkl",
        hub="Matrix53/elbo-t2ialign",
    ),
}
VARIANTS: dict[str, Layout] = {
    "voc-plain": replace(
        LAYOUTS["voc"],
        masks="VOCdevkit/VOC2012/SegmentationClass/{id}.png",
        source="PASCAL VOC 2012 (the VOCtrainval archive of the challenge)",
    ),
    "context-mat": replace(
        LAYOUTS["context"],
        masks=f"{context.FOLDER}/trainval/{{id}}.mat",
        source="PASCAL VOC 2010 pictures; PASCAL Context's original label maps (trainval.tar.gz) and lists of names",
        read=context.read_original,
        beside=tuple(f"{context.FOLDER}/{name}" for name in context.LISTS),
    ),
}
"""The same pictures with label maps from another source."""


def default_root() -> Path:
    """Where data sets lie: the environment variable ELBO_DATA, or `data/sets`. "~" is the home folder; what is not
    absolute is relative to the repository, wherever the program was started."""
    return ROOT / os.path.expanduser(os.environ.get("ELBO_DATA") or DATA / "sets")


def find_root(root: str | os.PathLike | None, name: str, layout: Layout) -> Path:
    """The folder `root` of the data sets, by default that of ELBO_DATA.

    Raises:
        DatasetError: there is no such folder.
    """
    folder = default_root() if root is None else Path(os.path.expanduser(root))
    if not os.path.isdir(folder):
        what = "is a file" if os.path.isfile(folder) else "does not exist"
        raise DatasetError(f"{name}: the folder of the data sets {what}: {folder}; {remedy(layout)}")
    return folder


def folder_dataset(
    name: str, split: str = "val", count: int | None = None, root: str | os.PathLike | None = None,
    names: str = "prompted", candidates: Iterable[str] | None = None,
) -> Dataset:  # fmt: skip
    """The first `count` pictures of a data set on disk, all by default.

    candidates: the classes that are looked for in every picture; by default, as in the paper, those of its label map.

    Raises:
        TypeError, ValueError: unknown set, split, naming or candidate, or a count below one.
        DatasetError: a folder, the split's list or a listed file is missing, or an id is listed twice.
    """
    known = LAYOUTS | VARIANTS
    if name not in known:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(known)}")
    layout, classes, count = known[name], class_names(known[name].names, names), check_count(count)
    asked = check_candidates(candidates, classes)
    root = find_root(root, name, layout)
    ids = _ids(name, layout, split, root)[:count]
    paths = [(root / layout.images.format(id=i), root / layout.masks.format(id=i)) for i in ids]
    _check_files([path for pair in paths for path in pair], name, layout)
    phrases = root / layout.phrases if layout.phrases else None
    if phrases:
        aep.read_phrases(phrases)

    def read(index: int) -> Scene:
        position = check_position(index, len(ids))
        picture, mask = paths[position]
        labels = check_labels(layout.read(mask), len(classes), mask)
        scene = labelled_scene(read_image(picture, upright=False), labels, classes, ids[position], mask, asked)
        return aep.add_phrases(scene, phrases) if phrases else scene

    def fingerprints() -> list[str]:
        beside = [root / path for path in (*layout.beside, layout.phrases) if path]
        return content_hashes((classes, asked), list(zip(ids, paths, strict=True)), beside)

    return Dataset(name, split, classes, len(ids), fingerprints, read)


def _ids(name: str, layout: Layout, split: str, root: Path) -> list[str]:
    """The pictures of a split, in its own order."""
    known: Mapping[str, str | None] = layout.lists or {"val": None}
    if split not in known:
        raise ValueError(f"unknown split {split!r} of {name}; known: {', '.join(known)}")
    listed = known[split]
    source = root / listed if listed else (root / layout.images).parent
    ids = _read_list(source, name, layout) if known[split] else _list_folder(source, name, layout)
    for i in ids:
        check_name(i, source)
    twice = [i for i, n in Counter(ids).items() if n > 1]
    if twice:
        raise DatasetError(f"{name}: the split {split!r} lists {twice[0]!r} twice ({len(twice)} such ids)")
    return ids


def _list_folder(folder: Path, name: str, layout: Layout) -> list[str]:
    suffix = Path(layout.images).suffix
    ids = sorted(path.stem for path in folder.glob(f"*{suffix}"))
    if not ids:
        raise DatasetError(f"{name}: no *{suffix} in {folder}; {remedy(layout)}")
    return ids


def _read_list(path: Path, name: str, layout: Layout) -> list[str]:
    if not os.path.isfile(path):
        raise DatasetError(f"{name}: the list of the split is missing: {path}; {remedy(layout)}")
    ids = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    if not ids:
        raise DatasetError(f"{name}: the list of the split is empty: {path}")
    return ids


def _check_files(paths: Sequence[Path], name: str, layout: Layout) -> None:
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        count = f"{len(missing)} of {len(paths)} files are missing"
        raise DatasetError(f"{name}: {count}, first {missing[0]}; {remedy(layout)}")


def remedy(layout: Layout) -> str:
    """How to get a data set."""
    return f"get {layout.source} ({layout.gigabytes:g} GB) into the folder ELBO_DATA, or pass root="


def check_labels(labels: np.ndarray, most: int, path: Path) -> np.ndarray:
    """A label map with every number checked, uint8 [H, W].

    Raises:
        DatasetError: a number is neither in 0..`most` nor 255; the message names it and the file.
    """
    wrong = labels[((labels < 0) | (labels > most)) & (labels != IGNORED)]
    if wrong.size:
        raise DatasetError(f"{path} holds the label {wrong[0]}, outside 0..{most} and {IGNORED}")
    return labels.astype(np.uint8)


def labelled_scene(
    image: Tensor, label_map: np.ndarray, classes: Sequence[str], scene_id: str, source: Path | str,
    candidates: Sequence[str] | None = None, caption: Caption | None = None,
) -> Scene:  # fmt: skip
    """A scene with the given candidates, or with the classes of its label map; there may be none.

    Raises:
        DatasetError: picture and label map differ in size.
    """
    if image.shape[1:] != label_map.shape:
        raise DatasetError(f"{source} is {label_map.shape}, but its picture is {tuple(image.shape[1:])} high and wide")
    present = (int(label) for label in np.unique(label_map) if label not in (0, IGNORED))
    labels = tuple(present if candidates is None else sorted(classes.index(name) + 1 for name in candidates))
    return Scene(image, tuple(classes[k - 1] for k in labels), scene_id, caption, label_map, labels)


def check_candidates(candidates: Iterable[str] | None, classes: Sequence[str]) -> tuple[str, ...] | None:
    """The candidates in the order of the classes; their own order does not matter.

    Raises:
        TypeError, ValueError: a candidate is no class of the set, or `check_classes` complains.
    """
    if candidates is None:
        return None
    asked = check_classes(candidates)
    unknown = set(asked) - set(classes)
    if unknown:
        raise ValueError(f"unknown candidate {min(unknown)!r}; the classes are {', '.join(classes)}")
    return tuple(name for name in classes if name in asked)
