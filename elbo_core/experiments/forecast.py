"""What `make tables` is going to do with the models and data sets that are on this machine.

    python -m elbo_core.experiments.forecast paper             what is there, what is missing and how to get it
    python -m elbo_core.experiments.forecast paper --probe 2   and what it will cost, measured on two images a set
    python -m elbo_core.experiments.forecast paper --write folder    one file of parameters per notebook

A notebook gets those of its models that are there; without any, or without any data set, it is left out.
"""

from __future__ import annotations

import argparse
import ast
import functools
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from elbo_core.datasets import is_there, open_dataset
from elbo_core.datasets.folders import default_root
from elbo_core.datasets.toy import TOY_SETS
from elbo_core.diffusion.fingerprint import pipeline_fingerprint
from elbo_core.errors import ModelAccessError, UnsupportedModelError
from elbo_core.experiments.profiles import PROFILES, Profile, get_profile
from elbo_core.experiments.rows import evaluations, rows_of
from elbo_core.experiments.run import Segmentation, measure, open_store, raise_first
from elbo_core.experiments.work import loaded
from elbo_core.paths import ROOT

Parameters = dict[str, Any]
USES: dict[str, dict[str, tuple[str, ...]]] = {
    "20_table2_baselines": {"model": ("baselines", "own protocols"), "models": ("baselines",)},
    "25_figures3_4_qualitative": {"model": ("baselines",)},
    "15_table_estimators": {"model": ("estimators",), "model on dev": ("estimators",)},
    "30_table3_models": {"models": ("off and on",)},
    "40_table4_attributes": {"attributes": ("models", "phrases")},
    "60_table6_timesteps": {"models": ("models",)},
    "70_table7_strategies": {"model": ("ablations",)},
    "75_figure7_gamma": {"model": ("ablations",)},
    "80_table8_constant_score": {"models": ("models",)},
    "90_table9_attention_timesteps": {"models": ("attention",)},
    "92_evidence": {"models": ("evidence",)},
    "95_text_vs_code": {"model": ("ablations", "text")},
    "98_claims": {"model": ("models", "ablations", "estimators", "baselines"), "models": ("off and on", "evidence")},
}
"""By notebook, the batches of rows (`rows.BATCHES`) that it measures: with its `model`, with that on the development
split, with each of its `models`, and with each of those on the set of Table IV."""

GENERATED = "50_table5_composition"
"""The notebook that reads what the profile's `generation` asks for."""


@dataclass(frozen=True)
class Cost:
    """images: of the set; evaluations: of the network, in all; seconds, stored: in all, from the probe; peak: bytes."""

    images: int
    evaluations: int
    seconds: float
    stored: float
    peak: int


def parameters(profile: Profile) -> dict[str, Parameters]:
    """For each notebook that can run, all its parameters; the profile's datasets must be there (`get_profile`)."""
    missing = missing_models(profile)
    chosen = {name: _without(own, missing) for name, own in asked(profile).items()}
    return {
        name: own for name, own in chosen.items()
        if own is not None and _has_data(name, profile) and _has_scorer(name, missing, profile)
    }  # fmt: skip


def can_run(profile: Profile) -> bool:
    """Whether a notebook can run; in a profile whose notebooks name models, one of these."""
    there = parameters(profile)
    about_models = [name for name, own in asked(profile).items() if {"model", "models"} & set(own)]
    return any(name in there for name in about_models or there)


@functools.cache
def _defaults(notebook: str) -> Parameters:
    """What the parameters cell of a notebook says."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    assigned = [line for line in ast.parse("\n".join(tagged)).body if isinstance(line, ast.Assign)]
    return {
        line.targets[0].id: ast.literal_eval(line.value) for line in assigned if isinstance(line.targets[0], ast.Name)
    }


def _has_scorer(name: str, missing: Mapping[str, str], profile: Profile) -> bool:
    """Whether a notebook of generated pictures has the CLIP that scores them."""
    return name != GENERATED or profile.generation.get("clip") not in missing


def asked(profile: Profile) -> dict[str, Parameters]:
    """For each notebook of a profile, its own parameters and what the profile changes of them."""
    return {
        name: _defaults(name) | dict(changed) | {"profile": profile.name} for name, changed in profile.notebooks.items()
    }


def _has_data(name: str, profile: Profile) -> bool:
    uses = USES.get(name, {})
    return is_there(profile.attributes) if "attributes" in uses else not uses or bool(profile.datasets)


def _without(own: Parameters, missing: Mapping[str, str]) -> Parameters | None:
    """A notebook's parameters less the models that are missing; None if its only ones are."""
    if own.get("model") in missing:
        return None
    if "models" not in own:
        return own
    left = [name for name in own["models"] if name not in missing]
    return own | {"models": left} if left else None


def missing_models(profile: Profile) -> dict[str, str]:
    """Why a model that the profile's notebooks name, or the CLIP that scores, cannot be loaded, by model."""
    from elbo_core.diffusion.models import check  # diffusers takes seconds to import
    from elbo_core.experiments.generation import missing_scorer

    reasons = {}
    for model in models_of(profile):
        try:
            check(model)
        except (ModelAccessError, UnsupportedModelError, FileNotFoundError) as error:
            reasons[model] = str(error)
    clip = profile.generation.get("clip")
    return reasons | ({clip: reason} if clip and (reason := missing_scorer(clip)) else {})


