"""The baselines against naive dense readings (`naive_baselines`), and where they are known or not defined."""

from __future__ import annotations

from dataclasses import replace

import naive_baselines as naive
import pytest
import tiny as pipelines
import torch
from PIL import Image
from released import Released

from elbo_core import Plan, Scene, observe
from elbo_core.captions import find_classes
from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.noise import keyed_noise
from elbo_core.errors import UnsupportedModelError
from elbo_core.heatmaps import to_maximum
from elbo_core.methods.align import ElboScore
from elbo_core.methods.baseline import COMMON, Baseline
from elbo_core.methods.baselines import BASELINES, PROTOCOLS, under
from elbo_core.methods.diffpng import DiffPng, fitted
from elbo_core.methods.diffseg import SemanticDiffSeg, anchors, divergence, merged, segment
from elbo_core.methods.diffsegmenter import weights
from elbo_core.methods.named import METHODS
from elbo_core.methods.observe import Attention, Observation
from elbo_core.methods.ovam import Ovam
from elbo_core.methods.plan import (
    CAPTION,
    CLEAN,
    ELBO_TIMESTEPS,
    EMPTY,
    INVERSION_TIMESTEPS,
    INVERTED,
    Ask,
)
from elbo_core.methods.proposals import FELZENSZWALB, PROPOSERS, propose
from elbo_core.methods.sam import decoded, distinct, generator, masks_of

TIMES, CLASSES, SIZE = (20, 400), ("star", "hot dog", "dog"), (20, 28)
FAMILIES = {"sd": pipelines.stable_diffusion, "sdxl": pipelines.stable_diffusion_xl,
            "sd35": pipelines.stable_diffusion_3}  # fmt: skip
PLAN = replace(
    COMMON, attention=(Ask(CAPTION, TIMES), Ask(EMPTY, TIMES)), proposals=(FELZENSZWALB,), token_features=True
)


def scene() -> Scene:
    picture = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(3))
    picture = (picture * 255).round() / 255
    return Scene.of(picture, CLASSES)


