"""What editing is worth where the truth is known: does the wanted thing appear, and is the rest left alone?

Every source is drawn or inverted once, and all variants of its edits run with it in one batch.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.noise import keyed_noise
from elbo_core.diffusion.sampling import STEPS, Guidance, ReleasedGrid
from elbo_core.experiments.keys import key_text, short_hash
from elbo_core.experiments.pool import measure_here
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.rows import LATE_LAYERS
from elbo_core.experiments.run import fingerprint
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import loaded
from elbo_core.generation.calibrated_maps import Calibration
from elbo_core.generation.inversion import Start, invert, optimise_null_text, pin, psnr
from elbo_core.generation.judge import JUDGE, WEIGHTS, Judge, Verdict
from elbo_core.generation.prompt2prompt import Edit, Edited, edit
from elbo_core.methods.plan import SEED
from elbo_core.paths import RUNS
from elbo_core.toy.edit_tasks import Look, Source, Task, edit_sources
from elbo_core.toy.render import render

COLUMNS = pa.schema(
    [
        ("image", pa.string()),
        ("index", pa.int32()),
        ("content", pa.string()),  # a hash of the scene, its text and its edits
        ("method", pa.string()),  # the hash of the variant
        ("kind", pa.string()),
        ("text", pa.string()),
        ("target", pa.string()),
        ("appears", pa.bool_()),  # whether the wanted thing is there in the wanted colour
        ("probability", pa.float32()),  # that it is, by the judge: of the thing, times that of its colour
        ("before", pa.float32()),  # the same in the source
        ("kept", pa.bool_()),  # whether the other thing is still there in its colour
        ("source_right", pa.bool_()),  # whether the source shows both as its text says
        ("masked", pa.float32()),  # share of the pixels in the edited object's mask
        ("psnr", pa.float32()),  # of the edit to the source outside that mask, in dB
        ("changed", pa.float32()),  # share of the pixels outside it that differ by more than `VISIBLE`
        ("seconds", pa.float32()),  # for all variants of all edits of the source
    ]
)
VISIBLE = 0.1
"""A pixel has changed if one of its colours differs by so much of the range."""
BEST_PSNR = 50.0
"""In dB, where counting ends: beyond it, pictures of 8 bits are equal."""


@dataclass(frozen=True)
class Variant:
    """A way to carry out all edits. name: how it is called. cross_steps, self_steps, calibration: as of `Edit`."""

    name: str = field(metadata={"key": False})
    cross_steps: float = 0.8
    self_steps: float = 0.4
    calibration: Calibration | None = None

    def edit(self, task: Task) -> Edit:
        return task.edit(cross_steps=self.cross_steps, self_steps=self.self_steps, calibration=self.calibration)

    @property
    def definition(self) -> str:
        """A hash of all that distinguishes it."""
        return short_hash(key_text({"edits": self}))

    @property
    def amplifies_rounding(self) -> bool:
        """See `Edit`."""
        return self.calibration is not None


GAMMAS = {"1": 1.0, "1/2": 1 / 2, "1/3": 1 / 3}
PLAIN = Variant("Prompt-to-Prompt")
UNCONTROLLED = Variant("new text alone", 0.0, 0.0)
CALIBRATED = [
    Variant(f"{scaling}, γ = {name}", calibration=Calibration.with_gamma(gamma, LATE_LAYERS, scaling))
    for scaling in ("mass", "range")
    for name, gamma in GAMMAS.items()
]
MAIN = CALIBRATED[2]
"""The calibrated variant that the claim is about: the paper's gamma, and the scaling that moves no mass from word to
word. Chosen before anything was measured."""
VARIANTS = (PLAIN, *CALIBRATED, UNCONTROLLED)


@dataclass(frozen=True)
class Edits:
    """All variants of the edits of `count` sources, in so many steps: a `Work`.

    dataset: "edits-generated", drawn by the model from the source's text, or "edits-rendered", pictures of the world.
    """

    model: str
    dataset: str
    count: int
    steps: int = STEPS
    batch: str = "edits"

    def store(self, root: Path = RUNS) -> Store:
        named = {
            "model": self.model,
            "weights": fingerprint(self.model),
            "judge": judge_hash(),
            "dataset": self.dataset,
        }
        return Store(named | {"kind": self.batch, "seed": SEED, "steps": self.steps}, COLUMNS, root)

    def contents(self) -> Sequence[str]:
        return contents(self.count)

    def methods(self) -> Sequence[str]:
        return [variant.definition for variant in VARIANTS]

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        measured = store.measured(self.contents())
        for index in indices:
            lacking = [variant for variant in VARIANTS if variant.definition not in measured.get(index, ())]
            if lacking:
                store.add(index, self._records(index, lacking))

    def _records(self, index: int, variants: Sequence[Variant]) -> list[dict]:
        source, started = edit_sources(self.count)[index], time.perf_counter()
        asked = [(task, variant) for task in source.tasks for variant in variants]
        done = carry_out(loaded(self.model), self.dataset, source, asked, ReleasedGrid(self.steps))
        common = {"image": source.id, "index": index, "content": self.contents()[index], "text": source.text}
        common["seconds"] = time.perf_counter() - started
        verdict, masks = judge()(done.pictures), masks_of(self.dataset, source, done.source)
        return [
            common | {"method": variant.definition} | _record(source, task, verdict, row, done, masks[task.subject])
            for row, (task, variant) in enumerate(asked, start=1)
        ]


def carry_out(
    denoiser: Denoiser, dataset: str, source: Source, asked: Sequence[tuple[Task, Variant]],
    sampler: ReleasedGrid = ReleasedGrid(),
) -> Edited:  # fmt: skip
    """The edits of a source by variants, in their order."""
    edits = [variant.edit(task) for task, variant in asked]
    return edit(denoiser, source.text, edits, STARTS[dataset](denoiser, source, sampler), source.phrases, sampler)


def generated_start(denoiser: Denoiser, source: Source, sampler: ReleasedGrid) -> Start:
    """Noise that belongs to the source."""
    return Start(keyed_noise(denoiser.latent_shape, SEED, source.id, "start", [0])[0], source.id)


def inverted_start(denoiser: Denoiser, source: Source, sampler: ReleasedGrid) -> Start:
    """The noise that the source's rendering comes from, the source held on the way of the inversion."""
    return pin(invert(denoiser, rendered(source), source.text, source.id, sampler))


