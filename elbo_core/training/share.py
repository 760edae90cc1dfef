"""Models that have a part in common keep it once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

KEEPER = "toy-sd15"
"""The default model keeps its own parts; so its folder can be copied alone."""


def share_parts(models: Path) -> None:
    """Replace each pipeline's part that another pipeline in `models` has too by a relative link to that."""
    kept: dict[frozenset, Path] = {}
    for index in sorted(models.glob("*/model_index.json"), key=lambda path: (path.parent.name != KEEPER, path)):
        for part in sorted(path for path in index.parent.iterdir() if path.is_dir()):
            content = _content(part)
            original = kept.setdefault(content, part.resolve())
            if content and original != part.resolve():
                _link(part, original)


def part_from(folder: Path) -> None:
    """Give each pipeline that links to parts of the one in `folder` copies of its own, before those change. What stays
    equal is joined again by `share_parts`."""
    for link in folder.parent.glob("*/*"):
        if link.is_symlink() and link.resolve().parent == folder.resolve():
            original = link.resolve()
            link.unlink()
            shutil.copytree(original, link)


def _content(part: Path) -> frozenset:
    return frozenset((path.name, path.read_bytes()) for path in part.iterdir() if path.is_file())


def _link(part: Path, original: Path) -> None:
    if part.is_symlink():
        part.unlink()
    else:
        shutil.rmtree(part)
    part.symlink_to(os.path.relpath(original, part.parent.resolve()), target_is_directory=True)