class Case:
    """A family's observation, and what the naive readings need."""

    def __init__(self, build):
        self.denoiser = wrap(build(), "case")
        self.scene = scene()
        self.seen = observe(self.denoiser, self.scene, PLAN)
        model, pixels = Released(self.denoiser.pipeline), (self.scene.image * 255).round().byte()
        with torch.no_grad():
            self.latents = model.encode(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
            noise = keyed_noise(self.latents.shape[1:], PLAN.seed, self.scene.id, "attention", TIMES)
            points = [model.alpha_sigma(t) for t in TIMES]
            self.shown = [a * self.latents + s * eps[None] for (a, s, _), eps in zip(points, noise, strict=True)]
            self.model, self.text = model, model.text("a photo of star, hot dog, dog")
            self.naive = naive.see(self.denoiser.pipeline, self.shown, TIMES, self.text)
        tokens = self.denoiser.pipeline.tokenizer("a photo of star, hot dog, dog").input_ids
        self.extent = len(tokens)
        (caption,) = self.seen.attention_of(CAPTION).captions
        self.columns = caption.columns_of("first")
        self.features = [caption.token_features.get(name) for name in CLASSES]

    def read(self, method: Baseline) -> torch.Tensor:
        return method(self.seen.under(over(method.needs))).values

    def text_of(self, prompt: str):
        with torch.no_grad():
            return self.model.text(prompt)


def over(plan: Plan, times=TIMES) -> Plan:
    return replace(plan, attention=tuple(replace(ask, timesteps=times) for ask in plan.attention))


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    return Case(FAMILIES[request.param])


@pytest.fixture(scope="module")
def sd():
    return Case(pipelines.stable_diffusion)


def same(found: torch.Tensor, expected: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.stack(expected), atol=tolerance, rtol=0)


def rounding(case: Case) -> float:
    """1e-5, and three times that where nearly flat maps of random weights are stretched over the whole range."""
    return 3e-5 if case.model.is_xl else 1e-5


def test_the_case_is_hard(sd):
    """A class of several tokens, one class inside the name of another, a picture that is no square."""
    lengths = [len(own) for own in sd.columns]
    assert lengths[1] > 1
    assert set(sd.columns[2]).isdisjoint(sd.columns[1])


def test_joint_sequences_hold_all_text_tokens():
    sequence = Case(FAMILIES["sd35"]).naive[0][0][0].probabilities.shape[2]
    assert sequence == 333


def test_daam(case):
    same(case.read(BASELINES["DAAM"]), naive.daam(case.naive, case.columns, SIZE))


def test_ovam(case):
    expected = naive.ovam(case.naive, case.naive, case.columns, case.extent, SIZE)
    same(case.read(Ovam()), expected, rounding(case))


def test_ovam_with_the_queries_of_the_empty_prompt(case):
    method = Ovam(queries=EMPTY)
    if case.model.is_sd3:
        assert "share one softmax" in method.undefined(case.seen)
        return
    empty = naive.see(case.denoiser.pipeline, case.shown, TIMES, case.text_of(""))
    found = method(case.seen.under(replace(COMMON, attention=PLAN.attention))).values
    same(found, naive.ovam(empty, case.naive, case.columns, case.extent, SIZE), rounding(case))


def test_diffsegmenter(case):
    method = BASELINES["DiffSegmenter"]
    if case.model.is_sd3:
        with pytest.raises(UnsupportedModelError, match=r"DiffSegmenter is not defined here: .* has \[4\] only"):
            case.read(method)
        return
    found = naive.sides(case.naive[0][0])
    own = {2: (0.3, 0.7), 3: (0.3, 0.5, 0.2)}[len(found)]
    same(case.read(method), naive.diffsegmenter(case.naive, case.columns, SIZE, dict(zip(found, own, strict=True))))


def test_the_weights_are_the_originals_where_there_are_four_sides():
    assert weights(4) == [0.3, 0.5, 0.1, 0.1]
    assert weights(2) == pytest.approx([0.3, 0.7])
    assert sum(weights(5)) == pytest.approx(1)


@pytest.mark.parametrize("with_masks", [False, True])
def test_diffpng(case, with_masks):
    method = DiffPng(proposals=FELZENSZWALB if with_masks else "")
    if case.model.is_sd3:
        assert "finer than the coarsest" in method.undefined(case.seen)
        return
    masks = case.seen.proposals[FELZENSZWALB] if with_masks else None
    assert case.features[0] is None
    assert case.features[1] is not None
    same(case.read(method), naive.diffpng(case.naive, case.columns, SIZE, case.features, masks))


def test_semantic_diffseg(case):
    same(case.read(SemanticDiffSeg()), naive.diffseg(case.naive, case.columns, SIZE))


def test_merging_finds_a_known_partition():
    """Four quarters of an 8 x 8 picture that look at themselves: four segments, whatever the anchors."""
    place = torch.arange(8) // 4
    quarter = (2 * place[:, None] + place).flatten()
    maps = (quarter[:, None] == quarter).float() + 0.01
    maps = maps / maps.sum(dim=1, keepdim=True)
    assert len(merged(maps)) == 4
    found = segment(maps, (8, 8))
    assert len(found.unique()) == 4
    for k in range(4):
        assert len(found.flatten()[quarter == k].unique()) == 1
    expected = naive.merged(maps, anchors(8))
    torch.testing.assert_close(merged(maps), torch.stack(expected), atol=1e-6, rtol=0)


def test_divergence_is_symmetric_and_zero_for_the_same():
    maps = torch.rand(5, 9, generator=torch.Generator().manual_seed(0))
    maps = maps / maps.sum(dim=1, keepdim=True)
    found = divergence(maps, maps)
    torch.testing.assert_close(found, found.T)
    assert found.diagonal().abs().max() < 1e-6
    assert found[0, 1].item() == pytest.approx(naive.kl(maps[0], maps[1]), rel=1e-4)


def test_the_grid_of_anchors_is_the_originals_on_its_side():
    places = anchors(64)
    assert len(places) == 256
    assert places[:3] == [1 * 64 + 1, 1 * 64 + 5, 1 * 64 + 9]
    assert places[-1] == 61 * 64 + 61


def test_amplifying_methods_say_so():
    assert [name for name, method in BASELINES.items() if method.amplifies_rounding] == [
        "DiffPNG", "DiffPNG, proposals", "Semantic DiffSeg", "Semantic DiffSeg, tuned",
    ]  # fmt: skip
    assert not METHODS["reference"].amplifies_rounding


@pytest.mark.parametrize("name", BASELINES)
def test_one_class_and_a_constant_map(sd, name):
    """A single class works; where attention is the same everywhere, no rounding is blown up to a map."""
    one = observe(sd.denoiser, Scene.of(torch.rand(3, 24, 24), ["star"]), over(BASELINES[name].needs))
    values = BASELINES[name](one).values
    assert values.shape == (1, 24, 24)
    assert ((values >= 0) & (values <= 1)).all()
    flat = BASELINES[name](_flat(one)).values
    assert flat.isfinite().all()
    assert flat.unique().numel() == 1


def _flat(seen: Observation) -> Observation:
    """The same with queries of zero: every pixel looks at everything alike."""

    def without_queries(attention):
        layers = tuple(replace(layer, query=layer.query * 0) for layer in attention.layers)
        return replace(attention, layers=layers)

    captions = [
        replace(caption, cross=without_queries(caption.cross), self_attention=without_queries(caption.self_attention))
        for caption in seen.attention.captions
    ]
    return replace(seen, all_attention=(Attention(seen.attention.ask, tuple(captions)),))


def test_the_plug_in_is_a_power_of_the_methods_own_maps(sd):
    method = BASELINES["DAAM"]
    plugged = replace(method, score=ElboScore())
    plan = replace(over(plugged.needs), losses=(Ask("a photo of {}", (1, 501)),))
    seen = observe(sd.denoiser, sd.scene, plan)
    plain, found = method(seen.under(over(method.needs))), plugged(seen)
    assert plain.scores.isnan().all()
    assert sorted(found.scores.tolist())[0] == pytest.approx(1 / 3)
    for n, score in enumerate(found.scores):
        torch.testing.assert_close(found.values[n], plain.values[n] ** (1 / score))
    together = type(method).read_all(seen, [(method, over(method.needs)), (plugged, plan)])
    torch.testing.assert_close(together[0].values, plain.values, atol=0, rtol=0)
    torch.testing.assert_close(together[1].values, found.values, atol=0, rtol=0)


def test_a_caption_of_ones_own_with_two_mentions(sd):
    caption = find_classes("a star and a dog under a star", ["star", "dog"])
    one = replace(sd.scene, caption=caption, classes=("star", "dog"))
    seen = observe(sd.denoiser, one, PLAN)
    (told,) = seen.attention_of(CAPTION).captions
    assert len(told.columns_of("first")[0]) == 2
    for method in (BASELINES["DAAM"], BASELINES["DiffPNG"], Ovam()):
        assert method(seen.under(over(method.needs))).values.shape == (2, *SIZE)


class TestProtocols:
    def test_the_papers_is_the_same_for_all(self):
        for name in BASELINES:
            _, plan = under(name, "the paper's")
            assert plan.attention == COMMON.attention

    def test_its_own_is_another_for_each(self):
        own = {name: under(name, "its own") for name in PROTOCOLS["its own"].plans}
        assert own["DAAM"][1].attention[0].timesteps[:2] == (1, 34)
        assert len(own["DAAM"][1].attention[0].timesteps) == 30
        assert own["OVAM"][0] == Ovam(queries=EMPTY)
        assert own["DiffPNG"][1].attention == (Ask(CAPTION, ELBO_TIMESTEPS, INVERTED),)
        assert own["DiffPNG"][1].evaluations(classes=4) == 40
        assert own["DiffSegmenter"][1].attention == (Ask("a photograph of {}", (100,), emphasis=1.21),)
        assert own["Semantic DiffSeg"][1].attention == (Ask(CAPTION, (300,), CLEAN),)

    @pytest.mark.parametrize(("name", "protocol", "message"), [
        ("DAM", "its own", "unknown baseline 'DAM'; known: DAAM, OVAM"),
        ("DAAM", "mine", "unknown protocol 'mine'; known: the paper's, its own"),
    ])  # fmt: skip
    def test_unknown_names_list_the_known(self, name, protocol, message):
        with pytest.raises(ValueError, match=message):
            under(name, protocol)

    def test_clean_latents_are_shown_as_they_are(self, sd):
        method, plan = under("Semantic DiffSeg", "its own")
        shown = naive.see(sd.denoiser.pipeline, [sd.latents], (300,), sd.text)
        same(method(observe(sd.denoiser, sd.scene, plan)).values, naive.diffseg(shown, sd.columns, SIZE))

    def test_inverted_latents_follow_diffusers_ddim_inversion(self, sd):
        """The inverse scheduler's own steps, on the same twenty timesteps."""
        from diffusers import DDIMInverseScheduler

        settings = {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False}
        scheduler = DDIMInverseScheduler.from_config(sd.denoiser.pipeline.scheduler.config, **settings)
        latents, path = sd.latents, []
        for timestep in INVERSION_TIMESTEPS:
            with torch.no_grad():
                estimate = sd.model.network(latents, timestep, sd.text)
            before = scheduler.alphas_cumprod[max(timestep - 50, 0)]
            origin = (latents - (1 - before).sqrt() * estimate) / before.sqrt()
            after = scheduler.alphas_cumprod[timestep]
            latents = after.sqrt() * origin + (1 - after).sqrt() * estimate
            path.append(latents)
        method, plan = under("DiffPNG", "its own")
        seen = naive.see(sd.denoiser.pipeline, path, INVERSION_TIMESTEPS, sd.text)
        found = method(observe(sd.denoiser, sd.scene, plan)).values
        same(found, naive.diffpng(seen, sd.columns, SIZE, sd.features), 1e-4)

    def test_emphasis_moves_the_class_away_from_the_empty_text(self, sd):
        method, plan = under("DiffSegmenter", "its own")
        noise = keyed_noise(sd.latents.shape[1:], plan.seed, sd.scene.id, "attention", (100,))
        alpha, sigma, _ = sd.model.alpha_sigma(100)
        expected = []
        for name in CLASSES:
            (plain, _), (empty, _) = sd.text_of(f"a photograph of {name}"), sd.text_of("")
            text = f"a photograph of {name}"
            count = len(sd.denoiser.pipeline.tokenizer(name).input_ids) - 2
            stop = len(sd.denoiser.pipeline.tokenizer(text).input_ids) - 1
            columns = range(stop - count, stop)
            weighted = plain.clone()
            for column in columns:
                weighted[:, column] = empty[:, column] + 1.21 * (plain[:, column] - empty[:, column])
            shown = naive.see(sd.denoiser.pipeline, [alpha * sd.latents + sigma * noise], (100,), (weighted, None))
            found = naive.sides(shown[0][0])
            own = dict(zip(found, (0.3, 0.5, 0.2), strict=True))
            expected += naive.diffsegmenter(shown, [columns], SIZE, own)
        same(method(observe(sd.denoiser, sd.scene, plan)).values, expected)


class TestProposals:
    def test_felzenszwalb_is_two_partitions(self):
        picture = torch.zeros(3, 40, 40)
        picture[:, :, 20:] = 1
        masks = propose(FELZENSZWALB, picture)
        assert masks.dtype == torch.bool
        assert (masks.sum(dim=0) == 2).all()
        half = picture[0] > 0.5
        assert max((mask & half).sum() / (mask | half).sum() for mask in masks) > 0.85, "but for a blurred edge"

    def test_sam_makes_masks_of_a_small_random_instance(self):
        torch.manual_seed(0)
        sure = {"points_per_batch": 8, "pred_iou_thresh": -1e9, "stability_score_thresh": 0.0}
        masks = masks_of(generator(*pipelines.sam(), **sure), torch.rand(3, 48, 64))
        assert masks.dtype == torch.bool
        assert masks.shape[1:] == (48, 64)

    def test_of_masks_with_nearly_the_same_box_the_surest_is_left(self):
        boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [0, 0, 10, 10.0]])
        assert distinct(boxes, torch.tensor([0.5, 0.9, 0.1, 0.8]), 0.7) == [1, 2]
        assert distinct(boxes[:0], torch.zeros(0), 0.7) == []

    def test_runs_are_decoded_down_the_columns(self):
        found = decoded({"size": [2, 3], "counts": [1, 2, 3]})
        assert found.tolist() == [[False, True, False], [True, False, False]]

    def test_a_mask_that_is_covered_gets_the_mean_of_it(self):
        spread = torch.zeros(4, 4)
        spread[:2] = 0.8
        masks = torch.zeros(3, 4, 4, dtype=torch.bool)
        masks[0, :2, :2], masks[1, 3], masks[2, :3, :2] = True, True, True
        found = fitted(spread, masks)
        torch.testing.assert_close(found, to_maximum(naive.fitted(spread, masks)))
        assert found[0, 0] == 1
        assert found[3].sum() == 0
        assert 0 < found[2, 0] < 1

    def test_without_any_candidate_the_thresholded_map_is_left(self):
        spread = torch.tensor([[0.2, 0.5], [0.9, 0.1]])
        found = fitted(spread, torch.zeros(0, 2, 2, dtype=torch.bool))
        torch.testing.assert_close(found, torch.tensor([[0.0, 0.5], [0.9, 0.0]]) / 0.9)

    def test_unknown_proposers_list_the_known(self):
        with pytest.raises(ValueError, match="unknown proposer 'sam2'; known: felzenszwalb, sam"):
            DiffPng(proposals="sam2")
        assert set(PROPOSERS) == {"felzenszwalb", "sam"}

    def test_what_was_not_proposed_is_named(self, sd):
        with pytest.raises(ValueError, match=r"proposals of 'sam' were not asked; asked: \['felzenszwalb'\]"):
            sd.seen.under(replace(over(COMMON), proposals=("sam",)))
