from dataclasses import replace

import pytest
import torch

from elbo_core import Plan, Recipe, Scene, align, observe, segment
from elbo_core.errors import ModelOutputError, ScheduleError
from elbo_core.methods.plan import CAPTION, EMPTY, WITHOUT_EACH, Ask

PLAN = Plan.of(elbo_timesteps=(1, 501), attention_timesteps=(20, 100, 200))


def test_batch_size_does_not_matter(tiny, scene):
    first, second = (observe(tiny, scene, replace(PLAN, batch_size=b)) for b in (1, 32))
    torch.testing.assert_close(first.losses.values, second.losses.values, atol=1e-5, rtol=0)
    torch.testing.assert_close(align(first).values, align(second).values, atol=1e-4, rtol=0)


def test_order_of_classes_does_not_change_their_losses(tiny, scene):
    turned = replace(scene, classes=scene.classes[::-1])
    straight, reverse = (observe(tiny, seen, PLAN).losses.values for seen in (scene, turned))
    torch.testing.assert_close(reverse.flip(0), straight)


def test_long_class_lists_use_several_captions(tiny, picture):
    names = [f"{a}ark {b}ell" for a in "bdhk" for b in "bcfhst"]
    observation = observe(tiny, Scene.of(picture, names), PLAN)
    captions = observation.attention.captions
    assert len(captions) > 1
    assert [name for part in captions for name in part.classes] == names
    assert align(observation).values.shape == (len(names), *picture.shape[:2])


def test_a_class_in_a_later_caption_gets_that_captions_map(tiny, picture):
    names = [f"{a}ark {b}ell" for a in "bdhk" for b in "bcfhst"]
    whole = observe(tiny, Scene.of(picture, names), PLAN)
    alone = observe(tiny, Scene.of(picture, whole.attention.captions[1].classes), PLAN)
    position = names.index(alone.classes[0])
    off = Recipe.reference().off()
    torch.testing.assert_close(align(whole, off).values[position], align(alone, off).values[0], atol=1e-4, rtol=0)


def test_the_users_caption_is_used(tiny, picture):
    plain = segment(tiny, picture, ["star", "tree"], plan=PLAN)
    own = segment(tiny, picture, ["star", "tree"], caption="a tree behind a star", plan=PLAN)
    assert own.observation.attention.captions[0].columns != plain.observation.attention.captions[0].columns
    same = torch.equal(own.observation.losses.values, plain.observation.losses.values)
    assert same, "the score has prompts of its own"


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


def test_a_part_of_an_observation_is_what_a_smaller_plan_sees(tiny, scene):
    """The union of all rows' timesteps is asked once; each row then takes its own."""
    whole = observe(tiny, scene, Plan.of(elbo_timesteps=(1, 301, 501, 901), attention_timesteps=(20, 60, 100, 200)))
    plan = Plan.of(elbo_timesteps=(501, 1), attention_timesteps=(100, 20))
    part, direct = whole.under(plan), observe(tiny, scene, plan)
    torch.testing.assert_close(part.losses.values, direct.losses.values)
    assert part.losses.timesteps.tolist() == [501, 1]
    torch.testing.assert_close(align(part).values, align(direct).values, atol=1e-4, rtol=0)


def test_losses_can_be_those_of_whole_phrases(tiny, scene):
    words = tuple(f"a large red {name}" for name in scene.classes)
    templates = ("a photo of {}", "a photo of {phrase}", "a photo of a large red {}")
    plan = Plan.union(Plan.of((1, 501), (), elbo_template=template) for template in templates)
    seen = observe(tiny, replace(scene, phrases=words), plan)
    nouns, phrases, named = (losses.values for losses in seen.all_losses)
    torch.testing.assert_close(phrases, named)
    assert not torch.allclose(nouns, phrases)
    with pytest.raises(ValueError, match="has 0 phrases for"):
        observe(tiny, scene, plan)


def test_timesteps_that_were_not_asked_are_named(tiny, scene):
    whole = observe(tiny, scene, PLAN)
    with pytest.raises(ValueError, match=r"timesteps \[7\] were not asked of 'a photo of {}'; asked: \[1, 501\]"):
        whole.under(Plan.of((1, 7), ()))
    with pytest.raises(ValueError, match=r"timesteps \[7\] were not asked of 'the caption'"):
        whole.under(Plan.of((), (7,)))
    with pytest.raises(ValueError, match=r"'{}' was not asked; asked: \['a photo of {}'\]"):
        whole.under(Plan.of((1,), (), elbo_template="{}"))


def test_what_was_not_asked_is_an_error_not_a_number(tiny, scene):
    without_losses = observe(tiny, scene, PLAN.without_losses())
    assert align(without_losses, Recipe().off()).values.shape[0] == len(scene.classes)
    with pytest.raises(ValueError, match="one question for losses was expected, the observation answers 0"):
        align(without_losses, Recipe())
    without_attention = observe(tiny, scene, Plan.of((1,), ()))
    with pytest.raises(ValueError, match="one question for attention was expected, the observation answers 0"):
        align(without_attention)
    both = observe(tiny, scene, Plan.union([PLAN, Plan.of((1,), (), elbo_template="{}")]))
    with pytest.raises(ValueError, match="the observation answers 2"):
        align(both)


