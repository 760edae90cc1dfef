"""The methods of Table V against naive loops over pictures, tokens and pixels."""

from __future__ import annotations

import itertools
import math

import pytest
import tiny
import torch
from torch.nn import functional as F

from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.sampling import Guidance, Moment, ReleasedGrid, sample
from elbo_core.errors import UnsupportedModelError
from elbo_core.generation.attend_excite import AttendAndExcite, Excitement, smooth
from elbo_core.generation.attention_steps import attention_side, mean_maps
from elbo_core.generation.generate import generate, start_noise
from elbo_core.generation.method import Baseline, Described, Mention
from elbo_core.generation.reweight import ConstantWeights, ScoreReweighting, scaled
from elbo_core.generation.syngen import SynGen, distances

GRID = ReleasedGrid(4)


def described(text: str, *phrases: tuple[str, str, tuple[str, ...]]) -> Described:
    """From (phrase, noun, modifiers), each by the first place after what came before."""
    mentions, start = [], 0
    for phrase, noun, modifiers in phrases:
        start = text.index(phrase, start)
        words = {word: text.index(word, start) for word in (noun, *modifiers)}
        spans = {word: (place, place + len(word)) for word, place in words.items()}
        mentions.append(Mention((start, start + len(phrase)), spans[noun], tuple(spans[word] for word in modifiers)))
        start += len(phrase)
    return Described(text, tuple(mentions))


PAIR = described("a red star and a blue tree", ("a red star", "star", ("red",)), ("a blue tree", "tree", ("blue",)))
TRIPLE = described(
    "a hot dog, a small red moon and grass",
    ("a hot dog", "hot dog", ()), ("a small red moon", "moon", ("small", "red")), ("grass", "grass", ()),
)  # fmt: skip
ONE = described("a photo of a red star", ("a red star", "star", ("red",)))
NONE = described("grass")
PROMPTS = [PAIR, TRIPLE, ONE, NONE]
METHODS = [Baseline(), AttendAndExcite(), SynGen(), ScoreReweighting(), ScoreReweighting(over=(200, 700)),
           ConstantWeights(1.1)]  # fmt: skip


@pytest.fixture(scope="module")
def denoiser():
    """Latents of side 8: a quarter of them is 2, where the model has attention too."""
    return wrap(tiny.stable_diffusion(), "tiny")


def moment_of(denoiser, prompts, step: int = 0, steps: int = 50) -> Moment:
    noise = torch.stack([start_noise(denoiser, prompt.text, 0) for prompt in prompts])
    text = denoiser.encode_text([prompt.text for prompt in prompts])
    return Moment(denoiser, step, steps, 999 - 20 * step, noise, text, denoiser.encode_text([""]))


def tokens_of(denoiser, text: str, word: str, last: int | None = None) -> list[int]:
    """Columns of a word's first occurrence, by the tokenizer's offsets."""
    offsets = denoiser.pipeline.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    start = text.index(word)
    return [k for k, (a, b) in enumerate(offsets) if a < start + len(word) and start < b]


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_does_not_depend_on_its_batch(denoiser, method):
    together = generate(denoiser, method, PROMPTS, [0, 1, 2, 3], GRID)
    alone = [generate(denoiser, method, [prompt], [k], GRID) for k, prompt in enumerate(PROMPTS)]
    for k, own in enumerate(alone):
        assert abs(together.pictures[k].astype(int) - own.pictures[0].astype(int)).max() <= 1
        assert (together.evaluations[k], together.acts[k]) == (own.evaluations[0], own.acts[0])


@pytest.mark.parametrize(("method", "acts"), zip(METHODS, [
    [True] * 4, [True, True, True, False], [True, True, True, False], [True, True, False, False],
    [True, True, False, False], [True, True, True, False],
], strict=True))  # fmt: skip
def test_where_a_method_does_nothing_the_picture_is_the_baselines(denoiser, method, acts):
    plain = generate(denoiser, Baseline(), PROMPTS, [0] * 4, GRID)
    own = generate(denoiser, method, PROMPTS, [0] * 4, GRID)
    assert own.acts.tolist() == acts
    for k, does in enumerate(acts):
        difference = abs(own.pictures[k].astype(int) - plain.pictures[k].astype(int)).max()
        assert difference <= 1 if not does else difference > 0 or isinstance(method, Baseline)


