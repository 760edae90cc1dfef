from dataclasses import replace

import numpy as np
import pytest

from elbo_core.toy.describe import (
    COLORFUL,
    CaptionStyle,
    attributed_caption,
    class_names,
    phrase,
    plural,
    random_caption,
    vocabulary_corpus,
)
from elbo_core.toy.render import render
from elbo_core.toy.textures import COLORS, PATTERNS
from elbo_core.toy.world import (
    CHARACTERISTIC_LOOK,
    CLASSES,
    IMAGE_SIZE,
    STUFF_NAMES,
    THINGS,
    SceneSpec,
    SceneStyle,
    Thing,
    sample_scene,
    zipf,
)
from elbo_core.training.corpus import COMPOSED_STYLE, TRAINING_STYLE, training_scene
from elbo_core.training.text import build_tokenizer


def one(thing: Thing, *others: Thing) -> SceneSpec:
    return SceneSpec((thing, *others), ("grass",), 0.5, 0)


STAR = Thing("star", "yellow", "plain", 64, 64, 30)
BALL = Thing("ball", "red", "striped", 64, 64, 30)


def test_the_world_has_twenty_things_and_six_stuffs():
    assert (len(THINGS), len(STUFF_NAMES), len(set(CLASSES))) == (20, 6, 26)


