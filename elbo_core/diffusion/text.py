"""How a text becomes the tokens that an encoder reads, and where each class stands among them.

Pipelines respell a text before it is cut into tokens: PixArt writes it in lower case, and a token learnt by textual
inversion as several vectors, "<cat>", is written "<cat> <cat>_1 <cat>_2". Positions are followed through this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from torch import Tensor, nn

from elbo_core.captions import Caption, Span, token_columns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SPACE = "\u2581"
"""How T5 writes the space before a word."""


@dataclass(frozen=True)
class Respelt:
    """A text as it is cut into tokens. places: where each character of the original, and its end, lies in it."""

    text: str
    places: tuple[int, ...]

    @classmethod
    def plain(cls, text: str) -> Respelt:
        return cls(text, tuple(range(len(text) + 1)))

    def span(self, start: int, end: int) -> Span:
        """Where the characters [start, end) of the original lie, whole where only a part of a piece is meant."""
        later = (place for place in self.places[end:] if place > self.places[end - 1])
        return self.places[start], next(later, self.places[-1])


Respelling = Callable[[str], Respelt]


def lower_case(text: str) -> Respelt:
    """What PixArt makes of a text: lower case, and no white space around it."""
    lowered = text.lower()
    stripped = lowered.strip()
    before = len(lowered) - len(lowered.lstrip())
    places = accumulate((len(letter.lower()) for letter in text), initial=-before)  # "İ" becomes two
    return Respelt(stripped, tuple(min(max(place, 0), len(stripped)) for place in places))


def with_all_vectors(tokenizer: PreTrainedTokenizerBase, convert: Callable) -> Respelling:
    """The respelling of a pipeline that can load textual inversions.

    convert: the pipeline's own `maybe_convert_prompt`, the oracle of this one, which also knows the places.
    """

    def respell(text: str) -> Respelt:
        vectors = _vectors(text, tokenizer)
        reading = _replaced(text, vectors) if vectors else Respelt.plain(text)
        if convert(text, tokenizer) != reading.text:
            raise ValueError(f"the learnt tokens {sorted(vectors)} of {text!r} overlap; their places are not known")
        return reading

    return respell


def _vectors(text: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The learnt tokens of a text that have several vectors, and the text that stands for all of these."""
    added = tokenizer.added_tokens_encoder
    several = [token for token in added if f"{token}_1" in added]
    found = set(tokenizer.tokenize(text)) & set(several) if several else ()
    return {token: " ".join([token, *_numbered(token, added)]) for token in found}


def _numbered(token: str, added: dict[str, int]) -> list[str]:
    names, number = [], 1
    while f"{token}_{number}" in added:
        names.append(f"{token}_{number}")
        number += 1
    return names


def _replaced(text: str, replacements: dict[str, str]) -> Respelt:
    """The text with replacements; each place within a replaced piece becomes the replacement's start."""
    places: list[int] = []
    written, last = "", 0
    for match in re.finditer("|".join(map(re.escape, sorted(replacements, key=len, reverse=True))), text):
        places += range(len(written), len(written) + match.start() - last)
        written += text[last : match.start()]
        places += [len(written)] * len(match.group())
        written, last = written + replacements[match.group()], match.end()
    places += range(len(written), len(written) + len(text) - last + 1)
    return Respelt(written + text[last:], tuple(places))


@dataclass(frozen=True)
class TextPart:
    """A run of text columns in the attention: from column `first`, what `tokenizer` makes of the text, `limit` tokens
    at most, for `encoder` to read. respell: what happens to a text before."""

    tokenizer: PreTrainedTokenizerBase
    encoder: nn.Module
    first: int
    limit: int
    respell: Respelling = Respelt.plain

    def tokens(self, text: str) -> list[int]:
        """What the encoder is to read, before it is padded.

        Raises:
            ValueError: the text holds a special token, such as the one that ends all texts.
        """
        text = self.respell(text).text
        own = set(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        for name in self.tokenizer.all_special_tokens:
            is_written = name.lower() in text.lower()  # one may also stand for letters that the tokenizer does not know
            is_word = len(name) == 1  # some models pad with "!"
            if is_written and not is_word and self.tokenizer.convert_tokens_to_ids(name) in own:
                raise ValueError(f"{name!r} is a special token of the text encoder; leave it out of {text!r}")
        return self.tokenizer(text, verbose=False).input_ids

    def fits(self, text: str) -> bool:
        return len(self.tokens(text)) <= self.limit

    def columns(self, caption: Caption) -> tuple[tuple[int, ...], ...]:
        """For each class of a caption, its columns.

        Raises:
            ValueError: see `token_columns`.
        """
        found = token_columns(self._respelled(caption), self.tokenizer)
        return tuple(tuple(self.first + position for position in found[name]) for name in caption.classes)

    def pooled(self, ids: Sequence[int]) -> Tensor | None:
        """The pooled output of the encoder for each token as a text of its own, float32 [n, p] on the CPU; None if it
        has none."""
        texts = [self.tokenizer.decode([token]).strip() for token in ids]
        tokens = self.tokenizer(texts, padding="max_length", max_length=self.limit, return_tensors="pt").input_ids
        output = self.encoder(tokens.to(self.encoder.device))
        pooled = getattr(output, "text_embeds", None)
        pooled = getattr(output, "pooler_output", None) if pooled is None else pooled
        return None if pooled is None else pooled.float().cpu()

    def unknown(self, caption: Caption) -> set[str]:
        """The classes of a caption of which the tokenizer knows no part."""
        pieces = self.tokenizer.convert_ids_to_tokens(self.tokens(caption.text))
        nothing = {"", self.tokenizer.unk_token}
        places = zip(caption.classes, self.columns(caption), strict=True)
        return {name for name, own in places if {pieces[column - self.first].strip(SPACE) for column in own} <= nothing}

    def _respelled(self, caption: Caption) -> Caption:
        reading = self.respell(caption.text)
        spans = {
            name: tuple(reading.span(start, end) for start, end in mentions) for name, mentions in caption.spans.items()
        }
        return Caption(reading.text, spans)


class Listener:
    """While active, notes the tokens that text encoders are given."""

    def __init__(self, parts: Sequence[TextPart]):
        self.parts = parts
        self.heard: dict[nn.Module, Tensor] = {}

    def __enter__(self) -> Listener:
        self._hooks = [part.encoder.register_forward_pre_hook(self._note, with_kwargs=True) for part in self.parts]
        return self

    def __exit__(self, *_) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, encoder: nn.Module, args: tuple, kwargs: dict) -> None:
        self.heard[encoder] = args[0] if args else kwargs["input_ids"]

    def check(self, texts: Sequence[str]) -> None:
        """Compare what was heard with what was counted.

        Raises:
            ValueError: an encoder read other tokens than its part makes of a text.
        """
        for part in self.parts:
            for text, heard in zip(texts, self.heard[part.encoder].tolist(), strict=True):
                tokens = part.tokens(text)
                if heard[: len(tokens)] != tokens:
                    raise ValueError(f"the text encoder read other tokens of {text!r} than its tokenizer makes of it")
