"""Where things are, from the package's own place, so that nothing depends on the current directory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
MODELS = DATA / "models"
FIGURES = ROOT / (os.environ.get("ELBO_FIGURES") or "build/figures")
"""Where tables and figures are written: make says the committed `figures/`; a notebook that somebody steps through
changes no committed file."""
RUNS = Path(os.environ["ELBO_RUNS"]).resolve() if os.environ.get("ELBO_RUNS") else DATA / "runs"
"""What is measured on this machine."""
MEASURED = None if os.environ.get("ELBO_RUNS") else DATA / "measured"
"""What was measured before and is shipped with the project; a run store elsewhere (`ELBO_RUNS`) starts from nothing."""
CACHE = ROOT / "build" / "cache"
"""What can be made anew at any time; `make clean` removes it."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its name when it is whole and on the disk, so that it is never there in part.

    The other name is drawn at random: processes on several machines may share a folder, and their numbers may be alike.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was there before is left as it was.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it is there as a whole or not at all.

    Raises:
        OSError: see `whole_file`.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content)
