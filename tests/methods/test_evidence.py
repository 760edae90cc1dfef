"""Evidence against a naive loop, against the losses, and against worlds whose likelihood is known pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny as pipelines
import torch
from diffusers import DDIMScheduler
from scipy.ndimage import gaussian_filter

from elbo_core import Plan, Recipe, Scene, observe, segment
from elbo_core.captions import TEMPLATE
from elbo_core.diffusion.exact import GaussianMixture
from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.noise import keyed_noise
from elbo_core.diffusion.schedule import NoiseSchedule
from elbo_core.errors import ScheduleError
from elbo_core.heatmaps import resize, to_maximum
from elbo_core.methods.align import LeaveOneOutScore, align
from elbo_core.methods.elbo import class_loss, weights
from elbo_core.methods.evidence import Evidence, EvidenceTimesAttention, blurred
from elbo_core.methods.named import METHODS
from elbo_core.methods.observe import Condition, ErrorMaps, Observation
from elbo_core.methods.plan import CAPTION, EMPTY, WITHOUT_EACH, Ask

TIMES = (1, 501, 951)
PLAIN = Evidence(weight="epsilon")
"""All timesteps alike."""
KINDS = [Evidence(), Evidence.of_class(), Evidence.kong(), PLAIN, Evidence(clamp=False)]


def over(plan: Plan, timesteps: tuple[int, ...] = TIMES) -> Plan:
    def ask(asks):
        return tuple(Ask(one.texts, timesteps) for one in asks)

    return replace(plan, losses=ask(plan.losses), attention=ask(plan.attention), error_maps=ask(plan.error_maps))


PLAN = over(Plan.union([*(kind.needs for kind in KINDS), Recipe(LeaveOneOutScore()).needs]))


@pytest.fixture(scope="module")
def seen(tiny):
    picture = torch.rand(3, 20, 28, generator=torch.Generator().manual_seed(3))
    return observe(tiny, Scene.of(picture, ["star", "tree", "grass"]), PLAN)


def test_evidence_equals_a_naive_loop(tiny, seen):
    """One pass at a time, noised by diffusers' own scheduler, each pixel's errors compared by hand."""
    picture = torch.rand(3, 20, 28, generator=torch.Generator().manual_seed(3))
    scene = Scene.of(picture, ["star", "tree", "grass"])
    latents = tiny.encode_image(picture)
    noise = keyed_noise(latents.shape, PLAN.seed, scene.id, "elbo", TIMES)

    def error(text: str, k: int) -> torch.Tensor:
        timestep = torch.tensor([TIMES[k]])
        noisy = tiny.pipeline.scheduler.add_noise(latents[None], noise[k : k + 1], timestep)
        with torch.no_grad():
            estimate = tiny.network(noisy, timestep, tiny.encode_text([text]).embeddings).sample
        return (estimate - noise[k])[0].square().mean(dim=0)

    heatmaps = replace(PLAIN, blur=0.8)(seen)
    assert heatmaps.scores.isnan().all()
    for n, left in enumerate(("tree, grass", "star, grass", "star, tree")):
        ratio = torch.zeros(8, 8)
        for k in range(len(TIMES)):
            ratio += (error(f"a photo of {left}", k) - error("a photo of star, tree, grass", k)) / len(TIMES)
        torch.testing.assert_close(PLAIN.maps(seen)[n].float(), ratio, atol=1e-5, rtol=1e-3)
        place = torch.arange(8)
        kernel = torch.exp(-((place[:, None] - place) ** 2) / (2 * 0.8**2))
        kernel /= kernel.sum(dim=1, keepdim=True)
        smooth = (kernel @ ratio @ kernel.T).clamp(min=0)
        expected = to_maximum(torch.nn.functional.interpolate(smooth[None, None], (20, 28), mode="bilinear"))[0, 0]
        torch.testing.assert_close(heatmaps.values[n], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("weight", ["epsilon", "velocity", "relative", "elbo"])
def test_the_mean_over_pixels_is_the_difference_of_the_losses(seen, weight):
    """To 1e-6 of the losses: those that `ElboScore` and `LeaveOneOutScore` sum."""
    with_class, without = (seen.losses_of(texts).of_each(seen.classes) for texts in (CAPTION, WITHOUT_EACH))
    weighting = weights(weight, seen.schedule, torch.tensor(TIMES), torch.cat([with_class, without]))
    losses = [class_loss(losses, weighting).value for losses in (with_class, without)]
    evidence = Evidence(weight=weight).maps(seen).mean(dim=(1, 2))
    torch.testing.assert_close(evidence, losses[1] - losses[0], atol=1e-6 * losses[1].max().item(), rtol=0)


def test_the_score_of_leaving_out_ranks_classes_by_their_evidence(seen):
    evidence = PLAIN.maps(seen).mean(dim=(1, 2))
    expected = (1 / 3) ** ((evidence.max() - evidence) / (evidence.max() - evidence.min()))
    torch.testing.assert_close(LeaveOneOutScore()(seen), expected.float(), atol=1e-4, rtol=0)


def test_algorithm_1_takes_the_score_of_leaving_out(tiny, scene):
    recipe = Recipe(LeaveOneOutScore(gamma=0.5))
    plan = over(recipe.needs, (1, 501))
    assert plan.evaluations(classes=3) == 2 + 3 * 2 + 2
    heatmaps = align(observe(tiny, scene, plan), recipe)
    assert (heatmaps.scores.min().item(), heatmaps.scores.max().item()) == pytest.approx((0.5, 1))
    assert align(observe(tiny, replace(scene, classes=("star",)), plan), recipe).scores.tolist() == [1]


def test_the_squared_difference_of_estimates_needs_no_noise(seen):
    maps = replace(Evidence.kong(), weight="epsilon").maps(seen)
    estimates = [seen.error_maps_of(texts).of_each(seen.classes) for texts in (CAPTION, WITHOUT_EACH)]
    torch.testing.assert_close(maps.float(), (estimates[0] - estimates[1]).square().mean(dim=(1, 2)))
    assert (maps >= 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=range(len(KINDS)))
def test_heatmaps_lie_in_the_unit_interval_and_reach_one(seen, kind):
    heatmaps = kind(seen)
    assert heatmaps.values.shape == (3, 20, 28)
    assert heatmaps.values.dtype == torch.float32
    assert (heatmaps.values >= 0).all()
    assert heatmaps.values.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("kind", KINDS, ids=range(len(KINDS)))
def test_batching_does_not_matter(tiny, scene, kind):
    plans = [replace(over(kind.needs), batch_size=size) for size in (1, 5, 64)]
    first, *others = (kind.maps(observe(tiny, scene, plan)) for plan in plans)
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-5, rtol=0)


def test_the_order_of_classes_does_not_matter(tiny, picture):
    """With a caption of one's own; a list of classes is another caption in another order."""
    names = ["star", "tree", "grass"]
    straight, turned = (Scene.of(picture, order, "a star and a tree on grass") for order in (names, names[::-1]))
    for method in (*KINDS, EvidenceTimesAttention()):
        one, other = (method(observe(tiny, scene, over(method.needs, (1, 101)))).values for scene in (straight, turned))
        torch.testing.assert_close(other.flip(0), one, atol=1e-3, rtol=0)


