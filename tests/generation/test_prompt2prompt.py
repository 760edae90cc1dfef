"""Edits beside a naive dense reading of the original on small random networks, and what must be identical."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.sampling import Guidance, ReleasedGrid, sample
from elbo_core.errors import EditError, UnsupportedModelError
from elbo_core.generation.calibrated_maps import SCALINGS, Calibration, at_side, source_heatmaps, without_article
from elbo_core.generation.inversion import Start
from elbo_core.generation.prompt2prompt import Edit, LocalBlend, check_is_unet, edit
from elbo_core.generation.word_maps import WORD_MAPS, word_columns
from elbo_core.methods.align import Recipe
from tests.tiny import PIPELINES, stable_diffusion, stable_diffusion_xl

GRID = ReleasedGrid(5)
TEXT = "a photo of a red star and a tree"


@pytest.fixture(scope="module")
def denoiser():
    return wrap(stable_diffusion(), "tiny")


@pytest.fixture(scope="module")
def start(denoiser):
    noise = torch.randn(denoiser.latent_shape, generator=torch.Generator().manual_seed(1))
    return Start(noise, "one")


def latents(denoiser, edits, start, text=TEXT, **options):
    return edit(denoiser, text, edits, start, sampler=GRID, **options).latents


class Naive:
    """The original's controllers on its own terms: an attention processor that forms every matrix."""

    def __init__(self, denoiser, text, edits, steps):
        self.denoiser, self.text, self.edits, self.steps, self.step = denoiser, text, edits, steps, 0
        self.part, self.maps = denoiser.parts["clip"], [0.0] * len(edits)
        for name, module in denoiser.network.named_modules():
            if hasattr(module, "to_q") and hasattr(module, "set_processor"):
                module.set_processor(_NaiveProcessor(self, name))

    def cross(self, attention):
        """[1 + E, h, Q, 77] -> the edited."""
        source = attention[0]
        for k, one in enumerate(self.edits, start=1):
            words = WORD_MAPS[one.words](self.text, one.target, self.part)
            injected = torch.einsum("hqs,st->hqt", source, words.matrix) + attention[k] * words.own
            for word, factor in one.weights:
                injected[..., list(word_columns(one.target, word, self.part))] *= factor
            alpha = torch.zeros(77)
            if self.step < int(one.cross_steps * (self.steps + 1)):
                alpha[:] = 1
            for word, (first, last) in one.special_steps:
                on = int(first * (self.steps + 1)) <= self.step < int(last * (self.steps + 1))
                alpha[list(word_columns(one.target, word, self.part))] = float(on)
            edited = injected * alpha + attention[k] * (1 - alpha)
            self.look(k - 1, one, source, edited)
            attention = torch.cat([attention[:k], edited[None], attention[k + 1 :]])
        return attention

    def look(self, k, one, source, edited):
        if one.blend and source.shape[1] == one.blend.side**2:
            (ours,), (theirs,) = one.blend.source, one.blend.target
            columns = [word_columns(self.text, ours, self.part), word_columns(one.target, theirs, self.part)]
            self.maps[k] = self.maps[k] + torch.stack(
                [source[..., list(columns[0])].sum(-1).mean(0), edited[..., list(columns[1])].sum(-1).mean(0)]
            )

    def own(self, attention):
        for k, one in enumerate(self.edits, start=1):
            if self.step < int(one.self_steps * self.steps) and attention.shape[2] <= one.self_pixels:
                attention = torch.cat([attention[:k], attention[:1], attention[k + 1 :]])
        return attention

    def blended(self, latents):
        for k, one in enumerate(self.edits, start=1):
            if one.blend:
                maps = self.maps[k - 1].unflatten(-1, (one.blend.side, one.blend.side))[:, None]
                maps = F.interpolate(F.max_pool2d(maps, 3, 1, 1), size=latents.shape[-2:])[:, 0]
                mask = (maps / maps.amax((1, 2), keepdim=True)).gt(one.blend.threshold).any(0)
                latents[k] = latents[0] + mask * (latents[k] - latents[0])
        return latents


class _NaiveProcessor:
    def __init__(self, controller, name):
        self.controller, self.name = controller, name

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        weights = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        change = self.controller.own if encoder_hidden_states is None else self.controller.cross
        half = len(weights) // 2
        weights = torch.cat([weights[:half], change(weights[half:])])
        return attn.to_out[0]((weights @ value).transpose(1, 2).flatten(-2))


