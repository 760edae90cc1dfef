"""How the judge learns (`elbo_core.generation.judge`): from rendered scenes, of which the whole truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from elbo_core.generation.judge import CELL, Judge, JudgeConfig, JudgeNetwork, Reading
from elbo_core.toy.render import Rendering, render
from elbo_core.toy.shapes import SHAPES, Part, Shape
from elbo_core.toy.textures import COLORS
from elbo_core.toy.world import IMAGE_SIZE, THINGS, SceneSpec, SceneStyle, Thing, sample_scene
from elbo_core.training.fit import History, TrainingPlan, fit, pick
from elbo_core.training.train_vae import to_images, to_tensor, weights_hash

PLANS = {
    "rough": TrainingPlan(steps=1500, learning_rate=2e-3, warmup=100, ema_decay=0.995, checkpoint_every=200),
    "fine": TrainingPlan(steps=1200, learning_rate=2e-3, warmup=50, ema_decay=0.995, checkpoint_every=200, seed=4308),
}
"""By stage; the second goes on from the averaged weights of the first, with a rate that rises and falls again."""
BATCH = 32
JUDGE_STYLE = SceneStyle(
    (1, 3), (11.0, 42.0), class_exponent=0.0, copies_probability=0.1, characteristic_probability=0.0
)
"""Things equally often and in any colour, so that only its shape tells what a thing is."""
JUDGE_SEED, JUDGE_SCENES, DECODED_SCENES = 20_250_611, 20_000, 1000
HELD_OUT_SEED, HELD_OUT_SCENES = 65, 800
LARGER = "medium and large things"
HELD_OUT_RADII = {LARGER: (16.0, 40.0), "things of all sizes": JUDGE_STYLE.radius}
DECODED_SHARE = 0.25
"""The share of batches that come back from the VAE, as every generated picture does."""
IMPOSTOR_SHARE = 0.3
VISIBLE, HIDDEN = 0.5, 0.15
"""Things of which so much is seen are there; those of which less than the second is seen are not; between, no verdict
is asked for."""
IGNORED = 255
COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True)
class Lessons:
    """What there is to learn, N pictures.

    images: uint8 [N, 128, 128, 3]. cells: uint8 [N, 16, 16], 0 for nothing, k for `THINGS[k - 1]`, `IGNORED` at edges.
    present: uint8 [N, 20], 0, 1 or `IGNORED`. colors: uint8 [N, 20], of `COLORS`, `IGNORED` where the class is absent
    or its things differ.
    """

    images: np.ndarray
    cells: np.ndarray
    present: np.ndarray
    colors: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def some(self, index: np.ndarray) -> Lessons:
        return Lessons(self.images[index], self.cells[index], self.present[index], self.colors[index])


def impostor(seed: int) -> Shape:
    """A smooth blob that is none of the twenty things, as poor models paint them."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = [rng.uniform(0, 0.5 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 7)]
    radius = np.clip(0.75 * (1 + sum(waves)), 0.2, 1.1)
    return (Part(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)),)


def lesson(index: int, seed: int = JUDGE_SEED, style: SceneStyle = JUDGE_STYLE) -> Lessons:
    """Picture `index` of an endless stream, as `Lessons` of one; in some an impostor lies about."""
    rng = np.random.default_rng([seed, index])
    spec = sample_scene(rng, style)
    if rng.random() < IMPOSTOR_SHARE:
        spec = _with_impostor(rng, spec)
    rendering = render(spec, SHAPES | {"impostor": partial(impostor, spec.seed)})
    present, colors = _truth(rendering)
    return Lessons(rendering.image[None], _cells(rendering)[None], present[None], colors[None])


def _with_impostor(rng: np.random.Generator, spec: SceneSpec) -> SceneSpec:
    """One more thing, of a random look, behind or in front of the others; or in the place of all of them."""
    x, y = rng.uniform(16, IMAGE_SIZE - 16, size=2)
    color, pattern = str(rng.choice(COLOR_NAMES)), str(rng.choice(("plain", "striped", "dotted")))
    blob = Thing("impostor", color, pattern, float(x), float(y), float(rng.uniform(12, 38)))
    others = spec.things if rng.random() < 0.8 else ()
    place = int(rng.integers(len(others) + 1))
    return replace(spec, things=(*others[:place], blob, *others[place:]))


def _truth(rendering: Rendering) -> tuple[np.ndarray, np.ndarray]:
    """Presence and colour of every class, each uint8 [20]."""
    present, colors = np.zeros(len(THINGS), np.uint8), np.full(len(THINGS), IGNORED, np.uint8)
    for thing, visible in zip(rendering.spec.things, rendering.visible, strict=True):
        if thing.name not in THINGS or visible < HIDDEN:
            continue
        label = THINGS.index(thing.name)
        seen = visible >= VISIBLE
        present[label] = 1 if seen or present[label] == 1 else IGNORED
        colors[label] = COLOR_NAMES.index(thing.color) if seen else colors[label]
    return present, colors


