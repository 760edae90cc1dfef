"""Model folders in diffusers' layout: where they lie and which of their files are read. Nothing is loaded here."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from elbo_core.errors import ModelAccessError

INDEX = "model_index.json"
LEFT_OUT = frozenset({"safety_checker"})
"""Parts that are never read: nothing is generated for publication here, and it would blacken benchmark images."""
NETWORKS = ("unet", "transformer", "vae", "text_encoder", "image_encoder")
"""How the names of those parts begin that have weights."""
SETTINGS = frozenset({".json", ".txt", ".model"})
"""The files of configs and tokenizers; READMEs, pictures and weights of other formats tell nothing."""
VOCABULARIES = {"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"spiece.model"}
"""A tokenizer needs the files of one of these. Without any, transformers would make an empty one and say nothing."""


def local_folder(place: str, revision: str | None = None) -> Path:
    """The folder itself, or the snapshot of a hub id in the local cache; nothing is downloaded.

    Raises:
        ModelAccessError: the cache holds no such snapshot.
    """
    if Path(place).is_absolute():
        return Path(place)
    try:
        return Path(snapshot_download(place, revision=revision, local_files_only=True))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ModelAccessError(f"{place} is not in the local cache ({type(error).__name__}: {error})") from error


def fetched_folder(place: str, revision: str | None = None) -> Path:
    """The folder itself, or that of a hub id, downloaded unless it is in the local cache: configs and safetensors.

    A hub id handed to `from_pretrained` might be taken for a folder of that name in the current directory.

    Raises:
        ModelAccessError: it cannot be downloaded.
    """
    if Path(place).is_absolute():
        return Path(place)
    kinds = [f"*{kind}" for kind in (*SETTINGS, ".safetensors")]
    try:
        return Path(snapshot_download(place, revision=revision, allow_patterns=kinds))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ModelAccessError(f"cannot download {place} ({type(error).__name__}: {error})") from error


def read_index(folder: Path) -> dict:
    """What the index of a pipeline says: its class, and the library and class of each part.

    Raises:
        ModelAccessError: there is none, or it is damaged.
    """
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelAccessError(f"{folder / INDEX} cannot be read: {error}") from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ModelAccessError(f"{folder / INDEX} does not name a pipeline class under `_class_name`")
    return index


def parts(index: dict) -> dict[str, str]:
    """The class of each part that a pipeline has and that is read, by the part's name."""
    pairs = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return {name: cls for name, (_, cls) in pairs.items() if cls is not None and name not in LEFT_OUT}


def is_network(part: str) -> bool:
    return part.startswith(NETWORKS)


def variant(folder: Path) -> str | None:
    """Which kind of weights is read, None for the plain ones: another, as "fp16", only where a part has no plain ones.

    Raises:
        ModelAccessError: a part has no safetensors at all.
    """
    networks = [folder / name for name in parts(read_index(folder)) if is_network(name)]
    kinds = {part: _variants(part) for part in networks}
    empty = [part.name for part, known in kinds.items() if not known]
    if empty:
        raise ModelAccessError(f"{folder} lacks the safetensors of: {', '.join(empty)}")
    lacking = [known for known in kinds.values() if None not in known]
    if not lacking:
        return None
    common = set.intersection(*map(set, lacking))
    if not common:
        raise ModelAccessError(f"the parts of {folder} have weights of different kinds only: {kinds}")
    return min(common, key=lambda kind: (kind != "fp16", kind))


def _variants(part: Path) -> list[str | None]:
    """The kinds of weights that a part has: of "model.safetensors" None, of "model.fp16.safetensors" "fp16"."""
    names = [path.name for path in part.glob("*.safetensors")] if part.is_dir() else []
    kinds = {name.removesuffix(".safetensors").split("-")[0].partition(".")[2] or None for name in names}
    return [kind for kind in kinds if weight_files(part, kind)]


def weight_files(part: Path, kind: str | None) -> list[Path]:
    """The safetensors of a part, several if its index names shards; none if it has none of this kind."""
    infix = f".{kind}" if kind else ""
    for stem in ("diffusion_pytorch_model", "model"):
        single = part / f"{stem}{infix}.safetensors"
        index = part / f"{stem}.safetensors.index{infix}.json"
        if index.is_file():
            return [part / name for name in sorted(set(_shards(index)))]
        if single.is_file():
            return [single]
    return []


def _shards(index: Path) -> list[str]:
    try:
        return list(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelAccessError(f"{index} cannot be read ({type(error).__name__}: {error})") from error


def files_read(folder: Path) -> list[Path]:
    """All files that decide what a loaded pipeline computes, in a fixed order.

    Raises:
        ModelAccessError: the index is damaged, or a part, its config, its vocabulary or its weights are missing.
    """
    kind, files = variant(folder), [folder / INDEX]
    for name in sorted(parts(read_index(folder))):
        part = folder / name
        files += sorted({path for path in part.glob("*") if path.suffix in SETTINGS} | {part / _config(name)})
        if name.startswith("tokenizer"):
            _check_vocabulary(part)
        if is_network(name):
            files += weight_files(part, kind) or weight_files(part, None)
    missing = [str(path.relative_to(folder)) for path in files if not path.is_file()]
    if missing:
        raise ModelAccessError(f"{folder} lacks: {', '.join(missing)}")
    return files


def _config(part: str) -> str:
    """The file that says how a part is made."""
    kinds = {
        "tokenizer": "tokenizer_config.json",
        "scheduler": "scheduler_config.json",
        "feature_extractor": "preprocessor_config.json",
    }
    return next((config for kind, config in kinds.items() if part.startswith(kind)), "config.json")


def _check_vocabulary(part: Path) -> None:
    present = {path.name for path in part.glob("*") if path.is_file()}
    if not any(needed <= present for needed in VOCABULARIES):
        choices = ", or ".join(" and ".join(sorted(needed)) for needed in VOCABULARIES)
        raise ModelAccessError(f"{part} lacks its vocabulary: {choices}")