@pytest.mark.parametrize("family", pipelines.PIPELINES)
def test_any_family_gives_evidence(family):
    denoiser = wrap(pipelines.PIPELINES[family](), family)
    result = segment(denoiser, torch.rand(3, 24, 40), ["star", "hot dog"], method="evidence",
                     plan=over(Evidence().needs, (1, 601)))  # fmt: skip
    assert result.after.values.shape == (2, 24, 40)
    assert result.after.values.isfinite().all()
    assert result.before is None
    assert result.observation.all_attention == ()
    kong = replace(Evidence.kong(), weight="epsilon")(result.observation)
    assert kong.values.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1]), "leaving a class out makes a difference"
    alone = segment(denoiser, torch.rand(3, 24, 40), ["star"], method=Evidence(TEMPLATE, EMPTY, "estimates"),
                    plan=over(Evidence.of_class().needs, (601,)))  # fmt: skip
    assert alone.after.values.max() == pytest.approx(1), "and so does a class"


def test_one_class_is_compared_with_a_photo(tiny, picture):
    seen = observe(tiny, Scene.of(picture, ["star"]), over(Evidence().needs))
    assert [c.text for c in seen.error_maps_of(WITHOUT_EACH).conditions] == ["a photo"]
    assert Evidence()(seen).values.max() == pytest.approx(1)


