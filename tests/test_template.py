"""Texts made of several columns."""

import pytest

from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.tasks.template import column, columns_of

ROW = {
    "word": "bank",
    "n": 3,
    "none": None,
    "two words": "ok",
    "half": "a\ud800",
    "idx": {"a": 1, "b": [4, 5]},
    "brace": "{word}",
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("word", "bank"),
        ("none", ""),
        ("n", "3"),
        ("{word}: {n}", "bank: 3"),
        ("{none}", ""),
        ("{two words}!", "ok!"),
        ("{idx[a]}-{idx[b][1]}", "1-5"),
        ("{brace} {{x}}", "{word} {x}"),  # what a cell holds is not read as a template
    ],
)
def test_texts(template, text):
    assert column([ROW, ROW], template) == [text, text]


def test_columns():
    assert columns_of("word", None, "{a}: {b[c]} {a}", "word") == ["word", "a", "b"]
    assert Classify(text="{x} {y}", pair=None).columns() == ["x", "y", "label"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{word", "cannot be read: "),
        ("{} and", "has braces without the name of a column"),
        ("{idx[z]}", "cannot be filled: a row has no such item .'z'"),
        ("{word[0][0][5]}", "cannot be filled"),
        ("{idx}", "column 'idx' holds .*, expected a text"),
        ("{n:03}", "has a format"),
        ("{word.upper}", "has a format"),
        ("half", "column 'half' holds .*, with half of a surrogate pair"),
        ("{half}!", "column 'half' holds .*, with half of a surrogate pair"),
    ],
)
def test_what_is_wrong(template, message):
    with pytest.raises(UserError, match=message):
        column([ROW], template)
