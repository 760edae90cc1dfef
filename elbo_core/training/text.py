"""Tokenizers and text encoders of the toy models: real `CLIPTokenizer` and `T5Tokenizer` over our own few words."""

from __future__ import annotations

import json
import string

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from elbo_core.toy.describe import vocabulary_corpus

MODEL_MAX_LENGTH = 77
WORD_SPREAD = 25.0
"""Words start far apart. From CLIP's small initial embeddings, all words of one characteristic colour drift to one
place before any shape is learnt, and part again only slowly."""


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding learnt from our captions, laid out as CLIP's: bytes, bytes ending a word, merges, specials."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", min_frequency=1, show_progress=False)
    learner.train_from_iterator(vocabulary_corpus(), trainer)
    merges = _merges(learner)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + [f"{letter}</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MODEL_MAX_LENGTH)


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]


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
