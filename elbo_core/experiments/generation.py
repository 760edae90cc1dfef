"""Measure generated pictures: of each prompt and seed, by each method, how well they fit their prompt.

An item is a prompt with a seed. All methods start it from the same noise. Scores are stored, pictures are not: they can
be made again at any time (`pictures_of`).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from elbo_core.datasets.phrases import NounPhrase
from elbo_core.datasets.prompts import PROMPT_SETS, Prompt, prompt_set
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.fingerprint import model_fingerprint
from elbo_core.diffusion.registry import locate, paper_name
from elbo_core.diffusion.sampling import ReleasedGrid
from elbo_core.errors import DatasetError, MeasurementError, ModelAccessError, StoreError, UnsupportedModelError
from elbo_core.experiments.keys import key_text, short_hash
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import lacking, loaded
from elbo_core.generation.attend_excite import AttendAndExcite
from elbo_core.generation.clip import ClipScore
from elbo_core.generation.generate import PIXELS_AT_ONCE, Generated, generate
from elbo_core.generation.generic import GENERIC, OF_THE_PICTURE
from elbo_core.generation.judge import Judge, Wanted
from elbo_core.generation.method import Baseline, Described, GenerationMethod, Mention
from elbo_core.generation.reweight import ConstantWeights, ScoreReweighting
from elbo_core.generation.syngen import SynGen
from elbo_core.paths import MODELS, RUNS
from elbo_core.toy.textures import COLORS
from elbo_core.toy.world import THINGS
from elbo_core.words import mentions

COLUMNS = pa.schema(
    [
        ("index", pa.int32()),
        ("content", pa.string()),  # a hash of prompt, phrases and seed
        ("method", pa.string()),  # the hash of method and sampler
        ("prompt", pa.string()),
        ("seed", pa.int32()),
        ("clip_score", pa.float32()),  # 100 x cosine
        ("things", pa.int32()),  # that the prompt names and the judge knows; 0 without a judge
        ("there", pa.int32()),  # of those, seen
        ("right", pa.int32()),  # of those, seen in their colour
        ("acts", pa.bool_()),  # whether the method did anything, or the picture is the baseline's
        ("evaluations", pa.int32()),  # of the network
        ("seconds", pa.float32()),
    ]
)
OURS, BASELINE = "ELBO-T2IAlign", "Baseline"
STRENGTHS = (1.1, 1.2, 1.4, 1.6, 1.8, 2.0)
TEXT_TIMESTEPS = (124, 374, 624, 874)
"""Where the paper's text is followed: the middles of four equal parts of the time."""


def strength_name(strength: float) -> str:
    return f"w = {strength:g}"


def rows_of(batch: str, model: str) -> dict[str, GenerationMethod]:
    """The methods of a batch by name. Those of the paper's Table V have its names.

    Raises:
        ValueError: the batch is unknown.
    """
    excite = AttendAndExcite(words_only=paper_name(model).startswith("SD2"))
    ours: dict[str, GenerationMethod] = {BASELINE: Baseline(), OURS: ScoreReweighting()}
    batches: dict[str, dict[str, GenerationMethod]] = {
        "composition": {BASELINE: Baseline(), "A&E": excite, "SynGen": SynGen(), OURS: ScoreReweighting()},
        "reweighting": ours,
        "recipes": ours | {
            f"{OURS}, as the text says": ScoreReweighting(over=TEXT_TIMESTEPS),
            "every phrase 1.1": ConstantWeights(1.1),
        },
        "strengths": {BASELINE: Baseline()} | {strength_name(w): ScoreReweighting(w) for w in STRENGTHS},
    }  # fmt: skip
    if batch not in batches:
        raise ValueError(f"unknown batch {batch!r}; known: {', '.join(batches)}")
    return batches[batch]


@dataclass(frozen=True)
class Item:
    """A picture to be made: a prompt, what it is to show, and a seed."""

    prompt: Described
    wanted: Wanted
    seed: int

    @property
    def content(self) -> str:
        """A hash of all that its pictures and scores depend on."""
        return short_hash(
            key_text({"prompt": self.prompt, "wanted": [list(pair) for pair in self.wanted], "seed": self.seed})
        )


def describe(prompt: Prompt) -> Described:
    """A prompt with its phrases by character offsets, without those that name no thing."""
    named = [phrase for phrase in prompt.phrases if phrase.subject not in GENERIC | OF_THE_PICTURE]
    return Described(prompt.text, tuple(_mention(prompt.text, phrase) for phrase in named))


def _mention(text: str, phrase: NounPhrase) -> Mention:
    start, end = phrase.phrase
    modifiers: list[tuple[int, int]] = []
    for word in phrase.attributes:
        found = mentions(text[start:end], word, [(a - start, b - start) for a, b in (phrase.noun, *modifiers)])
        modifiers += [(start + a, start + b) for a, b in found[:1]]
    return Mention(phrase.phrase, phrase.noun, tuple(modifiers))


