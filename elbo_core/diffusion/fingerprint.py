"""What names the content of a model: a hash of the files that it is loaded from, without loading it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from elbo_core.diffusion.folder import files_read, local_folder
from elbo_core.diffusion.registry import locate
from elbo_core.paths import RUNS, replace_file

CACHE = RUNS / "fingerprints.json"
CLOCK_TICK = 100_000_000
"""Nanoseconds, ten times the grain of a file system's dates: two changes within one grain get the same date."""
_known: dict[str, str] = {}
"""Hashes of files by `_stamp`: what this process has computed or read from the cache."""


def model_fingerprint(model: str | os.PathLike, dtype: object = "float32", cache: Path = CACHE) -> str:
    """A hash of all that a model computes with: its index, every config, tokenizer and weight, and its precision.

    Links are followed. Hashes of files are kept in `cache`, so that only the first call reads the weights.

    model: as for `load`. dtype: what it is to be loaded in, a `torch.dtype` or its name.

    Raises:
        FileNotFoundError, ModelAccessError: as `load`; also where a model of the hub is not in the local cache.
    """
    folder = local_folder(*locate(model))
    digest = hashlib.sha256(str(dtype).removeprefix("torch.").encode())
    hashes = _file_hashes(files_read(folder), cache)
    for path, content in hashes.items():
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]


def _file_hashes(files: list[Path], cache: Path) -> dict[Path, str]:
    stamps = {path: _stamp(path) for path in files}
    if not set(stamps.values()) <= set(_known):
        _known.update(_read(cache))
    settled = {path for path in files if _is_settled(path)}  # before they are read: a change meanwhile is not missed
    hashes = {path: _known.get(stamp) or _hash(path) for path, stamp in stamps.items()}
    new = {stamps[path]: value for path, value in hashes.items() if stamps[path] not in _known and path in settled}
    if new:
        _known.update(new)
        _keep(_read(cache) | new, cache)
    return hashes


def _is_settled(path: Path) -> bool:
    """Whether the next change of a file will certainly get another date."""
    return time.time_ns() - path.stat().st_ctime_ns > CLOCK_TICK


def _stamp(path: Path) -> str:
    """What changes whenever a file does. Its size and date of change can be put back, its date of status cannot."""
    real = path.resolve()
    status = real.stat()
    return f"{real} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(cache: Path) -> dict[str, str]:
    """What the cache holds; nothing if it is absent or damaged."""
    with suppress(OSError, ValueError):
        content = json.loads(cache.read_bytes())
        return {str(stamp): str(value) for stamp, value in content.items()} if isinstance(content, dict) else {}
    return {}


def _keep(hashes: dict[str, str], cache: Path) -> None:
    """Store the hashes; a medium that cannot be written costs time and nothing else."""
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, json.dumps(hashes, indent=0).encode())


def pipeline_fingerprint(pipeline: Any) -> str:
    """A hash of all parts of a pipeline in memory, wherever they were loaded from: weights, configs and tokenizers."""
    digest = hashlib.sha256()
    for name, part in sorted(pipeline.components.items()):
        digest.update(f"{name} {type(part).__name__} ".encode())
        digest.update(_settings(part).encode())
        if hasattr(part, "state_dict"):
            digest.update(str(part.dtype).encode())
            for weight in part.state_dict().values():
                digest.update(_bytes(weight))
    return digest.hexdigest()[:16]


def _settings(part: Any) -> str:
    """The config of a network or scheduler, the vocabulary of a tokenizer."""
    if hasattr(part, "get_vocab"):
        return json.dumps([part.get_vocab(), part.special_tokens_map, part.model_max_length], sort_keys=True)
    config = getattr(part, "config", {})
    return json.dumps(config.to_dict() if hasattr(config, "to_dict") else dict(config), sort_keys=True, default=str)


def _bytes(weight: Any) -> bytes:
    """Whatever its dtype; NumPy knows no bfloat16."""
    import torch  # only where a model is in memory anyway: results are read without it

    return weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