STARTS: dict[str, Callable[[Denoiser, Source, ReleasedGrid], Start]] = {
    "edits-generated": generated_start,
    "edits-rendered": inverted_start,
}
"""By data set, where its sources start."""


def rendered(source: Source) -> Tensor:
    """The source's scene as a picture [3, H, W]."""
    return torch.from_numpy(render(source.spec).image).permute(2, 0, 1).float() / 255


def masks_of(dataset: str, source: Source, picture: Tensor) -> list[Tensor]:
    """Where each of a source's things is, bool [H, W]: exactly, of a rendering; of a generated picture, the cells where
    the judge sees it."""
    if dataset == "edits-rendered":
        instances = torch.from_numpy(render(source.spec).instances)
        return [instances == k for k in range(1, len(source.spec.things) + 1)]
    network, names = judge().network, judge().config.things
    with torch.no_grad():
        seen = network(picture[None]).cells.argmax(dim=1)
    pixels = F.interpolate(seen[None].float(), size=picture.shape[1:])[0, 0]
    return [pixels == 1 + names.index(thing.name) for thing in source.spec.things]


def _record(source: Source, task: Task, verdict: Verdict, row: int, done: Edited, mask: Tensor) -> dict:
    """What an edit, at a row of the pictures, made of its source, at row 0."""
    every = len(done.pictures)
    outside, picture = ~mask, done.pictures[row]
    differs = (picture - done.source).abs().amax(dim=0) > VISIBLE
    return {
        "kind": task.kind,
        "target": task.target,
        "appears": bool(verdict.right([[task.wanted]] * every)[row]),
        "probability": probability(verdict, row, task.wanted),
        "before": probability(verdict, 0, task.wanted),
        "kept": bool(verdict.right([[task.kept]] * every)[row]),
        "source_right": bool(verdict.right([list(source.looks)] * every)[0]),
        "masked": float(mask.float().mean()),
        "psnr": min(psnr(picture, done.source, outside), BEST_PSNR),
        "changed": float(differs[outside].float().mean()),
    }


def probability(verdict: Verdict, row: int, look: Look) -> float:
    """By the judge, that a thing is in a picture, times that it has the colour, if one is meant."""
    color, name = look
    thing = verdict.things.index(name)
    of_color = 1.0 if color is None else float(verdict.colors[row, thing, verdict.color_names.index(color)])
    return float(verdict.present[row, thing]) * of_color


@functools.lru_cache
def judge() -> Judge:
    """The committed judge, loaded once a process."""
    return Judge.load()


@functools.lru_cache
def judge_hash() -> str:
    """Of the judge's weights."""
    return hashlib.sha256((JUDGE / WEIGHTS).read_bytes()).hexdigest()[:16]


@functools.lru_cache
def contents(count: int) -> tuple[str, ...]:
    """A hash of each source: scene, text and edits."""
    return tuple(short_hash(key_text(source)) for source in edit_sources(count))