def _cells(rendering: Rendering) -> np.ndarray:
    """Label by cell, uint8 [16, 16]: what covers at least 60 % of it."""
    names = [thing.name for thing in rendering.spec.things]
    of_instance = np.array([0, *(THINGS.index(name) + 1 if name in THINGS else 0 for name in names)], np.uint8)
    labels = of_instance[rendering.instances].reshape(IMAGE_SIZE // CELL, CELL, IMAGE_SIZE // CELL, CELL)
    labels = labels.transpose(0, 2, 1, 3).reshape(IMAGE_SIZE // CELL, IMAGE_SIZE // CELL, CELL * CELL)
    counts = (labels[..., None] == np.arange(len(THINGS) + 1)).sum(axis=2)
    return np.where(counts.max(axis=-1) >= 0.6 * CELL * CELL, counts.argmax(axis=-1), IGNORED).astype(np.uint8)


def gather(parts: list[Lessons]) -> Lessons:
    """Several as one."""
    return Lessons(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def lessons(cache: Path, count: int = JUDGE_SCENES) -> Lessons:
    """The first `count` pictures of the stream, drawn once and cached."""
    path = cache / f"judge-{JUDGE_SEED}-{count}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = gather([lesson(index) for index in tqdm(range(count), desc="draw lessons", mininterval=10)])
        np.savez(path, **vars(drawn))
    return Lessons(**np.load(path))


def decoded_lessons(vae: AutoencoderKL, drawn: Lessons, cache: Path, count: int = DECODED_SCENES) -> Lessons:
    """The first `count` of them as they come back from the VAE; cached."""
    some = drawn.some(np.arange(min(count, len(drawn))))
    path = cache / f"judge-decoded-{JUDGE_SEED}-{len(some)}-{weights_hash(vae)}.npy"
    if not path.exists():
        np.save(path, through_vae(vae, some.images))
    return replace(some, images=np.load(path))


@torch.no_grad()
def through_vae(vae: AutoencoderKL, images: np.ndarray, batch: int = 25) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] as they come back."""
    parts = (to_tensor(images[start : start + batch]) for start in range(0, len(images), batch))
    return np.concatenate([to_images(vae.decode(vae.encode(part).latent_dist.mean).sample) for part in parts])


def held_out_accuracy(judge: Judge, vae: AutoencoderKL, count: int = HELD_OUT_SCENES) -> dict[str, dict[str, float]]:
    """See `accuracy`: by kind, on `count` scenes that nobody learnt from, and on a quarter of the larger things as they
    come back from the VAE."""
    truths = {
        kind: gather([lesson(index, HELD_OUT_SEED, replace(JUDGE_STYLE, radius=radius)) for index in range(count)])
        for kind, radius in HELD_OUT_RADII.items()
    }
    some = truths[LARGER].some(np.arange(math.ceil(count / 4)))
    decoded = replace(some, images=through_vae(vae, some.images))
    return {kind: accuracy(judge, truth) for kind, truth in (truths | {f"{LARGER}, through the VAE": decoded}).items()}


def accuracy(judge: Judge, truth: Lessons) -> dict[str, float]:
    """found: the share of things in the pictures that the judge names. true: the share of what it names that is there.
    color: the share of right colours among the found things of one colour."""
    verdict = judge(torch.from_numpy(truth.images).permute(0, 3, 1, 2) / 255)
    named, colors = verdict.present.numpy() > 0.5, verdict.colors.numpy().argmax(axis=-1)
    there, asked = truth.present == 1, truth.present != IGNORED
    colored = named & there & (truth.colors != IGNORED)
    return {
        "found": float(named[there].mean()),
        "true": float(there[named & asked].mean()),
        "color": float((colors == truth.colors)[colored].mean()),
    }


def build_judge() -> Judge:
    config = JudgeConfig(THINGS, COLOR_NAMES)
    return Judge(JudgeNetwork(config), config)


def train_judge(
    judge: Judge, drawn: Lessons, decoded: Lessons, checkpoints: Path, stage: str, plan: TrainingPlan
) -> History:
    """One stage; a quarter of the batches are `decoded` ones."""

    def loss(step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        source = decoded if rng.random() < DECODED_SHARE else drawn
        batch = source.some(np.sort(pick(rng, np.arange(len(source)), BATCH)))
        return judge_loss(judge.network(_augmented(batch.images, rng)), batch)

    return fit(f"judge-{stage}", judge.network, loss, plan, checkpoints)


def judge_loss(reading: Reading, truth: Lessons) -> Tensor:
    """The sum of four: what lies in every cell and its colour, what is there at all and its colour."""
    cells = torch.from_numpy(truth.cells).long()
    present, colors = torch.from_numpy(truth.present), torch.from_numpy(truth.colors).long()
    asked = present != IGNORED
    presence = F.binary_cross_entropy_with_logits(reading.present[asked], present[asked].float())
    color = F.cross_entropy(reading.colors.flatten(0, 1), colors.flatten(), ignore_index=IGNORED)
    cell_color = F.cross_entropy(reading.cell_colors, _cell_colors(cells, colors), ignore_index=IGNORED)
    return _place_loss(reading.cells, cells) + 4 * presence + 0.5 * (color + cell_color)


def _place_loss(logits: Tensor, cells: Tensor) -> Tensor:
    """Cells with things and cells without count the same in all, though there are seven times as many of the latter."""
    error = F.cross_entropy(logits, cells, ignore_index=IGNORED, reduction="none")
    things = (cells != 0) & (cells != IGNORED)
    return error[things].mean() + error[cells == 0].mean()


def _cell_colors(cells: Tensor, colors: Tensor) -> Tensor:
    """The colour of the thing in each cell [B, h, w], `IGNORED` where there is none."""
    with_nothing = F.pad(colors, (1, 0), value=IGNORED)
    return torch.where(
        cells == IGNORED, IGNORED, with_nothing.gather(1, cells.flatten(1).clamp(max=len(THINGS))).view_as(cells)
    )


def _augmented(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Images in [0, 1], a little brighter or darker, with a little grain."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    light = torch.from_numpy(rng.uniform(0.92, 1.08, size=(len(images), 1, 1, 1))).float()
    grain = torch.from_numpy(rng.normal(0, 0.02, size=(1, *pixels.shape[1:]))).float()
    return (pixels * light + grain).clamp(0, 1)
