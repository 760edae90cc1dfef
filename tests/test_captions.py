import unicodedata

import numpy as np
import pytest

from elbo_core.captions import (
    Caption,
    check_classes,
    check_template,
    find_classes,
    list_captions,
    split,
    token_columns,
    without,
)
from elbo_core.datasets.names import class_names
from elbo_core.training.text import build_tokenizer
from elbo_core.words import same


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def fits(tokenizer):
    return lambda text: len(tokenizer(text).input_ids) <= tokenizer.model_max_length


def words(caption: Caption, name: str) -> list[str]:
    return [caption.text[start:end] for start, end in caption.spans[name]]


def decoded(caption: Caption, tokenizer, name: str) -> str:
    ids = tokenizer(caption.text).input_ids
    return tokenizer.decode([ids[i] for i in token_columns(caption, tokenizer)[name]]).strip()


def test_list_caption_reads_like_the_released_prompt(fits):
    (caption,) = list_captions(["star", "hot dog"], fits)
    assert caption.text == "a photo of star, hot dog"
    assert words(caption, "hot dog") == ["hot dog"]


def test_every_class_finds_its_own_tokens(tokenizer, fits):
    names = ["screen door", "screen", "hot dog", "dog", "mushroom", "zebra crossing"]
    (caption,) = list_captions(names, fits)
    assert {name: decoded(caption, tokenizer, name) for name in names} == {name: name for name in names}
    columns = [set(c) for c in token_columns(caption, tokenizer).values()]
    assert sum(map(len, columns)) == len(set().union(*columns)), "no column belongs to two classes"


@pytest.mark.parametrize("style", ["prompted", "own"])
@pytest.mark.parametrize("name", ["voc", "context", "coco", "ade20k", "aep"])
def test_every_class_of_the_real_sets_finds_its_own_tokens(name, style, tokenizer, fits):
    names = class_names(name, style)
    captions = list_captions(names, fits)
    found = {one: decoded(caption, tokenizer, one) for caption in captions for one in caption.classes}
    assert {one: text.replace(" ", "") for one, text in found.items()} == {one: one.replace(" ", "") for one in names}
    for caption in captions:
        columns = list(token_columns(caption, tokenizer).values())
        assert sum(map(len, columns)) == len(set().union(*columns))


def test_a_name_inside_another_is_not_found_there(tokenizer):
    caption = find_classes("A hot dog beside a dog and hotdogs", ["dog", "hot dog"])
    assert words(caption, "dog") == ["dog"]
    assert caption.spans["dog"][0][0] == caption.text.index("dog and")
    assert words(caption, "hot dog") == ["hot dog"]


def test_every_mention_in_the_users_caption_counts(tokenizer):
    caption = find_classes("a star and a star", ["star"])
    assert token_columns(caption, tokenizer)["star"] == (2, 5)


def test_class_absent_from_the_caption_is_named():
    with pytest.raises(ValueError, match="'moon'"):
        find_classes("a photo of a star", ["star", "moon"])


@pytest.mark.parametrize(
    ("classes", "message"),
    [([], "no candidate"), (["star", " "], "class 1 is blank"), (["star", "tree", "star"], "'star' is named twice")],
)
def test_bad_class_lists(classes, message):
    with pytest.raises(ValueError, match=message):
        check_classes(classes)


@pytest.mark.parametrize("twin", ["star", "Star", "STAR", "star ", "\tstar", "ｓｔａｒ"])
def test_one_name_in_two_spellings_is_given_twice(twin):
    with pytest.raises(ValueError, match="is named twice, first as 'star'"):
        check_classes(["star", "moon", twin])


def test_composed_and_decomposed_are_given_twice():
    with pytest.raises(ValueError, match="is named twice"):
        check_classes(["café", unicodedata.normalize("NFD", "café")])


@pytest.mark.parametrize("classes", [
    ["star", "hot dog"], ("star", "hot dog"), np.array(["star", "hot dog"]), (name for name in ["star", "hot dog"]),
    {"star": 1, "hot dog": 2}, {"star": 1, "hot dog": 2}.keys(), ["star ", "hot\u00a0 dog"],
])  # fmt: skip
def test_classes_come_out_as_plain_names_in_their_order(classes):
    found = check_classes(classes)
    assert found == ("star", "hot dog")
    assert {type(name) for name in found} == {str}


