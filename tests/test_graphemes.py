"""Grapheme clusters: spans beside the clusters that the regex library finds, in texts of many scripts."""

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from jaxft.text.graphemes import base_position, extend_to_graphemes

LETTERS = (
    "ab \u0301\u0917\u0941\u093f\u2764\ufe0f\U0001f469\u200d\U0001f4bb\U0001f1ee\U0001f1f3\u1100\u1161\u11a8\uac00"
)
LETTERS += "\r\n\u0600"


@given(st.text(st.sampled_from(LETTERS), max_size=12), st.data())
def test_spans_are_those_of_whole_clusters(text, data):
    place = st.integers(0, len(text))
    spans = [tuple(sorted(pair)) for pair in data.draw(st.lists(st.tuples(place, place), max_size=4))]
    clusters = [found.span() for found in regex.finditer(r"\X", text)]
    wanted = []
    for start, end in spans:
        inside = [span for span in clusters if span[0] < end and span[1] > start] if start < end else [(start, end)]
        wanted.append((inside[0][0], inside[-1][1]))
    assert (
        extend_to_graphemes(text, spans).tolist() == list(map(list, wanted))
        and extend_to_graphemes(text, spans).dtype == np.int32
    )


@pytest.mark.parametrize(
    "text, at, wanted", [("cafe\u0301", 4, 3), ("\u2764\ufe0f", 1, 0), ("\u0301", 0, 0), ("ab", 1, 1)]
)
def test_the_letter_that_a_mark_belongs_to(text, at, wanted):
    assert base_position(text, at) == wanted
