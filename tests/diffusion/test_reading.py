"""What the text encoder reads is what is counted."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import CLIPTokenizer

from elbo_core.captions import find_classes, list_captions
from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.text import Listener, lower_case
from elbo_core.errors import UnsupportedModelError


def learn(pipeline, token: str, vectors: int, numbers=("",)) -> None:
    """Load a textual inversion of so many vectors."""
    for number in numbers:
        encoder = getattr(pipeline, f"text_encoder{number}")
        embedding = torch.randn(vectors, encoder.get_input_embeddings().embedding_dim)
        tokenizer = getattr(pipeline, f"tokenizer{number}")
        pipeline.load_textual_inversion(embedding, token=token, tokenizer=tokenizer, text_encoder=encoder)


def words(denoiser, caption) -> dict[str, list[list[str]]]:
    """By text part, the tokens of each class as the encoder is given them, at the columns that are counted for it."""
    with Listener(denoiser._readers()) as listener:
        denoiser.condition([caption.text])
    found = {}
    for name, columns in denoiser.columns(caption).items():
        part = denoiser.parts[name]
        read = part.tokenizer.convert_ids_to_tokens(listener.heard[part.encoder][0].tolist())
        found[name] = [[read[column - part.first].strip("▁").removesuffix("</w>") for column in own] for own in columns]
    return found


INVERSIBLE = {"sd": ("",), "sdxl": ("", "_2"), "flux": ("", "_2")}


@pytest.mark.parametrize("family", INVERSIBLE)
@pytest.mark.parametrize(
    "text", ["a photo of <cat>, star, <dog>", "<cat>", "<dog> star <cat> <cat> star", "star <cat>,<cat>"]
)
def test_learnt_tokens_get_all_their_columns(family, text):
    pipeline = tiny.PIPELINES[family]()
    learn(pipeline, "<cat>", 3, INVERSIBLE[family])
    learn(pipeline, "<dog>", 1, INVERSIBLE[family])
    denoiser = wrap(pipeline, family)
    names = [name for name in ("<cat>", "star", "<dog>") if name in text]
    vectors = {"<cat>": ["<cat>", "<cat>_1", "<cat>_2"], "star": ["star"], "<dog>": ["<dog>"]}
    (found,) = words(denoiser, find_classes(text, names)).values()
    assert found == [vectors[name] * text.count(name) for name in names]
    denoiser.encode_text([text])


def test_a_token_learnt_after_loading_is_known():
    denoiser = wrap(tiny.stable_diffusion(), "sd")
    learn(denoiser.pipeline, "<cat>", 2)
    assert words(denoiser, find_classes("a <cat>", ["<cat>"])) == {"clip": [["<cat>", "<cat>_1"]]}


def test_a_part_of_a_learnt_token_is_the_whole():
    denoiser = wrap(tiny.stable_diffusion(), "sd")
    learn(denoiser.pipeline, "<cat>", 2)
    assert words(denoiser, find_classes("a <cat> star", ["cat", "star"])) == {"clip": [["<cat>", "<cat>_1"], ["star"]]}


def test_all_vectors_count_for_what_fits():
    denoiser = wrap(tiny.stable_diffusion(), "sd")
    learn(denoiser.pipeline, "<cat>", 40)
    assert denoiser.fits("a photo of <cat>")
    assert not denoiser.fits("<cat> <cat>")
    with pytest.raises(ValueError, match="77 tokens"):
        denoiser.encode_text(["<cat> and <cat>"])
    captions = list_captions(["star", "<cat>", "moon"], denoiser.fits)
    assert sum(len(group) for caption in captions for group in denoiser.columns(caption)["clip"]) == 42


def test_a_token_that_one_of_two_encoders_lacks_is_refused():
    pipeline = tiny.stable_diffusion_xl()
    learn(pipeline, "<cat>", 3)
    with pytest.raises(ValueError, match="differently, side by side"):
        wrap(pipeline, "sdxl").columns(find_classes("<cat>, star", ["<cat>", "star"]))


def test_learnt_tokens_that_overlap_are_refused():
    denoiser = wrap(tiny.stable_diffusion(), "sd")
    learn(denoiser.pipeline, "<a>", 2)
    learn(denoiser.pipeline, "<a>_1<b>", 2)
    with pytest.raises(ValueError, match="overlap"):
        denoiser.fits("<a> <a>_1<b>")


@pytest.mark.parametrize(
    "text", ["A Photo of STAR, Moon", "  star moon  ", "\n İİ STAR, moon", "ΣΣ Star ΣΑΣ moon\t", "star, MOON!"]
)
def test_pixart_reads_lower_case(text):
    denoiser = wrap(tiny.pixart_sigma(), "pixart-sigma")
    assert lower_case(text).text == denoiser.pipeline._text_preprocessing(text)[0]
    assert words(denoiser, find_classes(text, ["star", "moon"])) == {"t5": [["star"], ["moon"]]}
    denoiser.encode_text([text])


@pytest.mark.parametrize("family", tiny.PIPELINES)
def test_case_and_white_space_move_no_columns(family):
    denoiser = wrap(tiny.PIPELINES[family](), family)
    for text in ("a photo of star, hot dog", "a  photo of\tstar , hot dog"):
        for found in words(denoiser, find_classes(text, ["star", "hot dog"])).values():
            assert [*map("".join, found)] == ["star", "hotdog"]


SPECIAL = {
    "sd": ["<|startoftext|>", "<|endoftext|>"],
    "sd35": ["<|endoftext|>", "</s>", "<pad>", "<unk>"],
    "flux": ["<|endoftext|>", "</s>", "<pad>", "<unk>"],
    "pixart-alpha": ["</s>", "<pad>", "<unk>", "</S>"],
}


@pytest.mark.parametrize(("family", "token"), [(family, token) for family in SPECIAL for token in SPECIAL[family]])
def test_special_tokens_are_refused(family, token):
    denoiser = wrap(tiny.PIPELINES[family](), family)
    for text in (token, f"a photo of {token}", f"star{token}moon"):
        for ask in (denoiser.fits, lambda text: denoiser.encode_text([text])):
            with pytest.raises(ValueError, match="special token of the text encoder"):
                ask(text)
    with pytest.raises(ValueError, match="special token"):
        list_captions(["star", token], denoiser.fits)


def test_a_mark_that_pads_may_stand_in_a_text():
    """Stable Diffusion 2 pads with "!"."""
    pipeline = tiny.stable_diffusion()
    pipeline.tokenizer = CLIPTokenizer(
        vocab=pipeline.tokenizer.get_vocab(), merges=pipeline.tokenizer._merges, pad_token="!", model_max_length=77
    )
    denoiser = wrap(pipeline, "sd2")
    denoiser.encode_text(["a star!", "!"])
    assert words(denoiser, find_classes("star! moon", ["star", "moon"])) == {"clip": [["star"], ["moon"]]}


@pytest.mark.parametrize("family", ["flux", "pixart-sigma"])
def test_words_of_which_the_encoder_knows_nothing_are_refused(family):
    denoiser = wrap(tiny.PIPELINES[family](), family)
    with pytest.raises(ValueError, match="knows no part of '日本'"):
        denoiser.columns(find_classes("a photo of star, 日本", ["star", "日本"]))
    denoiser.columns(find_classes("a photo of star, naïve dog", ["star", "naïve dog"]))


def test_what_one_of_several_encoders_knows_is_enough():
    denoiser = wrap(tiny.stable_diffusion_3(), "sd3")
    assert set(denoiser.columns(find_classes("a photo of 日本", ["日本"]))) == {"clip", "t5"}


def test_a_text_that_is_read_otherwise_is_refused():
    """Whatever a pipeline does to a text behind our back."""
    pipeline = tiny.pixart_sigma()
    denoiser = wrap(pipeline, "pixart-sigma")
    clean = pipeline._text_preprocessing
    pipeline._text_preprocessing = lambda text, **options: [f"grass {line}" for line in clean(text, **options)]
    with pytest.raises(ValueError, match="read other tokens of 'a star'"):
        denoiser.encode_text(["a star"])


def test_a_tokenizer_of_another_encoder_is_refused():
    pipeline = tiny.stable_diffusion()
    pipeline.tokenizer.model_max_length = 248
    with pytest.raises(UnsupportedModelError, match="a tokenizer of 248 tokens, an encoder of 77"):
        wrap(pipeline, "sd")
    pipeline = tiny.stable_diffusion()
    known = len(pipeline.tokenizer)
    pipeline.tokenizer.add_tokens(["<cat>"])
    with pytest.raises(UnsupportedModelError, match=f"{known + 1} tokens, text_encoder knows {known}"):
        wrap(pipeline, "sd")