@pytest.mark.parametrize("classes", [
    {"star", "moon"}, frozenset({"star"}), None, 5, [5], [b"star"], b"star", [None], [["star"]], np.array([1, 2]),
    np.array([["a", "b"]]), np.array("star"),
])  # fmt: skip
def test_what_is_no_list_of_names_is_refused(classes):
    with pytest.raises(TypeError, match=r"order|must be a text|must be a list"):
        check_classes(classes)


@pytest.mark.parametrize("name", ["st\u200bar", "\0", "star\x1b", "\ufeffstar", "\u3164", "a\ud800"])
def test_invisible_characters_are_refused(name):
    with pytest.raises(ValueError, match=r"class 1, .*, holds the invisible character U\+"):
        check_classes(["moon", name])


@pytest.mark.parametrize("name", ["", " ", "\n\t", "\u00a0", "\u3000"])
def test_blank_names_are_refused(name):
    with pytest.raises(ValueError, match="class 0 is blank"):
        check_classes([name])


@pytest.mark.parametrize("template", ["{}", "a {}!", "a photo of {}"])
def test_a_template_holds_its_place(template, fits):
    assert check_template(template) == template
    (caption,) = list_captions(["star", "moon"], fits, template)
    assert words(caption, "moon") == ["moon"]


@pytest.mark.parametrize(
    "template", ["", "a photo", "{} and {}", "{0}", "{phrase}", "{", "{}}", "{{}}", "{:>9}", "{!r}"]
)
def test_other_templates_are_refused(template, fits):
    with pytest.raises(ValueError, match=r"a template must hold \{\} once"):
        list_captions(["star"], fits, template)


def test_templates_may_have_other_places():
    assert check_template("a {phrase}", ("{}", "{phrase}")) == "a {phrase}"
    with pytest.raises(ValueError, match=r"must hold \{\} or \{phrase\} once"):
        check_template("{phrase} {}", ("{}", "{phrase}"))
    with pytest.raises(TypeError, match="a template must be a text, got None"):
        check_template(None)


def test_scripts_without_spaces_are_found():
    caption = find_classes("一只猫和热狗在狗旁边", ["狗", "猫", "热狗"])
    assert caption.spans == {"狗": ((7, 8),), "猫": ((2, 3),), "热狗": ((4, 6),)}
    assert words(find_classes("แมวและสุนัข", ["สุนัข"]), "สุนัข") == ["สุนัข"]


def test_a_decomposed_caption_names_composed_classes():
    caption = find_classes(unicodedata.normalize("NFD", "un café noir"), ["café"])
    assert caption == Caption("un café noir", {"café": ((3, 7),)})


def test_classes_are_cleaned_before_they_are_looked_for():
    assert find_classes("a hot\ndog", (name for name in [" hot  dog"])).spans == {"hot dog": ((2, 9),)}


@pytest.mark.parametrize(("caption", "error"), [(b"star", TypeError), (5, TypeError), ("star\0", ValueError),
                                               ("star \ud83d", ValueError), ("", ValueError)])  # fmt: skip
def test_unreadable_captions(caption, error):
    with pytest.raises(error, match="caption"):
        find_classes(caption, ["star"])


def test_long_captions_without_spaces_are_split():
    text = "天" * 30 + "猫" + "地" * 30 + "热狗" + "人" * 30
    pieces = split(find_classes(text, ["猫", "热狗"]), lambda text: len(text) <= 25)
    assert [piece.classes for piece in pieces] == [("猫",), ("热狗",)]
    assert all(words(piece, name) == [name] for piece in pieces for name in piece.classes)


def test_a_single_string_is_not_a_list_of_letters():
    with pytest.raises(ValueError, match=r"write \['star'\]"):
        check_classes("star")


def test_long_lists_are_split_and_keep_every_class(tokenizer, fits):
    names = [f"{a}ark {b}ell" for a in "bdhklmnp" for b in "bcfhstw"]
    captions = list_captions(names, fits)
    assert len(captions) > 1
    assert [name for caption in captions for name in caption.classes] == names
    for caption in captions:
        assert fits(caption.text)
        assert all(decoded(caption, tokenizer, name) == name for name in caption.classes)


