"""The held-out data sets of the embedded world, each a small mirror of one of the paper's.

Scenes are drawn from seeds that training never uses. The development split is for every choice that we make, the
test split for what we report. The choice split is the development scenes from the seventh on: a rule that was written
after somebody had looked at the first six is applied to these only (`experiments.choices`).
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace

import numpy as np
import torch

from elbo_core.captions import phrase_caption
from elbo_core.checks import check_whole
from elbo_core.datasets.dataset import Dataset, check_position
from elbo_core.datasets.known import known_hashes
from elbo_core.scene import Scene
from elbo_core.toy.describe import groups, phrase
from elbo_core.toy.render import Rendering, render
from elbo_core.toy.world import CLASSES, THINGS, SceneSpec, SceneStyle, sample_scene

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ToySet:
    """mirrors: the paper's data set; labels_stuff: whether stuff classes are candidates and labelled."""

    mirrors: str
    style: SceneStyle
    labels_stuff: bool

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES if self.labels_stuff else THINGS


TOY_SETS: dict[str, ToySet] = {
    "toy-voc": ToySet("voc", SceneStyle((1, 3), (18.0, 40.0), class_exponent=0.6), False),
    "toy-context": ToySet("context", SceneStyle((2, 4), (14.0, 36.0), (2, 2), class_exponent=0.6), True),
    "toy-coco": ToySet("coco", SceneStyle((3, 6), (5.0, 36.0), class_exponent=0.6, spacing=0.5), False),
    "toy-ade": ToySet("ade20k", SceneStyle((3, 6), (8.0, 34.0), (2, 2), spacing=0.7), True),
    "toy-aep": ToySet("aep", SceneStyle((2, 3), (12.0, 34.0), class_exponent=0.6, copies_probability=0.4,
                                        characteristic_probability=0.3), False),
}  # fmt: skip
SPLIT_SEEDS = {"dev": 61, "test": 62}
PARTS = {"dev": ("dev", 0), "test": ("test", 0), "choice": ("dev", 6)}
"""By split, where its scenes are: in which sequence, and from which position on."""


def toy_specs(name: str, split: str, count: int) -> list[SceneSpec]:
    """The first `count` scenes of a set, always the same.

    Raises:
        TypeError, ValueError: unknown set or split, or a count below one.
    """
    check_whole(count, "the number of images")
    if name not in TOY_SETS:
        raise ValueError(f"unknown toy set {name!r}; known: {', '.join(TOY_SETS)}")
    if split not in PARTS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(PARTS)}")
    position, (sequence, first) = list(TOY_SETS).index(name), PARTS[split]
    seeds = [[SPLIT_SEEDS[sequence], position, first + index] for index in range(count)]
    return [sample_scene(np.random.default_rng(seed), TOY_SETS[name].style) for seed in seeds]


def toy_dataset(name: str, split: str, count: int) -> Dataset:
    """A toy set in its fixed order, each scene rendered when it is asked for.

    Candidates are the classes of the label map, in label order (as in the paper).

    Raises:
        TypeError, ValueError: unknown set or split, or a count below one.
    """
    specs = toy_specs(name, split, count)
    sequence, first = PARTS[split]
    known = known_hashes().get(f"{name}/{sequence}", [])[first : first + len(specs)]

    def read(index: int) -> Scene:
        position = check_position(index, len(specs))
        place = f"{name}/{sequence}/{first + position}"
        scene = toy_scene(render(specs[position]), place, TOY_SETS[name].labels_stuff)
        scene = with_phrases(scene, specs[position]) if name == "toy-aep" else scene
        if position < len(known) and scene_hash(scene) != known[position]:
            log.warning("scene %s is drawn otherwise here than where its hash was written down", scene.id)
        return scene

    def fingerprints() -> list[str]:
        return known + [scene_hash(read(index)) for index in range(len(known), len(specs))]

    return Dataset(name, split, TOY_SETS[name].classes, len(specs), fingerprints, read)


def scene_hash(scene: Scene) -> str:
    """A hash of everything in a scene: 7 ms for one that is rendered for it."""
    digest = hashlib.sha256(scene.image.numpy().tobytes() + np.asarray(scene.label_map).tobytes())
    digest.update(repr((scene.classes, scene.id, scene.caption, scene.labels, scene.visible, scene.phrases)).encode())
    return digest.hexdigest()[:16]


def toy_scene(rendering: Rendering, scene_id: str, labels_stuff: bool = False) -> Scene:
    """A rendering as a `Scene`; what is entirely hidden is no candidate."""
    label_map = rendering.all_labels if labels_stuff else rendering.thing_labels
    labels = tuple(int(label) for label in np.unique(label_map) if label)
    image = torch.from_numpy(rendering.image).permute(2, 0, 1).float() / 255
    classes = tuple(CLASSES[k - 1] for k in labels)
    visible = tuple(_visible(rendering, name) for name in classes)
    return Scene(image, classes, scene_id, label_map=label_map, labels=labels, visible=visible)


def _visible(rendering: Rendering, name: str) -> float:
    """The mean visible share of the things of a class; NaN for stuff, which has no shape of its own to hide."""
    shares = zip(rendering.visible, rendering.spec.things, strict=True)
    seen = [float(share) for share, thing in shares if thing.name == name]
    return sum(seen) / len(seen) if seen else float("nan")


def with_phrases(scene: Scene, spec: SceneSpec) -> Scene:
    """The scene with its noun phrases and the caption "a photo of p1, p2, ..."; a class's own word in it is the noun,
    plural or not."""
    texts = [phrase(group) for group in groups(spec) if group[0].name in scene.classes]
    phrases = dict(zip(scene.classes, texts, strict=True))
    nouns = {name: (text.rindex(" ") + 1, len(text)) for name, text in phrases.items()}
    return replace(scene, caption=phrase_caption(phrases, nouns), phrases=tuple(texts))
