"""What of the data sets is on disk, and how to get the rest.

    python -m elbo_core.datasets check voc --root folder
    python -m elbo_core.datasets download aep

Only what its owners keep on the Hugging Face hub is downloaded, resumed where it stopped; the others ask for a licence
to be read first, so that `check` prints where they are.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from tqdm import tqdm

from elbo_core.checks import check_whole
from elbo_core.datasets.coco import COCO_2017, INSTANCES, instance_dataset
from elbo_core.datasets.dataset import Dataset
from elbo_core.datasets.folders import LAYOUTS, VARIANTS, Layout, default_root, folder_dataset

EVERY = LAYOUTS | VARIANTS | {INSTANCES: COCO_2017}
EXPECTED = {name: layout.count for name, layout in EVERY.items()}
SHOWN = 5
"""So many errors are printed in full."""


def check_set(name: str, root: Path, images: int | None = None) -> bool:
    """Read the first `images` pictures of a set, all by default, and print what is there; whether all is well."""
    damaged = []
    try:
        damaged = _damaged_archives(EVERY[name], root)
        dataset = _open(name, root, images)
    except OSError as error:  # ours are such too
        return _report(name, [str(error), *damaged], "not usable", advice(name, root))
    errors = damaged + _errors(dataset)
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
    except OSError as error:
        return str(error)
    return None


def _damaged_archives(layout: Layout, root: Path) -> list[str]:
    """The archives that lie in `root` and are not what the set's owners published, one message each."""
    return [
        f"{root / archive} has not the checksum {checksum}; download it again"
        for archive, checksum in layout.archives.items()
        if (root / archive).is_file() and _checksum(root / archive, checksum.partition(":")[0]) != checksum
    ]


def _checksum(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def advice(name: str, root: Path) -> str:
    """Where a set comes from, how large it is, under which terms, and where it should lie."""
    layout = EVERY[name]
    lines = [
        f"source: {layout.source}",
        f"size: {layout.gigabytes:g} GB; licence: {layout.licence}",
        f"folder: {root / layout.images.split('/')[0]}, with pictures {layout.images} and label maps {layout.masks}",
        *(f"archive: {archive}, {checksum}" for archive, checksum in layout.archives.items()),
    ]
    if layout.hub:
        lines.append(f"download: HF_HUB_OFFLINE=0 python -m elbo_core.datasets download {name}")
    return "\n".join(f"  {line}" for line in lines)


def download(name: str, root: Path) -> bool:
    """Fetch a set from the hub into `root`, going on where an earlier attempt stopped; whether it worked."""
    layout = EVERY[name]
    if not layout.hub:
        print(f"{name} is not on the hub\n{advice(name, root)}")
        return False
    folder = layout.images.split("/")[0]
    try:
        snapshot_download(layout.hub, repo_type="dataset", local_dir=root, allow_patterns=[f"{folder}/**"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = f"{name}: cannot download {layout.hub} ({type(error).__name__})"
        print(f"{reason}: set HF_HUB_OFFLINE=0, check the network, and accept its terms on its page if it has any")
        return False
    return True


def _report(name: str, errors: Sequence[str], summary: str, help_: str = "") -> bool:
    _print(f"{name}: {summary}, {'no' if not errors else len(errors)} problems")
    for message in errors[:SHOWN]:
        _print(f"  {message}")
    if len(errors) > SHOWN:
        _print(f"  ... and {len(errors) - SHOWN} more")
    if help_:
        _print(help_)
    return not errors


def _print(text: str) -> None:
    """Names of files may hold what the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def folder(text: str) -> Path:
    """An argument; the shell leaves the "~" of `--root=~/sets` alone."""
    return Path(os.path.expanduser(text))


def count(text: str) -> int:
    """An argument that is a whole number of at least one; of others argparse says that they are invalid counts."""
    return check_whole(int(text), "the number of images")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["check", "download"])
    parser.add_argument("names", nargs="*", help=f"data sets, by default those of the paper: {', '.join(EXPECTED)}")
    parser.add_argument("--root", type=folder, default=default_root(), help="the folder that holds them")
    parser.add_argument("--images", type=count, help="look at so many pictures only")
    options = parser.parse_intermixed_args(arguments)
    unknown = set(options.names) - set(EXPECTED)
    if unknown:
        parser.error(f"unknown data set {sorted(unknown)[0]!r}; known: {', '.join(EXPECTED)}")
    if options.command == "download":
        names = options.names or [name for name, layout in LAYOUTS.items() if layout.hub]
        done = [download(name, options.root) for name in names]
    else:
        done = [check_set(name, options.root, options.images) for name in options.names or LAYOUTS]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
