"""What the twins draw when they are told the name of a class: a kind of measurement, with the judge as its eye."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from elbo_core.captions import TEMPLATE
from elbo_core.diffusion.fingerprint import model_fingerprint
from elbo_core.errors import MeasurementError
from elbo_core.experiments.keys import key_text, short_hash
from elbo_core.experiments.masses import finish, has_twins, portrayed, twins_of
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import lacking, loaded
from elbo_core.generation.judge import JUDGE, WEIGHTS, Judge
from elbo_core.paths import RUNS
from elbo_core.toy.world import THINGS
from elbo_core.training.composition import SAMPLER, generate

DRAWN = "toy-drawn"
PICTURES = 10
"""Of each class."""
METHOD = short_hash(key_text({"measure": "drawn 1", "prompt": TEMPLATE, "sampler": SAMPLER}))

COLUMNS = pa.schema(
    [
        ("index", pa.int32()),
        ("content", pa.string()),  # a hash of class and number of pictures
        ("method", pa.string()),
        ("class", pa.string()),
        ("seed", pa.int32()),  # of the picture's noise
        ("present", pa.float32()),  # the judge's probability that the class is in the picture
        ("best", pa.string()),  # the class that the judge finds most probable
    ]
)


@dataclass(frozen=True)
class Drawn:
    """`pictures` pictures of each class, drawn by a model from "a photo of X", as the judge sees them: a `Work`."""

    model: str
    pictures: int
    classes: tuple[str, ...] = THINGS
    dataset: str = DRAWN
    batch: str = "drawn"

    def store(self, root: Path = RUNS) -> Store:
        key = {"model": self.model, "weights": model_fingerprint(self.model), "dataset": self.dataset}
        return Store({**key, "judge": judge_fingerprint(), "kind": "drawn"}, COLUMNS, root)

    def contents(self) -> Sequence[str]:
        return [short_hash(f"{name} {self.pictures}") for name in self.classes]

    def methods(self) -> Sequence[str]:
        return [METHOD]

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        """Draw what is missing of the classes at `indices`, one after another.

        Raises:
            MeasurementError: a class could not be drawn; those before it are stored.
            StoreError: the store cannot be written.
        """
        todo = sorted(set(lacking(self, store)) & set(indices))
        if not todo:
            return
        store.check_writable()
        denoiser, judge = loaded(self.model), Judge.load()
        for index in tqdm(todo, desc=f"{self.model} draws", leave=False, disable=None):
            name = self.classes[index]
            try:
                records = draw_class(denoiser.pipeline, judge, name, self.pictures)
            except Exception as error:
                raise MeasurementError(f"{self.model} could not draw {name}: {error}") from error
            known = {"index": index, "content": self.contents()[index], "method": METHOD}
            store.add(index, [known | record for record in records])


@functools.cache
def judge_fingerprint() -> str:
    """A hash of the judge's weights."""
    return hashlib.sha256((JUDGE / WEIGHTS).read_bytes()).hexdigest()[:16]


def draw_class(pipeline, judge: Judge, name: str, pictures: int) -> list[dict]:
    """One record for each picture of a class; the noise of the pictures is the same for every class and model."""
    images = generate(pipeline, [TEMPLATE.format(name)] * pictures)
    verdict = judge(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    present = verdict.present[:, verdict.things.index(name)].tolist()
    best = [verdict.things[k] for k in verdict.present.argmax(dim=1).tolist()]
    return [
        {"class": name, "seed": seed, "present": probability, "best": other}
        for seed, (probability, other) in enumerate(zip(present, best, strict=True))
    ]


def drawn(model: str, profile: Profile) -> Drawn:
    """The work that lets a model draw every class that the profile portrays: 10 pictures, or 2 in a rehearsal."""
    return Drawn(model, 2 if profile.is_rehearsal else PICTURES, portrayed(profile))


def works(profile: Profile) -> list[Drawn]:
    """What a profile needs of this kind."""
    return [drawn(model, profile) for model in twins_of(profile)] if has_twins(profile) else []


def read_drawn(work: Drawn, root: Path = RUNS) -> pd.DataFrame:
    """One line per picture, after what is missing has been drawn; columns model and those of `COLUMNS`."""
    frame = finish(work, root).read({METHOD}, work.contents()).to_pandas()
    frame = frame.drop_duplicates(["index", "seed"]).sort_values(["index", "seed"], kind="stable")
    return frame.reset_index(drop=True).assign(model=work.model)
