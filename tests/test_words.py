"""Names and mentions in all scripts; the rules for scripts with spaces are held to the regular expression of old."""

import random
import re
import unicodedata

import pytest

from elbo_core.words import breaks, clean, mentions, odd_character, overlap, same


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("一只猫在狗旁边", "猫", ["猫"]),
        ("一只猫在狗旁边", "狗", ["狗"]),
        ("แมวและสุนัข", "แมว", ["แมว"]),
        ("แมวและสุนัข", "สุนัข", ["สุนัข"]),
        ("犬とネコがいる", "ネコ", ["ネコ"]),
        ("ໝາແລະແມວ", "ແມວ", ["ແມວ"]),
        ("ឆ្មានិងឆ្កែ", "ឆ្កែ", ["ឆ្កែ"]),
        ("一只cat在", "cat", ["cat"]),
        ("a hot\tdog, a hot\u00a0dog, a hot\n dog", "hot dog", ["hot\tdog", "hot\u00a0dog", "hot\n dog"]),
        ("A STAR and a star", "Star", ["STAR", "star"]),
        ("starfish, stars, my_star, star2", "star", []),
        ("x\u0302 is no x", "x", ["x"]),
        ("หน้า กิ", "ก", []),
        ("हिन्दी", "हिन", []),
        ("c++ and c", "c++", ["c++"]),
        ("$5 (star)", "$5", ["$5"]),
        ("xa a a", "a a", ["a a"]),
    ],
)
def test_mentions(text, name, found):
    assert [text[slice(*span)] for span in mentions(text, name)] == found


def test_mentions_equal_the_plain_rule_where_words_have_spaces():
    chance = random.Random(0)
    words, gaps = ["dog", "hot dog", "Star", "café", "3", "dog2", "(dog)", "x-ray", "_"], [" ", ", ", "-", "", "\n"]
    for _ in range(2000):
        text = "".join(chance.choice(words) + chance.choice(gaps) for _ in range(8))
        name = chance.choice(["dog", "star", "café", "3", "x-ray"])
        plain = re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text, flags=re.IGNORECASE)
        assert mentions(text, name) == tuple(match.span() for match in plain)


def test_what_is_taken_is_left_alone():
    assert mentions("dog dog", "dog", taken=[(0, 3)]) == ((4, 7),)
    assert overlap((0, 3), (2, 4))
    assert not overlap((0, 3), (3, 4))


@pytest.mark.parametrize("space", "\t\n\v\f\r \x85\u00a0\u1680\u2003\u2028\u202f\u3000")
def test_any_white_space_is_one_space(space):
    assert clean(f"{space}hot{space}{space}dog{space}") == "hot dog"
    assert odd_character(f"hot{space}dog") is None


@pytest.mark.parametrize("other", ["Star", " star", "STAR\n", "ｓｔａｒ"])
def test_one_name(other):
    assert same(other) == same("star")


def test_composed_and_decomposed_are_one_name():
    assert same("café") == same(unicodedata.normalize("NFD", "CAFÉ"))
    assert clean(unicodedata.normalize("NFD", "café")) == "café"
    assert same("star") != same("stars")


@pytest.mark.parametrize(
    "odd", "\0\x07\x1b\x1f\x7f\x9f\u00ad\u200b\u200d\u200e\u2060\ufeff\u3164\u115f\u2800\ufe0f\u034f"
)
def test_what_nobody_sees_is_named(odd):
    assert odd_character(f"st{odd}ar").startswith(f"U+{ord(odd):04X}")


@pytest.mark.parametrize("odd", ["\ud800", "\ue000", "\U000e0041", "\U000e0100", "\uffff"])
def test_what_is_no_character_is_named(odd):
    assert odd_character(odd).startswith(f"U+{ord(odd):04X}")


@pytest.mark.parametrize("text", ["star", "écran", "猫", "สุนัข", "ঘর", "כלב", "🐶", "c++", "$5", "N°5"])
def test_what_is_written_passes(text):
    assert odd_character(text) is None


def test_breaks_never_part_a_mark_from_its_letter():
    assert breaks("a hot dog") == [2, 6]
    assert breaks("猫和狗") == [1, 2]
    assert breaks("กิน") == [2]
    assert breaks("starfish") == []