def models_of(profile: Profile) -> list[str]:
    """All models that the profile's notebooks name, once each."""
    named = [[own.get("model"), *own.get("models", [])] for own in asked(profile).values()]
    return list(dict.fromkeys(name for names in named for name in names if name))


def works(profile: Profile) -> list[Segmentation]:
    """What the notebooks will measure, each once however many of them ask for it."""
    wanted = []
    for name, own in parameters(profile).items():
        uses, models = USES.get(name, {}), own.get("models", [])
        test = [(own["model"], batch) for batch in uses.get("model", ())]
        test += itertools.product(models, uses.get("models", ()))
        dev = [(own["model"], batch) for batch in uses.get("model on dev", ())]
        for split, pairs in (("test", test), ("dev", dev)):
            wanted += [_work(model, name, batch, profile, split) for model, batch in pairs for name in profile.datasets]
        described = itertools.product(models, uses.get("attributes", ()))
        wanted += [_work(model, profile.attributes, batch, profile) for model, batch in described]
    return list(dict.fromkeys(wanted))


def _work(model: str, dataset: str, batch: str, profile: Profile, split: str = "test") -> Segmentation:
    return Segmentation(model, dataset, batch, profile.images_of(batch), split)


def probe(work: Segmentation, images: int) -> Cost:
    """What a work costs, from measuring its first `images` images in a store that is thrown away."""
    denoiser, rows = loaded(work.model), rows_of(work.batch)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    dataset = open_dataset(work.dataset, work.split, work.images)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(work.model, pipeline_fingerprint(denoiser.pipeline), dataset, Path(folder))
        some = range(min(images, len(dataset)))
        started = time.perf_counter()
        raise_first(measure(denoiser, dataset, rows, store, some), dataset)
        seconds = time.perf_counter() - started
        stored = sum(path.stat().st_size for path in store.folder.glob("*.parquet"))
    asks = sum(evaluations(rows, len(dataset.read(index).classes))[0] for index in some)
    share = len(dataset) / len(some)
    return Cost(len(dataset), round(asks * share), seconds * share, stored * share, _peak())


def _peak() -> int:
    """The most memory that the run has held on the GPU or, without one, this process since its start."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write(profile: Profile, folder: Path) -> None:
    """One `<notebook>.yaml` per notebook that can run; a file that would not change is left alone, others go."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {f"{name}.yaml": _text(own, profile) for name, own in parameters(profile).items()}
    for path in folder.glob("*.yaml"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def _text(own: Parameters, profile: Profile) -> str:
    """YAML whose texts are quoted, so that no name turns into a number; the comment makes a new extent a new file."""
    lines = [f"{name}: {json.dumps(value)}" for name, value in own.items()]
    return "\n".join([f"# {profile.extent} of {', '.join(profile.datasets)}", *lines, ""])


def what_is_missing(profile: Profile) -> str:
    """What is left out and how to get it."""
    from elbo_core.datasets.__main__ import advice

    there = parameters(profile)
    lost = [name for name in profile.notebooks if name not in there]
    lines = [f"profile {profile.name}: {len(there)} of {len(profile.notebooks)} notebooks, {profile.extent}"]
    lines += [f"left out: {', '.join(lost)}"] if lost else []
    lines += [f"missing model {model}: {reason}" for model, reason in missing_models(profile).items()]
    for name in (*PROFILES[profile.name].datasets, profile.attributes):
        if name not in TOY_SETS and not is_there(name):
            lines += [f"missing data set {name}:", advice(name, default_root())]
    return "\n".join(lines)


def estimate(profile: Profile, images: int) -> str:
    """The costs of all works as a table."""
    from tabulate import tabulate

    costs = {work: probe(work, images) for work in sorted(works(profile), key=lambda work: work.model)}
    lines = [
        [work.model, work.dataset, work.batch, cost.images, cost.evaluations, _hours(cost.seconds),
         f"{cost.stored / 2**20:.1f} MB", f"{cost.peak / 2**30:.1f} GB"] for work, cost in costs.items()
    ]  # fmt: skip
    total = [
        sum(getattr(cost, part) for cost in costs.values()) for part in ("images", "evaluations", "seconds", "stored")
    ]
    lines.append(["all", "", "", *total[:2], _hours(total[2]), f"{total[3] / 2**20:.1f} MB", ""])
    return tabulate(lines, ["model", "data set", "rows", "images", "network evaluations", "time", "disk", "memory"])


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.1f} min"


def _images(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", choices=list(PROFILES))
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="where the notebooks' parameters go")
    parser.add_argument("--probe", type=_images, metavar="IMAGES", help="measure so many images a run")
    options = parser.parse_args(arguments)
    profile = get_profile(options.profile)
    print(what_is_missing(profile))
    if options.write:
        write(profile, options.write)
    if options.probe and works(profile):
        print(estimate(profile, options.probe))
    return 0 if can_run(profile) else 1


if __name__ == "__main__":
    sys.exit(main())
