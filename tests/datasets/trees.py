"""Miniature data sets on disk, in the exact formats of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from scipy.io import savemat

from elbo_core.datasets.aep import write_phrases
from elbo_core.datasets.folders import LAYOUTS
from elbo_core.datasets.names import class_names

SIZE = (24, 32)
"""Height and width."""


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def label_map(path: Path, values: list[int], palette: bool = False) -> np.ndarray:
    """Vertical stripes of the values; with a palette as PASCAL's files have one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.repeat(np.array(values, np.uint8), SIZE[1] // len(values))[None].repeat(SIZE[0], axis=0)
    image = Image.fromarray(labels)
    if palette:
        image = image.convert("P")
        image.putdata(labels.ravel().tolist())
        image.putpalette(np.random.default_rng(1).integers(256, size=768, dtype=np.uint8).tobytes())
    image.save(path)
    return labels


STRIPES = {
    "voc": {"2007_000033": [0, 1, 20, 255], "2007_000042": [15, 15, 0, 0]},
    "context": {"2008_000002": [0, 1, 59, 23], "2008_000003": [3, 3, 3, 3]},
    "coco": {"000000000139": [0, 79, 80, 255], "000000000285": [21, 170, 255, 255], "000000000632": [255, 120, 90, 81]},
    "ade20k": {"ADE_val_00000001": [0, 1, 150, 66], "ADE_val_00000002": [0, 0, 59, 131]},
    "aep": {"0001": [0, 1, 38, 2]},
}
"""By set and picture, the numbers in the file."""


def build(root: Path, name: str, repeats: int = 1) -> Path:
    """A whole miniature of a set below `root`, its pictures `repeats` times; returns it."""
    layout = LAYOUTS[name]
    stripes = {f"{stem}{'x' * k}": values for k in range(repeats) for stem, values in STRIPES[name].items()}
    for seed, (stem, values) in enumerate(stripes.items()):
        picture(root / layout.images.format(id=stem), seed)
        label_map(root / layout.masks.format(id=stem), values, palette=name == "voc")
    for path in (layout.lists or {}).values():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("".join(f"{stem}\n" for stem in reversed(stripes)))
    if layout.phrases:
        write_phrases(root / layout.phrases, {f"{stem}.png": described(values) for stem, values in stripes.items()})
    return root


def described(values: list[int]) -> dict[str, str]:
    """A phrase for every class of a label map of AEP, the first in the plural."""
    names = [class_names("aep")[value - 1] for value in values if value]
    return {name: f"a small red {name}" if k else f"two baby {name}s" for k, name in enumerate(names)}


OLD_LABELS = {2: "aeroplane", 7: "accordion", 25: "bag", 459: "wood"}


def build_context_originals(root: Path) -> Path:
    """PASCAL Context as its authors give it away: 459 numbers in MATLAB files and two lists of names."""
    build(root, "context")
    folder = root / "VOCdevkit/VOC2010"
    (folder / "trainval").mkdir()
    for stem in STRIPES["context"]:
        columns = np.repeat(np.array([2, 7, 25, 459], np.uint16), SIZE[1] // 4)
        savemat(folder / "trainval" / f"{stem}.mat", {"LabelMap": columns[None].repeat(SIZE[0], axis=0)})
    own = class_names("context", "own")
    numbered = {k + 1: f"thing {k + 1}" for k in range(459)} | {100 + k: name for k, name in enumerate(own)}
    lists = {"labels": numbered | OLD_LABELS, "59_labels": dict(enumerate(reversed(own), 1))}
    for name, content in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{k}: {text}\n" for k, text in sorted(content.items())))
    return root


CATEGORIES = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""The 80 of COCO's 91 ids that are in use."""


def build_instances(root: Path) -> Path:
    """COCO 2017's official files: a polygon under a smaller one, a crowd as uncompressed RLE, a compressed RLE, a
    picture without any instance."""
    for seed, stem in enumerate(("000000000139", "000000000285", "000000000632")):
        picture(root / f"coco/val2017/{stem}.jpg", seed)
    crowd = np.zeros(SIZE, np.uint8)
    crowd[20:, :] = 1
    corner = np.zeros(SIZE, np.uint8)
    corner[:4, :4] = 1
    compressed = rle.encode(np.asfortranarray(corner))
    annotations = [
        instance(1, 139, 18, [[4, 4, 8, 4, 8, 8, 4, 8]], 16),
        instance(2, 139, 1, [[0, 0, 16, 0, 16, 16, 0, 16]], 256),
        instance(3, 139, 90, {"size": list(SIZE), "counts": runs(crowd)}, int(crowd.sum()), crowd=1),
        instance(4, 285, 13, {"size": list(SIZE), "counts": compressed["counts"].decode()}, 16),
    ]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in (632, 139, 285)]
    path = root / "coco/annotations/instances_val2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = dict(zip(CATEGORIES, class_names("coco", "own"), strict=True))
    categories = [{"id": i, "name": names[i]} for i in reversed(CATEGORIES)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def instance(number: int, image: int, category: int, segmentation, area: float, crowd: int = 0) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "area": area,
            "iscrowd": crowd, "bbox": [0, 0, 1, 1]}  # fmt: skip


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed RLE: run lengths in column order, zeros first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]]))).tolist()
    return np.diff([0, *edges]).tolist()
