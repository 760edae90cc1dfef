import numpy as np
import pytest

from elbo_core.datasets.toy import TOY_SETS, toy_dataset, toy_specs
from elbo_core.toy.world import CLASSES, THINGS
from elbo_core.training.corpus import TRAINING_SEED


@pytest.mark.parametrize("name", TOY_SETS)
def test_candidates_are_the_classes_of_the_label_map(name):
    for scene in toy_dataset(name, "dev", 4):
        assert scene.image.shape == (3, 128, 128)
        assert [CLASSES.index(c) + 1 for c in scene.classes] == list(scene.labels)
        assert set(np.unique(scene.label_map)) - {0} == set(scene.labels)


def test_stuff_is_labelled_where_the_mirrored_set_labels_it():
    for name, toy_set in TOY_SETS.items():
        assert toy_set.classes == (CLASSES if name in ("toy-context", "toy-ade") else THINGS)
        has_background = any((scene.label_map == 0).any() for scene in toy_dataset(name, "dev", 4))
        assert has_background != toy_set.labels_stuff


def test_splits_share_no_scene():
    dev, test = toy_specs("toy-voc", "dev", 50), toy_specs("toy-voc", "test", 50)
    assert not set(dev) & set(test)
    assert dev[:10] == toy_specs("toy-voc", "dev", 10)
    assert TRAINING_SEED not in (61, 62)


def test_the_choice_split_is_the_development_split_without_its_first_six_scenes():
    later, whole = toy_dataset("toy-coco", "choice", 3), toy_dataset("toy-coco", "dev", 9)
    assert later.contents == whole.contents[6:]
    assert [scene.id for scene in later] == [f"toy-coco/dev/{k}" for k in (6, 7, 8)], "so they get the same noise"
    assert toy_specs("toy-voc", "choice", 4) == toy_specs("toy-voc", "dev", 10)[6:]


def test_attributed_captions_point_at_the_nouns():
    for scene in toy_dataset("toy-aep", "dev", 8):
        for name, ((start, end),) in scene.caption.spans.items():
            assert scene.caption.text[start:end].startswith(name[:3])
        assert set(scene.caption.spans) == set(scene.classes)
        assert scene.caption.text == "a photo of " + ", ".join(scene.phrases)
        nouns = [scene.caption.text[start:end] for ((start, end),) in map(scene.caption.spans.get, scene.classes)]
        assert nouns == [words.split()[-1] for words in scene.phrases]


def test_unknown_sets_and_splits_list_the_known():
    with pytest.raises(ValueError, match="toy-voc, toy-context"):
        toy_specs("voc", "dev", 1)
    with pytest.raises(ValueError, match="dev, test, choice"):
        toy_specs("toy-voc", "train", 1)


def test_visibility_is_known_of_things_alone():
    scenes = list(toy_dataset("toy-context", "dev", 6)) + list(toy_dataset("toy-coco", "dev", 6))
    shares = [share for scene in scenes for name, share in zip(scene.classes, scene.visible, strict=True)
              if name in THINGS]  # fmt: skip
    assert all(0 < share <= 1 for share in shares)
    assert min(shares) < 0.95, "some thing is partly hidden"
    assert all(np.isnan(share) for scene in scenes for name, share in zip(scene.classes, scene.visible, strict=True)
               if name not in THINGS)  # fmt: skip
