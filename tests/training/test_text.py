"""The toy tokenizer is the same in every run, and splits words as the merges say."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from elbo_core.toy.describe import vocabulary_corpus
from elbo_core.training.text import build_tokenizer, learn_merges


def test_the_commonest_pair_is_merged_first():
    assert learn_merges({"aab": 3, "ab": 1}) == [("a", "b</w>"), ("a", "ab</w>")]
    assert learn_merges(Counter(["x"])) == []


def test_every_word_of_the_world_is_one_token():
    tokenizer = build_tokenizer()
    words = sorted({word for sentence in vocabulary_corpus() for word in sentence.replace(",", " ").split()})
    assert all(len(tokenizer(word).input_ids) == 3 for word in words)


def test_another_process_builds_the_same():
    script = "from elbo_core.training.text import build_tokenizer as b; print(sorted(b().get_vocab().items()))"
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in "ab"]
    assert runs[0].stdout == runs[1].stdout == f"{sorted(build_tokenizer().get_vocab().items())}\n"