@pytest.mark.parametrize(("method", "evaluations"), [
    (Baseline(), [8, 8, 8, 8]),
    (ScoreReweighting(), [8 + 4 * 3, 8 + 4 * 4, 8, 8]),
    (ScoreReweighting(over=(200, 700)), [8 + 4 * 5, 8 + 4 * 7, 8, 8]),
    (SynGen(), [10, 10, 10, 8]),
])  # fmt: skip
def test_evaluations_are_counted(denoiser, method, evaluations):
    """Two a step for guidance; one more for the prompt and each phrase; one more in half of the steps."""
    assert generate(denoiser, method, PROMPTS, [0] * 4, GRID).evaluations.tolist() == evaluations


class TestReweighting:
    def test_released_weights_are_those_of_a_loop(self, denoiser):
        moment = moment_of(denoiser, [PAIR, TRIPLE], step=10)
        hook = ScoreReweighting().hook(denoiser, [PAIR, TRIPLE])
        changed = hook.before(moment)
        expected = []
        for k, prompt in enumerate([PAIR, TRIPLE]):
            latents, times = moment.latents[k : k + 1], torch.tensor([moment.timestep])
            texts = [denoiser.encode_text([text]) for text in (prompt.text, *prompt.phrases())]
            with torch.no_grad():
                whole, *alone = [denoiser.respond(latents, times, text) for text in texts]
            errors = [F.mse_loss(whole, own).item() for own in alone]
            scaled_errors = [(error - min(errors)) / (max(errors) - min(errors)) for error in errors]
            expected += [round(1.2**error, 2) for error in scaled_errors]
        assert hook.history[0].tolist() == pytest.approx(expected)
        assert {1.0, 1.2} <= set(hook.history[0].tolist())
        assert (changed.text.embeddings != moment.text.embeddings).any()

    def test_at_one_timestep_the_paper_says_the_same(self, denoiser):
        """Eq. (4) at the current timestep alone differs by a factor that all phrases share."""
        moment = moment_of(denoiser, [PAIR, TRIPLE], step=10)
        released, text = (
            ScoreReweighting(over=over, decimals=6).hook(denoiser, [PAIR, TRIPLE]) for over in ((), (799,))
        )
        torch.testing.assert_close(released.weights(moment), text.weights(moment), atol=1e-4, rtol=0)

    def test_expectation_over_timesteps_is_that_of_a_loop(self, denoiser):
        moment, over = moment_of(denoiser, [PAIR], step=10), (200, 700)
        hook = ScoreReweighting(over=over, decimals=6).hook(denoiser, [PAIR])
        now = torch.tensor([moment.timestep])
        with torch.no_grad():
            output = denoiser.respond(moment.latents, now, moment.text)
        clean, epsilon = (
            denoiser.to_clean(output, moment.latents, now),
            denoiser.to_epsilon(output, moment.latents, now),
        )
        errors = []
        for phrase in PAIR.phrases():
            total = 0.0
            for timestep in map(torch.tensor, [[k] for k in over]):
                noisy = denoiser.noise(clean, epsilon, timestep)
                estimate = denoiser.predict(noisy, timestep, denoiser.encode_text([phrase]))
                slope = -denoiser.schedule.at(timestep).log_snr_slope.item()
                total += slope / 2 * F.mse_loss(estimate, epsilon).item()
            errors.append(total)
        expected = [1.2 if error == max(errors) else 1.0 for error in errors]
        assert hook.weights(moment).tolist() == pytest.approx(expected, abs=1e-5)

    def test_equal_losses_give_weights_of_one(self, denoiser):
        twice = described("a star and a star", ("a star", "star", ()), ("a star", "star", ()))
        hook = ScoreReweighting().hook(denoiser, [twice])
        assert hook.weights(moment_of(denoiser, [twice])).tolist() == [1.0, 1.0]

    def test_scaling_is_by_picture(self):
        values = scaled(torch.tensor([2.0, 4.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 2, 2]), 3)
        assert values.tolist() == [0, 1, 0.5, 0, 0]

    def test_strength_one_is_the_baseline(self, denoiser):
        own, plain = (generate(denoiser, method, [PAIR], [0], GRID) for method in (ScoreReweighting(1.0), Baseline()))
        assert abs(own.pictures.astype(int) - plain.pictures.astype(int)).max() <= 1

    @pytest.mark.parametrize("strength", [0.9, math.nan, "1.2", True])
    def test_other_strengths_are_refused(self, strength):
        with pytest.raises((TypeError, ValueError), match="strength"):
            ScoreReweighting(strength)


