"""The prompt sets' rules, checked against the lists of words that they are made of."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

from elbo_core.datasets.prompts import ANIMALS, COLORS, DVMP, OBJECTS, PROMPT_SETS, WITHOUT_COLOR, prompt_set
from elbo_core.errors import DatasetError


def test_attend_and_excite_has_all_combinations(tmp_path):
    prompts = prompt_set("a&e", root=tmp_path)
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 276
    things = [tuple(re.findall(rf"\b({'|'.join(ANIMALS + OBJECTS)})\b", prompt.text)) for prompt in prompts]
    assert len(set(things)) == 276
    assert [len({*pair} & {*ANIMALS}) for pair in things] == [2] * 66 + [1] * 144 + [0] * 66
    colored = [len(re.findall(rf"\b({'|'.join(COLORS[:11])})\b", prompt.text)) for prompt in prompts]
    assert colored[:66] == [0] * 66
    assert colored[66:210] == [0 if thing in WITHOUT_COLOR else 1 for _, thing in things[66:210]]
    assert colored[210:] == [2] * 66
    assert (prompts[0].text, prompts[209].text.split()[:2]) == ("a cat and a dog", ["a", "mouse"])


def test_the_rule_draws_the_same_from_the_same_seed(tmp_path):
    for name in ("a&e", "dvmp"):
        texts = [[prompt.text for prompt in prompt_set(name, seed=seed, root=tmp_path)] for seed in (1, 1, 2)]
        assert texts[0] == texts[1] != texts[2]
        assert [prompt.text for prompt in prompt_set(name, 5, 1, tmp_path)] == texts[0][:5]


def test_dvmp_keeps_its_rules(tmp_path):
    prompts = prompt_set("dvmp", root=tmp_path)
    assert len({prompt.text for prompt in prompts}) == 200
    phrases = [phrase for prompt in prompts for phrase in prompt.text.split(" and ")]
    assert {len(prompt.text.split(" and ")) for prompt in prompts} == {1, 2, 3}
    for phrase in phrases:
        article, *modifiers, name = phrase.split()
        category = next(category for category in DVMP if name in category.names)
        assert article == ("an" if modifiers[0][0] in "aeiou" else "a")
        own = modifiers[modifiers[0] in COLORS :]
        assert set(own) <= set(category.modifiers)
        assert len(set(own)) == len(own) <= category.most
    colored = np.mean([phrase.split()[1] in COLORS for phrase in phrases])
    assert 0.3 < colored < 0.55, "one third, more among those that are left when bare phrases are drawn again"


def test_every_thing_of_a_prompt_is_found(tmp_path):
    for prompt in prompt_set("dvmp", root=tmp_path):
        words = [phrase.split()[1:] for phrase in prompt.text.split(" and ")]
        assert [(*phrase.attributes, phrase.subject) for phrase in prompt.phrases] == [tuple(word) for word in words]


def test_files_win_over_rules(tmp_path):
    (tmp_path / "prompts").mkdir()
    groups = {"objects": ["a red car and a blue bowl"], "animals": ["a cat and a dog"], "animals_objects": []}
    (tmp_path / "prompts" / "AnE.json").write_text(json.dumps(groups))
    (tmp_path / "prompts" / "DVMP.txt").write_text("a furry cat\n\n two red cars \n")
    assert [prompt.text for prompt in prompt_set("a&e", root=tmp_path)] == ["a cat and a dog", groups["objects"][0]]
    assert [prompt.text for prompt in prompt_set("dvmp", root=tmp_path)] == ["a furry cat", "two red cars"]


def test_pairs_of_abc_6k_stay_together(tmp_path):
    (tmp_path / "prompts").mkdir()
    path = tmp_path / "prompts" / "ABC-6K.txt"
    path.write_text("a red car and a white sheep\na white car and a red sheep .\none cat\none dog\n")
    prompts = prompt_set("abc-6k", root=tmp_path)
    assert [prompt.pair for prompt in prompts] == [0, 0, 1, 1]
    assert prompts[1].phrases[0].attributes == ("white",)
    path.write_text("one\ntwo\nthree\n")
    with pytest.raises(DatasetError, match=r"ABC-6K\.txt has 3 prompts; pairs"):
        prompt_set("abc-6k", root=tmp_path)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a&e", "[1, 2]", r"AnE\.json is not A&E's list"), ("a&e", "{}", "KeyError"),
    ("dvmp", " \n", r"DVMP\.txt holds no prompt"), ("a&e", "[" * 100_000, r"AnE\.json is not A&E's list"),
    ("a&e", '{"animals": "a cat", "animals_objects": [], "objects": []}', "a group is no list of texts"),
    ("a&e", '{"animals": [5], "animals_objects": [], "objects": []}', "a group is no list of texts"),
])  # fmt: skip
def test_broken_files_are_named(name, text, message, tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / PROMPT_SETS[name].file).write_text(text)
    with pytest.raises(DatasetError, match=message):
        prompt_set(name, root=tmp_path)


def test_a_file_that_is_there_is_never_drawn_instead(tmp_path):
    path = tmp_path / "prompts" / "DVMP.txt"
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(DatasetError, match=r"DVMP\.txt is missing, or no ordinary file"):
        prompt_set("dvmp", root=tmp_path)
    path.unlink()
    path.write_bytes("ein Bär".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"DVMP\.txt cannot be read as UTF-8"):
        prompt_set("dvmp", root=tmp_path)


@pytest.mark.parametrize("count", [0, -1, 2.0])
def test_counts_are_whole_and_at_least_one(count):
    with pytest.raises((TypeError, ValueError), match="the number of prompts must be"):
        prompt_set("dvmp", count)


def test_what_cannot_be_drawn_says_where_it_is(tmp_path):
    with pytest.raises(DatasetError, match=r"ABC-6K\.txt is missing; get ABC-6K\.txt \(6434 lines\)"):
        prompt_set("abc-6k", root=tmp_path)
    with pytest.raises(ValueError, match="unknown prompt set 'cc-500'; known: a&e, dvmp, abc-6k"):
        prompt_set("cc-500")
