import pytest

from elbo_core.captions import Caption, check_classes, find_classes, list_captions, split, token_columns
from elbo_core.datasets.names import class_names
from elbo_core.training.text import build_tokenizer


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
