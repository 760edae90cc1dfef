"""Captions in which every class knows its own words, by character offsets and never by token search.

A text encoder reads a limited number of tokens. A caption that is too long is split into several, each with its
own classes, so that no class ever loses its words or borrows those of another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
Fits = Callable[[str], bool]
TEMPLATE = "a photo of {}"


@dataclass(frozen=True)
class Caption:
    """A text and, for each class in it, the character spans [start, end) of its mentions."""

    text: str
    spans: dict[str, tuple[Span, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.spans)


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The candidate classes as a tuple.

    Raises:
        ValueError: there is none, one is blank, or one is named twice.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes must be a list of names, not the single string {classes!r}; write [{classes!r}]")
    if not classes:
        raise ValueError("no candidate classes; name at least one")
    for position, name in enumerate(classes):
        if not name.strip():
            raise ValueError(f"class {position} is blank")
        if name in classes[:position]:
            raise ValueError(f"class {name!r} is named twice; name each class once")
    return tuple(classes)


def list_captions(classes: Sequence[str], fits: Fits, template: str = TEMPLATE) -> list[Caption]:
    """Captions "a photo of c1, c2, ..." that together name every class once, as few as the text encoder allows.

    Raises:
        ValueError: a class alone does not fit, or `check_classes` complains.
    """
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
    spans, text = {}, prefix
    for name in names:
        text += ", " if spans else ""
        spans[name] = ((len(text), len(text) + len(name)),)
        text += name
    return Caption(text + suffix, spans)


def phrase_caption(phrases: Mapping[str, str], nouns: Mapping[str, Span]) -> Caption:
    """The caption "a photo of p1, p2, ..." of a phrase per class; `nouns` says where the class stands in its phrase."""
    spans, text = {}, TEMPLATE.format("")
    for name, phrase in phrases.items():
        text += ", " if spans else ""
        start, end = nouns[name]
        spans[name] = ((len(text) + start, len(text) + end),)
        text += phrase
    return Caption(text, spans)


def find_classes(text: str, classes: Sequence[str]) -> Caption:
    """Locate every mention of every class in a caption of the user's own. Case is ignored, only whole words count,
    and longer names claim their words first, so "dog" is not found inside "hot dog".

    Raises:
        ValueError: a class is absent from the caption, or `check_classes` complains.
    """
    found: dict[str, tuple[Span, ...]] = {}
    for name in sorted(check_classes(classes), key=len, reverse=True):
        taken = [span for spans in found.values() for span in spans]
        matches = re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text, flags=re.IGNORECASE)
        spans = tuple(match.span() for match in matches if not any(_overlap(match.span(), other) for other in taken))
        if not spans:
            raise ValueError(f"class {name!r} does not occur in the caption {text!r}; name it there or drop the class")
        found[name] = spans
    return Caption(text, {name: found[name] for name in classes})


def _overlap(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def split(caption: Caption, fits: Fits) -> list[Caption]:
    """Cut a caption that is too long into pieces that fit, between words and never inside a mention. Pieces that
    mention no class are dropped; a class mentioned in several pieces belongs to the first.

    Raises:
        ValueError: a mention alone does not fit.
    """
    if fits(caption.text):
        return [caption]
    mentions = [span for spans in caption.spans.values() for span in spans]
    gaps = [m.end() for m in re.finditer(r"\s+", caption.text) if not any(a < m.end() < b for a, b in mentions)]
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
            name: tuple((a - start, b - start) for a, b in mentions if start <= a and b <= end)
            for name, mentions in caption.spans.items()
            if name not in placed and any(start <= a and b <= end for a, b in mentions)
        }
        placed |= set(spans)
        if spans and not fits(text):
            raise ValueError(f"{text!r} is longer than the text encoder can read; shorten it")
        if spans:
            captions.append(Caption(text, spans))
    return captions


def token_columns(caption: Caption, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, ...]]:
    """For each class of a caption that fits, the token positions of its mentions, as columns of the cross-attention.

    Raises:
        ValueError: a mention has no token, because the caption was truncated or the tokenizer dropped the words.
    """
    encoding = tokenizer(caption.text, truncation=True, return_offsets_mapping=True)
    offsets = encoding["offset_mapping"]
    columns = {}
    for name, spans in caption.spans.items():
        hits = [[i for i, offset in enumerate(offsets) if _overlap(offset, span)] for span in spans]
        if not all(hits):
            raise ValueError(f"class {name!r} has no token in {caption.text!r}; is the caption too long?")
        columns[name] = tuple(sorted({index for hit in hits for index in hit}))
    return columns
