"""Beginnings of texts that are much longer than a model's input, with the same first tokens.

A tokenizer needs about 160 bytes and 1 us for each character of a text, even if most of its tokens are cut off.
"""

from collections.abc import Sequence
from typing import Any

import regex

MARGIN = 256  # further tokens: more than a word has, since BERT's tokenizers replace longer words by [UNK]
CHARACTERS = 8  # characters per token of the first attempt
SPACE = regex.compile(r"\s")


def beginnings(texts: list[str], tokenizer: Any, max_len: int | None) -> list[str]:
    """For each text a beginning that has the same first `max_len` tokens, and more tokens than that if the text has.

    With `max_len=None`, the texts themselves.
    """
    if max_len is None or not _any_long(texts, tokenizer, max_len):
        return texts
    return [_beginning(text, tokenizer, max_len, 2 * max_len) for text in texts]


def pair_beginnings(
    texts: list[str], pairs: list[str], tokenizer: Any, max_len: int | None
) -> tuple[list[str], list[str]]:
    """The same for pairs, of which the text with more tokens is cut first ("longest_first" of transformers).

    For two long texts, the tokenizer would also make all pairs of their overflowing pieces: 6,400 for two texts of
    5,000 tokens cut to 128.
    """
    if max_len is None or not _any_long([*texts, *pairs], tokenizer, max_len):
        return texts, pairs
    found = [_both(text, pair, tokenizer, max_len) for text, pair in zip(texts, pairs, strict=True)]
    return [first for first, _ in found], [second for _, second in found]


def encode_cut(texts: Sequence[str], tokenizer: Any, max_len: int) -> Any:
    """transformers' encoding (BatchEncoding) of a text, or of a pair, cut to `max_len` tokens."""
    if _any_long(texts, tokenizer, max_len):
        texts = (
            _both(texts[0], texts[1], tokenizer, max_len)
            if len(texts) > 1
            else beginnings([texts[0]], tokenizer, max_len)
        )
    return tokenizer(*texts, truncation="longest_first", max_length=max_len, padding=False)


def _both(first: str, second: str, tokenizer: Any, max_len: int) -> tuple[str, str]:
    """Beginnings of both texts. The text with more tokens gets a longer one: it loses tokens first."""
    size = _size(max_len)
    if min(len(first), len(second)) <= size:
        swapped = len(first) <= size
    else:
        swapped = _count(first, tokenizer) <= _count(second, tokenizer)
    longer, other = (second, first) if swapped else (first, second)
    other = _beginning(other, tokenizer, max_len, 2 * max_len)
    longer = _beginning(longer, tokenizer, max_len, 2 * max_len + _count(other, tokenizer))
    return (other, longer) if swapped else (longer, other)


def _any_long(texts: Sequence[str], tokenizer: Any, max_len: int) -> bool:
    if tokenizer.truncation_side != "right":
        return False
    return max(map(len, texts), default=0) > _size(max_len)


def _size(max_len: int) -> int:
    """Characters of the first attempt."""
    return CHARACTERS * (2 * max_len + MARGIN)


def _count(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _beginning(text: str, tokenizer: Any, max_len: int, least: int) -> str:
    """A beginning with `least` tokens and MARGIN more, which ends at white space if there is any.

    The text after it could change the last tokens, by merges or by completing a word, but none before the margin.
    """
    size = _size(max_len)
    while size < len(text):
        space = SPACE.search(text, size, 2 * size)
        begin = text[: space.start() if space else size]
        if _count(begin, tokenizer) >= least + MARGIN:
            return begin
        size *= 4
    return text
