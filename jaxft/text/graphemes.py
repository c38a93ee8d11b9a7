"""Extended grapheme clusters (Unicode Standard Annex 29), the characters that readers see: a letter with its accents
and vowel signs, a symbol with its variation selector, or a joined sequence of emoji."""

import unicodedata

import numpy as np
import regex
from numpy.typing import ArrayLike

CLUSTER = regex.compile(r"\X")
# A cluster has several code points only if one of them is one of these.
JOINS = regex.compile(
    r"[\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}\p{GCB=Prepend}\p{GCB=Regional_Indicator}\p{GCB=V}\p{GCB=T}]|\r\n"
)


def extend_to_graphemes(text: str, spans: ArrayLike) -> np.ndarray:
    """The spans (n, 2), start and end in `text`, extended to full clusters, int32. Empty spans do not change.

    Offsets of tokenizers that drop accents and vowel signs exclude these. If a tokenizer splits a cluster into several
    tokens, each of them gets the full cluster.
    """
    given = np.array(spans, np.int32).reshape(-1, 2)
    if not JOINS.search(text):
        return given
    borders = np.array([0, *(found.end() for found in CLUSTER.finditer(text))], np.int32)
    starts = borders[np.searchsorted(borders, given[:, 0], "right") - 1]
    ends = borders[np.searchsorted(borders, given[:, 1])]
    return np.where(given[:, :1] < given[:, 1:], np.stack([starts, ends], 1), given)


def base_position(text: str, at: int) -> int:
    """The position, at or before `at`, of the letter or symbol to which the code point at `at` belongs."""
    while at > 0 and (text[at] == "\u200d" or unicodedata.category(text[at])[0] == "M"):
        at -= 1
    return at
