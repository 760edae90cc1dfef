"""The hashes of the embedded world's scenes, written down: rendering thousands of scenes only to name them takes a
minute."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from elbo_core.paths import DATA, ROOT, replace_file

HASHES = DATA / "measured" / "scenes.json"
CODE = ("toy", "datasets/toy.py", "scene.py", "captions.py", "words.py")
"""What scenes are made by, in the package."""


@functools.cache
def known_hashes(path: Path = HASHES) -> dict[str, list[str]]:
    """By set and split ("toy-voc/test"), the hashes of its first scenes. Nothing, if there are none or the code that
    makes scenes has changed since they were written down."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["hashes"] if content["code"] == code_hash() else {}


def write_hashes(hashes: Mapping[str, Sequence[str]], path: Path = HASHES) -> None:
    """Write hashes down, by set and split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"code": code_hash(), "hashes": {place: list(own) for place, own in hashes.items()}}
    replace_file(path, (json.dumps(content, indent=0) + "\n").encode())
    known_hashes.cache_clear()


@functools.cache
def code_hash() -> str:
    """A hash of the text of all code that scenes are made by, as `CODE` lists it."""
    digest = hashlib.sha256()
    for place in CODE:
        path = ROOT / "elbo_core" / place
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_text(encoding="utf-8").encode())
    return digest.hexdigest()[:16]
