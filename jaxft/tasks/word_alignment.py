"""Texts that come as lists of words: what a row holds, and the tokens of each word."""

import unicodedata
from collections.abc import Collection

import numpy as np

from jaxft.problems import raise_problems, truncated_repr
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.labels import class_name, is_missing
from jaxft.tasks.list_cells import list_of
from jaxft.tasks.template import text_of
from jaxft.text.graphemes import base, widened


def words_and_tags(row: dict, words: str, tags: str, known: Collection[str]) -> tuple[list[str], list[str | None]]:
    """A row's words and their tags, both (n,), of which a row without tags has none; a tag None is none.

    `known` are names of tags, where there are some. Raises UserError unless there are as many tags as words.
    """
    found = [text_of(word, words) for word in _items(row[words], words)]
    if is_missing(row[tags]):
        return found, [None] * len(found)
    names = [class_name(tag, tags, known) for tag in _items(row[tags], tags)]
    if len(found) != len(names):
        raise_problems([f"{len(found)} words in column {words!r}, but {len(names)} tags in column {tags!r}"])
    return found, names


def _items(value, column: str) -> list:
    items = list_of(value)
    if items is None:
        raise_problems([f"column {column!r} holds {truncated_repr(value)}, expected a list with an item for each word"])
    return items


def encode_words(setting: EncodingContext, texts: list[list[str]]) -> tuple[list, list]:
    """The tokenizer's encodings of the texts, of which each has a word or more, and their text types ([] for none).

    A word has the tokens that it has inside a text, behind a space. Their `word_ids` are the words' numbers.
    """
    if not texts:
        return [], []
    space = " " if needs_space(setting.tokenizer) else ""
    given = [[space + word for word in words] for words in texts]
    out = setting.tokenizer(given, is_split_into_words=True, **setting.truncation())
    return out.encodings, out.get("token_type_ids", [])


def needs_space(tokenizer) -> bool:
    """Whether a word by itself must bring its space, to become the tokens that it is inside a text.

    Byte-level BPE takes the space as a part of the word, but puts one in front of a text's first word, and so of each
    single one, only where it was made with `add_prefix_space`.
    """

    def tokens(text, **more):
        return tokenizer(text, add_special_tokens=False, **more)["input_ids"]

    inside = tokens("a a")
    alone, behind = (tokens([word], is_split_into_words=True) for word in ("a", " a"))
    return inside[-len(alone) :] != alone and inside[-len(behind) :] == behind


def words_of_text(text: str, encoding) -> list[tuple[int, int, int]]:
    """(first token, start, stop) of each word of a running text that was not given as words; stop is behind its end.

    A word holds whole graphemes. It ends at white space, where punctuation around words begins or ends, and in scripts
    that are written without spaces at each token: not where some tokenizer's expression cuts, which may be between a
    letter and its accent, or a number and its "th". A token of white space alone belongs to what
    follows it, if the tokenizer says so.
    """
    words: list[tuple[int, int, int]] = []
    before = None
    spans = widened(text, encoding.offsets).tolist()
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
        elif start < end or begin < end == start and not _parted(text, start, number == before):
            words[-1] = (first, begin, max(end, stop))
        else:
            words.append((place, start, stop))
        before = number
    return [word for word in words if word[1] < word[2]]


INSIDE = ".,-&"  # not apostrophes: what stands behind one is seldom of the name
# How the names of letters begin in scripts without spaces between words.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def _parted(text: str, at: int, joined: bool) -> bool:
    """Whether a token that begins at `at`, right behind another, begins a word; `joined` says of punctuation that it is
    one word to the tokenizer."""
    left, right = _is_mark(text, base(text, at - 1)), _is_mark(text, at)
    return left != right or left and not joined or unicodedata.name(text[at], "").startswith(UNSPACED)


def _is_mark(text: str, at: int) -> bool:
    """Punctuation or a symbol, but not inside of a word: U.N., 1,000, German-born."""
    before = base(text, at - 1) if at else 0
    around = text[before : before + 1] * (at > 0) + text[at + 1 : at + 2]
    inside = text[at] in INSIDE and len(around) == 2 and around.isalnum()
    return unicodedata.category(text[at])[0] in "PS" and not inside


def numbers_of_words(encoding) -> np.ndarray:
    """The word (tokens,) that each token is of, -1 for special tokens."""
    return np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