class TestAttendAndExcite:
    def test_smoothing_is_the_published_kernel(self):
        dot = torch.zeros(1, 8, 8)
        dot[0, 3, 4] = 1
        corner, side, middle = 0.0449, 0.1221, 0.3319
        kernel = torch.tensor([[corner, side, corner], [side, middle, side], [corner, side, corner]])
        smoothed = smooth(dot.flatten(1)).reshape(8, 8)
        torch.testing.assert_close(smoothed[2:5, 3:6], kernel, atol=1e-4, rtol=0)
        assert smoothed.sum().item() == pytest.approx(1)

    def test_smoothing_mirrors_at_the_border(self):
        assert torch.allclose(smooth(torch.ones(2, 64)), torch.ones(2, 64))

    def test_losses_are_those_of_a_loop(self, denoiser):
        prompts = [PAIR, TRIPLE, ONE]
        hook, moment = Excitement(AttendAndExcite(), denoiser, prompts), moment_of(denoiser, prompts)
        cross, _ = denoiser.attend(moment.latents, moment.timesteps, moment.text)
        maps = mean_maps(cross, attention_side(cross, denoiser))
        expected = []
        for k, nouns in enumerate([["star", "tree"], ["hot dog", "moon", "grass"], ["star"]]):
            shares = (100 * maps[k][:, 1:-1]).softmax(dim=-1)
            peaks = [
                smooth(shares[:, tokens_of(denoiser, prompts[k].text, noun)[-1] - 1][None]).max().item()
                for noun in nouns
            ]
            expected.append(max(0, *(1 - peak for peak in peaks)))
        assert hook.losses(maps, torch.arange(3)).tolist() == pytest.approx(expected, abs=1e-6)
        assert hook.losses(maps[[2, 0]], torch.tensor([2, 0])).tolist() == pytest.approx(
            [expected[2], expected[0]], abs=1e-6
        )

    def test_words_only_leaves_out_end_and_padding(self, denoiser):
        hook = Excitement(AttendAndExcite(words_only=True), denoiser, [PAIR])
        assert hook.counted[0].nonzero()[:, 0].tolist() == list(range(1, 8))

    def test_step_sizes_fall_as_published(self, denoiser):
        hook = Excitement(AttendAndExcite(), denoiser, [PAIR])
        sizes = [hook.step_size(moment_of(denoiser, [PAIR], step)) for step in (0, 24, 49)]
        assert sizes == pytest.approx([20, 17.4, 14.1], abs=0.05)

    def test_a_step_descends(self, denoiser):
        hook, moment = Excitement(AttendAndExcite(), denoiser, [PAIR, ONE]), moment_of(denoiser, [PAIR, ONE])
        stepped, before = hook.descend(moment, torch.arange(2), 0.1)
        _, after = hook.descend(stepped, torch.arange(2), 0.1)
        assert (after < before).all()

    def test_only_half_of_the_steps_are_changed(self, denoiser):
        hook = Excitement(AttendAndExcite(), denoiser, [PAIR])
        assert hook.before(moment := moment_of(denoiser, [PAIR], 25)) is moment
        assert hook.before(moment := moment_of(denoiser, [PAIR], 24)) is not moment

    def test_refinement_stops_at_the_target_or_after_twenty(self, denoiser):
        never = Excitement(AttendAndExcite(targets=(1.0, 1.0, 1.0)), denoiser, [PAIR])
        never.before(moment_of(denoiser, [PAIR]))
        assert never.evaluations.tolist() == [1 + 20 + 1]
        at_once = Excitement(AttendAndExcite(targets=(0.0, 0.0, 0.0)), denoiser, [PAIR])
        at_once.before(moment_of(denoiser, [PAIR]))
        assert at_once.evaluations.tolist() == [2]


