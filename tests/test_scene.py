import dataclasses

import numpy as np
import pytest
import torch

from elbo_core.captions import Caption
from elbo_core.scene import Scene

IMAGE = torch.zeros(3, 4, 6)


def test_a_scene_has_plain_names_and_a_name_of_its_pixels(picture):
    first, second = Scene.of(picture, np.array(["star ", "hot\tdog"])), Scene.of(picture.copy(), ["moon"])
    assert first.classes == ("star", "hot dog")
    assert first.id == second.id != Scene.of(picture[::-1], ["moon"]).id


def test_the_pixels_are_the_scenes_own():
    given = torch.zeros(3, 4, 6)
    scene = Scene.of(given, ["star"])
    given[:] = 1
    assert not scene.image.any()


@pytest.mark.parametrize(("change", "message"), [
    ({"image": torch.zeros(4, 6)}, r"must have shape \[3, H, W\], got \[4, 6\]"),
    ({"image": torch.zeros(4, 6, 3)}, r"must have shape \[3, H, W\], got \[4, 6, 3\]"),
    ({"label_map": np.zeros((6, 4), np.uint8)}, r"a label map of \(6, 4\), its picture is \(4, 6\)"),
    ({"labels": (1,)}, "1 labels for 2 classes"),
    ({"visible": (1.0, 1.0, 1.0)}, "3 visible for 2 classes"),
    ({"phrases": ("a star",)}, "1 phrases for 2 classes"),
    ({"classes": ("star", "Star")}, "named twice"),
    ({"caption": Caption("a star", {"star": ((2, 6),)})}, "a caption must name every class and no other"),
])  # fmt: skip
def test_parts_that_do_not_fit_together(change, message):
    scene = Scene(IMAGE, ("star", "moon"), "1")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(scene, **change)


def test_a_picture_may_have_no_candidates():
    assert Scene(IMAGE, (), "1", label_map=np.zeros((4, 6), np.uint8)).classes == ()
