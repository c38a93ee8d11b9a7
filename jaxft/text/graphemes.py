"""Characters as readers count them: extended grapheme clusters (Unicode Standard Annex 29), such as a letter with its
accents and vowel signs, a symbol with its variation selector, or a joined sequence of emoji."""

import unicodedata

import numpy as np
import regex

CLUSTER = regex.compile(r"\X")
# Only next to one of these code points a cluster can have several.
JOINS = regex.compile(
    r"[\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}\p{GCB=Prepend}\p{GCB=Regional_Indicator}\p{GCB=V}\p{GCB=T}]|\r\n"
)


def widened(text: str, spans) -> np.ndarray:
    """The spans (n, 2), start and end in `text`, extended to whole clusters; int32. Empty ones stay as they are.

    Tokenizers that drop accents and vowel signs leave them out of their offsets, and some split a cluster in several
    tokens, each of which gets the whole of it.
    """
    spans = np.array(spans, np.int32).reshape(-1, 2)
    if not JOINS.search(text):
        return spans
    borders = np.array([0, *(found.end() for found in CLUSTER.finditer(text))], np.int32)
    starts = borders[np.searchsorted(borders, spans[:, 0], "right") - 1]
    ends = borders[np.searchsorted(borders, spans[:, 1])]
    return np.where(spans[:, :1] < spans[:, 1:], np.stack([starts, ends], 1), spans)


def base(text: str, at: int) -> int:
    """The place, at or before `at`, of the letter or symbol that the code point at `at` belongs to."""
    while at > 0 and (text[at] == "\u200d" or unicodedata.category(text[at])[0] == "M"):
        at -= 1
    return at