def test_same_seed_same_bytes():
    first, second = (render(training_scene(5)) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert np.array_equal(first.instances, second.instances)
    assert render(training_scene(6)).image.tobytes() != first.image.tobytes()


@pytest.mark.parametrize("name", THINGS)
def test_every_silhouette_is_drawn_where_it_is_labelled(name):
    thing = replace(STAR, name=name)
    rendering = render(one(thing))
    empty = render(SceneSpec((), ("grass",), 0.5, 0))
    changed = (rendering.image != empty.image).any(axis=2)
    labelled = rendering.thing_labels == CLASSES.index(name) + 1
    assert labelled.sum() > 0.15 * 30**2
    assert changed[labelled].mean() > 0.99
    assert (changed & ~labelled).sum() < 0.35 * labelled.sum() + 60, "only the antialiased rim lies outside the mask"


def test_silhouettes_are_distinct():
    masks = [render(one(replace(STAR, name=name, radius=45))).instances > 0 for name in THINGS]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert (a & b).sum() / (a | b).sum() < 0.92


def test_mask_of_a_ball_is_a_disc():
    mask = render(one(replace(BALL, radius=40))).instances > 0
    assert mask.sum() == pytest.approx(np.pi * (0.9 * 40) ** 2, rel=0.06)


def test_visible_fraction_is_exact():
    behind, front = replace(BALL, x=50), replace(BALL, x=74)
    rendering = render(one(behind, front))
    alone = render(one(behind)).instances > 0
    hidden = alone & (render(one(front)).instances > 0)
    assert rendering.visible[0] == pytest.approx(1 - hidden.sum() / alone.sum())
    assert rendering.visible[1] == 1


def test_labels_of_stuff_fill_the_rest():
    rendering = render(SceneSpec((STAR,), ("sky", "sand"), 0.5, 1))
    labels = rendering.all_labels
    assert set(np.unique(labels)) == {CLASSES.index(name) + 1 for name in ("star", "sky", "sand")}
    assert labels[0, 0] == CLASSES.index("sky") + 1
    assert labels[-1, 0] == CLASSES.index("sand") + 1


def test_one_control_changes_one_thing():
    small = render(one(replace(STAR, radius=10)))
    large = render(one(replace(STAR, radius=30)))
    assert (large.instances > 0).sum() == pytest.approx(9 * (small.instances > 0).sum(), rel=0.15)
    corner = (slice(0, 20), slice(0, 20))
    assert np.array_equal(small.image[corner], large.image[corner]), "the background stays"


def test_things_at_the_rim_are_cut_off():
    rendering = render(one(replace(STAR, x=0, y=0)))
    assert 0 < (rendering.instances > 0).sum() < (render(one(STAR)).instances > 0).sum()


def test_zipf_makes_the_last_class_rare():
    assert zipf().sum() == pytest.approx(1)
    assert zipf()[-1] < 0.01
    assert np.allclose(zipf(0), 1 / len(THINGS))


def test_composed_scenes_show_several_things_in_any_color():
    specs = [training_scene(index, COMPOSED_STYLE) for index in range(1000)]
    classes = [len(class_names(replace(spec, stuff=()))) for spec in specs]
    assert np.mean(np.array(classes) >= 2) == pytest.approx(0.65, abs=0.05)
    things = [thing for spec in specs for thing in spec.things]
    usual = np.mean([(thing.color, thing.pattern) == CHARACTERISTIC_LOOK[thing.name] for thing in things])
    assert usual == pytest.approx(0.37, abs=0.05)
    assert np.mean([thing.name == THINGS[-1] for thing in things]) < 0.02


def test_training_frequencies_follow_zipf():
    specs = [training_scene(index) for index in range(3000)]
    counts = [sum(any(t.name == name for t in spec.things) for spec in specs) for name in THINGS]
    assert counts[0] > 3 * counts[5] > 6 * counts[19] > 0
    alone = [spec for spec in specs if len({t.name for t in spec.things}) == 1]
    assert 0.58 < len(alone) / len(specs) < 0.67, "half are close-ups, and a quarter of the others have one class"
    close = [spec.things[0].radius >= TRAINING_STYLE.single_radius[0] for spec in alone if len(spec.things) == 1]
    assert np.mean(close) > 0.8


def test_styles_are_obeyed():
    style = SceneStyle((2, 3), (5, 6), (2, 2), copies_probability=0.0)
    for seed in range(50):
        spec = sample_scene(np.random.default_rng(seed), style)
        assert len(spec.things) in (2, 3)
        assert len(spec.stuff) == 2
        assert all(5 <= thing.radius <= 6 and 0 < thing.x < IMAGE_SIZE for thing in spec.things)


def test_phrases():
    small = replace(STAR, radius=8, pattern="striped", color="orange")
    assert phrase([small, small]) == "two small striped orange stars"
    assert phrase([small], frozenset({"color"})) == "an orange star"
    assert [plural(name) for name in ("box", "fish", "cross", "kite")] == ["boxes", "fish", "crosses", "kites"]


def test_captions_name_what_is_there():
    spec = SceneSpec((STAR, BALL), ("sky", "snow"), 0.5, 0)
    assert class_names(spec) == ["star", "ball", "sky", "snow"]
    assert (
        attributed_caption(spec) == "a photo of a large yellow star and a large striped red ball in the sky and on snow"
    )
    captions = {random_caption(np.random.default_rng(seed), spec, CaptionStyle(incomplete=0.0)) for seed in range(60)}
    assert len(captions) > 20
    stuff_alone = {caption for caption in captions if "star" not in caption and "ball" not in caption}
    assert stuff_alone == {"a photo of sky, snow", "a photo of snow, sky"}
    assert all("star" in caption and "ball" in caption for caption in captions - stuff_alone)


def test_colorful_captions_tell_nearly_every_color():
    spec = SceneSpec((STAR, BALL), ("sky", "snow"), 0.5, 0)
    captions = [random_caption(np.random.default_rng(seed), spec, COLORFUL) for seed in range(200)]
    told = np.mean(["yellow" in caption and "red" in caption for caption in captions])
    assert 0.6 < told < 0.85
    assert np.mean([caption.startswith("a photo of") for caption in captions]) < 0.7


def test_every_word_of_a_caption_is_one_token():
    tokenizer = build_tokenizer()
    for index in range(200):
        caption = random_caption(np.random.default_rng(index), training_scene(index))
        assert len(tokenizer.tokenize(caption)) == len(caption.replace(",", " ,").split())
    known = set(tokenizer.get_vocab())
    assert all(f"{word}</w>" in known for word in (*CLASSES, *COLORS, *PATTERNS))


def test_any_text_can_be_read():
    tokenizer = build_tokenizer()
    assert tokenizer.unk_token_id not in tokenizer("Zoë's 3 naïve ¿zebras?").input_ids[1:-1]
    assert tokenizer.model_max_length == 77
    assert len(vocabulary_corpus()) > 60
