"""Files of sentences in columns: what is a word, what ends a sentence, and what is wrong with a line."""

import gzip
import logging

import pytest

from jaxft.data import Data
from jaxft.problems import UserError

CONLL2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
. . O O

-DOCSTART- -X- -X- O
Peter NNP B-NP B-PER
# 1 B-NP O


Blackburn NNP I-NP I-PER"""
NAMES = ("tokens", "pos_tags", "chunk_tags", "ner_tags")


def write(path, text):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(text.encode())
    return str(path)


@pytest.mark.parametrize("name", ["a.conll", "a.iob", "a.conll.gz"])
def test_sentences(tmp_path, name):
    rows = Data(path=write(tmp_path / name, CONLL2003.replace("\n", "\r\n"))).open()
    assert rows.columns == ["tokens", "tags"] and rows[:] == [
        {"tokens": ["EU", "rejects", "."], "tags": ["B-ORG", "O", "O"]},
        {"tokens": ["Peter", "#"], "tags": ["B-PER", "O"]},
        {"tokens": ["Blackburn"], "tags": ["I-PER"]},
    ]


@pytest.mark.parametrize("name", ["eng.train", "train.txt", "a.conll"])
def test_named_columns(tmp_path, name):
    rows = Data(path=write(tmp_path / name, CONLL2003), columns=NAMES).open()
    assert rows.columns == list(NAMES) and len(rows) == 3
    assert rows[1] == {
        "tokens": ["Peter", "#"],
        "pos_tags": ["NNP", "1"],
        "chunk_tags": ["B-NP", "B-NP"],
        "ner_tags": ["B-PER", "O"],
    }
    with pytest.raises(UserError, match=r"line 3: 4 columns, but 2 names for them: tokens, tags"):
        Data(path=str(tmp_path / name), columns=("tokens", "tags")).open()


def test_tabs_keep_spaces_and_comments_are_left_out(tmp_path):
    text = "# id = 1\n#\tO\nNew York\tB-LOC\n\xa0a\u2028b \tO\n# a comment with\tthree\tcolumns\n \t \nnull\t1\n"
    assert Data(path=write(tmp_path / "a.conll", text)).open()[:] == [
        {"tokens": ["#", "New York", "\xa0a\u2028b "], "tags": ["O", "B-LOC", "O"]},
        {"tokens": ["null"], "tags": ["1"]},
    ]
    spaces = write(tmp_path / "b.conll", "a\xa0b   x  O \n")
    assert Data(path=spaces).open()[0] == {"tokens": ["a\xa0b"], "tags": ["O"]}


@pytest.mark.parametrize(
    "text, message",
    [
        ("a x O\n\nb x\n", "line 3: 2 columns, line 1 has 3, separated by spaces"),
        ("a\tO\nb O\n", "line 2: 1 columns, line 1 has 2, separated by tabs"),
        ("# c\na\tO\nb\t\n", "line 3: column 2 is empty"),
        ("a\nb\n", "line 1: one column, expected a word and its tag"),
        ("\n\n-DOCSTART- O\n", "has no rows"),
        ("", "has no rows"),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path, text, message):
    path = write(tmp_path / "a.conll", text)
    with pytest.raises(UserError) as caught:
        Data(path=path).open()
    assert message in str(caught.value) and path in str(caught.value)


def test_what_is_wrong_with_the_columns(tmp_path):
    with pytest.raises(UserError, match="columns are a, a: use different names"):
        Data(path=write(tmp_path / "a.conll", "x O\n"), columns=("a", "a")).open()
    with pytest.raises(UserError, match="no such file: eng.train"):
        Data(path="eng.train", columns=NAMES).open()
    with pytest.raises(UserError, match="is not UTF-8"):
        (tmp_path / "b.conll").write_bytes(b"a O\n\xff O\n")
        Data(path=str(tmp_path / "b.conll")).open()


UD = """# text = vamos al mar
1\tvamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2-3\tal\t_\t_\t_\t_\t_\t_\t_\t_
2\ta\ta\tADP\t_\t_\t4\tcase\t_\t_
3\tel\tel\tDET\t_\t_\t4\tdet\t_\t_
4\tmar\tmar\tNOUN\t_\t_\t1\tobl\t_\t_
4.1\tx\tx\tVERB\t_\t_\t_\t_\t_\t_

1-2\tdel\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\t_\t_\t0\troot\t_\t_
2\tel\tel\tDET\t_\t_\t1\tdet\t_\t_
"""
UD_NAMES = ("id", "tokens", "lemma", "tags", "xpos", "feats", "head", "rel", "deps", "misc")


def test_ranges_and_empty_nodes_are_no_words(tmp_path, caplog):
    path = write(tmp_path / "es.conllu", UD)
    with caplog.at_level(logging.INFO, "jaxft"):
        rows = Data(path=path, columns=UD_NAMES).open()
    assert [row["tokens"] for row in rows] == [["vamos", "a", "el", "mar"], ["de", "el"]]
    assert [row["tags"] for row in rows] == [["VERB", "ADP", "DET", "NOUN"], ["ADP", "DET"]]
    assert "3 multiword tokens (2-3) and empty nodes (4.1) are left out" in caplog.text
    only = write(tmp_path / "only.conllu", "2-3" + "\tx" * 9 + "\n\n1" + "\ty" * 9 + "\n")
    assert [row["tokens"] for row in Data(path=only, columns=UD_NAMES).open()] == [["y"]]


def test_words_that_look_like_ranges_stay(tmp_path):
    """Other numbers of columns, and ten columns of which the first is a word."""
    few = write(tmp_path / "a.conll", "2-3 O\n4.1 O\n1 O\n")
    assert Data(path=few).open()[0]["tokens"] == ["2-3", "4.1", "1"]
    wide = write(tmp_path / "b.conll", "2-3" + "\tx" * 9 + "\nwon" + "\tx" * 9 + "\n")
    assert Data(path=wide).open()[0]["tokens"] == ["2-3", "won"]


def test_numbered_words_need_names(tmp_path):
    with pytest.raises(UserError, match="the first column numbers the words, as in CoNLL-U: name the ten columns"):
        Data(path=write(tmp_path / "es.conll", UD)).open()