def naive(text, edits, start):
    """All latents [1 + E, C, h, w] by a loop of our own and diffusers' network with the naive processors."""
    denoiser = wrap(stable_diffusion(), "tiny")
    told = denoiser.encode_text([text, *(one.target for one in edits)])
    empty = denoiser.encode_text([""] * len(told))
    embeddings = torch.cat([empty.embeddings, told.embeddings])
    controller = Naive(denoiser, text, edits, GRID.steps)
    z = start.noise.expand(len(told), -1, -1, -1).clone()
    abar = denoiser.pipeline.scheduler.alphas_cumprod
    with torch.no_grad():
        for step, t in enumerate(range(999, 0, -200)):
            controller.step = step
            low, high = denoiser.network(torch.cat([z, z]), torch.tensor(t), embeddings).sample.chunk(2)
            epsilon = low + 7.5 * (high - low)
            clean = (z - (1 - abar[t]).sqrt() * epsilon) / abar[t].sqrt()
            there = abar[max(t - 200, 0)]
            z = controller.blended(there.sqrt() * clean + (1 - there).sqrt() * epsilon)
    return z


SWAP = "a photo of a red moon and a tree"
EDITS = [
    Edit(SWAP),
    Edit(SWAP, cross_steps=0.5, self_steps=1.0, self_pixels=4**2),
    Edit(SWAP, special_steps=(("moon", (0.2, 0.6)),)),
    Edit("a photo of a large red star and a tree", "refine", cross_steps=0.4, self_steps=0.0),
    Edit(TEXT, weights=(("red", 4.0), ("tree", -1.0))),
    Edit(SWAP, blend=LocalBlend(("star",), ("moon",), side=8)),
]


def test_edits_are_those_of_the_naive_dense_reading(denoiser, start):
    found, expected = latents(denoiser, EDITS, start), naive(TEXT, EDITS, start)
    assert (expected[1:] - expected[0]).abs().amax((1, 2, 3)).min() > 0.01, "every edit does something"
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_the_source_is_drawn_as_it_would_be_alone(denoiser, start):
    told = denoiser.encode_text([TEXT])
    *_, alone = sample(denoiser, told, start.noise[None], GRID)
    torch.testing.assert_close(latents(denoiser, EDITS, start)[:1], alone.latents, atol=1e-4, rtol=1e-4)


def test_the_same_text_gives_the_same_picture(denoiser, start):
    same = [Edit(TEXT), Edit(TEXT, "refine"), Edit(TEXT, weights=(("star", 1.0),)), Edit(TEXT, cross_steps=0.0)]
    found = latents(denoiser, same, start)
    torch.testing.assert_close(found[1:], found[:1].expand_as(found[1:]), atol=1e-4, rtol=1e-4)


def test_without_injection_an_edit_is_plain_generation(denoiser, start):
    *_, plain = sample(denoiser, denoiser.encode_text([SWAP]), start.noise[None], GRID)
    found = latents(denoiser, [Edit(SWAP, cross_steps=0.0, self_steps=0.0)], start)
    torch.testing.assert_close(found[1:], plain.latents, atol=1e-4, rtol=1e-4)


def test_a_weight_of_one_changes_nothing(denoiser, start):
    plain, weighted = latents(denoiser, [Edit(SWAP), Edit(SWAP, weights=(("moon", 1.0),))], start)[1:]
    torch.testing.assert_close(plain, weighted)


def test_edits_do_not_depend_on_their_company(denoiser, start):
    together = latents(denoiser, EDITS, start)
    for k in (0, 5):
        torch.testing.assert_close(latents(denoiser, [EDITS[k]], start)[1], together[k + 1], atol=1e-4, rtol=1e-4)


def test_xl_is_edited_too(start):
    denoiser = wrap(stable_diffusion_xl(), "xl")
    found = latents(denoiser, [Edit(TEXT), Edit(SWAP)], start)
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)
    assert (found[2] - found[0]).abs().max() > 0.01


