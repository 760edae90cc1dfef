"""`python -m elbo_core.datasets check voc --root folder`: what of a data set is on disk, and how to get the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from elbo_core.datasets.coco import INSTANCES, instance_dataset
from elbo_core.datasets.dataset import Dataset
from elbo_core.datasets.folders import LAYOUTS, default_root, folder_dataset
from elbo_core.errors import DatasetError, ImageReadError

EXPECTED = {name: layout.count for name, layout in LAYOUTS.items()} | {INSTANCES: LAYOUTS["coco"].count}
SHOWN = 5
"""So many errors are printed in full."""


def check(name: str, root: Path, images: int | None = None) -> bool:
    """Read the first `images` pictures of a set, all by default, and print what is there; whether all is well."""
    try:
        dataset = _open(name, root, images)
    except DatasetError as error:
        return _report(name, [str(error)], "not usable")
    errors = _errors(dataset)
    expected = EXPECTED[name] if images is None else min(images, EXPECTED[name])
    if len(dataset) != expected:
        errors.append(f"{len(dataset)} pictures, the paper's split has {expected}")
    return _report(name, errors, f"{len(dataset)} pictures, {len(dataset.classes)} classes")


def _open(name: str, root: Path, images: int | None) -> Dataset:
    if name == INSTANCES:
        return instance_dataset(count=images, root=root)
    return folder_dataset(name, count=images, root=root)


def _errors(dataset: Dataset) -> list[str]:
    """The pictures that cannot be read, one message each."""
    reads = tqdm(range(len(dataset)), desc=dataset.name, leave=False, disable=None)
    return [message for index in reads if (message := _try(dataset.read, index))]


def _try(read: Callable, index: int) -> str | None:
    try:
        read(index)
    except (DatasetError, ImageReadError) as error:
        return str(error)
    return None


def _report(name: str, errors: Sequence[str], summary: str) -> bool:
    print(f"{name}: {summary}, {'no' if not errors else len(errors)} problems")
    for message in errors[:SHOWN]:
        print(f"  {message}")
    if len(errors) > SHOWN:
        print(f"  ... and {len(errors) - SHOWN} more")
    return not errors


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["check"])
    parser.add_argument("names", nargs="*", help=f"data sets, all by default: {', '.join(EXPECTED)}")
    parser.add_argument("--root", type=Path, default=default_root(), help="the folder that holds them")
    parser.add_argument("--images", type=int, help="look at so many pictures only")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(EXPECTED)
    if unknown:
        parser.error(f"unknown data set {sorted(unknown)[0]!r}; known: {', '.join(EXPECTED)}")
    results = [check(name, options.root, options.images) for name in options.names or EXPECTED]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
