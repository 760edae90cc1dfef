"""Where the results of a profile come from; `make tables` writes it beside them.

`python -m elbo_core.reports.provenance toy build/toy figures/toy/provenance.json`

This file alone tells of the machine and the clock; tables and figures do not.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import nbformat

from elbo_core.experiments.machine import processor
from elbo_core.experiments.profiles import get_profile
from elbo_core.experiments.store import SCHEMA
from elbo_core.paths import MODELS, ROOT

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pandas", "matplotlib", "pyarrow")


def provenance(profile: str, executed: Path) -> dict:
    """All that a reader needs to repeat the results of `profile`, whose executed notebooks lie in `executed`."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "profile": asdict(get_profile(profile)),
        "store_schema": SCHEMA,
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "weights_sha256": {
            str(path.relative_to(MODELS)): _hash(path) for path in sorted(MODELS.rglob("*.safetensors"))
        },
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "seconds": {path.stem: _seconds(path) for path in sorted(executed.glob("[0-9]*.ipynb"))},
    }


def _git(*arguments: str) -> str | None:
    """What git says, or None outside a repository."""
    try:
        found = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _seconds(notebook: Path) -> float | None:
    """What papermill measured, or None for a notebook that it did not run."""
    duration = nbformat.read(notebook, as_version=4).metadata.get("papermill", {}).get("duration")
    return None if duration is None else round(duration, 1)


def main(profile: str, executed: str, target: str) -> None:
    Path(target).write_text(json.dumps(provenance(profile, Path(executed)), indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
