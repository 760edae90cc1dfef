"""What the files of a data set hold, as one hash: every byte counts, but no byte is read twice for it.

The checksum of a file is kept as long as the file system says that nobody has written to the file: its size, its place
and both its times are the same, one of which (ctime) nobody can set by hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from elbo_core.errors import DatasetError
from elbo_core.paths import CACHE, replace_file

Entry = tuple[tuple[int, ...], str]
"""The stamp of a file, empty if it has been written to just now, and its checksum."""
SETTLED = 2_000_000_000
"""So many nanoseconds after a change, the next one surely gets another time."""
MANY = 200
"""From so many files on, progress is shown."""


def content_hashes(facts: object, scenes: Sequence[tuple[str, Sequence[Path]]], beside: Sequence[Path]) -> list[str]:
    """A hash for each scene of its name, of what its own files and those `beside` all scenes hold, wherever they lie,
    and of `facts` (by their repr).

    Raises:
        DatasetError: a file cannot be read; the message names it.
    """
    files = [*beside, *(path for _, own in scenes for path in own)]
    known = dict(zip(files, checksums(files), strict=True))
    shared = [known[path] for path in beside]
    keys = ((facts, shared, name, [known[path] for path in own]) for name, own in scenes)
    return [hashlib.sha256(repr(key).encode()).hexdigest()[:16] for key in keys]


def checksums(files: Sequence[Path]) -> list[str]:
    """SHA-256 of each file, from the cache where that is still right.

    Raises:
        DatasetError: a file cannot be read; the message names it.
    """
    cache = CACHE / f"checksums-{_name(files)}.json"
    known = _read(cache)
    shown = tqdm(files, desc="checksums", leave=False, disable=None if len(files) >= MANY else True)
    entries = [_entry(path, known.get(str(path))) for path in shown]
    fresh = {str(path): entry for path, entry in zip(files, entries, strict=True) if entry[0]}
    if fresh.items() - known.items():
        _write(cache, known | fresh)
    return [checksum for _, checksum in entries]


def _entry(path: Path, known: Entry | None) -> Entry:
    if not os.path.isfile(path):
        raise DatasetError(f"{path} is missing, or no ordinary file")
    try:
        now, stamp = time.time_ns(), _stamp(path)
        if known and known[0] == stamp:
            return known
        settled = now - max(stamp[-2:]) > SETTLED
        return stamp if settled else (), _checksum(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _name(files: Sequence[Path]) -> str:
    """One cache for all files of the same folders, however many of them are asked for."""
    return hashlib.sha256(repr(sorted({str(path.parent) for path in files})).encode()).hexdigest()[:12]


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does; the two times last, in nanoseconds."""
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(cache: Path) -> dict[str, Entry]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        return {str(name): (tuple(stamp), str(checksum)) for name, (stamp, checksum) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged: it is made anew
        return {}


def _write(cache: Path, content: dict[str, Entry]) -> None:
    """Whole or not at all; where nothing can be written, the files are read again next time."""
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, json.dumps(content).encode())