def test_a_caption_per_class_sees_each_class_alone(tiny, picture, scene):
    """What DiffSegmenter asks: a forward pass with a text of its own for every class."""
    plan = Plan(losses=(), attention=(Ask("a photo of {}", (20, 100)), Ask(CAPTION, (20, 100))))
    each, listed = observe(tiny, scene, plan).all_attention
    assert [caption.classes for caption in each.captions] == [(name,) for name in scene.classes]
    assert [caption.classes for caption in listed.captions] == [scene.classes]
    for name, caption in zip(scene.classes, each.captions, strict=True):
        alone = replace(Scene.of(picture, [name]), id=scene.id)
        (expected,) = observe(tiny, alone, Plan.of((), (20, 100))).attention.captions
        assert caption.columns == expected.columns
        torch.testing.assert_close(caption.cross.layers[0].key, expected.cross.layers[0].key)


def test_the_loss_of_the_own_caption(tiny, picture):
    plan = Plan(losses=(Ask(CAPTION, (1, 501)),), attention=())
    own = Scene.of(picture, ["star"], "a large star")
    (loss,) = observe(tiny, own, plan).losses.values
    named = observe(tiny, own, Plan.of((1, 501), (), elbo_template="a large {}")).losses.values[0]
    torch.testing.assert_close(loss, named)
    listed = observe(tiny, Scene.of(picture, ["star"]), Plan.union([plan, Plan.of((1, 501), ())]))
    torch.testing.assert_close(listed.losses_of(CAPTION).values, listed.losses_of("a photo of {}").values)


def test_timesteps_outside_the_schedule_stop_before_the_network_runs(broken, scene):
    with pytest.raises(ScheduleError, match=r"timestep 1000 is outside 0\.\.999"):
        observe(broken, scene, Plan.of((1,), (1000,)))


MAPPED = Plan((), (), error_maps=(Ask(CAPTION, (1, 501)), Ask(WITHOUT_EACH, (1, 501)), Ask(EMPTY, (501,))))


def test_the_mean_square_of_an_error_map_is_the_loss(tiny, scene):
    asked = Plan(losses=MAPPED.error_maps, attention=())
    losses = observe(tiny, scene, asked).all_losses
    maps = observe(tiny, scene, MAPPED).all_error_maps
    for loss, error in zip(losses, maps, strict=True):
        assert error.values.shape == (*loss.values.shape, 4, 8, 8)
        assert error.conditions == loss.conditions
        torch.testing.assert_close(error.values.square().mean(dim=(2, 3, 4)), loss.values, atol=1e-6, rtol=1e-6)


def test_what_losses_and_error_maps_share_is_observed_once(tiny, scene, monkeypatch):
    passes, predict = [], type(tiny).predict
    monkeypatch.setattr(type(tiny), "predict", lambda self, *args: passes.append(len(args[1])) or predict(self, *args))
    plan = Plan((Ask(CAPTION, (1, 301)), Ask("{}", (1,))), (), error_maps=(Ask(CAPTION, (501, 301)),))
    seen = observe(tiny, scene, plan)
    assert sum(passes) == plan.evaluations(len(scene.classes)) == 3 + 3
    assert [losses.ask for losses in seen.all_losses] == list(plan.losses)
    assert [maps.ask for maps in seen.all_error_maps] == list(plan.error_maps)
    alone = observe(tiny, scene, replace(plan, error_maps=()))
    for together, expected in zip(seen.all_losses, alone.all_losses, strict=True):
        torch.testing.assert_close(together.values, expected.values, atol=1e-6, rtol=1e-5)


def test_the_network_is_told_the_caption_without_each_class(tiny, picture):
    own = Scene.of(picture, ["tree", "star"], "a large star on a tree")
    seen = observe(tiny, own, MAPPED)
    assert [c.text for c in seen.error_maps_of(CAPTION).conditions] == ["a large star on a tree"]
    left_out = [(c.text, c.classes) for c in seen.error_maps_of(WITHOUT_EACH).conditions]
    assert left_out == [("a large star", ("tree",)), ("a tree", ("star",))]
    assert [c.text for c in seen.error_maps_of(EMPTY).conditions] == [""]
    (alone,) = observe(
        tiny, Scene(own.image, ("tree",), own.id), Plan.of((1, 501), (), elbo_template="a {}")
    ).all_losses
    torch.testing.assert_close(seen.error_maps_of(WITHOUT_EACH).losses.values[1:], alone.values, atol=1e-6, rtol=1e-5)


def test_each_class_is_compared_with_its_own_piece_of_a_long_caption(tiny, picture):
    names = [f"{a}ark {b}ell" for a in "bdhk" for b in "bcfhst"]
    seen = observe(
        tiny, Scene.of(picture, names), Plan((), (), error_maps=(Ask(CAPTION, (1,)), Ask(WITHOUT_EACH, (1,))))
    )
    whole, left_out = seen.error_maps_of(CAPTION), seen.error_maps_of(WITHOUT_EACH)
    assert len(whole.conditions) > 1
    for k, name in enumerate(names):
        (piece,) = [row for row, condition in enumerate(whole.conditions) if name in condition.classes]
        assert torch.equal(whole.of_each(names)[k], whole.values[piece])
        others = [other for other in whole.conditions[piece].classes if other != name]
        assert left_out.conditions[k].text == "a photo of " + ", ".join(others)
    with pytest.raises(ValueError, match="no text of 'the caption' is about 'moon'"):
        whole.of_each(["moon"])


def test_error_maps_can_be_narrowed(tiny, scene):
    whole = observe(tiny, scene, MAPPED)
    part = whole.under(Plan((), (), error_maps=(Ask(WITHOUT_EACH, (501,)),)))
    (maps,) = part.all_error_maps
    assert maps.timesteps.tolist() == [501]
    assert torch.equal(maps.values, whole.error_maps_of(WITHOUT_EACH).values[:, 1:])
    with pytest.raises(ValueError, match="'the caption' was not asked; asked: \\['the caption without each class'\\]"):
        part.error_maps_of(CAPTION)
