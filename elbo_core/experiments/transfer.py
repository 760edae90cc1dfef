"""Run stores in a few files, from one machine to another: packed Parquet (`Store.pack`) in plain tar files."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from elbo_core.experiments.work import Work
from elbo_core.paths import RUNS, whole_file

LARGEST = 15 * 2**20
"""Bytes a file: what may be copied back from a lent machine is 16 MiB."""


def pack(works: Iterable[Work], target: Path, root: Path = RUNS, largest: int = LARGEST) -> list[Path]:
    """Write all that the stores of some works hold to `target`.0.tar, `target`.1.tar and so on, of at most `largest`
    bytes each if no run alone is larger.

    Raises:
        OSError: they cannot be written.
    """
    stores = {store.folder: store for store in (work.store(root) for work in works)}
    with tempfile.TemporaryDirectory() as folder:
        made = {store.folder.name: store.pack(Path(folder) / store.folder.name) for store in stores.values()}
        files = [path for path in made.values() if path is not None]
        groups = _groups(files, largest)
        return [_write(group, target.with_name(f"{target.name}.{k}.tar"), root) for k, group in enumerate(groups)]


def _groups(files: list[Path], largest: int) -> list[list[Path]]:
    """The files in their order, in groups that are as large as they may be."""
    groups: list[list[Path]] = []
    room = 0
    for path in files:
        size = path.stat().st_size + 4096  # and its headers
        if not groups or size > room:
            groups.append([])
            room = largest
        groups[-1].append(path)
        room -= size
    return groups


def _write(files: list[Path], target: Path, root: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as partial, tarfile.open(partial, "w") as archive:
        for path in files:
            archive.add(path, f"{path.parent.name}/{path.name}")
            description = root / path.parent.name / "run.json"
            if description.is_file():
                archive.add(description, f"{path.parent.name}/run.json")
    return target


def unpack(archive: Path, root: Path = RUNS) -> int:
    """Add the packed files of an archive to the run stores in `root`; how many there were.

    Files are named by their content and name their run, so nothing that is there is replaced by something else, and
    what is foreign is set aside when it is read.

    Raises:
        OSError, tarfile.TarError: it cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
        found = sorted(path for path in Path(folder).glob("*/*") if path.is_file())
        for path in found:
            target = root / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as partial:
                shutil.copyfile(path, partial)
    return sum(path.suffix == ".parquet" for path in found)
