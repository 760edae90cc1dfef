"""Which words stand for which, beside naive readings of the original's alignments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbo_core.diffusion.families import wrap
from elbo_core.errors import EditError
from elbo_core.generation.word_maps import align_tokens, refine_words, replace_words, word_columns
from tests.tiny import stable_diffusion


@pytest.fixture(scope="module")
def part():
    return wrap(stable_diffusion(), "tiny").parts["clip"]


def original_alignment(x: list[int], y: list[int]) -> list[int | None]:
    """`global_align` and `get_aligned_sequences` of the original, with its matrices and its trace."""
    matrix, trace = np.zeros((len(x) + 1, len(y) + 1), int), np.zeros((len(x) + 1, len(y) + 1), int)
    trace[0, 1:], trace[1:, 0], trace[0, 0] = 1, 2, 4
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            left, up = matrix[i, j - 1], matrix[i - 1, j]
            diagonal = matrix[i - 1, j - 1] + (1 if x[i - 1] == y[j - 1] else -1)
            matrix[i, j] = max(left, up, diagonal)
            trace[i, j] = 1 if matrix[i, j] == left else 2 if matrix[i, j] == up else 3
    found: list[int | None] = [None] * len(y)
    i, j = len(x), len(y)
    while trace[i, j] != 4:
        if trace[i, j] == 3:
            i, j = i - 1, j - 1
            found[j] = i
        elif trace[i, j] == 1:
            j -= 1
        else:
            i -= 1
    return found


def original_replacement(source: str, target: str, tokens: dict[str, int]) -> np.ndarray:
    """`get_replacement_mapper_` of the original, for words of known numbers of pieces, for 77 columns."""
    x, y = source.split(), target.split()

    def places(words: list[str], k: int) -> list[int]:
        start = 1 + sum(tokens[word] for word in words[:k])
        return list(range(start, start + tokens[words[k]]))

    changed = [k for k in range(len(y)) if y[k] != x[k]]
    ours, theirs = [places(x, k) for k in changed], [places(y, k) for k in changed]
    mapper, i, j, current = np.zeros((77, 77)), 0, 0, 0
    while i < 77 and j < 77:
        if current < len(ours) and ours[current][0] == i:
            if len(ours[current]) == len(theirs[current]):
                mapper[ours[current], theirs[current]] = 1
            else:
                for column in theirs[current]:
                    mapper[ours[current], column] = 1 / len(theirs[current])
            i, j, current = i + len(ours[current]), j + len(theirs[current]), current + 1
        elif current < len(ours):
            mapper[i, j] = 1
            i, j = i + 1, j + 1
        else:
            mapper[j, j] = 1
            i, j = i + 1, j + 1
    return mapper


def test_tokens_are_aligned_as_in_the_original():
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, y = (rng.integers(4, size=rng.integers(1, 9)).tolist() for _ in range(2))
        assert align_tokens(x, y) == original_alignment(x, y)


def test_words_of_as_many_pieces_are_replaced_as_in_the_original(part):
    source, target = "a photo of a red star and a tree", "a photo of a blue moon and a tree"
    pieces = dict.fromkeys((source + " " + target).split(), 1)
    found = replace_words(source, target, part)
    np.testing.assert_array_equal(found.matrix.numpy(), original_replacement(source, target, pieces))
    assert not found.own.any()


def test_a_word_of_more_pieces_shares_and_what_follows_keeps_to_its_own_word(part):
    source, target = "a star and a tree", "a qxz and a tree"
    ours, theirs = word_columns(source, "star", part), word_columns(target, "qxz", part)
    assert len(ours) == 1
    assert len(theirs) > 1
    matrix = replace_words(source, target, part).matrix
    for column in theirs:
        assert matrix[ours[0], column] == pytest.approx(1 / len(theirs))
    for word in ("and", "tree"):
        assert matrix[word_columns(source, word, part)[0], word_columns(target, word, part)[0]] == 1
    ends = [len(part.tokens(text)) - 1 for text in (source, target)]
    assert matrix[ends[0], ends[1]] == 1
    sums = torch.ones(ends[1])
    sums[list(theirs)] = 1 / len(theirs)
    torch.testing.assert_close(matrix.sum(dim=0)[: ends[1]], sums)


def test_the_same_text_maps_onto_itself(part):
    for words in (replace_words, refine_words):
        found = words("a red star", "a red star", part)
        torch.testing.assert_close(found.matrix, torch.eye(77))
        assert not found.own.any()


def test_added_words_keep_their_own_attention(part):
    source, target = "a photo of a star and a tree", "a photo of a red star and a tree"
    found = refine_words(source, target, part)
    assert found.own.nonzero().flatten().tolist() == list(word_columns(target, "red", part))
    for word in ("star", "tree", "photo"):
        assert found.matrix[word_columns(source, word, part)[0], word_columns(target, word, part)[0]] == 1


def test_a_word_inside_another_is_not_mistaken(part):
    assert word_columns("a hot dog and a dog house", "hot dog", part)
    text = "starfish and star"
    (column,) = word_columns(text, "star", part)
    assert column == len(part.tokens("starfish and")) - 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda part: replace_words("a star", "a red star", part),
            "has 2 and 'a red star' has 3.*'red'.*words='refine'",
        ),
        (lambda part: replace_words("a red star", "a star", part), "'red'.*words='refine'"),
        (lambda part: replace_words("a star", " ", part), "empty"),
        (lambda part: refine_words("", "a star", part), "empty"),
        (lambda part: word_columns("a red star", "moon", part), "'moon' is not in 'a red star'.*a, red, star"),
        (lambda part: word_columns("a red star and a blue star", "star", part), "'star' occurs 2 times.*'blue star'"),
    ],
)
def test_errors_name_the_word_and_the_remedy(part, call, message):
    with pytest.raises(EditError, match=message):
        call(part)
