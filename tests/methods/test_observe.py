from dataclasses import replace

import pytest
import torch

from elbo_core import Plan, Recipe, Scene, align, observe, segment
from elbo_core.errors import ModelOutputError

PLAN = Plan(elbo_timesteps=(1, 501), attention_timesteps=(20, 100, 200))


def test_batch_size_does_not_matter(tiny, scene):
    first, second = (observe(tiny, scene, replace(PLAN, batch_size=b)) for b in (1, 32))
    torch.testing.assert_close(first.losses, second.losses, atol=1e-5, rtol=0)
    torch.testing.assert_close(align(first).values, align(second).values, atol=1e-4, rtol=0)


def test_order_of_classes_does_not_change_their_losses(tiny, scene):
    turned = replace(scene, classes=scene.classes[::-1])
    torch.testing.assert_close(observe(tiny, turned, PLAN).losses.flip(0), observe(tiny, scene, PLAN).losses)


def test_long_class_lists_use_several_captions(tiny, picture):
    names = [f"{a}ark {b}ell" for a in "bdhk" for b in "bcfhst"]
    observation = observe(tiny, Scene.of(picture, names), PLAN)
    assert len(observation.attention) > 1
    assert [name for part in observation.attention for name in part.classes] == names
    assert align(observation).values.shape == (len(names), *picture.shape[:2])


def test_a_class_in_a_later_caption_gets_that_captions_map(tiny, picture):
    names = [f"{a}ark {b}ell" for a in "bdhk" for b in "bcfhst"]
    whole = observe(tiny, Scene.of(picture, names), PLAN)
    alone = observe(tiny, Scene.of(picture, whole.attention[1].classes), PLAN)
    position = names.index(alone.classes[0])
    off = Recipe.reference().off()
    torch.testing.assert_close(align(whole, off).values[position], align(alone, off).values[0], atol=1e-4, rtol=0)


def test_the_users_caption_is_used(tiny, picture):
    plain = segment(tiny, picture, ["star", "tree"], plan=PLAN)
    own = segment(tiny, picture, ["star", "tree"], caption="a tree behind a star", plan=PLAN)
    assert own.observation.attention[0].columns != plain.observation.attention[0].columns
    assert torch.equal(own.observation.losses, plain.observation.losses), "the score has prompts of its own"


def test_segment_gives_a_mask_of_the_pictures_size(tiny, picture):
    result = segment(tiny, picture, ["star", "tree"], plan=PLAN)
    assert result.mask.shape == picture.shape[:2]
    assert set(result.mask.unique().tolist()) <= {0, 1, 2}


@pytest.fixture
def broken(tiny):
    """The tiny model with a last layer of NaN, for the time of one test."""
    weight = tiny.network.conv_out.weight.data
    kept = weight.clone()
    weight.fill_(torch.nan)
    yield tiny
    weight.copy_(kept)


def test_nan_from_the_network_is_an_error(broken, scene):
    with pytest.raises(ModelOutputError, match=r"tiny returned NaN or infinity at timesteps \[1, "):
        observe(broken, scene, PLAN)


def test_empty_plans_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        Plan(elbo_timesteps=())


def test_a_part_of_an_observation_is_what_a_smaller_plan_sees(tiny, scene):
    """The union of all rows' timesteps is asked once; each row then takes its own."""
    whole = observe(tiny, scene, Plan(elbo_timesteps=(1, 301, 501, 901), attention_timesteps=(20, 60, 100, 200)))
    part = whole.at_elbo((501, 1)).at_attention((100, 20))
    direct = observe(tiny, scene, Plan(elbo_timesteps=(501, 1), attention_timesteps=(100, 20)))
    torch.testing.assert_close(part.losses, direct.losses)
    assert torch.equal(part.elbo_timesteps, direct.elbo_timesteps)
    torch.testing.assert_close(align(part).values, align(direct).values, atol=1e-4, rtol=0)


def test_losses_can_be_those_of_whole_phrases(tiny, scene):
    words = tuple(f"a large red {name}" for name in scene.classes)
    losses = [
        observe(tiny, replace(scene, phrases=words), replace(PLAN, elbo_template=template)).losses
        for template in ("a photo of {}", "a photo of {phrase}")
    ]
    named = observe(tiny, scene, replace(PLAN, elbo_template="a photo of a large red {}")).losses
    torch.testing.assert_close(losses[1], named)
    assert not torch.allclose(losses[0], losses[1])
    with pytest.raises(ValueError, match="has 0 phrases for"):
        observe(tiny, scene, replace(PLAN, elbo_template="a photo of {phrase}"))


def test_timesteps_that_were_not_asked_are_named(tiny, scene):
    whole = observe(tiny, scene, PLAN)
    with pytest.raises(ValueError, match=r"timesteps \[7\] were not asked; asked: \[1, 501\]"):
        whole.at_elbo((1, 7))
    with pytest.raises(ValueError, match=r"timesteps \[7\] were not asked"):
        whole.at_attention((7,))