class TestSynGen:
    def test_distances_are_symmetric_kl(self):
        maps = torch.rand(2, 16, 5, generator=torch.Generator().manual_seed(0))
        shares = maps / maps.sum(dim=1, keepdim=True)
        for k, i, j in itertools.product(range(2), range(5), range(5)):
            p, q = shares[k, :, i], shares[k, :, j]
            expected = (F.kl_div(q.log(), p, reduction="sum") + F.kl_div(p.log(), q, reduction="sum")) / 2
            assert distances(maps)[k, i, j].item() == pytest.approx(expected.item(), abs=1e-5)

    def test_losses_are_those_of_a_loop(self, denoiser):
        prompts = [PAIR, TRIPLE, NONE]
        hook, moment = SynGen().hook(denoiser, prompts), moment_of(denoiser, prompts)
        cross, _ = denoiser.attend(moment.latents, moment.timesteps, moment.text)
        maps = mean_maps(cross, attention_side(cross, denoiser))
        apart = distances(maps)
        groups = [[("star", ["red"]), ("tree", ["blue"])], [("hot dog", []), ("moon", ["small", "red"])], []]
        expected = [self.loss(denoiser, prompts[k].text, apart[k], own) for k, own in enumerate(groups)]
        assert hook.losses(maps, torch.arange(3)).tolist() == pytest.approx(expected, abs=1e-4)
        assert hook.losses(maps[[1]], torch.tensor([1])).tolist() == pytest.approx(expected[1:2], abs=1e-4)

    def loss(self, denoiser, text, apart, groups) -> float:
        words = range(1, len(denoiser.pipeline.tokenizer(text).input_ids) - 1)
        total = 0.0
        for noun, modifiers in groups:
            own = {word: tokens_of(denoiser, text, word) for word in (noun, *modifiers)}
            outside = [k for k in words if k not in itertools.chain(*own.values())]
            for modifier in modifiers:
                total += max(apart[i, j].item() for i in own[noun] for j in own[modifier])
                for word in (noun, modifier):
                    total -= sum(max(apart[i, o].item() for i in own[word]) for o in outside) / len(outside) / 2
        return total

    def test_a_step_descends(self, denoiser):
        hook, moment = SynGen().hook(denoiser, [PAIR, TRIPLE]), moment_of(denoiser, [PAIR, TRIPLE])
        stepped, before = hook.descend(moment, torch.arange(2), 0.05)
        _, after = hook.descend(stepped, torch.arange(2), 0.05)
        assert (after < before).all()


def test_gradient_methods_say_that_they_amplify_rounding():
    assert [method.amplifies_rounding for method in METHODS] == [False, True, True, False, False, False]


@pytest.mark.parametrize("family", ["sd-v", "sdxl", "sd35"])
def test_reweighting_works_for_every_family(family):
    other = wrap(tiny.PIPELINES[family](), family)
    prompt = described("a red star and a photo", ("a red star", "star", ("red",)), ("a photo", "photo", ()))
    made = generate(other, ScoreReweighting(), [prompt], [0], ReleasedGrid(2))
    assert made.pictures.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("method", [AttendAndExcite(), SynGen()])
def test_a_model_without_the_wanted_attention_is_refused(method):
    other = wrap(tiny.stable_diffusion_3(), "sd35")  # sides of 4 alone; 2 is a quarter
    with pytest.raises(UnsupportedModelError, match="text attention of the sides"):
        generate(other, method, [PAIR], [0], GRID)


def test_a_prompt_that_is_too_long_is_refused(denoiser):
    long = Described("a star and " * 30)
    with pytest.raises(ValueError, match="the text encoder reads 77 tokens"):
        generate(denoiser, Baseline(), [long], [0], GRID)


def test_a_phrase_without_tokens_is_refused(denoiser):
    beyond = Described("a star", (Mention((6, 6), (6, 6)), Mention((0, 6), (2, 6))))
    with pytest.raises(ValueError, match="no token"):
        generate(denoiser, ScoreReweighting(), [beyond], [0], GRID)


def test_all_methods_start_from_the_same_noise(denoiser):
    starts = [start_noise(denoiser, text, seed) for text, seed in (("a", 0), ("a", 0), ("a", 1), ("b", 0))]
    assert torch.equal(starts[0], starts[1])
    assert not any(torch.equal(starts[0], other) for other in starts[2:])


def test_guidance_and_steps_are_the_callers(denoiser):
    text = denoiser.encode_text([PAIR.text])
    noise = start_noise(denoiser, PAIR.text, 3)[None]
    *_, last = sample(denoiser, text, noise, GRID, Guidance(3.0))
    expected = (denoiser.decode_latents(last.latents) * 255).round()[0].permute(1, 2, 0).numpy()
    assert abs(generate(denoiser, Baseline(), [PAIR], [3], GRID, Guidance(3.0)).pictures[0] - expected).max() == 0
