"""Which words of a source text stand for which words of an edited one, as columns of the cross-attention.

Source: `seq_aligner.py` of google/prompt-to-prompt (9c472e4). Words are found by their characters, never by a search
for tokens, so a word that is a piece of another one is not mistaken for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elbo_core.captions import Caption
from elbo_core.diffusion.text import TextPart
from elbo_core.errors import EditError
from elbo_core.words import Span, mentions

Columns = tuple[int, ...]


@dataclass(frozen=True)
class WordMap:
    """f(A_source, A_target) = A_source @ matrix + A_target * own, for attention [..., L] over L text columns.

    matrix: float32 [L, L], a row for each column of the source, a column for each of the target. own: float32 [L], 1
    where a column of the target has no counterpart and keeps its own attention.
    """

    matrix: Tensor
    own: Tensor


def replace_words(source: str, target: str, part: TextPart) -> WordMap:
    """Word for word: the texts have equally many, and each word of the target takes the maps of that in its place.

    A word of as many pieces as its counterpart takes them one by one, another one an equal share of their sum for each
    of its pieces. What follows a word of another number of pieces keeps to its own word; the original goes by position
    there (`get_replacement_mapper_`), which hands every later word the map of a neighbour.

    Raises:
        EditError: the numbers of words differ, or a text is empty.
    """
    old, new = (_words(text, part) for text in (source, target))
    if len(old) != len(new):
        raise EditError(_uneven([word for word, _ in old], [word for word, _ in new], source, target))
    matrix = _frame(len(part.tokens(source)), len(part.tokens(target)), part.limit)
    for (_, ours), (_, theirs) in zip(old, new, strict=True):
        _connect(matrix, ours, theirs)
    return WordMap(matrix, torch.zeros(part.limit))


def refine_words(source: str, target: str, part: TextPart) -> WordMap:
    """Words are added, left out or exchanged: tokens that both texts have in the same order (`align_tokens`) take the
    source's maps, the others keep their own.

    Raises:
        EditError: a text is empty.
    """
    for text in (source, target):
        _check_not_empty(text)
    partner = align_tokens(part.tokens(source), part.tokens(target))
    beyond = range(len(partner), part.limit)
    matrix, own = torch.zeros(part.limit, part.limit), torch.zeros(part.limit)
    for column, origin in [*enumerate(partner), *((place, place) for place in beyond)]:
        if origin is None:
            own[column] = 1
        else:
            matrix[origin, column] = 1
    return WordMap(matrix, own)


WORD_MAPS: dict[str, Callable[[str, str, TextPart], WordMap]] = {"replace": replace_words, "refine": refine_words}
"""By name, how the words of two texts correspond."""


def align_tokens(source: Sequence[int], target: Sequence[int]) -> list[int | None]:
    """For each token of the target the position of its counterpart, or None: the alignment of Needleman and Wunsch with
    a gap for 0, a match for 1 and a mismatch for -1. Of equally good ways, the original's: a token inserted in the
    target, then one left out of the source, then a match (`global_align`)."""
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, ours in enumerate(source, start=1):
        for j, theirs in enumerate(target, start=1):
            matched = best[i - 1][j - 1] + (1 if ours == theirs else -1)
            best[i][j] = max(best[i][j - 1], best[i - 1][j], matched)
    partner: list[int | None] = [None] * len(target)
    i, j = len(source), len(target)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partner[j] = i
    return partner


def word_columns(text: str, word: str, part: TextPart) -> Columns:
    """The columns of a word, or of several in a row, that a text holds once.

    Raises:
        EditError: the text is empty, or holds the word not at all or more than once.
    """
    _check_not_empty(text)
    found = mentions(text, word)
    if not found:
        raise EditError(f"{word!r} is not in {text!r}; name one of its words: {', '.join(dict.fromkeys(text.split()))}")
    if len(found) > 1:
        start, end = found[-1]
        around = " ".join([*text[:start].split()[-1:], text[start:end]])
        raise EditError(
            f"{word!r} occurs {len(found)} times in {text!r}; name it together with a neighbour, as in {around!r}, so "
            "that it is clear which is meant"
        )
    return _columns_of(text, found, part)[0]


def _columns_of(text: str, spans: Sequence[Span], part: TextPart) -> tuple[Columns, ...]:
    return part.columns(Caption(text, {str(k): (span,) for k, span in enumerate(spans)}))


def _words(text: str, part: TextPart) -> list[tuple[str, Columns]]:
    """The words of a text, between white space, and their columns."""
    _check_not_empty(text)
    found = list(re.finditer(r"\S+", text))
    columns = _columns_of(text, [match.span() for match in found], part)
    return [(match.group(), own) for match, own in zip(found, columns, strict=True)]


def _check_not_empty(text: str) -> None:
    if not text.strip():
        raise EditError("a text of an edit is empty; write what the picture shows, and what it is to show")


def _uneven(old: Sequence[str], new: Sequence[str], source: str, target: str) -> str:
    differ = next(
        (k for k, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new))
    )
    extra = (new if len(new) > len(old) else old)[differ]
    return (
        f"words are replaced one by one, but {source!r} has {len(old)} and {target!r} has {len(new)}; they differ from "
        f"{extra!r} on; use words='refine' to add or leave out words"
    )


def _frame(ours: int, theirs: int, limit: int) -> Tensor:
    """The map [limit, limit] of what stands around the words: the token that begins a text, and from the one that ends
    it on, each counted from there."""
    matrix = torch.zeros(limit, limit)
    matrix[0, 0] = 1
    for column in range(theirs - 1, limit):
        matrix[min(ours - theirs + column, limit - 1), column] = 1
    return matrix


def _connect(matrix: Tensor, ours: Columns, theirs: Columns) -> None:
    if len(ours) == len(theirs):
        matrix[list(ours), list(theirs)] = 1
    else:
        for column in theirs:
            matrix[list(ours), column] = 1 / len(theirs)
