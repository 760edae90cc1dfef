"""Generated pictures as a work: what is stored, how it goes on, and what the items are."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from elbo_core.datasets.prompts import prompt_set
from elbo_core.errors import MeasurementError
from elbo_core.experiments import generation
from elbo_core.experiments.generation import BASELINE, OURS, Generation, describe, read, rows_of, wanted_of, works
from elbo_core.experiments.profiles import PROFILES
from elbo_core.toy.textures import COLORS
from elbo_core.toy.world import THINGS

TOY_SETS = ("toy-ae", "toy-dvmp", "toy-abc")
WORK = Generation("toy-sd15", "toy-ae", "reweighting", prompts=2, seeds=2, steps=2)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return root, read(WORK, root)


@pytest.mark.parametrize("name", TOY_SETS)
class TestPromptSets:
    def test_there_are_a_hundred_or_more_and_always_the_same(self, name, tmp_path):
        prompts = prompt_set(name, root=tmp_path)
        assert len(prompts) >= 100
        assert [prompt.text for prompt in prompt_set(name, 5, root=tmp_path)] == [prompt.text for prompt in prompts[:5]]

    def test_things_and_colours_are_read_as_they_are_written(self, name, tmp_path):
        pattern = re.compile(rf"\b(?:({'|'.join(COLORS)}) )?({'|'.join(THINGS)})\b")
        for prompt in prompt_set(name, root=tmp_path):
            written = [(match[1], match[2]) for match in pattern.finditer(prompt.text)]
            assert wanted_of(prompt) == written, prompt.text
            assert len({thing for _, thing in written}) == len(written), "no thing is named twice"

    def test_every_modifier_is_found(self, name, tmp_path):
        for prompt in prompt_set(name, 40, root=tmp_path):
            for mention in describe(prompt).mentions:
                start, end = mention.phrase
                words = prompt.text[start:end].split()
                told = [prompt.text[a:b] for a, b in (*mention.modifiers, mention.noun)]
                assert [word for word in words if word not in ("a", "an", "the")] == told


def test_pairs_have_their_colours_exchanged(tmp_path):
    prompts = prompt_set("toy-abc", 20, root=tmp_path)
    for one, two in zip(prompts[::2], prompts[1::2], strict=True):
        (a, first), (b, second) = wanted_of(one)
        assert wanted_of(two) == [(b, first), (a, second)]
        assert one.pair == two.pair


def test_the_picture_itself_is_no_phrase(tmp_path):
    prompts = [prompt for prompt in prompt_set("toy-abc", root=tmp_path) if prompt.text.startswith("a photo of")]
    assert all(not mention.phrase[0] < 10 for prompt in prompts for mention in describe(prompt).mentions)


def test_two_methods_are_stored_for_every_prompt_and_seed(stored):
    _, frame = stored
    assert list(frame.row) == [BASELINE] * 4 + [OURS] * 4
    assert list(frame.seed) == [0, 1, 0, 1] * 2
    assert frame.clip_score.between(-100, 100).all()
    assert set(frame.evaluations) == {4, 4 + 2 * 3}
    assert (frame.right <= frame.there).all()
    assert (frame.there <= frame.things).all()


def test_what_is_stored_is_not_measured_again(stored, monkeypatch):
    root, frame = stored
    monkeypatch.setattr(generation, "loaded", lambda model: pytest.fail("the model was loaded"))
    assert read(WORK, root).equals(frame)


def test_a_lost_picture_is_all_that_is_measured_again(stored, monkeypatch):
    root, frame = stored
    store = WORK.store(root)
    next(store.folder.glob("000002.*.parquet")).unlink()
    made = []
    plain = generation.generate_items
    monkeypatch.setattr(
        generation, "generate_items", lambda *arguments: made.append(len(arguments[2])) or plain(*arguments)
    )
    again = read(WORK, root)
    assert made == [1, 1]
    columns = ["index", "row", "there", "right", "evaluations"]
    assert again[columns].reset_index(drop=True).equals(frame[columns].reset_index(drop=True))
    assert (again.clip_score.to_numpy() - frame.clip_score.to_numpy()).__abs__().max() < 0.05


def test_more_prompts_go_on_where_fewer_ended(stored):
    root, _ = stored
    more = replace(WORK, prompts=3)
    assert more.contents()[:4] == WORK.contents()
    assert set(more.store(root).measured(more.contents())) == {0, 1, 2, 3}


def test_what_fails_says_which_items(tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no picture today")

    monkeypatch.setattr(generation, "generate_items", broken)
    work = replace(WORK, prompts=1)
    with pytest.raises(MeasurementError, match="items 0 to 1 of toy-ae could not be measured: no picture today"):
        work.measure(work.store(tmp_path), [0, 1])


def test_methods_are_told_apart_by_all_that_matters():
    definitions = [set(replace(WORK, batch=batch, steps=steps).methods()) for batch, steps in
                   (("composition", 50), ("strengths", 50), ("composition", 10))]  # fmt: skip
    assert [len(found) for found in definitions] == [4, 7, 4]
    assert len(definitions[0] & definitions[1]) == 2, "the baseline, and w = 1.2, which is ours"
    assert not definitions[0] & definitions[2]


def test_attend_and_excite_reads_stable_diffusion_2_as_its_authors_do():
    assert rows_of("composition", "toy-sd21")["A&E"].words_only
    assert not rows_of("composition", "toy-sd15")["A&E"].words_only


def test_an_unknown_batch_is_refused():
    with pytest.raises(ValueError, match="unknown batch 'table 5'; known: composition"):
        rows_of("table 5", "toy-sd15")


def test_the_works_of_a_profile():
    found = works(PROFILES["smoke"])
    assert {(work.model, work.batch) for work in found} == {
        ("toy-sd15", "composition"), ("toy-sd15", "recipes"), ("toy-sd15", "strengths"),
        ("toy-sd21", "composition"), ("toy-sdxl", "reweighting"),
    }  # fmt: skip
    assert {work.dataset for work in found} == set(TOY_SETS)
