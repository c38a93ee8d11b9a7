"""Beginnings of long texts: the same examples as of whole texts, and memory that does not grow with what is cut off."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from conftest import TEXTS, byte_bpe, rows_of, unigram, wordpiece

from jaxft.data.encoded import encode_all
from jaxft.tasks import long_texts
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.tasks.long_texts import beginnings, pair_beginnings
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.replaced_tokens import ReplacedTokens

STRANGE = (
    "Die Stra\u00dfe  nach \u014csaka: \u6771\u4eac, \ufb01n, na\u00efve cafe\u0301 costs 10 \u20ac; \u0130stanbul!\n"
)
LONG = {
    "words": " ".join(TEXTS * 40),
    "white space": (" \n\t" * 30 + TEXTS[0]) * 60,
    "other letters": STRANGE * 120,
    "no white space": "".join(np.random.default_rng(0).choice(list("acgt"), 9000)),
    "one word": "a" * 9000,
    "no token for most of it": "\u200b" * 5000 + TEXTS[0] * 80,
    "short": TEXTS[0],
    "empty": "",
}
TOKENIZERS = {"wordpiece": wordpiece, "bytes": byte_bpe, "unigram": lambda: unigram("right")}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("max_len", [8, 33])
def test_the_first_tokens_are_those_of_the_whole_text(kind, max_len):
    tokenizer = TOKENIZERS[kind]()
    parts = beginnings(list(LONG.values()), tokenizer, max_len)
    for (name, text), part in zip(LONG.items(), parts, strict=True):
        assert text.startswith(part), name
        whole, ours = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in (text, part))
        assert ours[:max_len] == whole[:max_len] and min(len(ours), max_len + 1) == min(len(whole), max_len + 1), name
    assert len(parts[0]) < 0.9 * len(LONG["words"]) and parts[-2:] == [TEXTS[0], ""]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("max_len", [40, 41])
def test_pairs_are_cut_as_whole_ones_are(kind, max_len, monkeypatch):
    """Of an odd number of tokens the text with more tokens keeps one more. Short ones, since whole ones take long."""
    monkeypatch.setattr(long_texts, "CHARACTERS", 2)
    monkeypatch.setattr(long_texts, "MARGIN", 110)
    tokenizer = TOKENIZERS[kind]()
    some = [LONG[name][:size] for name in ("words", "other letters", "no white space") for size in (500, 501)]
    some += [LONG["short"], ""]
    texts, pairs = zip(*[(a, b) for a in some for b in some], strict=True)
    how = {"truncation": "longest_first", "max_length": max_len}
    whole, ours = tokenizer(texts, pairs, **how), tokenizer(*pair_beginnings(texts, pairs, tokenizer, max_len), **how)
    assert ours["input_ids"] == whole["input_ids"]
    sides = [[encoding.sequence_ids for encoding in one.encodings] for one in (ours, whole)]
    assert sides[0] == sides[1]
    assert [not e.overflowing for e in ours.encodings] == [not e.overflowing for e in whole.encodings]


def test_a_text_that_is_cut_on_the_left_stays_whole(bert_tokenizer):
    turned = wordpiece()
    turned.truncation_side = "left"
    assert (
        beginnings([LONG["words"]], turned, 8) == [LONG["words"]] == beginnings([LONG["words"]], bert_tokenizer, None)
    )


@pytest.mark.parametrize("task", [Classify(labels=("a",)), MaskedLM(), ReplacedTokens(), CausalLM()])
def test_examples_are_the_same(task, monkeypatch):
    setting = EncodingContext(byte_bpe() if isinstance(task, CausalLM) else wordpiece(), 16)
    rows = rows_of([{"text": text, "label": "a"} for text in LONG.values() if text])
    ours = encode_all(rows, partial(task.encode, setting=setting))
    monkeypatch.setattr(long_texts, "CHARACTERS", 10**9)
    whole = encode_all(rows, partial(task.encode, setting=setting))
    keys = set(ours.flat) - {"fakes"}  # which are drawn from all texts
    assert all(np.array_equal(ours.flat[key], whole.flat[key]) for key in keys)
    assert ours.report.truncated == whole.report.truncated > 3 and ours.report.dropped == whole.report.dropped


SCRIPT = """
import resource
from transformers import AutoTokenizer
from jaxft.assets import path
from jaxft.tasks.base import EncodingContext, encode_texts
setting = EncodingContext(AutoTokenizer.from_pretrained(path("tiny-encoder")), 128)
text = "the cat sat on the mat. " * 200_000
encode_texts(setting, ["a"], None)
before = resource.getrusage(resource.RUSAGE_SELF)
(example,) = encode_texts(setting, [text], None)
after = resource.getrusage(resource.RUSAGE_SELF)
start, end = before.ru_utime, after.ru_utime
print(example["truncated"], len(example["tokens"]), after.ru_maxrss - before.ru_maxrss, end - start)
"""


def test_a_long_text_takes_little_memory():
    """Whole, these 5 MB took 800 MiB and 4.5 s."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    cut, tokens, kibibytes, seconds = done.stdout.split()
    assert (cut, tokens) == ("True", "128") and int(kibibytes) < 100 * 1024 and float(seconds) < 1
