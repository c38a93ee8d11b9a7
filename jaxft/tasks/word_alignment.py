"""Texts that are lists of words: the words and tags of a row, and the tokens of each word."""

import unicodedata
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from jaxft.data.example import Row
from jaxft.problems import UserError, raise_problems, truncated_repr
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.labels import class_name, is_missing
from jaxft.tasks.list_cells import list_of
from jaxft.tasks.template import text_of
from jaxft.text.graphemes import base_position, extend_to_graphemes


def words_and_tags(row: Row, words: str, tags: str, known: Collection[str]) -> tuple[list[str], list[str | None]]:
    """The words of a row and their tags, both (n,); None for a missing tag.

    `known` are names of tags, if some are known. Raises UserError unless there are as many tags as words.
    """
    found = [text_of(word, words) for word in _items(row[words], words)]
    if is_missing(row[tags]):
        return found, [None] * len(found)
    names = [class_name(tag, tags, known) for tag in _items(row[tags], tags)]
    if len(found) != len(names):
        raise_problems([f"{len(found)} words in column {words!r}, but {len(names)} tags in column {tags!r}"])
    return found, names


def _items(value: Any, column: str) -> list[Any]:
    items = list_of(value)
    if items is None:
        raise UserError(
            [f"column {column!r} holds {truncated_repr(value)}, expected a list with an item for each word"]
        )
    return items


def encode_words(setting: EncodingContext, texts: list[list[str]]) -> tuple[list[Any], list[list[int]]]:
    """The tokenizer's encodings of texts with at least one word each, and their token types ([] for none).

    A word has the tokens that it has inside a text, after a space. `word_ids` of an encoding are the words' numbers.
    """
    if not texts:
        return [], []
    space = " " if needs_space(setting.tokenizer) else ""
    given = [[space + word for word in words] for words in texts]
    out = setting.tokenizer(given, is_split_into_words=True, **setting.truncation())
    return out.encodings, out.get("token_type_ids", [])


def needs_space(tokenizer: Any) -> bool:
    """Whether a single word needs a leading space to get the tokens that it has inside a text.

    In byte-level BPE the space is a part of the word, and single words get one only with `add_prefix_space`.
    """

    def tokens(text: str | list[str], **more: bool) -> list[int]:
        return tokenizer(text, add_special_tokens=False, **more)["input_ids"]

    inside = tokens("a a")
    plain, spaced = (tokens([word], is_split_into_words=True) for word in ("a", " a"))
    return inside[-len(plain) :] != plain and inside[-len(spaced) :] == spaced


def words_of_text(text: str, encoding: Any) -> list[tuple[int, int, int]]:
    """(first token, start, stop) of each word of a text that was not given as words; start and stop are characters.

    Words consist of full graphemes. A word ends at white space, at punctuation around words, and, in scripts without
    spaces, at each token. The boundaries of the tokenizer's own pre-tokenization are not used, because they may
    separate a letter from its accent, or a number from its "th". A token of white space alone belongs to the next token
    if the tokenizer has both in one word.
    """
    words: list[tuple[int, int, int]] = []
    before = None
    spans = extend_to_graphemes(text, encoding.offsets).tolist()
    for place, (number, (start, stop)) in enumerate(zip(encoding.word_ids, spans, strict=True)):
        if number is None:
            continue
        piece = text[start:stop]
        start, stop = stop - len(piece.lstrip()), start + len(piece.rstrip())
        first, begin, end = words[-1] if words else (-1, -1, -1)
        if start >= stop:
            words.append((place, start, start))
        elif begin == end and begin >= 0 and number == before:
            words[-1] = (first, start, stop)
        elif start < end or begin < end == start and not _begins_word(text, start, number == before):
            words[-1] = (first, begin, max(end, stop))
        else:
            words.append((place, start, stop))
        before = number
    return [word for word in words if word[1] < word[2]]


def tokens_of_text(text: str, encoding: Any) -> list[tuple[int, int, int]]:
    """The same for units that are tokens: full graphemes without white space around them. Tokens of one grapheme are
    one unit."""
    found: list[tuple[int, int, int]] = []
    spans = extend_to_graphemes(text, encoding.offsets).tolist()
    for place, (number, (start, stop)) in enumerate(zip(encoding.word_ids, spans, strict=True)):
        piece = text[start:stop]
        start, stop = stop - len(piece.lstrip()), start + len(piece.rstrip())
        if number is None or start >= stop:
            continue
        if found and start < found[-1][2]:
            found[-1] = (*found[-1][:2], max(stop, found[-1][2]))
        else:
            found.append((place, start, stop))
    return found


# What a tag is for, of a text that is not given as words: (first token, start, stop) of each.
TAG_UNITS: dict[str, Callable[[str, Any], list[tuple[int, int, int]]]] = {
    "words": words_of_text,
    "tokens": tokens_of_text,
}


def numbers_of_units(encoding: Any, units: list[tuple[int, int, int]]) -> np.ndarray:
    """The unit (tokens,) that each token belongs to, -1 for special tokens and white space between units."""
    numbers = np.full(len(encoding.ids), -1, np.int64)
    ends = [first for first, _, _ in units[1:]] + [len(numbers)]
    for unit, ((first, start, stop), end) in enumerate(zip(units, ends, strict=False)):
        for place in range(first, end):
            inside = start <= encoding.offsets[place][0] < stop and encoding.word_ids[place] is not None
            numbers[place] = unit if place == first or inside else -1
    return numbers


INSIDE = ".,-&"  # not apostrophes: text after one is rarely part of a name
# Prefixes of Unicode names of letters in scripts without spaces between words.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def _begins_word(text: str, at: int, joined: bool) -> bool:
    """Whether a token that begins at `at`, directly after another one, begins a word.

    `joined` says whether both are one word of the tokenizer, which matters for punctuation.
    """
    left, right = _is_mark(text, base_position(text, at - 1)), _is_mark(text, at)
    return left != right or left and not joined or unicodedata.name(text[at], "").startswith(UNSPACED)


def _is_mark(text: str, at: int) -> bool:
    """Whether a character is punctuation or a symbol, but not inside a word as in U.N., 1,000, German-born."""
    before = base_position(text, at - 1) if at else 0
    around = text[before : before + 1] * (at > 0) + text[at + 1 : at + 2]
    inside = text[at] in INSIDE and len(around) == 2 and around.isalnum()
    return unicodedata.category(text[at])[0] in "PS" and not inside


def numbers_of_words(encoding: Any) -> np.ndarray:
    """The word (tokens,) that each token belongs to, -1 for special tokens."""
    return np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
