"""Names and texts in any script: what a name may hold, when two names are one, and where a text holds a name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

Span = tuple[int, int]
"""Character positions [start, end)."""

WHITE_SPACE = frozenset("\t\n\v\f\r\x85")
"""Control characters that are white space; all other control characters are refused."""
SHOWS_NOTHING = frozenset(
    map(chr, [0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0])
) | frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
"""Letters, marks and signs without ink: fillers, joiners and variation selectors that Unicode does not call formats."""
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Unicode's categories of controls, formats, halves of pairs, private and unassigned characters."""
UNREADABLE = frozenset({"Cc", "Cs"})
"""Those that tokenizers drop or fail on, and that stand for bytes of another encoding."""
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u2fdf"
    "\u3000-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua980-\ua9df"
    "\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\uff00-\uff0f\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
"""Scripts that put no space between words: Chinese, Japanese, Thai, Lao, Tibetan, Burmese, Khmer, Tai, Balinese, Yi,
Javanese, with their own punctuation."""

LINK_WORDS = (
    "in front of", "on top of", "at the top of", "to the left of", "to the right of", "in the middle of", "next to",
    "close to", "together with", "and", "or", "with", "without", "of", "in", "on", "at", "by", "near", "to", "from",
    "into", "onto", "over", "under", "underneath", "above", "below", "beneath", "behind", "beside", "between", "before",
    "beyond", "through", "across", "against", "along", "among", "around", "inside", "outside", "upon", "within",
)  # fmt: skip
"""The English words that join the parts of a caption, longer ones first."""
LINKS = re.compile(
    r"(?:\s*(?:[,;:.!?…]+(?=\s|$)|[、，。；：！？]|(?<!\S)[-–—](?!\S)|(?<![\w-])(?:"
    + "|".join(phrase.replace(" ", r"\s+") for phrase in LINK_WORDS)
    + r")(?![\w-])))+\s*",
    flags=re.IGNORECASE,
)
"""Runs of punctuation between words, and of `LINK_WORDS`, with the white space around them."""


def odd_character(text: str, categories: frozenset[str] = INVISIBLE) -> str | None:
    """The first character that no reader sees, as "U+200B ZERO WIDTH SPACE", or None; white space is not meant."""
    for character in text:
        odd = unicodedata.category(character) in categories and character not in WHITE_SPACE
        if odd or (character in SHOWS_NOTHING and categories is INVISIBLE):
            return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
    return None


def clean(text: str) -> str:
    """The text as plain `str`, composed (NFC), its white space of any kind as single spaces, none around it."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def same(name: str) -> str:
    """What two spellings of one name share: case, composition, width and white space aside."""
    folded = unicodedata.normalize("NFKC", clean(name)).casefold()
    return clean(unicodedata.normalize("NFKC", folded))


def mentions(text: str, name: str, taken: Sequence[Span] = ()) -> tuple[Span, ...]:
    """Where a composed text holds a name as words of their own, in any case and with any white space, outside what is
    taken. In scripts without spaces, a name may touch its neighbours."""
    pattern = r"\s+".join(re.escape(word) for word in name.split())
    found: list[Span] = []
    for match in re.finditer(f"(?=({pattern}))", text, flags=re.IGNORECASE):
        span = match.span(1)
        if _stands_alone(text, span) and not any(overlap(span, other) for other in (*found, *taken)):
            found.append(span)
    return tuple(found)


def parts_between_links(text: str, names: Sequence[Span] = ()) -> list[Span]:
    """The parts of a text that `LINKS` join, without white space around them; a link word inside a name is none.

    "a photo of salt and pepper, dog" has the parts "a photo", "salt and pepper" and "dog" if that is a name.
    """
    plain = list(text)
    for start, end in names:
        plain[start:end] = "x" * (end - start)
    links = [match.span() for match in LINKS.finditer("".join(plain))]
    starts, ends = [0, *(end for _, end in links)], [*(start for start, _ in links), len(text)]
    trimmed = [_trimmed(text, span) for span in zip(starts, ends, strict=True)]
    return [(start, end) for start, end in trimmed if start < end]


def _trimmed(text: str, span: Span) -> Span:
    inside = text[slice(*span)]
    return span[1] - len(inside.lstrip()), span[0] + len(inside.rstrip())


def overlap(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def breaks(text: str) -> list[int]:
    """Where a text may be cut in two: after white space, and at every character of a script without spaces."""
    return [
        place
        for place in range(1, len(text))
        if not text[place].isspace()
        and (text[place - 1].isspace() or (_unspaced(text[place - 1 : place + 1]) and not _is_mark(text[place])))
    ]


def _stands_alone(text: str, span: Span) -> bool:
    start, end = span
    before, after = text[max(start - 1, 0) : start], text[end : end + 1]
    return not (_is_mark(after) or _joins(before, text[start]) or _joins(after, text[end - 1]))


def _joins(outside: str, inside: str) -> bool:
    """Whether a neighbour makes a name's first or last character part of a longer word."""
    is_word = outside.isalnum() or outside == "_" or _is_mark(outside)
    return is_word and not _unspaced(outside + inside)


def _unspaced(characters: str) -> bool:
    return WITHOUT_SPACES.search(characters) is not None


def _is_mark(character: str) -> bool:
    """A sign that combines with the character before it."""
    return character != "" and unicodedata.category(character).startswith("M")
