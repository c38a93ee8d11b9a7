"""Texts much longer than what a model reads: their beginnings, which have the same first tokens at a small cost.

A tokenizer takes about 160 bytes and 1 us for each character of a text, whatever it is cut to afterwards.
"""

from collections.abc import Sequence

import regex

MARGIN = 256  # tokens beyond those that count: more than a word has, where BERT's tokenizers give it up
CHARACTERS = 8  # of a token, at first
SPACE = regex.compile(r"\s")


def beginnings(texts: Sequence[str], tokenizer, max_len: int | None) -> list[str]:
    """For each text a beginning of it with the same first `max_len` tokens, and with more than that if it has more.

    `max_len` None: the whole texts.
    """
    if not _any_long(texts, tokenizer, max_len):
        return texts
    return [_beginning(text, tokenizer, max_len, 2 * max_len) for text in texts]


def pair_beginnings(texts: list[str], pairs: list[str], tokenizer, max_len: int | None) -> tuple[list[str], list[str]]:
    """The same for pairs, of which the text with more tokens is cut first ("longest_first" of transformers).

    Of two long texts the tokenizer would make every pair of their pieces, 6,400 for twice 5,000 tokens and 128 kept.
    """
    if not _any_long([*texts, *pairs], tokenizer, max_len):
        return texts, pairs
    found = [_both(text, pair, tokenizer, max_len) for text, pair in zip(texts, pairs, strict=True)]
    return [first for first, _ in found], [second for _, second in found]


def encode_cut(texts: tuple[str, ...], tokenizer, max_len: int):
    """transformers' encoding of a text, or of a pair, cut to `max_len` tokens."""
    if _any_long(texts, tokenizer, max_len):
        texts = beginnings(texts, tokenizer, max_len) if len(texts) == 1 else _both(*texts, tokenizer, max_len)
    return tokenizer(*texts, truncation="longest_first", max_length=max_len, padding=False)


def _both(first: str, second: str, tokenizer, max_len: int) -> tuple[str, str]:
    """The text with more tokens keeps more of them: where an odd number is kept, it has one more."""
    size = _size(max_len)
    if min(len(first), len(second)) <= size:
        swapped = len(first) <= size
    else:
        swapped = _count(first, tokenizer) <= _count(second, tokenizer)
    longer, other = (second, first) if swapped else (first, second)
    other = _beginning(other, tokenizer, max_len, 2 * max_len)
    longer = _beginning(longer, tokenizer, max_len, 2 * max_len + _count(other, tokenizer))
    return (other, longer) if swapped else (longer, other)


def _any_long(texts: Sequence[str], tokenizer, max_len: int | None) -> bool:
    if max_len is None or tokenizer.truncation_side != "right":
        return False
    return max(map(len, texts), default=0) > _size(max_len)


def _size(max_len: int) -> int:
    """Characters of the first beginning that is tried."""
    return CHARACTERS * (2 * max_len + MARGIN)


def _count(text: str, tokenizer) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _beginning(text: str, tokenizer, max_len: int, least: int) -> str:
    """Of `least` tokens and MARGIN more; it ends at white space, where there is any.

    What stands behind it may change its last tokens, which are the beginning of a word or pieces that merge with more,
    but not those so far in front of its end.
    """
    size = _size(max_len)
    while size < len(text):
        space = SPACE.search(text, size, 2 * size)
        part = text[: space.start() if space else size]
        if _count(part, tokenizer) >= least + MARGIN:
            return part
        size *= 4
    return text
