"""Questions are checked when they are written down, and many plans become one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbo_core import Plan
from elbo_core.methods.plan import CAPTION, CLEAN, EMPTY, INVERTED, WITHOUT_EACH, Ask


@pytest.mark.parametrize(("timesteps", "message"), [
    ((), "at least one timestep"),
    ((1.0,), "must be integers"),
    (("1",), "must be integers"),
    ("12", "must be a list of integers"),
    (5, "must be a list of integers"),
    ((True,), "at least one timestep from 0 on"),
    ((-1,), "at least one timestep from 0 on"),
    ((1, 1), "must be distinct"),
    ((float("nan"),), "must be integers"),
])  # fmt: skip
def test_bad_timesteps(timesteps, message):
    with pytest.raises(ValueError, match=message):
        Ask("{}", timesteps)


@pytest.mark.parametrize("timesteps", [(1, 20), [1, 20], np.array([1, 20]), torch.tensor([1, 20]), range(1, 21, 19)])
def test_integers_of_any_kind_become_plain_ones(timesteps):
    (first, second) = Ask("{}", timesteps).timesteps
    assert (type(first), first, second) == (int, 1, 20)


@pytest.mark.parametrize(
    "texts",
    [
        "a photo",
        "",
        "{class}",
        "{} {0}",
        "{",
        "}",
        "a {phrase} {x}",
        "the captions",
        "{:.1}",
        "{!r}",
        "{{}} {}",
        "{} {}",
        3,
    ],
)
def test_a_wording_holds_a_place_for_the_class_or_is_the_caption(texts):
    with pytest.raises((TypeError, ValueError), match="template"):
        Ask(texts, (1,))


@pytest.mark.parametrize("texts", ["{}", "a photo of {}", "the {phrase} there", CAPTION, WITHOUT_EACH, EMPTY])
def test_good_wordings(texts):
    assert Ask(texts, (1,)).texts == texts


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Plan((), ()), "at least one question"),
    (lambda: Plan.of((), ()), "at least one question"),
    (lambda: Plan((), (Ask(WITHOUT_EACH, (1,)),)), "'the caption without each class' does not name the classes"),
    (lambda: Plan(losses=(Ask(EMPTY, (1,), CLEAN),)), "is for attention only"),
    (lambda: Plan(error_maps=(Ask(EMPTY, (1,), emphasis=1.21),)), "is for attention only"),
    (lambda: Ask(CAPTION, (1,), "cleaned"), "unknown latents 'cleaned'; known: noised, clean, inverted"),
    (lambda: Ask(CAPTION, (20,), INVERTED), "inverted latents exist at"),
    (lambda: Ask(CAPTION, (1,), emphasis=0), "an emphasis of 0 would leave nothing"),
    (lambda: Ask(CAPTION, (1,), emphasis="strong"), "emphasis must be a number"),
    (lambda: Plan(error_maps=(Ask("{}", (1,)), Ask("{}", (2,)))), "asks each wording once"),
    (lambda: Plan(batch_size=0), "batch_size must be at least 1, got 0"),
    (lambda: Plan(batch_size=2.0), "batch_size must be a whole number, got 2.0"),
    (lambda: Plan(seed=-1), "seed must be at least 0"),
    (lambda: Plan(seed=True), "seed must be a whole number"),
    (lambda: Plan((Ask("{}", (1,)), Ask("{}", (2,)))), "asks each wording once"),
    (lambda: Plan.union([]), "no plan to unite"),
    (lambda: Plan(losses=("x",)), "must be of the class Ask"),
    (lambda: Plan.union([Plan(seed=1), Plan(seed=2)]), "one seed in common"),
])  # fmt: skip
def test_bad_plans(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()


def test_a_union_asks_every_wording_once_and_every_timestep_once():
    plans = [
        Plan.of((1, 501), (20,), seed=7),
        Plan.of((501, 301), (20, 40), seed=7),
        Plan.of((9,), (), elbo_template="{}", seed=7),
        Plan((), (Ask("a photo of {}", (20,)),), seed=7),
    ]
    union = Plan.union(plans)
    assert union.losses == (Ask("a photo of {}", (1, 301, 501)), Ask("{}", (9,)))
    assert union.attention == (Ask(CAPTION, (20, 40)), Ask("a photo of {}", (20,)))
    assert union.seed == 7


def test_evaluations_are_counted():
    plan = Plan((Ask("{}", (1, 2)), Ask(CAPTION, (5,))), (Ask(CAPTION, (20, 40, 60)), Ask("a {}", (20,))))
    assert plan.evaluations(classes=4) == 4 * 2 + 1 + 3 + 4 * 1


def test_the_papers_plan_is_its_text():
    plan = Plan.paper()
    assert [ask.texts for ask in plan.losses] == ["{}"]
    assert len(plan.losses[0].timesteps) == 20
    assert max(plan.attention[0].timesteps) < 200


def test_error_maps_are_united_and_counted_with_the_losses():
    maps = Plan((), (), error_maps=(Ask(CAPTION, (1, 2)), Ask(WITHOUT_EACH, (1, 2)), Ask(EMPTY, (1,))))
    assert maps.evaluations(classes=4) == 2 + 4 * 2 + 1
    losses = Plan((Ask(WITHOUT_EACH, (2, 3)),), ())
    both = Plan.union([maps, losses, maps])
    assert both.error_maps == maps.error_maps
    assert both.losses == losses.losses
    assert both.evaluations(classes=4) == 2 + 4 * 3 + 1
