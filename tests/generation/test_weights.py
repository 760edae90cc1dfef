"""Prompt weights by positions against the compel package, which parses markup."""

from __future__ import annotations

import pytest
import tiny
import torch
from compel import Compel, ReturnedEmbeddingsType

from elbo_core.diffusion.families import wrap
from elbo_core.generation.method import Pieces
from elbo_core.generation.weights import token_weights, weigh

PROMPTS = [
    ("a red star and a blue tree", {"a red star": 1.2, "a blue tree": 1.0}),
    ("a red star and a blue tree", {"a red star": 1.07, "a blue tree": 1.13}),
    ("a photo of a hot dog, two moons and grass", {"a hot dog": 1.01, "two moons": 1.2, "grass": 1.1}),
    ("star", {"star": 1.15}),
]


def weighted(denoiser, text: str, spans, weights) -> torch.Tensor:
    encoded, empty = denoiser.encode_text([text]), denoiser.encode_text([""])
    pieces = Pieces.of(denoiser, [text], [spans], encoded.embeddings.shape[1])
    by_token = token_weights(torch.tensor(weights), pieces.picture, pieces.mask, 1)
    return weigh(encoded, empty, by_token).embeddings


def spans_of(text: str, phrases) -> list[tuple[int, int]]:
    return [(text.index(phrase), text.index(phrase) + len(phrase)) for phrase in phrases]


def markup(text: str, phrases: dict[str, float]) -> str:
    for phrase, weight in phrases.items():
        text = text.replace(phrase, f"({phrase}){weight}")
    return text


def compel_of(pipeline, family: str) -> list[Compel]:
    """One a text encoder: those of SDXL are put side by side."""
    if family == "sd":
        return [Compel(pipeline.tokenizer, pipeline.text_encoder)]
    kind = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
    pairs = [(pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)]
    return [Compel(*pair, returned_embeddings_type=kind) for pair in pairs]


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize(("text", "phrases"), PROMPTS)
def test_weights_are_those_of_compel(family, text, phrases):
    denoiser = wrap(tiny.PIPELINES[family](), family)
    with torch.no_grad():
        expected = torch.cat([own(markup(text, phrases)) for own in compel_of(denoiser.pipeline, family)], dim=-1)
    actual = weighted(denoiser, text, spans_of(text, phrases), list(phrases.values()))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_weights_of_one_change_nothing():
    denoiser = wrap(tiny.PIPELINES["sd"](), "sd")
    text = PROMPTS[0][0]
    encoded = denoiser.encode_text([text]).embeddings
    torch.testing.assert_close(weighted(denoiser, text, [(0, 10)], [1.0]), encoded, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("text", "spans"), [
    ("a star and a star", [(0, 6), (11, 17)]),
    ("a star and a star house", [(0, 6), (11, 23)]),
    ('a "red" star (and a tree)', [(0, 12), (18, 24)]),
    ("a star+ and a tree-", [(0, 6), (12, 18)]),
])  # fmt: skip
def test_what_breaks_markup_is_weighted_where_it_stands(text, spans):
    """A phrase twice, a phrase inside another, parentheses, quotes and signs: each token has its phrase's weight."""
    denoiser = wrap(tiny.PIPELINES["sd"](), "sd")
    plain, empty = denoiser.encode_text([text]).embeddings, denoiser.encode_text([""]).embeddings
    factors = (weighted(denoiser, text, spans, [1.1, 1.2]) - empty).norm(dim=-1) / (plain - empty).norm(dim=-1)
    tokens = denoiser.pipeline.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    for column, (start, end) in enumerate(tokens[1:-1], 1):
        inside = [weight for span, weight in zip(spans, (1.1, 1.2), strict=True) if start < span[1] and span[0] < end]
        assert factors[0, column].item() == pytest.approx(inside[0] if inside else 1.0, abs=1e-4)


def test_both_encoders_of_stable_diffusion_3_are_weighted():
    denoiser = wrap(tiny.PIPELINES["sd3"](), "sd3")
    text, span = "a photo of a red star", (11, 21)
    pieces = Pieces.of(denoiser, [text], [[span]], denoiser.encode_text([text]).embeddings.shape[1])
    assert pieces.mask[0, :77].sum() == 3
    assert pieces.mask[0, 77:].sum() >= 3


@pytest.mark.parametrize("weight", [0.9, float("nan"), float("inf")])
def test_other_weights_are_refused(weight):
    denoiser = wrap(tiny.PIPELINES["sd"](), "sd")
    with pytest.raises(ValueError, match="numbers from 1 on"):
        weighted(denoiser, "a star", [(0, 6)], [weight])