def test_long_captions_are_split_between_words(tokenizer, fits):
    text = "a photo of " + "a very small old star, " * 20 + "a hot dog, " * 20 + "and a moon"
    caption = find_classes(text, ["star", "hot dog", "moon"])
    pieces = split(caption, fits)
    assert sorted(name for piece in pieces for name in piece.classes) == ["hot dog", "moon", "star"]
    for piece in pieces:
        assert fits(piece.text)
        assert all(set(words(piece, name)) == {name} for name in piece.classes)


def test_short_captions_are_left_alone(fits):
    caption = find_classes("a star", ["star"])
    assert split(caption, fits) == [caption]


def test_a_name_beyond_the_limit_is_an_error(fits):
    with pytest.raises(ValueError, match="shorten"):
        list_captions(["x" * 300], fits)
    with pytest.raises(ValueError, match="shorten"):
        split(find_classes("a " + "x" * 300, ["x" * 300]), fits)


def test_truncated_mentions_never_borrow_columns(tokenizer):
    caption = find_classes("star " * 100 + "moon", ["moon"])
    with pytest.raises(ValueError, match="'moon' has no token"):
        token_columns(caption, tokenizer)


@pytest.mark.parametrize(("text", "classes", "name", "left"), [
    ("a photo of cat, dog", ["cat", "dog"], "dog", "a photo of cat"),
    ("a photo of cat, dog", ["cat", "dog"], "cat", "a photo of dog"),
    ("a photo of cat, dog, moon", ["cat", "dog", "moon"], "dog", "a photo of cat, moon"),
    ("a photo of moon", ["moon"], "moon", "a photo"),
    ("a photo of hot dog, dog", ["dog", "hot dog"], "dog", "a photo of hot dog"),
    ("a photo of hot dog, dog", ["dog", "hot dog"], "hot dog", "a photo of dog"),
    ("a small red star behind two trees, one tree and grass", ["star", "trees", "tree", "grass"], "star",
     "two trees, one tree and grass"),
    ("a small red star behind a tree.", ["star", "tree"], "tree", "a small red star."),
    ("a star and a tree on grass", ["star", "tree", "grass"], "tree", "a star and grass"),
    ("a star, a tree and a star in front of a moon", ["star", "tree", "moon"], "star", "a tree and a moon"),
    ("a dog, a cat, and a cat", ["cat", "dog"], "cat", "a dog"),
    ("A cat. A dog.", ["cat", "dog"], "dog", "A cat."),
    ("A cat. A dog.", ["cat", "dog"], "cat", "A dog."),
    ("In the garden, a cat sleeps", ["cat", "garden"], "garden", "a cat sleeps"),
    ("a cat sitting on the mat", ["cat", "mat"], "cat", "the mat"),
    ("a dog house", ["dog", "house"], "house", "a dog"),
    ("the garden a cat", ["garden", "cat"], "garden", "a cat"),
    ("the garden a cat", ["garden", "cat"], "cat", "the garden"),
    ("a photo of salt and pepper, dog", ["salt and pepper", "dog"], "dog", "a photo of salt and pepper"),
    ("a black-and-white cat, dog", ["cat", "dog"], "cat", "dog"),
    ("A moon!", ["moon"], "moon", ""),
    ("moon", ["moon"], "moon", ""),
    ("一只猫和热狗在狗旁边", ["猫", "狗"], "猫", "一只和热狗在狗旁边"),
    ("猫、狗。", ["猫", "狗"], "狗", "猫。"),
])  # fmt: skip
def test_a_class_is_left_out_with_all_that_belongs_to_it(text, classes, name, left):
    caption = without(find_classes(text, classes), name)
    assert caption.text == left
    if left:
        others = [other for other in classes if other != name]
        assert caption.classes == tuple(others)
        assert all(same(word) == same(other) for other in others for word in words(caption, other))
        assert all(words(caption, other) for other in others)


@pytest.mark.parametrize("style", ["prompted", "own"])
@pytest.mark.parametrize("name", ["voc", "context", "coco", "ade20k", "aep"])
def test_a_list_without_a_class_is_the_list_of_the_others(name, style):
    names = class_names(name, style)[:40]
    (caption,) = list_captions(names, lambda text: True)
    for k in range(len(names)):
        (others,) = list_captions(names[:k] + names[k + 1 :], lambda text: True)
        assert without(caption, names[k]) == others


def test_what_is_not_mentioned_cannot_be_left_out():
    with pytest.raises(ValueError, match="'a star' does not mention 'moon'; it has: star"):
        without(find_classes("a star", ["star"]), "moon")
