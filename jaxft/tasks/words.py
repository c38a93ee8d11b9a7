"""Texts that come as lists of words: what a row holds, and the tokens of each word."""

import numpy as np

from jaxft.problems import raise_problems, shown
from jaxft.tasks.base import Setting, text_of


def words_and_tags(row: dict, words: str, tags: str) -> tuple[list[str], list[str | None]]:
    """A row's words and their tags, both (n,); a tag None is none. Raises UserError unless there are as many."""
    for name in (words, tags):
        if not isinstance(row[name], list):
            raise_problems([f"column {name!r} holds {shown(row[name])}, expected a list with an item for each word"])
    found = [text_of(word, words) for word in row[words]]
    names = [None if tag is None else text_of(tag, tags) for tag in row[tags]]
    if len(found) != len(names):
        raise_problems([f"{len(found)} words in column {words!r}, but {len(names)} tags in column {tags!r}"])
    return found, names


def encode_words(setting: Setting, texts: list[list[str]]) -> tuple[list, list]:
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


def numbers_of_words(encoding) -> np.ndarray:
    """The word (tokens,) that each token is of, -1 for special tokens."""
    return np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