def test_each_class_of_a_long_caption_is_compared_with_its_own_piece(tiny, picture):
    """As if the pieces were asked one by one: the evidence is the same as for a scene of the piece's classes."""
    names = [f"{a}ark {b}ell" for a in "bdhk" for b in "bcfhst"]
    whole = Scene.of(picture, names)
    plan = over(Evidence().needs, (501,))
    seen = observe(tiny, whole, plan)
    pieces = [condition.classes for condition in seen.error_maps_of(CAPTION).conditions]
    assert len(pieces) > 1
    maps = PLAIN.maps(seen)
    for piece in pieces:
        alone = PLAIN.maps(observe(tiny, replace(whole, classes=piece), plan))
        torch.testing.assert_close(maps[[names.index(name) for name in piece]], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("caption", "texts"), [
    ("a star, a tree and a star in front of grass", ["a tree and grass", "a star, a star in front of grass",
                                                      "a star, a tree and a star"]),
    ("Grass. A small star behind two tree trunks.", ["Grass. two tree trunks.", "Grass. A small star.",
                                                     "A small star behind two tree trunks."]),
])  # fmt: skip
def test_a_caption_of_ones_own_keeps_its_grammar(tiny, picture, caption, texts):
    """All mentions of a class go together; the evidence is that against the text without them."""
    names, plan = ["star", "tree", "grass"], over(Evidence().needs, (1, 501))
    seen = observe(tiny, Scene.of(picture, names, caption), plan)
    assert [c.text for c in seen.error_maps_of(CAPTION).conditions] == [caption]
    assert [c.text for c in seen.error_maps_of(WITHOUT_EACH).conditions] == texts
    assert Evidence()(seen).values.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1, 1])


def test_a_class_named_twice_is_refused(tiny, picture):
    with pytest.raises(ValueError, match="class 'Star' is named twice, first as 'star'"):
        segment(tiny, picture, ["star", "tree", "Star"], method="evidence")


def test_evidence_needs_one_text_more_than_there_are_classes():
    assert Evidence().needs.evaluations(classes=5) == 6 * 20
    assert EvidenceTimesAttention().needs.evaluations(classes=5) == 6 * 20 + 10


def test_evidence_times_attention_is_their_product(tiny, scene):
    method = EvidenceTimesAttention(Evidence(blur=0), Recipe(layer_weights="late").off())
    seen = observe(tiny, scene, over(method.needs, (1, 101)))
    product = Evidence(blur=0)(seen).values * align(seen, method.reading).values
    torch.testing.assert_close(method(seen).values, product / product.amax(dim=(1, 2), keepdim=True))


def made(schedule: NoiseSchedule, given: torch.Tensor, against: torch.Tensor, times: tuple[int, ...]) -> Observation:
    """What a model of one class would have said, from its errors [T, C, h, w]."""
    maps = tuple(
        ErrorMaps(Ask(texts, times), errors[None].float(), (Condition("", ("star",)),))
        for texts, errors in ((CAPTION, given), (WITHOUT_EACH, against))
    )
    return Observation(("star",), (8, 8), schedule, (), (), maps)


SCHEDULE = NoiseSchedule.of(DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))