class TestCalibratedMaps:
    def test_mass_and_range_are_preserved(self):
        attention = torch.rand(3, 64, 5, generator=torch.Generator().manual_seed(0))
        heatmaps = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(1))
        places = ((1, 2), (4,))
        for scaling in SCALINGS:
            found = Calibration(scaling=scaling)(attention, heatmaps, places)
            torch.testing.assert_close(found[..., [0, 3]], attention[..., [0, 3]])
            if scaling == "mass":
                torch.testing.assert_close(found.sum(dim=1), attention.sum(dim=1))
            else:
                torch.testing.assert_close(found.amin(dim=1), attention.amin(dim=1))
                torch.testing.assert_close(found.amax(dim=1), attention.amax(dim=1))
            pooled = heatmaps[0].reshape(8, 4, 8, 4).mean(dim=(1, 3)).flatten()
            naive = torch.corrcoef(torch.stack([found[0, :, 1], pooled]))[0, 1]
            assert naive == pytest.approx(1, abs=1e-4), "each column is the heatmap, scaled"

    def test_a_share_of_zero_is_the_attention_and_an_empty_heatmap_leaves_it(self):
        attention, heatmaps = torch.rand(2, 16, 3), torch.zeros(1, 8, 8)
        assert torch.equal(Calibration()(attention, heatmaps, ((1,),)), attention)
        torch.testing.assert_close(Calibration(share=0.0)(attention, torch.rand(1, 8, 8), ((1,),)), attention)

    def test_rows_may_sum_to_one(self):
        found = Calibration(sums_to_one=True)(torch.rand(2, 16, 3), torch.rand(1, 4, 4), ((1,),))
        torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 16))

    def test_maps_at_another_side(self):
        maps = torch.rand(1, 4, 4)
        assert at_side(maps, 2)[0, 0, 0] == pytest.approx(float(maps[0, :2, :2].mean()))
        assert at_side(maps, 8).shape == (1, 8, 8)

    def test_a_calibrated_edit_injects_its_own_maps(self, denoiser, start):
        phrases = ("a red star", "a tree")
        calibration = Calibration.with_gamma(1 / 3)
        found = latents(denoiser, [Edit(SWAP), Edit(SWAP, calibration=calibration)], start, phrases=phrases)
        assert (found[1] - found[2]).abs().max() > 1e-3
        nothing = Calibration(share=0.0)
        found = latents(denoiser, [Edit(SWAP), Edit(SWAP, calibration=nothing)], start, phrases=phrases)
        torch.testing.assert_close(found[1], found[2])

    def test_the_score_sees_whole_phrases(self, denoiser):
        picture = torch.rand(3, 32, 32)
        (found,) = source_heatmaps(denoiser, picture, TEXT, ("a red star", "a tree"), [Recipe.reference()], "one")
        assert found.classes == ("red star", "tree")
        assert found.values.shape == (2, 32, 32)
        assert [*map(without_article, ("an orange box", "The moon", "a"))] == ["orange box", "moon", "a"]

    def test_only_calibrated_edits_amplify_rounding(self):
        assert not Edit(SWAP).amplifies_rounding
        assert Edit(SWAP, calibration=Calibration()).amplifies_rounding


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Edit(" "), EditError, "target of an edit is empty"),
        (lambda: Edit(SWAP, "swap"), ValueError, "unknown words 'swap'; known: replace, refine"),
        (lambda: Edit(SWAP, cross_steps=1.5), ValueError, "cross_steps"),
        (lambda: Edit(SWAP, special_steps=(("moon", (0, 2)),)), ValueError, "the end of 'moon'"),
        (lambda: LocalBlend((), (), threshold=2), ValueError, "threshold"),
        (lambda: Calibration(scaling="area"), ValueError, "unknown scaling 'area'; known: mass, range"),
    ],
)
def test_settings_are_checked_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (Edit("a photo of a star"), "words='refine'"),
        (Edit(SWAP, weights=(("sun", 2.0),)), "'sun' is not in"),
        (Edit(SWAP, weights=(("a", 2.0),)), "'a' occurs 3 times.*'and a'"),
        (Edit(SWAP, blend=LocalBlend(("moon",), ("moon",))), "'moon' is not in"),
        (Edit(SWAP, blend=LocalBlend(("star",), ("moon",), side=5)), "side 5, which no layer has"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(denoiser, start, one, message):
    with pytest.raises(EditError, match=message):
        latents(denoiser, [one], start)


def test_a_calibrated_edit_needs_phrases(denoiser, start):
    with pytest.raises(ValueError, match="need its phrases"):
        latents(denoiser, [Edit(SWAP, calibration=Calibration())], start)


@pytest.mark.parametrize("name", ["sd35", "flux", "pixart-alpha"])
def test_other_networks_are_refused(name):
    with pytest.raises(UnsupportedModelError, match="UNets"):
        check_is_unet(wrap(PIPELINES[name](), name))


def test_without_guidance(denoiser, start):
    found = edit(denoiser, TEXT, [Edit(TEXT), Edit(SWAP)], start, sampler=GRID, guidance=Guidance(1.0)).latents
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)
