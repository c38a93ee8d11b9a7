"""Texts as sentences: where each begins, in characters and in tokens."""

import numpy as np
import regex

from jaxft.problems import raise_problems, truncated_repr
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.template import column, text_of

# A line break; white space behind a full stop, question or exclamation mark, with quotes and brackets that close;
# white space or none behind the marks of other scripts that end a sentence (STerm of Unicode Standard Annex 29), and
# behind a full stop of full width, but not inside of a number; white space in Thai and Lao, which have no such mark.
BETWEEN = regex.compile(
    r"""(?V1)\s*\n\s*|(?<=[.!?])\s+|(?<=[.!?]["')\]’”])\s+"""
    r"""|(?:[\p{SB=STerm}--[!?]]|\uff0e(?!\p{N}))\p{STerm}*[\p{Pe}\p{Pf}"']*\s*"""
    r"""|(?<=[\p{Thai}\p{Lao}])\s+(?=[\p{Thai}\p{Lao}])"""
)

SINGLE = "texts of a single sentence"


def sentences_of(rows: list[dict], name: str) -> list[tuple[str, list[int]]]:
    """Text of each row and the characters at which its sentences begin, the first being 0.

    The column, or template, holds texts, which are cut at line breaks and behind marks that end a sentence in their
    script; or lists of sentences.
    """
    if "{" not in name and any(isinstance(row[name], list) for row in rows):
        return [_joined(row[name], name) for row in rows]
    return [(text, [0, *_begins(text)]) for text in column(rows, name)]


def _begins(text: str) -> list[int]:
    return [found.end() for found in BETWEEN.finditer(text) if found.end() < len(text)]


def _joined(sentences, name: str) -> tuple[str, list[int]]:
    if not isinstance(sentences, list):
        raise_problems(
            [f"column {name!r} holds {truncated_repr(sentences)}, expected a list of sentences as in other rows"]
        )
    kept = [text for text in (text_of(one, name) for one in sentences if one is not None) if text.strip()]
    return " ".join(kept), np.cumsum([0, *(len(text) + 1 for text in kept[:-1])]).tolist()


def encode_sentences(
    rows: list[dict], name: str, setting: EncodingContext, most: int | None = None
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(tokens, words, starts) of each row, without special tokens and not cut: int32 (n,), (n,) and (sentences,).

    `words` numbers the words that tokens are pieces of, -1 for special tokens in the text itself; `starts` are the
    first tokens of sentences, those without a token left out. Only the first `most` tokens are sure to be there.
    """
    texts = sentences_of(rows, name)
    kept = beginnings([text for text, _ in texts], setting.tokenizer, most)
    out = setting.tokenizer(kept, add_special_tokens=False, verbose=False)
    special = setting.tokenizer.all_special_ids
    found = []
    for encoding, (_, begins) in zip(out.encodings, texts, strict=True):
        tokens = np.array(encoding.ids, np.int32)
        words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int32)
        words[np.isin(tokens, special)] = -1
        ends = np.array([end for _, end in encoding.offsets], int)
        starts = np.unique(np.searchsorted(ends, begins, "right"))  # the first token that reaches beyond the place
        found.append((tokens, words, starts[starts < len(tokens)].astype(np.int32)))
    return found