def pixel_world(seed: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    variances = 0.3 + torch.rand(2, dtype=torch.float64, generator=generator)
    return GaussianMixture(torch.tensor([0.4, 0.6], dtype=torch.float64), means, variances)


def test_evidence_is_the_pointwise_likelihood_ratio():
    """A picture of 4 x 4 independent pixels with three channels, whose world changes in the left half when the class is
    left out. With the literal weight of eq. 4 at all thousand timesteps evidence is exact, within its own error."""
    times, side, draws = tuple(range(1000)), 4, 60
    with_class, without = pixel_world(0), pixel_world(1)
    generator = torch.Generator().manual_seed(5)
    x = with_class.sample(side * side, generator)
    path = SCHEDULE.at(torch.tensor(times))

    def errors(world: GaussianMixture, noise: torch.Tensor) -> torch.Tensor:
        noisy = path.alpha[:, None] * x[k] + path.sigma[:, None] * noise
        return world.denoise(noisy, path) - noise

    evidence = torch.empty(draws, side * side, dtype=torch.float64)
    for draw in range(draws):
        both = torch.empty(2, len(times), 3, side * side, dtype=torch.float64)
        for k in range(side * side):
            noise = torch.randn(len(times), 3, dtype=torch.float64, generator=generator)
            changed = without if k % side < side // 2 else with_class
            both[:, :, :, k] = torch.stack([errors(with_class, noise), errors(changed, noise)])
        observation = made(SCHEDULE, *both.unflatten(-1, (side, side)), times)
        evidence[draw] = 3 * Evidence(weight="elbo").maps(observation).flatten()
    left = torch.arange(side * side) % side < side // 2
    exact = (with_class.log_density(x) - without.log_density(x)) * left
    error = evidence.std(dim=0) / draws**0.5
    assert (evidence[:, ~left] == 0).all()
    assert ((evidence.mean(dim=0) - exact)[left].abs() < 4 * error[left]).all()
    assert (error[left] < 0.2).all()
    assert exact[left].abs().mean() > 4 * error[left].mean(), "it could have failed"


def test_nothing_for_a_class_stays_nothing():
    """Errors that are the same or only grow with the class: all zero, not NaN."""
    error = torch.ones(2, 3, 4, 4)
    for against in (error, error / 2):
        assert torch.equal(Evidence()(made(SCHEDULE, error, against, (1, 2))).values, torch.zeros(1, 8, 8))
    signed = Evidence(clamp=False)(made(SCHEDULE, error, error, (1, 2)))
    assert torch.equal(signed.values, torch.zeros(1, 8, 8))


def test_the_blur_is_that_of_scipy_away_from_the_edges():
    maps = torch.rand(2, 24, 20, dtype=torch.float64)
    expected = torch.from_numpy(gaussian_filter(maps.numpy(), 1.2, axes=(1, 2), truncate=8))
    torch.testing.assert_close(blurred(maps, 1.2)[:, 9:-9, 9:-9], expected[:, 9:-9, 9:-9], atol=1e-4, rtol=0)
    torch.testing.assert_close(blurred(torch.ones(1, 5, 6), 2.0), torch.ones(1, 5, 6))
    assert torch.equal(blurred(maps, 0), maps)
    assert resize(maps, (24, 20)) is maps


def test_infinite_weights_are_refused():
    schedule = NoiseSchedule.of(DDIMScheduler(rescale_betas_zero_snr=True))
    observation = made(schedule, torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4), (500, 999))
    with pytest.raises(ScheduleError, match="'velocity' has no finite weight at timestep 999"):
        Evidence(weight="velocity")(observation)
    assert Evidence()(observation).values.isfinite().all()


def test_what_was_not_asked_is_an_error(tiny, scene):
    part = observe(tiny, scene, Plan((), (), error_maps=(Ask(CAPTION, (1,)), Ask(EMPTY, (2,)))))
    with pytest.raises(ValueError, match="'the caption without each class' was not asked"):
        Evidence()(part)
    with pytest.raises(ValueError, match="'the caption' and 'the empty caption' were asked at different timesteps"):
        Evidence(against=EMPTY)(part)
    uneven = observe(tiny, scene, Plan((Ask(CAPTION, (1,)), Ask(WITHOUT_EACH, (2,))), ()))
    with pytest.raises(ValueError, match="were asked at different timesteps"):
        LeaveOneOutScore()(uneven)


@pytest.mark.parametrize(("build", "error", "message"), [
    (lambda: Evidence(CAPTION, CAPTION), ValueError, "compares two wordings, got 'the caption' twice"),
    (lambda: Evidence("a photo"), ValueError, "once and no other"),
    (lambda: Evidence(difference="error"), ValueError, "unknown difference 'error'; known: errors, estimates"),
    (lambda: Evidence(weight="one"), ValueError, "unknown estimator 'one'"),
    (lambda: Evidence(blur=-1), ValueError, "blur must be at least 0, got -1"),
    (lambda: Evidence(blur=float("inf")), ValueError, "blur must be at least 0, got inf"),
    (lambda: Evidence(blur="1"), TypeError, "blur must be a number"),
    (lambda: LeaveOneOutScore("elbow"), ValueError, "unknown estimator"),
    (lambda: LeaveOneOutScore(gamma=0), ValueError, "gamma must lie in"),
])  # fmt: skip
def test_bad_settings(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("name", METHODS)
def test_segment_takes_a_method_by_name(tiny, picture, name):
    plan = over(METHODS[name].needs, (1, 101))
    by_name = segment(tiny, picture, ["star", "tree"], method=name, plan=plan)
    direct = segment(tiny, picture, ["star", "tree"], method=METHODS[name], plan=plan)
    assert torch.equal(by_name.after.values, direct.after.values)
    assert (by_name.before is None) == (not isinstance(METHODS[name], Recipe))
    assert by_name.mask.shape == picture.shape[:2]
