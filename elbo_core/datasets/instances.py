"""COCO's annotation files, checked before any C code sees them: pycocotools trusts every number, crashes on some."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from elbo_core.datasets.dataset import check_name, read_text
from elbo_core.errors import DatasetError

MOST_STEPS = 10**6
"""An outline of so many pixels has no sense; pycocotools takes a hundred bytes a pixel for it."""


@dataclass(frozen=True)
class Picture:
    """A picture and its instances, as they are in the file."""

    id: int
    file_name: str
    size: tuple[int, int]
    """Height and width."""
    instances: tuple[Mapping, ...]


@dataclass(frozen=True)
class Annotations:
    """pictures: in the order of their ids. categories: names by id, in the order of the ids."""

    source: Path
    pictures: tuple[Picture, ...]
    categories: Mapping[int, str]


def read_annotations(source: Path) -> Annotations:
    """The pictures and categories of an annotation file, with what is needed to find them checked.

    Raises:
        DatasetError: the file is missing, cut off or built otherwise; the message says where.
    """
    try:
        content = json.loads(read_text(source))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{source} is not a file of annotations: {error} ({type(error).__name__})") from error
    pictures = _by_id(_entries(content, "images", source), "picture", source)
    categories = _by_id(_entries(content, "categories", source), "category", source)
    names = {key: _field(categories[key], "name", (str,), f"{source}: category {key}") for key in sorted(categories)}
    instances = _by_picture(_entries(content, "annotations", source), pictures, source)
    checked = (_picture(pictures[key], instances[key], source) for key in sorted(pictures))
    return Annotations(source, tuple(checked), names)


def _entries(content: object, key: str, source: Path) -> list[Mapping]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DatasetError(f"{source} is not a file of annotations: it has no list of {key}")
    return found


def _by_id(entries: Sequence[Mapping], kind: str, source: Path) -> dict[int, Mapping]:
    found = {}
    for position, entry in enumerate(entries):
        key = _field(entry, "id", (int,), f"{source}: {kind} number {position}")
        if key in found:
            raise DatasetError(f"{source}: {kind} {key} is there twice")
        found[key] = entry
    return found


def _by_picture(entries: Sequence[Mapping], pictures: Collection[int], source: Path) -> dict[int, list[Mapping]]:
    """Instances of no picture would be left out unseen."""
    found: dict[int, list[Mapping]] = {key: [] for key in pictures}
    for position, entry in enumerate(entries):
        what = f"{source}: instance {entry.get('id', f'number {position}')}"
        key = _field(entry, "image_id", (int,), what)
        if key not in found:
            raise DatasetError(f"{what} belongs to picture {key}, which is not in the file")
        found[key].append(entry)
    return found


def _picture(entry: Mapping, instances: Sequence[Mapping], source: Path) -> Picture:
    what = f"{source}: picture {entry['id']}"
    size = tuple(_field(entry, side, (int,), what) for side in ("height", "width"))
    if min(size) < 1:
        raise DatasetError(f"{what} is {size[0]} high and {size[1]} wide")
    return Picture(entry["id"], check_name(entry.get("file_name"), source), size, tuple(instances))


def _field(entry: Mapping, key: str, kinds: Collection[type], what: str):
    """A value of one of the types, to the letter: True is no number, and "139" neither."""
    if key not in entry:
        raise DatasetError(f"{what} has no {key}")
    if type(entry[key]) not in kinds:
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise DatasetError(f"{what} has the {key} {_short(entry[key])}, expected {expected}")
    return entry[key]


def paint(picture: Picture, label_of: Mapping[int, int], source: Path) -> np.ndarray:
    """The label map of a picture, uint8 [H, W], painted from the largest instance to the smallest.

    Raises:
        DatasetError: an instance lacks something, is of no known category, or has no sound outline; the message names
            file, instance and picture.
    """
    label_map = np.zeros(picture.size, np.uint8)
    checked = [_checked(entry, picture, label_of, source) for entry in picture.instances]
    for _, category, segmentation, what in sorted(checked, key=lambda instance: -instance[0]):
        try:
            label_map[mask(segmentation, picture.size)] = label_of[category]
        except ValueError as error:
            raise DatasetError(f"{what} {error}") from error
    return label_map


def _checked(entry: Mapping, picture: Picture, label_of: Mapping[int, int], source: Path) -> tuple:
    """Area, category and segmentation of an instance, and how an error calls it."""
    what = f"{source}: instance {entry.get('id')} of picture {picture.id}"
    category = _field(entry, "category_id", (int,), what)
    if category not in label_of:
        raise DatasetError(f"{what} has the unknown category {category}")
    area = _field(entry, "area", (int, float), what)
    if not 0 <= area < float("inf"):
        raise DatasetError(f"{what} has the area {area}")
    return area, category, _field(entry, "segmentation", (list, dict), what), what


def mask(segmentation: Sequence[Sequence[float]] | Mapping, size: tuple[int, int]) -> np.ndarray:
    """Where an instance is, bool [H, W]: from polygons, or from run lengths, plain or compressed.

    Raises:
        ValueError: it is none of these, or does not fit a picture of that size.
    """
    if isinstance(segmentation, Mapping):
        return _from_runs(segmentation, size)
    if not segmentation:
        raise ValueError("has no polygon")
    for polygon in segmentation:
        _check_polygon(polygon, size)
    from pycocotools import mask as coco_mask  # needed for COCO alone, and not everywhere installed

    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))) > 0


def _check_polygon(polygon: Sequence[float], size: tuple[int, int]) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"has a polygon that is no list of three points or more, x and y in turn: {_short(polygon)}")
    low, high = -max(size), 2 * max(size)
    wrong = [number for number in polygon if type(number) not in (int, float) or not low <= number <= high]
    if wrong:
        raise ValueError(f"has a polygon with the coordinate {_short(wrong[0])}, in a picture of {size[1]} x {size[0]}")
    points = [*zip(polygon[::2], polygon[1::2], strict=True), tuple(polygon[:2])]
    if sum(max(abs(a - c), abs(b - d)) for (a, b), (c, d) in pairwise(points)) > MOST_STEPS:
        raise ValueError(f"has a polygon of {len(polygon) // 2} points that is longer than {MOST_STEPS} pixels")


def _from_runs(segmentation: Mapping, size: tuple[int, int]) -> np.ndarray:
    """Run lengths in column order, outside first."""
    if segmentation.get("size") != list(size):
        raise ValueError(f"has run lengths of the size {_short(segmentation.get('size'))}, its picture is {list(size)}")
    counts = segmentation.get("counts")
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError(f"has run lengths that are no whole numbers: {_short(counts)}")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(f"has run lengths of {sum(runs)} pixels, its picture has {size[0] * size[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _decompress(text: str) -> list[int]:
    """pycocotools' own code: numbers in groups of five bits from the lowest, with a sign and a bit for "goes on", each
    from the fourth on as the difference from the last but one."""
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise ValueError(f"has compressed run lengths with the character {character!r}")
        number |= (bits & 0x1F) << shift
        shift += 5
        if shift > 60:
            raise ValueError("has compressed run lengths with a number of more than 60 bits")
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("has compressed run lengths that are cut off")
    return runs


def _short(value: object) -> str:
    """Its beginning, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