INVERSION_COLUMNS = pa.schema(
    [
        ("image", pa.string()),
        ("index", pa.int32()),
        ("content", pa.string()),
        ("method", pa.string()),  # the hash of the name of the way
        ("psnr", pa.float32()),  # of the reconstruction to what the VAE makes of the picture, in dB
        ("psnr_picture", pa.float32()),  # to the picture itself
        ("seconds", pa.float32()),
    ]
)
WAYS = ("the VAE alone", "inversion, no guidance", "inversion, guidance", "null text", "pinned")
"""How a picture is carried to noise and back."""


@dataclass(frozen=True)
class Inversions:
    """How well the first `count` rendered sources are drawn again from their inversion: a `Work`."""

    model: str
    count: int
    steps: int = STEPS
    dataset: str = "edits-rendered"
    batch: str = "inversions"

    def store(self, root: Path = RUNS) -> Store:
        named = {"model": self.model, "weights": fingerprint(self.model), "dataset": self.dataset}
        return Store(named | {"kind": self.batch, "steps": self.steps}, INVERSION_COLUMNS, root)

    def contents(self) -> Sequence[str]:
        return contents(self.count)

    def methods(self) -> Sequence[str]:
        return [short_hash(key_text({"inversion": way})) for way in WAYS]

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        for index in indices:
            store.add(index, self._records(index))

    def _records(self, index: int) -> list[dict]:
        source, denoiser, sampler = edit_sources(self.count)[index], loaded(self.model), ReleasedGrid(self.steps)
        picture = rendered(source)
        records, common = [], {"image": source.id, "index": index, "content": self.contents()[index]}
        for way, method in zip(WAYS, self.methods(), strict=True):
            started = time.perf_counter()
            again, decoded = there_and_back(denoiser, source, picture, way, sampler)
            quality = {"psnr": min(psnr(again, decoded), BEST_PSNR), "psnr_picture": psnr(again, picture)}
            records.append(common | {"method": method, **quality, "seconds": time.perf_counter() - started})
        return records


def there_and_back(
    denoiser: Denoiser, source: Source, picture: Tensor, way: str, sampler: ReleasedGrid = ReleasedGrid()
) -> tuple[Tensor, Tensor]:
    """A picture after a way there and back, and after the VAE alone, both [3, H, W]."""
    inversion = invert(denoiser, picture, source.text, source.id, sampler)
    decoded = denoiser.decode_latents(inversion.latents[-1:])[0].cpu()
    if way == "the VAE alone":
        return decoded, decoded
    starts: dict[str, Callable[[], Start]] = {
        "inversion, no guidance": lambda: inversion,
        "inversion, guidance": lambda: inversion,
        "null text": lambda: optimise_null_text(denoiser, inversion, source.text, sampler=sampler),
        "pinned": lambda: pin(inversion),
    }
    guidance = Guidance(1.0) if way == "inversion, no guidance" else Guidance()
    return edit(denoiser, source.text, [], starts[way](), (), sampler, guidance).source, decoded


def works(profile: Profile) -> list[Edits | Inversions]:
    """What a profile needs."""
    if not profile.edits or "55_figure6_editing" not in profile.notebooks:
        return []
    sets = [Edits(profile.edits_model, name, profile.edits, profile.edit_steps) for name in STARTS]
    return [*sets, Inversions(profile.edits_model, profile.inverted, profile.edit_steps)]


def read_edits(profile: Profile, root: Path = RUNS) -> pd.DataFrame:
    """One line per source, edit and variant, with the columns of the records and "dataset" and "variant"; measures what
    is missing.

    Raises:
        MeasurementError, StoreError: see `pool.measure_here`.
    """
    names = {variant.definition: variant.name for variant in VARIANTS}
    wanted = [work for work in works(profile) if work.batch == "edits"]
    measure_here(wanted, root)
    frames = [
        work.store(root).read(work.methods(), work.contents()).to_pandas().assign(dataset=work.dataset)
        for work in wanted
    ]
    frame = pd.concat(frames, ignore_index=True).drop_duplicates(["dataset", "index", "kind", "method"])
    frame["variant"] = frame.method.map(names)
    return frame.sort_values(["dataset", "index", "kind", "variant"], ignore_index=True)


def read_inversions(profile: Profile, root: Path = RUNS) -> pd.DataFrame:
    """One line per source and way; measures what is missing.

    Raises:
        MeasurementError, StoreError: see `pool.measure_here`.
    """
    (work,) = [work for work in works(profile) if work.batch == "inversions"]
    measure_here([work], root)
    frame = work.store(root).read(work.methods(), work.contents()).to_pandas()
    frame["way"] = frame.method.map(dict(zip(work.methods(), WAYS, strict=True)))
    return frame.drop_duplicates(["index", "way"]).sort_values(["index", "way"], ignore_index=True)
