"""Sentence boundaries of texts, in characters and in tokens."""

import numpy as np
import regex

from jaxft.data.example import Row
from jaxft.problems import UserError, truncated_repr
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.template import column, text_of

# Boundaries are: a line break; white space after a full stop, question or exclamation mark, also with closing quotes
# or brackets; the end marks of other scripts (STerm of Unicode Standard Annex 29) and the fullwidth full stop outside
# of numbers, with or without white space; white space in Thai and Lao, which have no end marks.
BETWEEN = regex.compile(
    r"""(?V1)\s*\n\s*|(?<=[.!?])\s+|(?<=[.!?]["')\]’”])\s+"""
    r"""|(?:[\p{SB=STerm}--[!?]]|\uff0e(?!\p{N}))\p{STerm}*[\p{Pe}\p{Pf}"']*\s*"""
    r"""|(?<=[\p{Thai}\p{Lao}])\s+(?=[\p{Thai}\p{Lao}])"""
)

SINGLE = "texts of a single sentence"


def sentences_of(rows: list[Row], name: str) -> list[tuple[str, list[int]]]:
    """For each row its text, and the characters at which its sentences begin; the first is 0.

    The column, or template, holds texts, which are cut at line breaks and after the end marks of their script; or
    lists of sentences, which are joined by spaces.
    """
    if "{" not in name and any(isinstance(row[name], list) for row in rows):
        return [_joined(row[name], name) for row in rows]
    return [(text, [0, *_begins(text)]) for text in column(rows, name)]


def _begins(text: str) -> list[int]:
    return [found.end() for found in BETWEEN.finditer(text) if found.end() < len(text)]


def _joined(sentences: object, name: str) -> tuple[str, list[int]]:
    if not isinstance(sentences, list):
        raise UserError(
            [f"column {name!r} holds {truncated_repr(sentences)}, expected a list of sentences as in other rows"]
        )
    texts = [text for text in (text_of(one, name) for one in sentences if one is not None) if text.strip()]
    return " ".join(texts), np.cumsum([0, *(len(text) + 1 for text in texts[:-1])]).tolist()


def encode_sentences(
    rows: list[Row], name: str, setting: EncodingContext, most: int | None = None
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(tokens, words, starts) of each row, without added special tokens: int32 (n,), (n,) and (sentences,).

    `words` is the number of the word that a token belongs to, -1 for special tokens in the text itself; `starts` are
    the first tokens of the sentences that have tokens. If `most` is given, tokens after the first `most` may be absent.
    """
    texts = sentences_of(rows, name)
    begun = beginnings([text for text, _ in texts], setting.tokenizer, most)
    out = setting.tokenizer(begun, add_special_tokens=False, verbose=False)
    special = setting.tokenizer.all_special_ids
    found = []
    for encoding, (_, begins) in zip(out.encodings, texts, strict=True):
        tokens = np.array(encoding.ids, np.int32)
        words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int32)
        words[np.isin(tokens, special)] = -1
        ends = np.array([end for _, end in encoding.offsets], int)
        starts = np.unique(np.searchsorted(ends, begins, "right"))  # the first token that ends after it
        found.append((tokens, words, starts[starts < len(tokens)].astype(np.int32)))
    return found
