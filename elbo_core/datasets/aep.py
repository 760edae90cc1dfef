"""AEP: pictures whose captions give every thing its attributes, a noun phrase per class."""

from __future__ import annotations

import functools
import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from elbo_core.captions import phrase_caption
from elbo_core.datasets.phrases import find_noun
from elbo_core.errors import DatasetError
from elbo_core.scene import Scene

Phrases = Mapping[str, Mapping[str, str]]
"""By picture and class, the noun phrase."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads containers, texts and numbers; a pickle that wants anything else could run code."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not plain data")


def read_phrases(path: Path) -> Phrases:
    """The authors' `prompts.pkl`: per picture the lists `subject` (classes) and `phrase`, of the same length.

    Raises:
        DatasetError: the file is missing, holds more than plain data, or is built otherwise.
    """
    if not os.path.isfile(path):
        raise DatasetError(
            f"aep: the phrases are missing: {path}; they come with the set, or from notebook 45_build_aep"
        )
    try:
        return _parse(path.read_bytes())
    except Exception as error:  # a damaged pickle provokes anything
        raise DatasetError(f"{path} is not a file of phrases: {error} ({type(error).__name__})") from error


@functools.lru_cache(maxsize=2)
def _parse(content: bytes) -> Phrases:
    """By the file's content, so that another content is never taken for it."""
    pictures = _PlainUnpickler(io.BytesIO(content)).load()
    phrases = {Path(name).stem: _by_class(entry) for name, entry in pictures.items()}
    if len(phrases) != len(pictures):
        raise ValueError("two pictures have the same name")
    return phrases


def _by_class(entry: Mapping[str, list[str]]) -> dict[str, str]:
    """Where a class is named twice, its first phrase counts, as in the released code."""
    pairs = list(zip(entry["subject"], entry["phrase"], strict=True))
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise TypeError("a subject or a phrase is no text")
    return dict(reversed(pairs))


def write_phrases(path: Path, phrases: Phrases) -> None:
    """The same file, for `read_phrases` and for the released code."""
    content = {name: {"subject": list(own), "phrase": list(own.values())} for name, own in phrases.items()}
    path.write_bytes(pickle.dumps(content))


def add_phrases(scene: Scene, path: Path) -> Scene:
    """The scene with its phrases and the caption "a photo of p1, p2, ...", where a class's words are its noun.

    Raises:
        DatasetError: a class of the label map has no phrase, or its phrase does not name it.
    """
    known = read_phrases(path).get(scene.id, {})
    missing = [name for name in scene.classes if name not in known]
    if missing:
        raise DatasetError(f"{path} has no phrase for {missing[0]!r} in picture {scene.id!r}; it has {sorted(known)}")
    phrases = {name: known[name] for name in scene.classes}
    try:
        nouns = {name: find_noun(phrase, name) for name, phrase in phrases.items()}
    except ValueError as error:
        raise DatasetError(f"{path}, picture {scene.id!r}: {error}") from error
    return replace(scene, caption=phrase_caption(phrases, nouns), phrases=tuple(phrases.values()))
