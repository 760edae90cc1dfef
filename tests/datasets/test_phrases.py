"""The phrases of captions, against fifty that a person has read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from elbo_core.datasets.phrases import find_noun, noun_phrases

CHECKED = yaml.safe_load((Path(__file__).parent / "phrases.yaml").read_text())


def expected(things: list) -> list[tuple[str, tuple[str, ...]]]:
    pairs = [thing.popitem() if isinstance(thing, dict) else (thing, []) for thing in map(_copy, things)]
    return [(noun, tuple(attributes)) for noun, attributes in pairs]


def _copy(thing):
    return dict(thing) if isinstance(thing, dict) else thing


def found(text: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(phrase.subject, phrase.attributes) for phrase in noun_phrases(text)]


def test_at_least_nine_of_ten_phrases_are_as_a_person_reads_them():
    assert len(CHECKED) == 50
    right = wrong = missed = 0
    for text, things in CHECKED.items():
        ours, theirs = found(text), expected(things)
        right += len([phrase for phrase in ours if phrase in theirs])
        wrong += len([phrase for phrase in ours if phrase not in theirs])
        missed += len([phrase for phrase in theirs if phrase not in ours])
    print(f"precision {right / (right + wrong):.3f}, recall {right / (right + missed):.3f} of {right + missed}")
    assert right / (right + wrong) >= 0.9
    assert right / (right + missed) >= 0.9


@pytest.mark.parametrize("text", CHECKED)
def test_spans_point_at_the_words(text):
    for phrase in noun_phrases(text):
        words, noun = text[slice(*phrase.phrase)], text[slice(*phrase.noun)]
        assert words.endswith(noun)
        assert noun.split()[:-1] == phrase.subject.split()[:-1]
        assert all(attribute in words.lower() for attribute in phrase.attributes)


@pytest.mark.parametrize(("phrase", "name", "noun"), [
    ("a red car", "car", "car"), ("three baby rabbits", "rabbit", "rabbits"), ("two spotted mice", "mouse", "mice"),
    ("some sliced strawberries", "strawberry", "strawberries"), ("A Bow", "bow", "Bow"),
])  # fmt: skip
def test_a_noun_is_found_in_the_plural_too(phrase, name, noun):
    assert phrase[slice(*find_noun(phrase, name))] == noun


def test_a_phrase_about_something_else_is_refused():
    with pytest.raises(ValueError, match="'a red cart' does not name 'car'"):
        find_noun("a red cart", "car")


def test_no_words_no_phrases():
    assert noun_phrases("") == noun_phrases(" , .") == []
