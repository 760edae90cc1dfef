"""How models are loaded: `load("toy-sd15")`, `load("sd15")`, `load("some/hub-id")`, `load("a/local/folder")`."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from huggingface_hub import is_offline_mode
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
from safetensors import SafetensorError, safe_open
from torch import nn

from elbo_core.diffusion import folder as model_folder
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.families import FAMILIES, wrap
from elbo_core.diffusion.registry import REGISTRY, locate, variable
from elbo_core.errors import ModelAccessError, UnsupportedModelError

HARMLESS = re.compile(r"(^|\.)position_ids$|^(vision_model|visual_projection|text_projection|logit_scale)\b")
"""Weights that a part does not need: positions that old files list, and the rest of CLIP beside its text encoder."""


def load(
    model: str | os.PathLike | DiffusionPipeline, device: str | None = None, dtype: torch.dtype | None = None
) -> Denoiser:
    """Load a model of the registry or of the embedded world, a local diffusers folder, or any hub id.

    Only safetensors are read and no remote code runs. Without a `device` or `dtype`, that is a GPU if there is one, and
    float32; a pipeline that is loaded already stays where and as it is.

    Raises:
        FileNotFoundError: no such alias, toy model or folder.
        ModelAccessError: it cannot be read or downloaded, or its weights are not those that its configs ask for; the
            message says what to do.
        UnsupportedModelError: its pipeline's class, or something added to it, is not supported.
        ScheduleError: its noise schedule is of no known kind.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating torch.dtype, got {dtype!r}")
    if isinstance(model, DiffusionPipeline):
        return wrap(model.to(*filter(None, (device, dtype))), type(model).__name__)
    folder = _fetch(model)
    try:
        with _no_loading_bars():
            pipeline = _assemble(folder, dtype or torch.float32)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes the libraries stumble over
        raise _failure(model, str(folder), error) from error
    pipeline.set_progress_bar_config(disable=True)
    return wrap(pipeline.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), str(model))


def check(model: str | os.PathLike) -> None:
    """Whether a model is there, whole and of a supported class; of its weights only the headers are read.

    Raises:
        FileNotFoundError, ModelAccessError, UnsupportedModelError: as `load`.
    """
    place, revision = locate(model)
    if not Path(place).is_absolute() and not is_offline_mode():
        _check_class(_download_index(model, place, revision), str(model))
        return
    folder = _fetch(model)
    try:
        for path in model_folder.files_read(folder):
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
    except (OSError, SafetensorError) as error:
        raise _failure(model, place, error) from error


def _fetch(model: str | os.PathLike) -> Path:
    """The complete folder of a supported model, downloaded if it is not in the local cache."""
    place, revision = locate(model)
    try:
        folder = model_folder.local_folder(place, revision)
        _check_class(model_folder.read_index(folder), str(model))
        model_folder.files_read(folder)
    except ModelAccessError as error:
        if Path(place).is_absolute():
            raise _failure(model, place, error) from error
        folder = _download(model, place, revision)
    return folder


def _download(model: str | os.PathLike, place: str, revision: str | None) -> Path:
    """Fetch a model of the hub, in half precision where it has no other weights."""
    _check_class(_download_index(model, place, revision), str(model))
    error: Exception | None = None
    for kind in (None, "fp16"):
        try:
            folder = Path(DiffusionPipeline.download(place, revision=revision, use_safetensors=True, variant=kind))
            model_folder.files_read(folder)
            return folder
        except (OSError, ValueError, HfHubHTTPError) as failure:
            error = error or failure
    raise _failure(model, place, error) from error


def _download_index(model: str | os.PathLike, place: str, revision: str | None) -> dict:
    try:
        return DiffusionPipeline.load_config(place, revision=revision)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise _failure(model, place, error) from error


def _check_class(index: dict, name: str) -> None:
    """Refuse an unsupported pipeline before gigabytes are read for it."""
    known = [cls.__name__ for cls in FAMILIES]
    if index.get("_class_name") not in known:
        raise UnsupportedModelError(f"{name} is a {index.get('_class_name')}; supported: {', '.join(known)}")


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """Loading a model writes no bars of its own: they fill a notebook and tell nothing of the work to come."""
    logs = [library.utils.logging for library in (diffusers, transformers)]
    shown = [log for log in logs if log.is_progress_bar_enabled()]
    for log in shown:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in shown:
            log.enable_progress_bar()


def _assemble(folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline of a folder, with every network checked against its file."""
    index, kind = model_folder.read_index(folder), model_folder.variant(folder)
    networks = {
        name: _load_network(folder / name, index[name], kind, dtype)
        for name in filter(model_folder.is_network, model_folder.parts(index))
    }
    options = dict.fromkeys(model_folder.LEFT_OUT & index.keys())
    if index["_class_name"] == "StableDiffusionPipeline":
        options["requires_safety_checker"] = False
    return DiffusionPipeline.from_pretrained(folder, dtype=dtype, **networks, **options)


def _load_network(part: Path, origin: Sequence[str], kind: str | None, dtype: torch.dtype) -> nn.Module:
    """A part of a pipeline whose weights all come from its file: the libraries only warn of those that do not.

    Raises:
        ModelAccessError: the file lacks weights, or holds others than the config asks for.
    """
    library, cls = origin
    if library not in ("diffusers", "transformers"):
        raise ModelAccessError(f"{part.name} is a {cls} of {library!r}, not of diffusers or transformers")
    network, report = getattr(importlib.import_module(library), cls).from_pretrained(
        part, dtype=dtype, use_safetensors=True, output_loading_info=True,
        variant=kind if model_folder.weight_files(part, kind) else None,
    )  # fmt: skip
    unexpected = [key for key in report["unexpected_keys"] if not HARMLESS.search(key)]
    wrong = {
        "missing": report["missing_keys"],
        "unexpected": unexpected,
        "of another shape": report["mismatched_keys"],
        "not read": report.get("error_msgs", ()),
    }
    if any(wrong.values()):
        found = "; ".join(f"{len(keys)} {what} ({_some(keys)})" for what, keys in wrong.items() if keys)
        raise ModelAccessError(f"the weights of {part.name} are not those of its config: {found}")
    return network


def _some(keys: Iterable) -> str:
    names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _failure(model: str | os.PathLike, place: str, error: Exception | None) -> ModelAccessError:
    """What happened, and what the user can do about it."""
    entry, is_folder = REGISTRY.get(str(model)), Path(place).is_absolute()
    if is_folder:
        advice = "the folder is incomplete or damaged; save or download it again"
    elif isinstance(error, GatedRepoError) or (entry and entry.gated):
        advice = "accept the licence on the model's page, run `hf auth login`, and try again online"
    elif is_offline_mode():
        command = f"hf download {place}" + (f" --revision {entry.revision}" if entry and entry.revision else "")
        advice = f"it is not in the local cache and HF_HUB_OFFLINE=1; download it once with `{command}`"
    else:
        advice = "check the id and the network"
    local = f", or set {variable(str(model))} to a local folder" if entry else ""
    return ModelAccessError(
        f"cannot load {str(model)!r} from {place}: {advice}{local} ({type(error).__name__}: {error})"
    )
