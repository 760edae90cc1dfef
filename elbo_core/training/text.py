"""Tokenizers and text encoders of the toy models: real `CLIPTokenizer` and `T5Tokenizer` over our own few words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from elbo_core.toy.describe import vocabulary_corpus

MODEL_MAX_LENGTH = 77
WORD_SPREAD = 25.0
"""Words start far apart. From CLIP's small initial embeddings, all words of one characteristic colour drift to one
place before any shape is learnt, and part again only slowly."""


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding learnt from our captions, laid out as CLIP's: bytes, bytes ending a word, merges, specials."""
    merges = learn_merges(Counter(re.findall(r"\w+|[^\w\s]+", " ".join(vocabulary_corpus()))))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + [f"{letter}</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MODEL_MAX_LENGTH)


def learn_merges(words: Mapping[str, int]) -> list[tuple[str, str]]:
    """Byte-pair encoding of words by how often they occur, until each is one token: the commonest pair is merged first.

    Of pairs that are equally common the last in the alphabet comes first. The trainer of `tokenizers` takes any, each
    time another, and a vocabulary that changes from run to run is no part of a reproducible model.
    """
    spelled = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges = []
    while pairs := _count_pairs(spelled, words):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        spelled = {word: _merge(pieces, best) for word, pieces in spelled.items()}
    return merges


def _count_pairs(spelled: Mapping[str, list[str]], words: Mapping[str, int]) -> Counter[tuple[str, str]]:
    pairs: Counter[tuple[str, str]] = Counter()
    for word, pieces in spelled.items():
        for pair in pairwise(pieces):
            pairs[pair] += words[word]
    return pairs


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def clip_text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        hidden_act="gelu",
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MODEL_MAX_LENGTH,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_text_encoder(kind: type[CLIPTextModel], tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A text tower of CLIP, `kind` with or without projection, whose words start far apart."""
    encoder = kind(clip_text_config(tokenizer))
    encoder.get_input_embeddings().weight.data.mul_(WORD_SPREAD)
    return encoder


def build_t5_tokenizer() -> T5Tokenizer:
    """Our words, each with the space before it, and letters for all others."""
    words = dict.fromkeys(word for sentence in vocabulary_corpus() for word in sentence.split())
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -3.0) for word in words] + [(sign, -6.0) for sign in string.ascii_lowercase + ","]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def build_t5(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=64, d_ff=2 * width, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    return T5EncoderModel(config)
