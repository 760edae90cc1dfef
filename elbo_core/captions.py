"""Captions in which every class knows its own words, by character offsets and never by token search.

A text encoder reads a limited number of tokens. A caption that is too long is split into several, each with its
own classes, so that no class ever loses its words or borrows those of another.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from elbo_core.words import (
    UNREADABLE,
    Span,
    breaks,
    clean,
    mentions,
    odd_character,
    overlap,
    parts_between_links,
    same,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Fits = Callable[[str], bool]
PLACE = "{}"
TEMPLATE = f"a photo of {PLACE}"
ARTICLE = re.compile(r"(?<!\w)(?:an?|the)\s+$", flags=re.IGNORECASE)


@dataclass(frozen=True)
class Caption:
    """A text and, for each class in it, the character spans [start, end) of its mentions."""

    text: str
    spans: dict[str, tuple[Span, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.spans)


def check_classes(classes: Iterable[str]) -> tuple[str, ...]:
    """The candidate classes as a tuple of plain names: composed (NFC), with single spaces inside and none around.

    Any iterable with an order will do: a list, a generator, an array of texts. "star", "Star" and "star " are one name.

    Raises:
        TypeError: a set, which has no order; something else than names.
        ValueError: there is none, one is blank or holds a control or invisible character, or one is named twice.
    """
    names = [_check_name(name, position) for position, name in enumerate(_in_order(classes))]
    if not names:
        raise ValueError("no candidate classes; name at least one")
    first: dict[str, str] = {}
    for name in names:
        if same(name) in first:
            raise ValueError(f"class {name!r} is named twice, first as {first[same(name)]!r}; name each class once")
        first[same(name)] = name
    return tuple(names)


def _in_order(classes: Iterable[str]) -> Iterable[str]:
    if isinstance(classes, str):
        raise ValueError(f"classes must be a list of names, not the single string {classes!r}; write [{classes!r}]")
    if isinstance(classes, set | frozenset):
        raise TypeError("classes must have an order, which a set has not; give a list, e.g. sorted(classes)")
    try:
        return iter(classes)
    except TypeError as error:
        raise TypeError(f"classes must be a list of names, got {classes!r}") from error


def _check_name(name: str, position: int) -> str:
    if not isinstance(name, str):
        raise TypeError(f"class {position} must be a text, got {name!r}")
    if not name.strip():
        raise ValueError(f"class {position} is blank")
    odd = odd_character(name)
    if odd:
        raise ValueError(f"class {position}, {name!r}, holds the invisible character {odd}; remove it")
    return clean(name)


def check_template(template: str, places: Sequence[str] = (PLACE,)) -> str:
    """A text with exactly one place for a class, "{}" or another of `places`, and no other braces.

    Raises:
        TypeError: it is no text.
        ValueError: it holds no such place, or more than one; all classes would be asked the same.
    """
    if not isinstance(template, str):
        raise TypeError(f"a template must be a text, got {template!r}")
    held = [place for place in places for _ in range(template.count(place))]
    if len(held) != 1 or set("{}") & set(template.replace(held[0], "")):
        raise ValueError(f"a template must hold {' or '.join(places)} once and no other braces, got {template!r}")
    return template


def list_captions(classes: Sequence[str], fits: Fits, template: str = TEMPLATE) -> list[Caption]:
    """Captions "a photo of c1, c2, ..." that together name every class once, as few as the text encoder allows.

    Raises:
        TypeError, ValueError: a class alone does not fit, or `check_classes` or `check_template` complains.
    """
    check_template(template)
    captions: list[Caption] = []
    pending: list[str] = []
    for name in check_classes(classes):
        if not fits(_list_caption([name], template).text):
            raise ValueError(f"class {name!r} is longer than the text encoder can read; shorten it")
        if pending and not fits(_list_caption([*pending, name], template).text):
            captions.append(_list_caption(pending, template))
            pending = []
        pending.append(name)
    return [*captions, _list_caption(pending, template)]


def _list_caption(names: list[str], template: str) -> Caption:
    prefix, suffix = template.split("{}")
    spans: dict[str, tuple[Span, ...]] = {}
    text = prefix
    for name in names:
        text += ", " if spans else ""
        spans[name] = ((len(text), len(text) + len(name)),)
        text += name
    return Caption(text + suffix, spans)


def phrase_caption(phrases: Mapping[str, str], nouns: Mapping[str, Span]) -> Caption:
    """The caption "a photo of p1, p2, ..." of a phrase per class; `nouns` says where the class stands in its phrase."""
    spans: dict[str, tuple[Span, ...]] = {}
    text = TEMPLATE.format("")
    for name, phrase in phrases.items():
        text += ", " if spans else ""
        start, end = nouns[name]
        spans[name] = ((len(text) + start, len(text) + end),)
        text += phrase
    return Caption(text, spans)


def find_classes(text: str, classes: Iterable[str]) -> Caption:
    """Locate every mention of every class in a caption of the user's own, which is composed (NFC) first. Case and the
    kind of white space are ignored, only whole words count where a script has spaces between them, and longer names
    claim their words first, so "dog" is not found inside "hot dog".

    Raises:
        TypeError, ValueError: the caption is no readable text, a class is absent from it, or `check_classes` complains.
    """
    names, text = check_classes(classes), _check_text(text)
    found: dict[str, tuple[Span, ...]] = {}
    for name in sorted(names, key=len, reverse=True):
        found[name] = mentions(text, name, taken=[span for spans in found.values() for span in spans])
        if not found[name]:
            raise ValueError(f"class {name!r} does not occur in the caption {text!r}; name it there or drop the class")
    return Caption(text, {name: found[name] for name in names})


def _check_text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a caption must be a text, got {text!r}")
    odd = odd_character(text, UNREADABLE)
    if odd:
        raise ValueError(f"the caption {text!r} holds the character {odd}, which no text encoder reads; remove it")
    return unicodedata.normalize("NFC", text)


def split(caption: Caption, fits: Fits) -> list[Caption]:
    """Cut a caption that is too long into pieces that fit, between words (between characters in a script without
    spaces) and never inside a mention. Pieces that mention no class are dropped; a class mentioned in several pieces
    belongs to the first.

    Raises:
        ValueError: a mention alone does not fit.
    """
    if fits(caption.text):
        return [caption]
    mentioned = [span for spans in caption.spans.values() for span in spans]
    gaps = [place for place in breaks(caption.text) if not any(start < place < end for start, end in mentioned)]
    pieces, start, end = [], 0, 0
    for cut in [*gaps, len(caption.text)]:
        if not fits(caption.text[start:cut].strip()):
            pieces.append((start, end))
            start = end
        end = cut
    return _with_mentions(caption, [*pieces, (start, end)], fits)


def _with_mentions(caption: Caption, pieces: list[Span], fits: Fits) -> list[Caption]:
    captions, placed = [], set()
    for start, end in pieces:
        text = caption.text[start:end].rstrip()
        spans = {
            name: tuple((a - start, b - start) for a, b in spans if start <= a and b <= end)
            for name, spans in caption.spans.items()
            if name not in placed and any(start <= a and b <= end for a, b in spans)
        }
        placed |= set(spans)
        if spans and not fits(text):
            raise ValueError(f"{text!r} is longer than the text encoder can read; shorten it")
        if spans:
            captions.append(Caption(text, spans))
    return captions


def without(caption: Caption, name: str) -> Caption:
    """The caption with every mention of a class left out, and the other classes where they now stand.

    Its parts are joined by links: punctuation, "and", prepositions (`words.LINKS`). A part goes as a whole if it
    mentions `name` and no other class, with its article and its adjectives. Each part that stays keeps the link after
    it, if another part follows: "a photo of cat, dog" becomes "a photo of cat" or "a photo of dog", "a photo of moon"
    becomes "a photo", "a small star on grass and a tree." becomes "a small star on a tree.". Of a part that mentions
    other classes too, the mention goes with its article: "a dog house" becomes "a dog". A caption without any other
    part becomes empty.

    Raises:
        ValueError: the caption does not mention the class.
    """
    if name not in caption.spans:
        raise ValueError(f"the caption {caption.text!r} does not mention {name!r}; it has: {', '.join(caption.spans)}")
    gone = caption.spans[name]
    others = [span for other in caption.classes if other != name for span in caption.spans[other]]
    parts = parts_between_links(caption.text, [*gone, *others])
    kept = [k for k, part in enumerate(parts) if not _holds(part, gone) or _holds(part, others)]
    if not kept:
        return Caption("", {})
    shared = [_with_article(caption.text, span, parts[k]) for k in kept for span in gone if overlap(parts[k], span)]
    return _cut(caption, name, [*_gaps(parts, kept), *shared])


def _holds(part: Span, spans: Sequence[Span]) -> bool:
    return any(overlap(part, span) for span in spans)


def _gaps(parts: Sequence[Span], kept: Sequence[int]) -> list[Span]:
    """What goes with the parts that are not kept: the links after them, or before them if they are the last."""
    first, last = kept[0], kept[-1]
    gaps = [(0, parts[first][0])] if first else []
    gaps += [(parts[a + 1][0], parts[b][0]) for a, b in pairwise(kept)]
    return [*gaps, (parts[last][1], parts[-1][1])]


def _with_article(text: str, mention: Span, part: Span) -> Span:
    """A mention with its article, and the white space before it, or after it at the beginning of a part."""
    start, end = mention
    article = ARTICLE.search(text[part[0] : start])
    start = part[0] + article.start() if article else start
    if start > part[0]:
        return len(text[:start].rstrip()), end
    return start, part[1] - len(text[end : part[1]].lstrip())


def _cut(caption: Caption, name: str, cuts: Sequence[Span]) -> Caption:
    """A caption without some pieces and without a class."""
    gone = {place for start, end in cuts for place in range(start, end)}
    text = "".join(letter for place, letter in enumerate(caption.text) if place not in gone)
    moved = [place - sum(cut < place for cut in gone) for place in range(len(caption.text) + 1)]
    spans = {
        other: tuple((moved[start], moved[end]) for start, end in spans)
        for other, spans in caption.spans.items()
        if other != name
    }
    return Caption(text, spans)


def token_columns(caption: Caption, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, ...]]:
    """For each class of a caption that fits, the token positions of its mentions, as columns of the cross-attention.

    Raises:
        ValueError: a mention has no token, because the caption was truncated or the tokenizer dropped the words.
    """
    encoding = tokenizer(caption.text, truncation=True, return_offsets_mapping=True)
    offsets = encoding["offset_mapping"]
    columns = {}
    for name, spans in caption.spans.items():
        hits = [[i for i, offset in enumerate(offsets) if overlap(offset, span)] for span in spans]
        if not all(hits):
            raise ValueError(f"class {name!r} has no token in {caption.text!r}; is the caption too long?")
        columns[name] = tuple(sorted({index for hit in hits for index in hit}))
    return columns