def wanted_of(prompt: Prompt) -> Wanted:
    """The things of the embedded world that a prompt names, each with its colour if it tells one."""
    return [
        (next((word for word in phrase.attributes if word in COLORS), None), phrase.subject)
        for phrase in prompt.phrases
        if phrase.subject in THINGS
    ]


@dataclass(frozen=True)
class Generation:
    """Prompts of a set, some seeds each, by the methods of a batch (see `Work`).

    prompts: the first so many, all by default. steps: of the sampler. clip, judge: what scores the pictures; without a
    judge nothing is counted.
    """

    model: str
    dataset: str
    batch: str = "composition"
    prompts: int | None = None
    seeds: int = 1
    steps: int = 50
    clip: str = "toy-clip"
    judge: str | None = "toy-judge"

    def store(self, root: Path = RUNS) -> Store:
        key = {"model": self.model, "weights": model_fingerprint(self.model), "dataset": self.dataset}
        scorers = {"clip": _scorer_hash(self.clip), "judge": self.judge and _scorer_hash(self.judge)}
        return Store({**key, "kind": "generation", "seeds": self.seeds, **scorers}, COLUMNS, root)

    def items(self) -> list[Item]:
        """Prompt by prompt, its seeds one after the other."""
        return _items(self.dataset, self.prompts, self.seeds)

    def contents(self) -> Sequence[str]:
        return [item.content for item in self.items()]

    def rows(self) -> dict[str, GenerationMethod]:
        return rows_of(self.batch, self.model)

    def definitions(self) -> dict[str, str]:
        """By name of the row, the hash of all that its pictures depend on but for model and item."""
        sampler = ReleasedGrid(self.steps)
        return {name: short_hash(key_text({"method": row, "sampler": sampler})) for name, row in self.rows().items()}

    def methods(self) -> Sequence[str]:
        return list(dict.fromkeys(self.definitions().values()))

    @property
    def at_once(self) -> int:
        """So many pictures are quicker when made together."""
        return 8

    @property
    def amplified(self) -> list[str]:
        """Methods that step along a gradient: rounding grows with every step, until another picture comes out."""
        named = self.definitions()
        return [named[name] for name, row in self.rows().items() if isinstance(row, AttendAndExcite | SynGen)]

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        """Batch by batch, as many pictures as the device makes at once; whatever is killed, what is stored stays.

        Raises:
            MeasurementError: a batch could not be measured; those before it are stored.
            StoreError: the store cannot be written.
        """
        store.check_writable()
        measured = store.measured(self.contents(), list(indices))
        wanted = set(self.methods())
        todo = [index for index in indices if wanted - measured.get(index, set())]
        if not todo:
            return
        denoiser = loaded(self.model)
        size = max(1, PIXELS_AT_ONCE.get(denoiser.device.type, PIXELS_AT_ONCE["cpu"]) // denoiser.image_size**2)
        for some in (todo[start : start + size] for start in range(0, len(todo), size)):
            try:
                records = self._measure(denoiser, some, {index: measured.get(index, set()) for index in some})
            except StoreError:
                raise
            except Exception as error:
                message = f"items {some[0]} to {some[-1]} of {self.dataset} could not be measured: {error}"
                raise MeasurementError(message) from error
            for index, own in records.items():
                store.add(index, own)

    def _measure(
        self, denoiser: Denoiser, indices: Sequence[int], done: Mapping[int, set[str]]
    ) -> dict[int, list[dict]]:
        """The records that some items lack, by item."""
        records: dict[int, list[dict]] = {index: [] for index in indices}
        items, definitions = self.items(), self.definitions()
        for name, method in self.rows().items():
            definition = definitions[name]
            lacking = [
                index for index in indices
                if definition not in done[index] | {record["method"] for record in records[index]}
            ]  # fmt: skip
            made = self._made(denoiser, method, [items[index] for index in lacking])
            for index, facts in zip(lacking, made, strict=True):
                own = {"index": index, "content": items[index].content, "method": definition}
                records[index].append(own | {"prompt": items[index].prompt.text, "seed": items[index].seed} | facts)
        return records

    def _made(self, denoiser: Denoiser, method: GenerationMethod, items: Sequence[Item]) -> list[dict]:
        """What is known of a method's pictures of some items."""
        if not items:
            return []
        made = generate_items(denoiser, method, items, self.steps)
        clip = _clip(self.clip, denoiser.device.type)(made.pictures, [item.prompt.text for item in items])
        counts = _counts(self.judge, made.pictures, [item.wanted for item in items])
        parts = (clip.tolist(), counts, made.acts.tolist(), made.evaluations.tolist(), made.seconds.tolist())
        return [
            {"clip_score": score, **counted, "acts": acts, "evaluations": evaluations, "seconds": seconds}
            for score, counted, acts, evaluations, seconds in zip(*parts, strict=True)
        ]


def generate_items(denoiser: Denoiser, method: GenerationMethod, items: Sequence[Item], steps: int) -> Generated:
    """The pictures of some items by a method."""
    return generate(
        denoiser, method, [item.prompt for item in items], [item.seed for item in items], ReleasedGrid(steps)
    )


def pictures_of(work: Generation, name: str, indices: Sequence[int]) -> np.ndarray:
    """Pictures uint8 [n, R, R, 3] of some items by the row `name` of a work, made again."""
    items = work.items()
    return generate_items(loaded(work.model), work.rows()[name], [items[k] for k in indices], work.steps).pictures


@functools.lru_cache(maxsize=8)
def _items(dataset: str, prompts: int | None, seeds: int) -> list[Item]:
    return [
        Item(describe(prompt), wanted_of(prompt), seed)
        for prompt in prompt_set(dataset, prompts)
        for seed in range(seeds)
    ]


@functools.lru_cache(maxsize=2)
def _clip(name: str, device: str) -> ClipScore:
    return ClipScore.load(name, device)


@functools.lru_cache(maxsize=1)
def _judge(name: str) -> Judge:
    return Judge.load(MODELS / name)


def _counts(judge: str | None, pictures: np.ndarray, wanted: Sequence[Wanted]) -> list[dict]:
    """How many things each picture is to show, and what the judge sees of them; nothing without a judge."""
    if judge is None:
        return [{"things": 0, "there": 0, "right": 0}] * len(wanted)
    import torch

    verdict = _judge(judge)(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    counts = verdict.counts(wanted).tolist()
    return [
        {"things": len(own), "there": there, "right": right} for own, (there, right) in zip(wanted, counts, strict=True)
    ]


def _scorer_hash(name: str) -> str:
    """Of the files of a scorer that lies in a folder; of its hub id and revision otherwise."""
    place, revision = locate(name)
    if not Path(place).is_absolute():
        return short_hash(f"{place}@{revision}")
    files = sorted(path for path in Path(place).glob("*") if path.suffix in (".json", ".safetensors"))
    parts = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.name != "metrics.json"]
    return short_hash("".join(parts))


def works(profile: Profile) -> list[Generation]:
    """What a profile's `generation` asks for, of the models and prompt sets that are on this machine; nothing without
    the CLIP that scores.

    Its entries: models, each with its batches; sets; prompts of each set; seeds of each prompt; steps; clip; judge.
    """
    settings = dict(profile.generation)
    if not settings or missing_scorer(settings["clip"]):
        return []
    models, sets = settings.pop("models"), [name for name in settings.pop("sets") if set_is_there(name)]
    if profile.images is not None:
        settings["prompts"] = min(settings["prompts"], profile.images)  # IMAGES=4 asks for little of everything
    return [
        Generation(model, name, batch, **settings)
        for model, batches in models.items()
        if _model_is_there(model)
        for batch in batches
        for name in sets
    ]


@functools.cache
def missing_scorer(clip: str) -> str:
    """Why a CLIP cannot be had; an empty text if it can."""
    try:
        ClipScore.check(clip)
    except (ModelAccessError, OSError) as error:
        return str(error)
    return ""


def set_is_there(name: str) -> bool:
    """Whether a prompt set can be read or drawn on this machine."""
    try:
        return name in PROMPT_SETS and bool(prompt_set(name, 1))
    except DatasetError:
        return False


@functools.cache
def _model_is_there(model: str) -> bool:
    from elbo_core.diffusion.models import check

    try:
        check(model)
    except (ModelAccessError, UnsupportedModelError, FileNotFoundError):
        return False
    return True


def read(work: Generation, root: Path = RUNS) -> pd.DataFrame:
    """What a work's store holds of it, measured first if it is missing: one line per item and row, with the columns
    row, prompt_index, and those of `COLUMNS`; the shares `there_share` and `right_share`, NaN without a judge.

    Raises:
        MeasurementError, StoreError: see `Generation.measure`.
    """
    store, wanted = work.store(root), set(work.methods())
    if missing := lacking(work, store):
        work.measure(store, missing)
    stored = store.read(wanted, work.contents()).to_pandas().drop_duplicates(["index", "method"])
    frames = [stored[stored.method == definition].assign(row=name) for name, definition in work.definitions().items()]
    frame = pd.concat(frames, ignore_index=True)
    judged = frame.things.where(frame.things > 0, math.nan)
    frame = frame.assign(
        prompt_index=frame["index"] // work.seeds, there_share=frame.there / judged, right_share=frame.right / judged,
        model=work.model, dataset=work.dataset,
    )  # fmt: skip
    order = {name: k for k, name in enumerate(work.rows())}
    return frame.sort_values(["row", "index"], key=lambda part: part.map(order) if part.name == "row" else part)
