"""Twins of one model, for the causal test: from the same random start, with the same seeds and steps, on the same
scenes in all but one thing, which is how often each class is shown (or, for one of them, what the captions tell).

Scene `index` of every twin has the same layout, sizes, turns, backgrounds and textures, and the same of its things look
as their class usually does; only the classes differ. One uniform number for each class is mapped through the class
frequencies of the twin, so that the reversed twin sees just the Zipf twin's scenes with the names exchanged: the
commonest class for the rarest, the second for the second rarest, and so on.

Only the UNet is learnt anew. VAE, text encoder, tokenizer and scheduler are those of toy-sd14, frozen, and the text
encoder has read captions with Zipf frequencies: its words are the same for all twins, but those of common classes may
be the better ones. So what the twins show is the effect of frequency on the denoising network alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from elbo_core.toy.describe import VARIED, CaptionStyle
from elbo_core.toy.world import THINGS, SceneSpec, SceneStyle, compose_scene, zipf
from elbo_core.training.corpus import RenderedScenes
from elbo_core.training.fit import TrainingPlan
from elbo_core.training.siblings import build_unet
from elbo_core.training.train_diffusion import Course

PARENT = "toy-sd14"
TWIN_STYLE = SceneStyle((1, 4), (10.0, 38.0), single_probability=0.5)
TWIN_SEED, TWIN_SCENES = 20_251_129, 16_000
TRAINING_SEEDS = (4307, 4308)
"""Of the start, the order of scenes, the captions and the noise; the second is that of the twins whose name ends in
`AGAIN`."""
AGAIN = "-again"
TWIN_PLAN = TrainingPlan(steps=6_000, learning_rate=1e-3, warmup=300, ema_decay=0.999)
TWIN_WIDTHS = (32, 64, 128)

FREQUENCIES: dict[str, np.ndarray] = {
    "zipf": zipf(),
    "uniform": zipf(0.0),
    "reversed": zipf()[::-1],
}
"""How often each of `THINGS` is shown: class probabilities [20]. The exponent of Zipf is that of the training set."""

INCOMPLETE = replace(VARIED, incomplete=0.6)
"""Captions that leave out each class with a probability of 60 %, in place of 15 %; one of a picture is always told."""


@dataclass(frozen=True)
class Twin:
    """What one twin is taught: the class frequencies by name, how captions are told, and the seed of its training."""

    frequencies: str
    captions: CaptionStyle = VARIED
    seed: int = TRAINING_SEEDS[0]


FIRST_TWINS: dict[str, Twin] = {
    "toy-twin-zipf": Twin("zipf"),
    "toy-twin-uniform": Twin("uniform"),
    "toy-twin-reversed": Twin("reversed"),
    "toy-twin-incomplete": Twin("zipf", INCOMPLETE),
}
TWINS: dict[str, Twin] = FIRST_TWINS | {
    f"{name}{AGAIN}": replace(twin, seed=TRAINING_SEEDS[1]) for name, twin in FIRST_TWINS.items()
}
"""All twins by name; the second four differ from the first only in the seed of the training."""


def frequencies(name: str) -> dict[str, float]:
    """How often a twin is shown each class, as a probability of the first class of a scene.

    Raises:
        ValueError: there is no such twin.
    """
    return dict(zip(THINGS, map(float, FREQUENCIES[find_twin(name).frequencies]), strict=True))


def find_twin(name: str) -> Twin:
    """A twin by name.

    Raises:
        ValueError: there is no such twin.
    """
    if name not in TWINS:
        raise ValueError(f"unknown twin {name!r}; known: {', '.join(TWINS)}")
    return TWINS[name]


def draw_classes(uniforms: np.ndarray, probabilities: np.ndarray) -> list[str]:
    """As many different classes as there are `uniforms` in [0, 1), by the inverse of their cumulated `probabilities`.

    Each is drawn from the classes that are left, in proportion to their probabilities, and counted from the commonest
    on. So two distributions of one shape give mirrored classes for the same uniforms.
    """
    left = list(np.argsort(-probabilities, kind="stable"))
    names = []
    for uniform in uniforms:
        reach = np.cumsum(probabilities[left])
        position = min(int(np.searchsorted(reach, uniform * reach[-1], side="right")), len(left) - 1)
        names.append(THINGS[left.pop(position)])
    return names


def twin_scene(index: int, probabilities: np.ndarray, style: SceneStyle = TWIN_STYLE) -> SceneSpec:
    """Scene `index` of the twins, its classes drawn with these probabilities [20], all else the same for any."""
    uniforms = np.random.default_rng([TWIN_SEED, index, 1]).random(style.n_classes[1])
    layout = np.random.default_rng([TWIN_SEED, index, 0])
    return compose_scene(layout, style, lambda count: draw_classes(uniforms[:count], probabilities))


def twin_specs(name: str, count: int = TWIN_SCENES) -> list[SceneSpec]:
    """The scenes that a twin is taught.

    Raises:
        ValueError: there is no such twin.
    """
    probabilities = FREQUENCIES[find_twin(name).frequencies]
    return [twin_scene(index, probabilities) for index in range(count)]


def twin_set(name: str, cache: Path, count: int = TWIN_SCENES) -> RenderedScenes:
    """The scenes of a twin with their pictures; twins of the same frequencies share them."""
    shown = find_twin(name).frequencies
    path = cache / f"twins-{shown}-{TWIN_SEED}-{count}.npy"
    return RenderedScenes(twin_specs(name, count), path, TWIN_SEED, {"zipf": "Zipf"}.get(shown, shown))


def start_twin(models: Path, name: str) -> StableDiffusionPipeline:
    """A twin before its training: toy-sd14 with a new, smaller UNet, of the same random weights for all of its seed."""
    pipeline = StableDiffusionPipeline.from_pretrained(models / PARENT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(find_twin(name).seed)
        unet = build_unet(pipeline.text_encoder.config.hidden_size, block_out_channels=TWIN_WIDTHS)
    pipeline.register_modules(unet=unet)
    return pipeline


def twin_course(name: str) -> Course:
    """How a twin is taught: first single classes, then all scenes, told as the twin's captions are."""
    return Course(easy_share=0.4, captions=find_twin(name).captions, batch=128)


def twin_plan(name: str) -> TrainingPlan:
    """The plan of all twins, with the seed of this one."""
    return replace(TWIN_PLAN, seed=find_twin(name).seed)
